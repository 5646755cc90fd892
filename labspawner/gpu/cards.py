"""Which cards a machine has, as values: what is not known, or not supported, is None. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from labspawner.model import CardCapacity, Slice
from labspawner.placement import with_slice

DEFAULT_SPLITS = 10
"""How many slices share one card at most, unless an administrator says otherwise: as HAMi's device plugin has it."""


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A process that holds memory of a card. pid: as this machine counts. memory_bytes: physical."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What runs programs: a card, or a MIG device of one.

    memory_total_bytes: as NVML reports it. utilisation_pct: of the last moments, 0 to 100.
    processes: None where they cannot be listed.
    """

    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int | None = None
    utilisation_pct: int | None = None
    processes: tuple[CardProcess, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Device):
    """One physical card.

    index: NVML's. minor: of /dev/nvidia<minor>. bus: its address on the PCI bus. numa: its node.
    mig: whether it is cut into MIG devices; None: it cannot be. parts: these devices.
    distances: to the other cards, by UUID, as in `CardCapacity`.
    """

    index: int
    minor: int | None = None
    bus: str | None = None
    numa: int | None = None
    compute_capability: tuple[int, int] | None = None
    mig: bool | None = None
    parts: tuple[Device, ...] = ()
    distances: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LostCard:
    """A card that is there and does not answer. why: the driver's words."""

    index: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One look at all cards. cuda: the newest that the driver can do, as `13.0`."""

    cards: tuple[Card, ...] = ()
    lost: tuple[LostCard, ...] = ()
    driver: str | None = None
    cuda: str | None = None

    def devices(self) -> tuple[Device, ...]:
        """Where slices can be: each card that is whole, and each MIG device of one that is not."""
        return tuple(device for card in self.cards for device in (card.parts if card.mig else (card,)))

    def card_of(self, uuid: str) -> Card | None:
        """The card that `uuid` is, or is a MIG device of."""
        return next(
            (card for card in self.cards if uuid == card.uuid or any(part.uuid == uuid for part in card.parts)), None
        )


@dataclass(frozen=True, slots=True)
class CardEvent:
    """A card came or went between two looks. why: of one that went, what the driver says."""

    uuid: str
    present: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """What one slice holds of one device, whatever it uses of it now."""

    uuid: str
    gpu: Slice


_SHARED_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_MIG_NODES = "/dev/nvidia-caps"


def nodes_of(uuid: str, inventory: Inventory) -> tuple[str, ...]:
    """The device nodes that a program needs for one card, or MIG device, and for no other."""
    card = inventory.card_of(uuid)
    if card is None or card.minor is None:
        return ()
    return (f"/dev/nvidia{card.minor}", *_SHARED_NODES, *((_MIG_NODES,) if card.mig else ()))


def events(before: Inventory, after: Inventory) -> tuple[CardEvent, ...]:
    """What changed: cards that went first, then those that came."""
    old, new = {card.uuid: card for card in before.cards}, {card.uuid: card for card in after.cards}
    why = {lost.index: lost.why for lost in after.lost}
    gone = [CardEvent(uuid, False, why.get(card.index, "")) for uuid, card in old.items() if uuid not in new]
    return (*gone, *(CardEvent(uuid, True) for uuid in new if uuid not in old))


def capacities(
    inventory: Inventory, held: Iterable[Held] = (), *, splits: int = DEFAULT_SPLITS
) -> tuple[CardCapacity, ...]:
    """Each place for slices, less what is held of it: what was promised counts, not what is used.

    splits: the most slices on one card; a MIG device holds one.
    """
    found: dict[str, CardCapacity] = {}
    for card in inventory.cards:
        for device in card.parts if card.mig else (card,):
            found[device.uuid] = CardCapacity(
                uuid=device.uuid,
                memory_total_bytes=device.memory_total_bytes,
                memory_free_bytes=device.memory_total_bytes,
                slots_free=1 if card.mig else splits,
                slots_total=1 if card.mig else splits,
                distances=_distances(card, inventory),
            )
    for one in held:
        if one.uuid in found:
            found[one.uuid] = with_slice(found[one.uuid], one.gpu)
    return tuple(found.values())


def without_strangers(capacity: CardCapacity, device: Device, ours: frozenset[int]) -> CardCapacity:
    """`capacity` less what processes that are in no slice hold now. ours: the pids of those that are in one."""
    strange = sum(found.memory_bytes or 0 for found in device.processes or () if found.pid not in ours)
    return replace(capacity, memory_free_bytes=max(0, capacity.memory_free_bytes - strange))


def _distances(card: Card, inventory: Inventory) -> dict[str, int]:
    """As of the card, and for each MIG device of the others the distance of theirs; parts of one card are nearest."""
    known: dict[str, int] = {}
    for other in inventory.cards:
        level = 0 if other.uuid == card.uuid else card.distances.get(other.uuid)
        if level is not None:
            known.update({device.uuid: level for device in (other.parts if other.mig else (other,))})
    if not card.mig:
        known.pop(card.uuid, None)
    return known
