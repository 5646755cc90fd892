"""What one listing of the cluster says, read into frozen values. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Obj = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A machine of the cluster. Loads are None where the account lacks Sys.Audit on `/nodes`."""

    name: str
    online: bool
    cpu: float | None = None
    maxcpu: int | None = None
    mem: int | None = None
    maxmem: int | None = None
    uptime: int | None = None

    @classmethod
    def of(cls, obj: Obj) -> NodeView:
        """Read an entry of type node."""
        return cls(
            name=str(obj.get("node") or ""),
            online=obj.get("status") == "online",
            cpu=_float(obj.get("cpu")),
            maxcpu=_int(obj.get("maxcpu")),
            mem=_int(obj.get("mem")),
            maxmem=_int(obj.get("maxmem")),
            uptime=_int(obj.get("uptime")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VmView:
    """A VM, as the daemons of its node last told: up to 10 s ago, and for ever where the node is away.

    status: running, stopped or unknown, which says nothing about the VM. lock: backup, clone, migrate, suspended ...
    template, maxmem, maxcpu, maxdisk: None right after the VM was made, and after a restart of the daemons.
    """

    vmid: int
    node: str
    status: str
    name: str = ""
    tags: tuple[str, ...] = ()
    pool: str = ""
    lock: str = ""
    template: bool | None = None
    cpu: float | None = None
    maxcpu: int | None = None
    mem: int | None = None
    maxmem: int | None = None
    maxdisk: int | None = None
    uptime: int = 0

    @classmethod
    def of(cls, obj: Obj) -> VmView:
        """Read an entry of type qemu."""
        template = obj.get("template")
        return cls(
            vmid=int(obj["vmid"]),
            node=str(obj.get("node") or ""),
            status=str(obj.get("status") or "unknown"),
            name=str(obj.get("name") or ""),
            tags=tuple(sorted(filter(None, str(obj.get("tags") or "").replace(",", ";").split(";")))),
            pool=str(obj.get("pool") or ""),
            lock=str(obj.get("lock") or ""),
            template=None if template is None else bool(_int(template)),
            cpu=_float(obj.get("cpu")),
            maxcpu=_int(obj.get("maxcpu")),
            mem=_int(obj.get("mem")),
            maxmem=_int(obj.get("maxmem")),
            maxdisk=_int(obj.get("maxdisk")),
            uptime=_int(obj.get("uptime")) or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageView:
    """A storage as one node sees it. A shared one has an entry for each node.

    available: as last told; an offline node's storages still say so, which `View.storage_on` heeds.
    """

    name: str
    node: str
    shared: bool
    available: bool
    used_bytes: int | None = None
    total_bytes: int | None = None
    content: frozenset[str] = frozenset()
    plugin: str = ""

    @classmethod
    def of(cls, obj: Obj) -> StorageView:
        """Read an entry of type storage."""
        return cls(
            name=str(obj.get("storage") or ""),
            node=str(obj.get("node") or ""),
            shared=bool(_int(obj.get("shared"))),
            available=obj.get("status") == "available",
            used_bytes=_int(obj.get("disk")),
            total_bytes=_int(obj.get("maxdisk")),
            content=frozenset(filter(None, str(obj.get("content") or "").split(","))),
            plugin=str(obj.get("plugintype") or ""),
        )

    @property
    def free_bytes(self) -> int | None:
        """What is free; None: not said."""
        if self.total_bytes is None or self.used_bytes is None:
            return None
        return max(0, self.total_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The cluster in one listing.

    taken_at: when it was asked for, by `Pace.now`. quorate: None where it cannot be told. ids: all that are taken by VMs
    or containers, as far as this account sees. VMs that it may not see are not here: nor is a clone before its task ends.
    """

    taken_at: float
    quorate: bool | None = None
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    vms: Mapping[int, VmView] = field(default_factory=dict)
    storages: tuple[StorageView, ...] = ()
    ids: frozenset[int] = frozenset()
    pools: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[Obj], *, taken_at: float, quorate: bool | None = None) -> View:
        """Read `/cluster/resources`. quorate: as the cluster says; None: told from the nodes, see `majority`."""
        entries = list(entries)
        nodes = [NodeView.of(each) for each in entries if each.get("type") == "node"]
        return cls(
            taken_at=taken_at,
            quorate=majority(nodes) if quorate is None else quorate,
            nodes={node.name: node for node in sorted(nodes, key=lambda node: node.name)},
            vms={vm.vmid: vm for vm in (VmView.of(each) for each in entries if _is_vm(each))},
            storages=tuple(StorageView.of(each) for each in entries if each.get("type") == "storage"),
            ids=frozenset(int(each["vmid"]) for each in entries if each.get("vmid") is not None),
            pools=frozenset(str(each.get("pool")) for each in entries if each.get("type") == "pool"),
        )

    def believed_quorate(self) -> View:
        """The same, of a cluster that says itself that it is quorate."""
        return replace(self, quorate=True)

    @property
    def blind(self) -> bool:
        """Whether this account sees nothing: no VM, no template, no storage. Then its rights went, not the VMs."""
        return not self.vms and not self.storages

    def online(self, node: str) -> bool:
        """Whether this node is there, as its peers see it."""
        found = self.nodes.get(node)
        return found is not None and found.online

    def storage_on(self, name: str, node: str) -> StorageView | None:
        """The storage as this node sees it; None where it is not available there, or the node is not online."""
        for storage in self.storages:
            if storage.name == name and storage.node == node:
                return storage if storage.available and self.online(node) else None
        return None


def majority(nodes: Iterable[NodeView]) -> bool | None:
    """Whether more than half of the nodes are online, as a quorum of equal votes needs; None without a node.

    An account without Sys.Audit on `/` cannot ask for the quorum itself. With a tie-breaker (QDevice) in a cluster of two
    this says no where the cluster says yes: the safe side.
    """
    found = list(nodes)
    return 2 * sum(node.online for node in found) > len(found) if found else None


def _is_vm(obj: Obj) -> bool:
    return obj.get("type") == "qemu" and obj.get("vmid") is not None


def _int(value: object) -> int | None:
    if isinstance(value, bool):
        return int(value)
    try:
        return None if value is None else int(float(str(value)))
    except (ValueError, OverflowError):
        return None


def _float(value: object) -> float | None:
    try:
        return None if value is None else float(str(value))
    except ValueError:
        return None
