"""How much room nodes and storages have for servers, as one listing tells. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labspawner.providers.proxmox.options import NodeRoom, ProxmoxSettings
from labspawner.providers.proxmox.views import NodeView, StorageView, View

STATE_BASE_BYTES = 500 * 2**20
"""PVE makes the file for a hibernated VM's memory twice that memory and 500 MB large."""


def state_bytes(memory_bytes: int) -> int:
    """The space that hibernating a VM with so much memory takes."""
    return 2 * memory_bytes + STATE_BASE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a start under way will use of a node, and does not show in a listing yet.

    vmid: of its VM, once it has one: as soon as a listing shows that running, the promise counts no more.
    """

    node: str
    vmid: int | None = None
    cpu: float = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    storage: str | None = None
    pci: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What servers may have of a node, and what of it is left. None: not known, so not counted."""

    memory_total_bytes: int | None
    memory_free_bytes: int | None
    cpu_total: float | None
    cpu_free: float | None
    servers_total: int | None
    servers_free: int | None
    running: int


def room_of(view: View, node: NodeView, settings: ProxmoxSettings, promised: Sequence[Promise]) -> Room:
    """What a node can still hold. promised: of starts under way whose VM does not run yet."""
    given = settings.nodes.get(node.name, NodeRoom())
    running = [vm for vm in view.vms.values() if vm.node == node.name and vm.status == "running"]
    coming = [each for each in promised if each.node == node.name and not kept(each, view)]
    memory_total = None if given.memory is None else int(given.memory * settings.memory_overcommit)
    memory_used = sum(vm.maxmem or 0 for vm in running) + sum(each.memory_bytes for each in coming)
    if memory_total is None and node.maxmem is not None:
        # What runs there and this account does not see, the node's own programs included.
        hidden = max(0, (node.mem or 0) - sum(vm.mem or 0 for vm in running))
        memory_total = max(0, int(node.maxmem * settings.memory_overcommit) - settings.node_reserve)
        memory_used += max(0, hidden - settings.node_reserve)
    cores = given.cores if given.cores is not None else node.maxcpu
    cpu_total = None if cores is None else cores * settings.cpu_overcommit
    cpu_used = sum(vm.maxcpu or 0 for vm in running) + sum(each.cpu for each in coming)
    count = len(running) + len(coming)
    return Room(
        memory_total_bytes=memory_total,
        memory_free_bytes=None if memory_total is None else max(0, memory_total - memory_used),
        cpu_total=cpu_total,
        cpu_free=None if cpu_total is None else max(0.0, cpu_total - cpu_used),
        servers_total=given.servers,
        servers_free=None if given.servers is None else max(0, given.servers - count),
        running=count,
    )


def kept(promise: Promise, view: View) -> bool:
    """Whether a listing shows the VM of a promise running, so that it is counted there."""
    vm = view.vms.get(promise.vmid) if promise.vmid is not None else None
    return vm is not None and vm.status == "running"


def state_storage(view: View, node: str, settings: ProxmoxSettings) -> StorageView | None:
    """Where the memory of a hibernated VM goes on this node: as the administrator says, else as PVE chooses, a shared
    storage first; None where there is none."""
    if settings.hibernate_storage is not None:
        return view.storage_on(settings.hibernate_storage, node)
    return next((each for each in sorted(images(view, node), key=lambda each: (not each.shared, each.name))), None)


def has_space_for_state(view: View, node: str, memory_bytes: int, settings: ProxmoxSettings) -> bool:
    """Whether a VM with so much memory can be hibernated there now; yes where the space is not told."""
    storage = state_storage(view, node, settings)
    return storage is not None and leaves_reserve(storage, state_bytes(memory_bytes), settings)


def leaves_reserve(storage: StorageView, wanted: int, settings: ProxmoxSettings) -> bool:
    """Whether the reserve of a storage is untouched when so much more is written; yes where its space is not told."""
    free = storage.free_bytes
    return free is None or free - wanted >= settings.storage_reserve


def has_space(view: View, node: NodeView, settings: ProxmoxSettings) -> bool:
    """Whether any storage for disks has room; yes where none can be seen."""
    found = list(images(view, node.name))
    return not found or any(leaves_reserve(each, 0, settings) for each in found)


def images(view: View, node: str) -> Iterable[StorageView]:
    """The storages for disks of VMs that a node has now."""
    return (
        each
        for each in view.storages
        if each.node == node and "images" in each.content and view.storage_on(each.name, node) is not None
    )
