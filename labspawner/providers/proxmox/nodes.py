"""Where a VM may go, and why not elsewhere; what each node can still hold. Pure: one listing in, an order or an error out.

PVE takes a clone for a node that is away, and one for a storage that is full, and fails later or not at all. So all is asked
of the listing here, and once more right before the clone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from labspawner.errors import LabError, NeverFits, NoRoom, ProviderUnavailable, SetupError
from labspawner.model import Capacity, HostCapacity, Resources
from labspawner.providers.proxmox.checking import volumes
from labspawner.providers.proxmox.marks import lease_of_tags
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.recipe import disk_bytes
from labspawner.providers.proxmox.rooms import (
    Promise,
    Room,
    has_space,
    has_space_for_state,
    kept,
    leaves_reserve,
    room_of,
    state_bytes,
    state_storage,
)
from labspawner.providers.proxmox.views import NodeView, StorageView, View, VmView
from labspawner.sentences import Sentence

__all__ = [
    "Need",
    "Placement",
    "Promise",
    "Spot",
    "Template",
    "Why",
    "capacity",
    "find_templates",
    "has_space_for_state",
    "kept",
    "need_of",
    "no_template",
    "nowhere",
    "place",
    "promise_of",
]


class Why(Enum):
    """Why a node does not get a VM. What ends with NOW, and the first three, pass; the others whoever set this up mends."""

    NOT_QUORATE = "the cluster has no quorum"
    OFFLINE = "offline"
    DRAINING = "being emptied"
    MEMORY_NOW = "too little memory free"
    CPU_NOW = "too few cores free"
    STORAGE_NOW = "too little space on the storage"
    STATE_NOW = "too little space for the memory of hibernated servers"
    DEVICE_NOW = "all devices in use"
    SERVERS_NOW = "as many servers as it may have"
    NO_TEMPLATE = "the template's disks are not there"
    NO_STORAGE = "no such storage"
    NO_DEVICE = "no such device"
    MEMORY_EVER = "has less memory than that"
    CPU_EVER = "has fewer cores than that"
    NOT_WANTED = "not among the nodes that may be used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What can be cloned. node: where its configuration is, which is asked for the clone. storages: those of its disks.

    disk_bytes: what a full copy may take. cores, memory_bytes: what a VM gets where the profile says nothing.
    """

    vmid: int
    node: str
    storages: tuple[str, ...]
    disk_bytes: int = 0
    cores: int = 1
    memory_bytes: int = 0

    @classmethod
    def of(cls, vm: VmView, config: Mapping[str, Any]) -> Template:
        """Read a template's configuration."""
        cores = _number(config.get("cores"), 1) * _number(config.get("sockets"), 1)
        memory = _number(str(config.get("memory") or "").removeprefix("current="), 512) * 2**20
        storages = tuple(sorted({disk.storage for disk in volumes(config)}))
        return cls(
            vmid=vm.vmid,
            node=vm.node,
            storages=storages,
            disk_bytes=disk_bytes(config),
            cores=cores,
            memory_bytes=memory,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one VM needs of its node. cpu, memory_bytes, None: as the template has. storage: of a full copy, None: that of
    the template. nodes: only these; empty: any. pci: a mapping of devices. disk_bytes: as large as its disk is to be."""

    cpu: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    full: bool = False
    storage: str | None = None
    hibernate: bool = False
    pci: str | None = None
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A node for a VM, and the template that it is cloned from there. storage: where its disks go."""

    node: str
    template: Template
    storage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a VM may go, the best first; and of every other node why it may not."""

    spots: tuple[Spot, ...]
    refused: Mapping[str, Why] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """For the log: each node that does not do, and why."""
        return ", ".join(f"{node}: {why.value}" for node, why in sorted(self.refused.items())) or "no node"


def find_templates(view: View, wanted: str) -> tuple[VmView, ...]:
    """The templates that a profile means by a number or a name. Of several with one name on one node it is the one with the
    highest number, the newest; one on each node is how a template on local storage serves all. Empty: there is none."""
    if wanted.isdigit():
        vm = view.vms.get(int(wanted))
        return (vm,) if vm is not None and vm.template is not False else ()
    by_node: dict[str, VmView] = {}
    for vm in sorted(view.vms.values(), key=lambda each: each.vmid):
        if vm.name == wanted and vm.template:
            by_node[vm.node] = vm
    return tuple(by_node[node] for node in sorted(by_node))


def place(
    view: View,
    templates: Sequence[Template],
    need: Need,
    *,
    settings: ProxmoxSettings,
    draining: Collection[str] = (),
    promised: Iterable[Promise] = (),
    devices: Mapping[str, int] | None = None,
) -> Placement:
    """Which nodes may take a VM, in the order in which they are tried.

    draining: nodes that are being emptied. promised: of starts under way whose VM does not run yet. devices: how many of the
    wanted mapping are free, by node, a node that has none at all left out; None: not known.
    """
    promises = tuple(each for each in promised if not kept(each, view))
    spots: list[tuple[tuple[float, ...], Spot]] = []
    refused: dict[str, Why] = {}
    for node in view.nodes.values():
        room = room_of(view, node, settings, promises)
        spot = _unusable(view, node, need, settings, draining) or _spot(view, node, templates, need, settings)
        if isinstance(spot, Spot):
            why = _too_small(room, need, spot.template) or _no_space(view, spot, need, settings, promises)
            spot = why or _no_device(node.name, need, devices, promises) or spot
        if isinstance(spot, Spot):
            spots.append((_order(room, settings), spot))
        else:
            refused[node.name] = spot
    ranked = sorted(spots, key=lambda each: (each[0], each[1].node))
    return Placement(spots=tuple(spot for _, spot in ranked), refused=refused)


def nowhere(placement: Placement, need: Need, *, view: View, settings: ProxmoxSettings) -> LabError:
    """The error for a VM that no node takes: wait, or never."""
    reasons = set(placement.refused.values())
    detail = f"no node takes the server: {placement.detail}"
    if Why.NOT_QUORATE in reasons:
        return ProviderUnavailable(
            Sentence("The cluster starts no servers just now. Try again in a few minutes."),
            detail=detail,
            retry_after_s=30.0,
        )
    passing = [why for why in _SAID_FIRST if why in reasons]
    if passing:
        return NoRoom(_FULL[passing[0]], detail=detail, retry_after_s=60.0)
    if Why.MEMORY_EVER in reasons or Why.CPU_EVER in reasons:
        wanted = need.memory_bytes or 0
        rooms = [room_of(view, node, settings, ()) for node in view.nodes.values()]
        largest = max((room.memory_total_bytes or 0 for room in rooms), default=0)
        never = NeverFits(wanted if Why.MEMORY_EVER in reasons else 0, largest)
        never.args = (detail,)
        return never
    if Why.NO_TEMPLATE in reasons or Why.NO_STORAGE in reasons:
        return SetupError(
            Sentence("The template of this profile is on no machine that may run it. Tell your administrator."),
            detail=detail,
        )
    if Why.NO_DEVICE in reasons:
        return SetupError(
            Sentence("No machine that may run this profile has the GPU that it names. Tell your administrator."),
            detail=detail,
        )
    return SetupError(
        Sentence("The cluster has no machine that this profile may run on. Tell your administrator."), detail=detail
    )


def no_template(wanted: str) -> SetupError:
    """The error for a template that is not in the cluster, or that this hub may not see."""
    return SetupError(
        Sentence("The template {name} of this profile is not in the cluster. Tell your administrator.", name=wanted),
        detail=f"no template {wanted!r}: not in the cluster, not in the pool, or no template",
    )


def capacity(
    view: View,
    settings: ProxmoxSettings,
    *,
    hub_id: str,
    taken_at: datetime,
    draining: Collection[str] = (),
    servers_left: int | None = None,
) -> Capacity:
    """What each node can still hold, for admission. servers_left: of ids, or of what the administrator allows at once.

    A node that is away, or takes nothing now, stays in the answer without a free place: who needs it waits for it.
    """
    hosts = []
    for node in view.nodes.values():
        if settings.nodes and node.name not in settings.nodes:
            continue
        room = room_of(view, node, settings, ())
        closed = _unusable(view, node, Need(), settings, draining) is not None or not has_space(view, node, settings)
        lefts = [left for left in (room.servers_free, servers_left) if left is not None]
        hosts.append(
            HostCapacity(
                name=node.name,
                servers_total=room.servers_total,
                servers_free=0 if closed else max(0, min(lefts)) if lefts else None,
                cpu_total=room.cpu_total,
                cpu_free=room.cpu_free,
                memory_total_bytes=room.memory_total_bytes,
                memory_free_bytes=room.memory_free_bytes,
            )
        )
    running = (lease_of_tags(vm.tags, hub_id) for vm in view.vms.values() if vm.status == "running")
    return Capacity(hosts=tuple(hosts), taken_at=taken_at, counted=frozenset(lease for lease in running if lease))


def need_of(resources: Resources, **more: Any) -> Need:
    """What a launch asks for, as a need."""
    return Need(cpu=resources.cpu, memory_bytes=resources.memory_bytes, disk_bytes=resources.disk_bytes, **more)


def promise_of(spot: Spot, need: Need) -> Promise:
    """What a start on this spot will use, until its VM runs."""
    return Promise(
        node=spot.node,
        cpu=need.cpu if need.cpu is not None else spot.template.cores,
        memory_bytes=_memory(need, spot.template),
        disk_bytes=_written(need, spot.template),
        storage=spot.storage,
        pci=need.pci,
    )


def _unusable(
    view: View, node: NodeView, need: Need, settings: ProxmoxSettings, draining: Collection[str]
) -> Why | None:
    if (settings.nodes and node.name not in settings.nodes) or (need.nodes and node.name not in need.nodes):
        return Why.NOT_WANTED
    if view.quorate is False:
        return Why.NOT_QUORATE
    if not node.online:
        return Why.OFFLINE
    return Why.DRAINING if node.name in draining else None


def _spot(
    view: View, node: NodeView, templates: Sequence[Template], need: Need, settings: ProxmoxSettings
) -> Spot | Why:
    """The template for this node, and where the disks go: the newest that it reaches. A clone onto another node needs every
    disk on a storage that both have."""
    found: Spot | Why = Why.NO_TEMPLATE
    for template in sorted(templates, key=lambda each: -each.vmid):
        if not all(_reaches(view, name, template.node, node.name) for name in template.storages):
            continue
        if not view.online(template.node):
            found = Why.OFFLINE
            continue
        storage = (need.storage or settings.storage if need.full else None) or _first(template.storages)
        there = view.storage_on(storage, node.name)
        if there is None and _known(view, storage):
            found = Why.NO_STORAGE
            continue
        return Spot(node=node.name, template=template, storage=storage)
    return found


def _reaches(view: View, storage: str, owner: str, node: str) -> bool:
    """Whether `node` has the disks of a template on `owner`. A storage that is in no listing is not seen by this account,
    which proves nothing against it on the template's own node."""
    seen = [each for each in view.storages if each.name == storage]
    if owner == node:
        return not seen or any(each.node == node for each in seen)
    return any(each.node == node and each.shared for each in seen)


def _too_small(room: Room, need: Need, template: Template) -> Why | None:
    memory, cpu = _memory(need, template), need.cpu if need.cpu is not None else template.cores
    if room.memory_total_bytes is not None and memory > room.memory_total_bytes:
        return Why.MEMORY_EVER
    if room.cpu_total is not None and cpu > room.cpu_total + 1e-6:
        return Why.CPU_EVER
    if room.servers_free is not None and room.servers_free < 1:
        return Why.SERVERS_NOW
    if room.memory_free_bytes is not None and memory > room.memory_free_bytes:
        return Why.MEMORY_NOW
    return Why.CPU_NOW if room.cpu_free is not None and cpu > room.cpu_free + 1e-6 else None


def _no_space(view: View, spot: Spot, need: Need, settings: ProxmoxSettings, promised: Sequence[Promise]) -> Why | None:
    storage = view.storage_on(spot.storage, spot.node)
    wanted = _written(need, spot.template)
    if storage is not None and not leaves_reserve(storage, wanted + _coming(storage, promised), settings):
        return Why.STORAGE_NOW
    if not need.hibernate:
        return None
    state = state_storage(view, spot.node, settings)
    if state is None:
        return Why.STATE_NOW if view.storages else None
    wanted_there = state_bytes(_memory(need, spot.template)) + _coming(state, promised)
    wanted_there += wanted if state.name == spot.storage else 0
    return None if leaves_reserve(state, wanted_there, settings) else Why.STATE_NOW


def _coming(storage: StorageView, promised: Sequence[Promise]) -> int:
    """What starts under way will write to this storage: on any node where it is shared, else on its own."""
    return sum(
        each.disk_bytes
        for each in promised
        if each.storage == storage.name and (storage.shared or each.node == storage.node)
    )


def _no_device(node: str, need: Need, devices: Mapping[str, int] | None, promised: Sequence[Promise]) -> Why | None:
    if need.pci is None or devices is None:
        return None
    if node not in devices:
        return Why.NO_DEVICE
    coming = sum(each.pci == need.pci for each in promised if each.node == node)
    return Why.DEVICE_NOW if devices[node] - coming < 1 else None


def _order(room: Room, settings: ProxmoxSettings) -> tuple[float, ...]:
    """Smaller is tried earlier. Where memory is not known, the number of servers tells who is busier."""
    free, total = room.memory_free_bytes, room.memory_total_bytes
    share = free / total if free is not None and total else 0.0
    return (-share, room.running) if settings.placement == "spread" else (share, -room.running)


def _written(need: Need, template: Template) -> int:
    """What the clone writes at once. A linked one writes next to nothing; the reserve is for what comes later."""
    return max(template.disk_bytes, need.disk_bytes or 0) if need.full else 0


def _memory(need: Need, template: Template) -> int:
    return need.memory_bytes if need.memory_bytes is not None else template.memory_bytes


def _known(view: View, storage: str) -> bool:
    return any(each.name == storage for each in view.storages)


def _first(storages: Sequence[str]) -> str:
    return storages[0] if storages else ""


def _number(value: object, otherwise: int) -> int:
    try:
        return int(float(str(value)))
    except ValueError:
        return otherwise


_LATER = Sentence("All machines of the cluster are full now. Try again in a few minutes.")
_FULL = {
    Why.MEMORY_NOW: Sentence("No machine of the cluster has enough memory free now. Try again in a few minutes."),
    Why.CPU_NOW: Sentence("No machine of the cluster has enough processors free now. Try again in a few minutes."),
    Why.DEVICE_NOW: Sentence("All GPUs of this kind are in use. Try again in a few minutes."),
    Why.STATE_NOW: Sentence(
        "There is too little disk space left to keep this server when you pause it. Try again later, or tell your "
        "administrator."
    ),
    Why.STORAGE_NOW: Sentence("There is too little disk space left for a new server. Tell your administrator."),
    Why.SERVERS_NOW: _LATER,
    Why.DRAINING: _LATER,
    Why.OFFLINE: Sentence("The machines that run this profile are not there now. Try again in a few minutes."),
}
_SAID_FIRST = tuple(_FULL)
