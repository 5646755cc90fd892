"""What the API shows of VMs, nodes and storages; what pvestatd tells may be some seconds old."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.call import Call
from labspawner.testing.pve.hibernating import MACHINE
from labspawner.testing.pve.world import Node, Storage, Vm, volume_of

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

Json = dict[str, Any]
_SUPPORT = (
    *("pbs-dirty-bitmap", "pbs-dirty-bitmap-savevm", "pbs-dirty-bitmap-migration", "pbs-masterkey"),
    *("query-bitmap-info", "backup-access-api", "backup-fleecing", "backup-max-workers"),
)
_ALWAYS = ("status", "name", "maxmem", "maxdisk", "uptime", "mem", "cpu", "disk", "netin", "netout")
_BLOCK = ("rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations", "idle_time_ns")


class Views:
    """staleness_s: pvestatd's period. A VM that it has not told of yet is `unknown` and has no more to show."""

    def __init__(self, inside: Inside, staleness_s: float) -> None:
        self._inside, self.staleness_s = inside, staleness_s
        self._told: dict[int, tuple[int, str, Json]] = {}  # vmid -> period, node, what it said then

    # VMs

    def vm_now(self, vm: Vm) -> Json:
        """What is true now of what pvestatd tells."""
        run = vm.running_config or vm.config
        memory = int(float(str(run.get("memory") or 512))) << 20
        uptime = self._uptime(vm)
        used = memory * 3 // 10 if vm.running else 0
        return {
            "status": vm.status,
            "name": vm.name,
            "template": int(vm.template),
            "maxmem": memory,
            "maxcpu": int(run.get("cores") or 1) * int(run.get("sockets") or 1),
            "maxdisk": self._maxdisk(vm),
            "uptime": uptime,
            "mem": used,
            "cpu": 0.05 if vm.running else 0,
            "disk": 0,
            "diskread": 2048 if vm.running else 0,
            "diskwrite": 0,
            "netin": uptime * 40,
            "netout": uptime * 60,
        }

    def _uptime(self, vm: Vm) -> int:
        return int(self._inside.clock.now() - vm.started_at) if vm.running else 0

    def _maxdisk(self, vm: Vm) -> int:
        """The size of the disk it boots from, else of its first one."""
        boot = str(vm.config.get("boot", "")).removeprefix("order=").split(";")[0]
        named = [volume_of(vm.config.get(key)) for key in (boot, "scsi0", "virtio0", "sata0", "ide0")]
        found = (self._inside.volumes.find(volid, vm.node) for volid in named if volid)
        return next((volume.size_bytes for volume in found if volume is not None), 0)

    def resource(self, vm: Vm) -> Json:
        """An entry of /cluster/resources."""
        entry: Json = {"id": f"qemu/{vm.vmid}", "type": "qemu", "vmid": vm.vmid, "node": vm.node}
        entry |= {"pool": vm.pool} if vm.pool else {}
        entry |= {"tags": vm.config["tags"]} if vm.config.get("tags") else {}
        entry |= {"lock": vm.lock} if vm.lock else {}
        return {**entry, **(self._as_told(vm) or {"status": "unknown"})}

    def _as_told(self, vm: Vm) -> Json | None:
        node = self._inside.world.nodes[vm.node]
        told = self._told.get(vm.vmid)
        if node.silent:
            return None
        if node.cut:
            return told[2] if told is not None and told[1] == vm.node else None
        period = self._period()
        if self.staleness_s > 0 and (vm.made_at > 0 and self._period(vm.made_at) == period):
            return None
        if told is None or told[0] != period or told[1] != vm.node or self.staleness_s <= 0:
            told = self._told[vm.vmid] = (period, vm.node, self.vm_now(vm))
        return told[2]

    def _period(self, at: float | None = None) -> int:
        when = self._inside.clock.now() if at is None else at
        return int(when / self.staleness_s) if self.staleness_s > 0 else 0

    def remember(self) -> None:
        """What pvestatd told last, kept for nodes that can tell no more."""
        for vm in self._inside.world.vms.values():
            self._as_told(vm)

    def in_list(self, vm: Vm, *, full: bool) -> Json:
        """An entry of /nodes/{node}/qemu."""
        told = self.vm_now(vm)
        entry = {
            key: told[key]
            for key in ("status", "name", "maxmem", "maxdisk", "uptime", "mem", "cpu", "disk", "netin", "netout")
        }
        entry |= {"vmid": vm.vmid, "cpus": told["maxcpu"]} | self._marks(vm)
        if vm.running:
            entry |= {"pid": vm.pid, "diskread": told["diskread"], "diskwrite": told["diskwrite"]}
        return entry | ({"qmpstatus": self._qmp(vm)} if full else {})

    @staticmethod
    def _qmp(vm: Vm) -> str:
        return "paused" if vm.paused else vm.status

    @staticmethod
    def _marks(vm: Vm) -> Json:
        entry: Json = {"template": 1} if vm.template else {}
        entry |= {"tags": vm.config["tags"]} if vm.config.get("tags") else {}
        entry |= {"lock": vm.lock} if vm.lock else {}
        return entry | ({"serial": 1} if "serial0" in vm.config else {})

    def current(self, vm: Vm, *, agent_up: bool) -> Json:
        """The answer of /status/current: always true."""
        told = self.vm_now(vm)
        entry: Json = {key: told[key] for key in _ALWAYS} | {"vmid": vm.vmid, "cpus": told["maxcpu"]} | self._marks(vm)
        entry |= {"qmpstatus": self._qmp(vm), "ha": {"managed": int(vm.ha_managed)}}
        entry |= {"agent": 1} if vm.agent_enabled else {}
        entry |= {"clipboard": None} if "vga" in vm.config else {}
        if not vm.running:
            return entry
        balloon: Json = {"actual": told["maxmem"], "max_mem": told["maxmem"]}
        if agent_up:
            balloon |= {"free_mem": told["maxmem"] - told["mem"], "total_mem": told["maxmem"] * 9 // 10}
            balloon |= {"last_update": int(self._inside.clock.now()), "mem_swapped_in": 0, "mem_swapped_out": 0}
            balloon |= {"major_page_faults": 429, "minor_page_faults": 136515}
            entry["freemem"] = balloon["free_mem"]
        entry |= {"pid": vm.pid, "balloon": told["maxmem"], "ballooninfo": balloon}
        entry |= {"diskread": told["diskread"], "diskwrite": told["diskwrite"]}
        entry |= {"running-machine": MACHINE, "running-qemu": "10.0.2"}
        entry["proxmox-support"] = {**dict.fromkeys(_SUPPORT, True), "pbs-library-version": "1.5.1"}
        disks = [key for key, _ in vm.disks() if not key.startswith("unused") and key != "vmstate"]
        if disks:
            entry["blockstat"] = {key: dict.fromkeys(_BLOCK, 0) for key in disks}
        if "net0" in vm.config:
            entry["nics"] = {f"tap{vm.vmid}i0": {"netin": told["netin"], "netout": told["netout"]}}
        return entry

    # nodes and storages

    def node(self, node: Node, asked: str, *, load: bool) -> Json:
        """An entry of /nodes as `asked` sees it; load: with numbers, which need Sys.Audit on the node."""
        entry: Json = {"id": f"node/{node.name}", "type": "node", "node": node.name, "level": ""}
        offline = self._inside.cluster.offline(node, asked)
        entry["status"] = "offline" if offline else "online"
        if not load:
            return entry
        disk = self._inside.volumes.room(self._inside.local, node.name)
        entry |= {"maxcpu": node.maxcpu, "maxmem": node.maxmem_bytes, "maxdisk": disk.total}
        if offline:
            return entry
        mine = [vm for vm in self._inside.world.vms.values() if vm.node == node.name and vm.running]
        entry |= {"mem": (3 << 30) + sum(vm.memory_bytes for vm in mine), "disk": disk.used}
        load_now = min(1.0, 0.08 + 0.05 * len(mine) / node.maxcpu)
        return entry | {"cpu": load_now, "uptime": int(self._inside.clock.now() - node.booted_at)}

    def storage_resource(self, storage: Storage, node: Node) -> Json:
        """An entry of /cluster/resources; an offline node's storages still say `available`."""
        room = self._inside.volumes.room(storage, node.name)
        return {
            "id": f"storage/{node.name}/{storage.name}",
            "type": "storage",
            "node": node.name,
            "storage": storage.name,
            "status": "available",
            "plugintype": storage.kind,
            "content": ",".join(storage.content),
            "shared": int(storage.shared),
            "maxdisk": room.total,
            "disk": room.used,
        }

    def storage(self, storage: Storage, node: str) -> Json:
        """An entry of /nodes/{node}/storage."""
        room = self._inside.volumes.room(storage, node)
        entry: Json = {"type": storage.kind, "content": ",".join(storage.content), "shared": int(storage.shared)}
        entry |= {"enabled": int(storage.enabled), "active": int(storage.enabled)}
        return entry | {"total": room.total, "used": room.used, "avail": room.avail}

    def pool_members(self, call: Call, name: str) -> list[Json]:
        world = self._inside.world
        vms = [self.resource(vm) for vm in sorted(world.vms.values(), key=lambda vm: vm.vmid) if vm.pool == name]
        for entry in vms:
            entry.pop("pool", None)
        here = world.nodes[call.asked]
        storages = [
            self.storage_resource(world.storages[one], here)
            for one in sorted(world.pools[name].storages)
            if one in world.storages
        ]
        return [*vms, *storages]
