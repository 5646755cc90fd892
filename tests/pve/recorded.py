"""The cluster that was recorded, as it was when the recorder came, and what he did between two requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labspawner.testing.pve import PveDouble, Snapshot, Vm
from labspawner.testing.pve.guest import Guests
from labspawner.testing.pve.inside import Inside, Plan
from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.volumes import CLOUDINIT_BYTES
from labspawner.testing.pve.world import GIB
from labspawner.testing.waiting import eventually_sync

POOL, SHARED = "labspawner", "ssd_storage"
_MORE_RIGHTS = ("SDN.Use", "Sys.Audit", "Pool.Allocate")  # which the recorder's role had on its pool
_CLOUD = {"ciuser": "student", "cipassword": "hashed", "ipconfig0": "ip=10.99.0.150/24,gw=10.99.0.1"}
_HARDWARE: dict[str, Any] = {"memory": "512", "cpu": "max", "kvm": 0, "nameserver": "10.99.0.1", **_CLOUD}
_OLDER: dict[str, Any] = {
    "ciupgrade": None,
    "sshkeys": "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIJhq0Pzz3J6uJxkJ7v0v0v0v0v0v0v0v0v0v0v0v0v0v%20a%40b",
    "vga": "serial0",
    "ipconfig0": "ip=10.99.0.100/24,gw=10.99.0.1",
    "meta": "creation-qemu=7.2.22,ctime=1795291107",
}


def recorded_cluster(make: Callable[..., PveDouble]) -> PveDouble:
    """The double with the recorded names, templates and VMs."""
    plan = Plan(clone_call_s=0, agent_s=0, staleness_s=0, console_ticket_s=1e9)
    pve = make(user="spawner@pve", pool=POOL, storage=SHARED, guests=Guests.scripted(), plan=plan)
    pve.call(lambda inside: inside.access.allow("spawner@pve", f"/pool/{POOL}", _MORE_RIGHTS))
    pve.set_config(9100, **_HARDWARE)
    pve.set_config(9000, cores=1, **_HARDWARE | _OLDER)
    pve.call(_strangers)
    pve.faults.hold("")
    return pve


def _strangers(inside: Inside) -> None:
    """What is not in the pool: a template and two VMs."""
    _vm(inside, 9001, "gold-shared", cores=1, template=1)
    for vmid, name, cores in ((501, "carol", 1), (502, "dave", 2)):
        _vm(inside, vmid, name, cores=cores, tags="labspawner")
    inside.volumes.put(inside.world.storages[SHARED], "pve1", 501, "vm-501-state-ready.raw", 204591104, 204591104)
    state = "ssd_storage:501/vm-501-state-ready.raw"
    inside.world.vms[501].snapshots["ready"] = Snapshot("ready", {}, 0.0, vmstate=state)


def _vm(inside: Inside, vmid: int, name: str, **config: Any) -> Vm:
    shared, base = inside.world.storages[SHARED], f"{SHARED}:9100/base-9100-disk-0.qcow2"
    parent = "" if config.get("template") else base
    kind = "base" if config.get("template") else "vm"
    disk = inside.volumes.put(shared, "pve1", vmid, f"{kind}-{vmid}-disk-0.qcow2", 3 * GIB, 5840896, parent)
    inside.volumes.put(shared, "pve1", vmid, f"vm-{vmid}-cloudinit.qcow2", CLOUDINIT_BYTES, 630784)
    whole = inside.hardware(vmid, name) | {
        "memory": "512",
        "serial0": "socket",
        "scsi0": f"{disk.volid},size=3G",
        **config,
    }
    vm = inside.world.vms[vmid] = Vm(vmid, "pve1", whole)
    return vm


_TASKS = (  # kind, about what, whose, how it ended
    ("vncproxy", 600, "spawner@pve", "hub", "connection timed out"),
    ("qmdestroy", 600, "spawner@pve", "hub", "OK"),
    ("qmstart", 501, "root@pam", "", "OK"),
    ("qmstart", 501, "root@pam", "", "OK"),
    ("qmstart", 501, "root@pam", "lab", "OK"),
    ("qmshutdown", 501, "root@pam", "lab", "OK"),
    ("qmclone", 9100, "spawner@pve", "hub", "OK"),
    ("qmconfig", 7001, "spawner@pve", "hub", "OK"),
    ("resize", 7001, "spawner@pve", "hub", "OK"),
)


def _work(text: str) -> Work:
    async def do(task: Task) -> None:
        if text != "OK":
            raise TaskFailed(text)

    return do


class Recorder:
    """What happened between the recorded requests, by the number of the line before which it happened."""

    def __init__(self, pve: PveDouble) -> None:
        self.pve = pve
        self._count = 5

    # pvestatd

    def told(self, *unknown: int) -> None:
        """pvestatd has told all, but for these VMs."""
        self._count += 1

        def do(inside: Inside) -> None:
            now = inside.clock.now()
            inside.views.staleness_s = now / (self._count + 0.5) if unknown else 0
            for vm in inside.world.vms.values():
                vm.made_at = now if vm.vmid in unknown else 0

        self.pve.call(do)

    # the VM of the inventory and of the errors: somebody else's work in progress

    def clone_7001(self) -> None:
        """Just cloned and resized by the token, with three tasks to tell of it."""

        def do(inside: Inside) -> None:
            vm = _vm(inside, 7001, "alice-lab", cores=1)
            vm.made_at = inside.clock.now()
            for kind, ident, user, token, text in _TASKS:
                inside.tasks.start("pve1", kind, ident, user, _work(text), token)

        self.pve.call(do)
        eventually_sync(lambda: not any(task.running for task in self.pve.tasks()))

    def change(self, vmid: int, **values: Any) -> Callable[[], object]:
        """Set what is known of a VM besides its config, or in its config."""

        def do(inside: Inside) -> None:
            vm = inside.world.vms[vmid]
            for key, value in values.items():
                if hasattr(vm, key) and key != "tags":
                    setattr(vm, key, value)
                else:
                    vm.config[key] = value

        return lambda: self.pve.call(do)

    def life_hooks(self) -> dict[int, Callable[[], object]]:
        return {
            55: lambda: self.told(7001),
            77: self.told,
            85: lambda: self.pve.faults.agent_down(7001),
            97: self.told,
            98: self.agent_answers,
            105: lambda: self.pace(0.01),
            107: lambda: self.pace(1000.0),
        }

    def error_hooks(self) -> dict[int, Callable[[], object]]:
        return {
            393: self.run_7001,
            402: self.snapshot_7001,
            408: lambda: self.told(7062),
            410: self.pve.faults.release,
            439: lambda: self.pace(0.01),
            441: lambda: [self.pve.faults.release(), self.pace(1000.0)],
            510: lambda: self.pve.faults.delete(7001),
        }

    def run_7001(self) -> None:
        """The recorder's other VM, at work."""
        config = {"cores": 1, "memory": "512", "tags": "alice;labspawner"}
        self.pve.add_vm(7001, pool=POOL, running=True, name="alice-lab", **config)
        self.agent_answers()

    def snapshot_7001(self) -> None:
        def do(inside: Inside) -> None:
            inside.world.vms[7001].snapshots["ready"] = Snapshot("ready", {}, 0.0)

        self.pve.call(do)

    def fault_hooks(self) -> dict[int, Callable[[], object]]:
        down, up = self.pve.faults.node_down, self.pve.faults.node_up
        return {
            578: lambda: self.pve.faults.agent_down(0),  # there is nothing on their disks
            597: self.told,
            600: lambda: self.cut("pve3", seen_offline_s=1e9),
            607: lambda: self.pve.faults.node_seen("pve3"),
            629: lambda: self.told(7014),
            634: lambda: self.told(7014),
            688: lambda: self.told(7014),
            636: lambda: self.cut("pve2", seen_offline_s=8.0),
            684: lambda: [up("pve2"), up("pve3")],
            687: self.all_online,
            691: self.told,
            736: lambda: [down("pve2"), down("pve3")],
            738: lambda: eventually_sync(lambda: not self.quorate()),
            743: lambda: [up("pve2"), up("pve3")],
            746: self.all_online,
        }

    def cut(self, node: str, *, seen_offline_s: float) -> None:
        self.pve.call(lambda inside: setattr(inside.cluster, "seen_offline_s", seen_offline_s))
        self.pve.faults.node_down(node)

    def quorate(self) -> bool:
        return self.pve.call(lambda inside: inside.cluster.quorate)

    def all_online(self) -> None:
        eventually_sync(
            lambda: self.pve.call(lambda inside: not any(one.seen_offline for one in inside.world.nodes.values()))
        )

    def console_hooks(self) -> dict[int, Callable[[], object]]:
        return {768: lambda: [self.run_7001(), self.pve.add_vm(7004, pool=POOL)]}

    def pace(self, pace: float) -> None:
        """Let a program that runs for some seconds be seen running, however slow we are."""
        self.pve.set_pace(pace)

    def agent_answers(self, vmid: int = 7001) -> None:
        self.pve.faults.agent_down(vmid, on=False)
        eventually_sync(lambda: self.pve.wait(self._ping(vmid)))

    async def _ping(self, vmid: int) -> bool:
        inside = self.pve.inside
        return await inside.guests.ping(inside.world.vms[vmid])
