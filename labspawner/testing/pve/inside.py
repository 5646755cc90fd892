"""All parts of the cluster, put together. Made and used in the double's event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labspawner.testing.pve import nodecalls
from labspawner.testing.pve.access import Access
from labspawner.testing.pve.agent import Agent
from labspawner.testing.pve.answering import Answering
from labspawner.testing.pve.call import Call
from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.cluster import Cluster
from labspawner.testing.pve.faults import FaultBoard
from labspawner.testing.pve.locks import Locks
from labspawner.testing.pve.power import Power
from labspawner.testing.pve.profiles import PROFILES
from labspawner.testing.pve.requests import RequestLog
from labspawner.testing.pve.seams import Console, GuestsLike, Host
from labspawner.testing.pve.server import Door
from labspawner.testing.pve.tasks import Task, Tasks, Work
from labspawner.testing.pve.tls import Authority
from labspawner.testing.pve.views import Views
from labspawner.testing.pve.vnc import Vnc
from labspawner.testing.pve.volumes import CLOUDINIT_BYTES, Volumes, size_text
from labspawner.testing.pve.world import GIB, Config, Node, Pool, Storage, Vm, World

if TYPE_CHECKING:
    from labspawner.testing.pve.double import PveDouble

_STORAGE_BYTES = 500 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long things take, in seconds of the double's clock, as measured with small guests.

    alloc_s: one allocation on a storage, under its lock; a linked clone of one disk and a cloud-init drive takes two.
    full_s: copying the disk of a full clone. staleness_s: pvestatd's period, 0 for a view that is always true.
    console_wait_s: how long a vncproxy waits for its client; console_ticket_s: how long its ticket is good. Both are short
    in our time when the double's passes fast. workers: requests that a node's daemon answers at the same time.
    """

    clone_call_s: float = 0.1
    alloc_s: float = 0.15
    full_s: float = 2.5
    start_s: float = 1.3
    stop_s: float = 0.5
    hibernate_s: float = 1.5
    resume_s: float = 2.0
    config_s: float = 0.3
    delete_s: float = 0.1
    migrate_s: float = 2.0
    agent_s: float = 0.2
    console_wait_s: float = 10.0
    console_ticket_s: float = 40.0
    staleness_s: float = 10.0
    workers: int = 3


class Inside:
    """The parts, by name. `broken`: faults of the double itself, not of a test."""

    def __init__(self, double: PveDouble) -> None:
        self._double, self.plan = double, double.plan
        self.profile = PROFILES[double.profile]
        self.broken: list[BaseException] = []
        self.world = World(random.Random(double.seed))  # noqa: S311 - no secret
        self.clock = Clock(double.pace)
        self.board, self.requests = FaultBoard(), RequestLog()
        self.cluster = Cluster(self.world, self.clock, self.spawn)
        self.locks = Locks(self.clock, lambda: self.cluster.quorate)
        plan = self.plan
        self.volumes = Volumes(self.world, self.clock, self.locks, alloc_s=plan.alloc_s, delete_s=plan.delete_s)
        self.tasks = Tasks(self.world, self.clock)
        self.tasks.broken = self.broken
        self.tasks.planned = lambda task: self.board.task_text(task.kind, task.ident)
        self.access = Access(self.world, self.clock, self.profile)
        self.views = Views(self, plan.staleness_s)
        self.power, self.agent, self.vnc = Power(self), Agent(self), Vnc(self)
        self.guests: GuestsLike = double.guests
        self.console: Console = double.screens
        self.doors: dict[str, Door] = {}
        self.fingerprint = ""
        self._running: set[asyncio.Task[None]] = set()

    # from start to end

    async def start(self, nodes: Sequence[str], authority: Authority, port: int) -> None:
        self._build(nodes)
        self.answering = Answering(self)
        rng = random.Random(self._double.seed + 1)  # noqa: S311 - no secret
        self.guests.begin(Host(self.clock, self._double.folder, rng, self.power.turned_itself_off))
        context = authority.server_context()
        self.fingerprint = authority.fingerprint
        for number, name in enumerate(nodes):
            door = self.doors[name] = Door(self, name, port if number == 0 else 0)
            door.context = context
            door.up()

    def _build(self, nodes: Sequence[str]) -> None:
        double, booted = self._double, time.time() - 6600
        for number, name in enumerate(nodes, 1):
            self.world.nodes[name] = Node(name, number, f"10.99.0.{10 + number}", booted_at=booted)
        everything = ("backup", "images", "iso", "rootdir", "snippets", "vztmpl")
        for storage in (
            Storage(double.local_storage, False, everything, _STORAGE_BYTES),
            Storage(double.storage, True, ("images", "iso", "snippets"), _STORAGE_BYTES),
        ):
            self.world.storages[storage.name] = storage
        self.add_pool(double.pool)
        self.world.pools[double.pool].storages |= {double.local_storage, double.storage}
        self.access.add_hub(double.user, "hub", double.pool)
        first = nodes[0]
        for vmid, storage_name in ((double.template, double.storage), (double.local_template, double.local_storage)):
            self._template(vmid, first, self.world.storages[storage_name])

    def add_pool(self, name: str) -> None:
        self.world.pools.setdefault(name, Pool(name))

    @property
    def local(self) -> Storage:
        return self.world.storages[self._double.local_storage]

    async def close(self) -> None:
        for door in self.doors.values():
            await door.close()
        await self.tasks.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.console.close()
        await self.guests.close()
        self.clock.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the requests; a failure is told when the double closes."""

        async def watched() -> None:
            try:
                await work
            except Exception as broken:
                self.broken.append(broken)

        task = asyncio.get_running_loop().create_task(watched())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    # what handlers need of the whole

    def begin(self, call: Call, kind: str, ident: object, work: Work) -> str:
        """Start a task on the node of the call's path; its UPID."""
        return self.tasks.start(call.node, kind, ident, call.who.user, work, call.who.token).upid

    def nobodys_task(self, node: str) -> Task:
        """Takes the log lines of what is done without a task."""
        return Task("", node, "", "", "", "", 0, 0, 0.0)

    @staticmethod
    def task_entry(task: Task) -> dict[str, Any]:
        return nodecalls.entry(task)

    # nodes

    async def take_down(self, name: str, *, power: bool, silent: bool) -> None:
        """Cut a node off; when this returns its own port is closed."""
        node = self.world.nodes[name]
        self.views.remember()
        self.cluster.cut(name, power=power)
        if power:
            for task in self.tasks.matching(node=node.name):
                if task.running and task.work is not None:
                    task.work.cancel()
            for vm in [one for one in self.world.vms.values() if one.node == node.name]:
                await self.power.switch_off(vm)
        await self.doors[node.name].down(silent=silent)

    def bring_up(self, name: str) -> None:
        """Connect a node again; when this returns its own port answers."""
        self.cluster.reconnect(name)
        self.doors[name].up()

    async def new_certificate(self, authority: Authority) -> None:
        """When this returns nobody sees the old one any more."""
        self.fingerprint = authority.fingerprint
        context = authority.server_context()
        for door in self.doors.values():
            await door.renew(context)

    # what is there from the beginning

    def _template(self, vmid: int, node: str, storage: Storage) -> None:
        name = "lab-template" if storage.shared else "golden"
        disk = self.volumes.put(storage, node, vmid, f"base-{vmid}-disk-0.qcow2", 3 * GIB, 786505728)
        drive = self.volumes.put(storage, node, vmid, f"vm-{vmid}-cloudinit.qcow2", CLOUDINIT_BYTES, 266240)
        config = self.hardware(vmid, name)
        config |= {"template": 1, "scsi0": f"{disk.volid},size=3G", "ide2": f"{drive.volid},media=cdrom"}
        config |= {"ciuser": "student", "ipconfig0": "ip=dhcp", "ciupgrade": 0, "vga": "std", "serial0": "socket"}
        self.world.vms[vmid] = Vm(vmid, node, config, pool=self._double.pool)

    def hardware(self, vmid: int, name: str) -> Config:
        """The config of a usual VM, but for its disks."""
        return {
            "name": name,
            "agent": "enabled=1",
            "boot": "order=scsi0",
            "cores": 2,
            "cpu": "host",
            "memory": "2048",
            "meta": f"creation-qemu=10.0.2,ctime={int(self.clock.now())}",
            "net0": f"virtio={self.world.new_mac()},bridge={self._double.bridge}",
            "ostype": "l26",
            "scsihw": "virtio-scsi-pci",
            "smbios1": f"uuid={self.world.new_uuid()}",
            "vmgenid": self.world.new_uuid(),
        }

    async def add_vm(self, vmid: int, node: str, pool: str, config: Config, *, running: bool) -> None:
        """A VM that is simply there."""
        whole = {**self.hardware(vmid, f"vm{vmid}"), **config}
        if "scsi0" not in config:
            storage = self.world.storages[self._double.storage]
            disk = self.volumes.put(storage, node, vmid, f"vm-{vmid}-disk-0.qcow2", 3 * GIB, 1 << 20)
            whole["scsi0"] = f"{disk.volid},size={size_text(disk.size_bytes)}"
        whole = {key: value for key, value in whole.items() if value not in ("", None)}
        vm = self.world.vms[vmid] = Vm(vmid, node, whole, pool=pool)
        if running:
            await self.power.switch_on(vm)
