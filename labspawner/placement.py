"""Whether a request fits, and where: per host and per card, never from a sum. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from labspawner.model import Capacity, CardCapacity, CardPolicy, HostCapacity, LeaseId, Resources, Slice

ROUNDING = 1e-6
"""Ten tenths of a core are one core, whatever binary fractions make of it."""


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room on `host`, and on card `card` where a slice was asked for."""

    host: str
    card: str | None = None


@dataclass(frozen=True, slots=True)
class Full:
    """It fits an empty host, and none has the room now.

    largest_free_bytes: the largest free share of card or memory, where that is what ran out; else 0.
    """

    largest_free_bytes: int


@dataclass(frozen=True, slots=True)
class TooLarge:
    """No host could hold it, even empty. Where it wants no more bytes than there are, something else is too small."""

    wanted_bytes: int
    largest_bytes: int


class Ledger:
    """The room that one look at a provider left, after what was promised; each new promise is subtracted once.

    admitted: what live leases were promised; those in `capacity.counted` are in the free figures already.
    """

    def __init__(self, capacity: Capacity, admitted: Mapping[LeaseId, Resources]) -> None:
        self._capacity = capacity
        self._hosts = list(capacity.hosts)
        for lease_id, promised in admitted.items():
            self.promise(lease_id, promised)

    def place(self, need: Resources) -> Fits | Full | TooLarge:
        """Say where `need` goes, after all that was promised until now."""
        spot = _best(self._hosts, need)
        if spot is not None:
            return spot
        if any(_fits(_emptied(host), need) is not None for host in self._capacity.hosts):
            free = _largest(self._hosts, need, free=True)
            return Full(free if free < _wanted(need) else 0)
        return TooLarge(_wanted(need), _largest(self._hosts, need, free=False))

    def count(self, need: Resources) -> int | None:
        """How many servers like `need` could start now, after all that was promised until now; None: no limit."""
        return _sum(_room(host, need) for host in self._hosts)

    def count_empty(self, need: Resources) -> int | None:
        """How many servers like `need` fit if nothing else is there; None: no limit."""
        return _sum(_room(_emptied(host), need) for host in self._capacity.hosts)

    def promise(self, lease_id: LeaseId, resources: Resources) -> None:
        """Count a promise that was made after those known so far."""
        if lease_id not in self._capacity.counted:
            self._hosts = _charge(self._hosts, resources)


def place(need: Resources, capacity: Capacity, admitted: Mapping[LeaseId, Resources]) -> Fits | Full | TooLarge:
    """Say where `need` goes, after what was already promised; see `Ledger`."""
    return Ledger(capacity, admitted).place(need)


def emptied(capacity: Capacity) -> Capacity:
    """The same hosts and cards with nothing on them, whatever runs there now."""
    return replace(capacity, hosts=tuple(_emptied(host) for host in capacity.hosts), counted=frozenset())


def places(need: Resources, capacity: Capacity, admitted: Mapping[LeaseId, Resources], *, most: int) -> int:
    """How many servers like `need` could start now, counted up to `most`."""
    ledger = Ledger(capacity, admitted)
    for count in range(most):
        if not isinstance(ledger.place(need), Fits):
            return count
        ledger.promise(LeaseId(f"?{count}"), need)
    return most


def _sum(rooms: Iterable[int | None]) -> int | None:
    """Of whole servers, host by host: that one may be added up, what is left of cards and memory never."""
    count = 0
    for room in rooms:
        if room is None:
            return None
        count += room
    return count


def _room(host: HostCapacity, need: Resources) -> int | None:
    """How many servers like `need` this host takes, by whatever runs out first."""
    limits = [host.servers_free]
    if host.cpu_free is not None and need.cpu:
        limits.append(int((host.cpu_free + ROUNDING) / need.cpu))
    if host.memory_free_bytes is not None and need.memory_bytes:
        limits.append(host.memory_free_bytes // need.memory_bytes)
    if need.gpu is not None:
        limits.append(sum(_room_on(card, need.gpu) for card in host.cards))
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def _room_on(card: CardCapacity, gpu: Slice) -> int:
    if not has_room(card, gpu):
        return 0
    slots = [] if card.slots_free is None else [card.slots_free]
    return min(card.memory_free_bytes // gpu.memory_bytes, card.compute_free_pct // gpu.compute_pct, *slots)


def covers(promised: Resources, need: Resources) -> bool:
    """Whether who was promised the one has enough for the other, of everything."""
    if promised == need:
        return True
    if (promised.gpu is None) != (need.gpu is None):
        return False
    pairs: list[tuple[float | None, float | None]] = [
        (promised.cpu, need.cpu),
        (promised.memory_bytes, need.memory_bytes),
        (promised.disk_bytes, need.disk_bytes),
    ]
    enough = all((had is None) == (wanted is None) and (had or 0) >= (wanted or 0) for had, wanted in pairs)
    return enough and (promised.gpu is None or need.gpu is None or holds(promised.gpu, need.gpu))


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A server that ends at `at`. host, card: where it is; None: not known."""

    at: datetime
    lease_id: LeaseId
    resources: Resources
    host: str | None = None
    card: str | None = None


MOST_ENDS = 60
"""How many ends are looked at: what comes after so many is no forecast."""


def first_room(
    need: Resources, capacity: Capacity, admitted: Mapping[LeaseId, Resources], ends: Iterable[End]
) -> datetime | None:
    """When the first of `ends`, in their order, leaves room for `need`; None where none of them does.

    A server whose place in the figures is not known gives nothing back: rather too late than too early.
    """
    left = dict(admitted)
    hosts = list(capacity.hosts)
    for end in list(ends)[:MOST_ENDS]:
        if end.lease_id not in left:
            continue
        del left[end.lease_id]
        if end.lease_id in capacity.counted:
            hosts = _given_back(hosts, end)
        if isinstance(Ledger(replace(capacity, hosts=tuple(hosts)), left).place(need), Fits):
            return end.at
    return None


def _given_back(hosts: list[HostCapacity], end: End) -> list[HostCapacity]:
    """The hosts after a server that their figures contain has ended."""
    name = end.host or next((host.name for host in hosts if any(card.uuid == end.card for card in host.cards)), None)
    if name is None and len(hosts) == 1:
        name = hosts[0].name
    return [_more(host, end) if host.name == name else host for host in hosts]


def _more(host: HostCapacity, end: End) -> HostCapacity:
    """`host` with what one server held; never more than there is."""
    used, gpu = end.resources, end.resources.gpu
    only = host.cards[0].uuid if len(host.cards) == 1 else None
    cards = tuple(
        replace(
            card,
            memory_free_bytes=min(card.memory_total_bytes, card.memory_free_bytes + gpu.memory_bytes),
            compute_free_pct=min(card.compute_total_pct, card.compute_free_pct + gpu.compute_pct),
            slots_free=None if card.slots_free is None else card.slots_free + 1,
        )
        if gpu is not None and card.uuid == (end.card or only)
        else card
        for card in host.cards
    )
    return replace(
        host,
        servers_free=_up_to(host.servers_total, host.servers_free, 1),
        cpu_free=_up_to(host.cpu_total, host.cpu_free, used.cpu or 0),
        memory_free_bytes=_up_to(host.memory_total_bytes, host.memory_free_bytes, used.memory_bytes or 0),
        cards=cards,
    )


_Number = TypeVar("_Number", int, float)


def _up_to(total: _Number | None, free: _Number | None, more: _Number) -> _Number | None:
    if free is None:
        return None
    return free + more if total is None else min(total, free + more)


def _wanted(need: Resources) -> int:
    return need.gpu.memory_bytes if need.gpu else need.memory_bytes or 0


def _largest(hosts: Sequence[HostCapacity], need: Resources, *, free: bool) -> int:
    if need.gpu:
        cards = [card for host in hosts for card in host.cards]
        return max((card.memory_free_bytes if free else card.memory_total_bytes for card in cards), default=0)
    return max(((host.memory_free_bytes if free else host.memory_total_bytes) or 0 for host in hosts), default=0)


def _best(hosts: Iterable[HostCapacity], need: Resources) -> Fits | None:
    """The fitting host with the most memory left: spread, so that one student's peak hurts few others."""
    found = [(host, spot) for host in hosts if (spot := _fits(host, need)) is not None]
    if not found:
        return None
    return max(found, key=lambda pair: (pair[0].memory_free_bytes or 0, pair[0].servers_free or 0))[1]


def _fits(host: HostCapacity, need: Resources) -> Fits | None:
    if host.servers_free is not None and host.servers_free < 1:
        return None
    if _short(host.cpu_free, need.cpu) or _short(host.memory_free_bytes, need.memory_bytes):
        return None
    if need.gpu is None:
        return Fits(host.name)
    card = _best_card(host, need)
    return Fits(host.name, card.uuid) if card else None


def _short(free: float | None, wanted: float | None) -> bool:
    return free is not None and wanted is not None and wanted > free + ROUNDING


def has_room(card: CardCapacity, gpu: Slice) -> bool:
    """Whether one more slice like `gpu` fits `card`: its memory, its compute time, and a place for it."""
    return (
        gpu.memory_bytes <= card.memory_free_bytes
        and gpu.compute_pct <= card.compute_free_pct
        and (card.slots_free is None or card.slots_free > 0)
        and not any(holds(smaller, gpu) for smaller in card.leaves)
    )


def holds(size: Slice, gpu: Slice) -> bool:
    """Whether a place of this size is enough for `gpu`."""
    return gpu.memory_bytes <= size.memory_bytes and gpu.compute_pct <= size.compute_pct


def with_slice(card: CardCapacity, gpu: Slice) -> CardCapacity:
    """`card` after one more slice like `gpu`; never less than nothing is left."""
    return replace(
        card,
        memory_free_bytes=max(0, card.memory_free_bytes - gpu.memory_bytes),
        compute_free_pct=max(0, card.compute_free_pct - gpu.compute_pct),
        slots_free=None if card.slots_free is None else max(0, card.slots_free - 1),
    )


def choose_cards(
    cards: Sequence[CardCapacity], gpu: Slice, *, count: int = 1, policy: CardPolicy = CardPolicy.BINPACK
) -> tuple[CardCapacity, ...] | None:
    """The `count` different cards that get a slice like `gpu` each; None where there are not so many with room."""
    fitting = [card for card in cards if has_room(card, gpu)]
    if len(fitting) < count or count < 1:
        return None
    if policy is CardPolicy.SPREAD:
        return tuple(sorted(fitting, key=lambda card: (-card.memory_free_bytes, -card.compute_free_pct))[:count])
    packed = sorted(fitting, key=lambda card: (card.memory_free_bytes, card.compute_free_pct))
    if policy is CardPolicy.BINPACK:
        return tuple(packed[:count])
    if count == 1:
        return (max(packed, key=lambda card: _seclusion(card, fitting)),)
    return min((_neighbours(card, packed, count) for card in packed), key=_width)


def _best_card(host: HostCapacity, need: Resources) -> CardCapacity | None:
    if need.gpu is None:
        return None
    chosen = choose_cards(host.cards, need.gpu, policy=host.card_policy)
    return chosen[0] if chosen else None


_FARTHEST = 1 << 16


def _distance(one: CardCapacity, other: CardCapacity) -> int:
    return one.distances.get(other.uuid, other.distances.get(one.uuid, _FARTHEST))


def _seclusion(card: CardCapacity, cards: Sequence[CardCapacity]) -> int:
    """How far the nearest other card with room is: the farther, the less is lost when this one is taken alone."""
    return min((_distance(card, other) for other in cards if other is not card), default=_FARTHEST)


def _neighbours(card: CardCapacity, cards: Sequence[CardCapacity], count: int) -> tuple[CardCapacity, ...]:
    """A group around `card`, each next one nearest to all before it."""
    group, rest = [card], [other for other in cards if other is not card]
    while len(group) < count:
        nearest = min(rest, key=lambda other: sum(_distance(other, member) for member in group))
        group.append(nearest)
        rest.remove(nearest)
    return tuple(group)


def _width(group: Sequence[CardCapacity]) -> int:
    return sum(_distance(one, other) for index, one in enumerate(group) for other in group[:index])


def _emptied(host: HostCapacity) -> HostCapacity:
    cards = tuple(
        replace(
            card,
            memory_free_bytes=card.memory_total_bytes,
            compute_free_pct=card.compute_total_pct,
            slots_free=card.slots_total,
        )
        for card in host.cards
    )
    return replace(
        host,
        servers_free=host.servers_total,
        cpu_free=host.cpu_total,
        memory_free_bytes=host.memory_total_bytes,
        cards=cards,
    )


def _charge(hosts: list[HostCapacity], promised: Resources) -> list[HostCapacity]:
    """Subtract a promise from the host it goes to; one that fits nowhere fills the host with the most memory."""
    if not hosts:
        return hosts
    spot = _best(hosts, promised)
    name = spot.host if spot else max(hosts, key=lambda host: host.memory_free_bytes or 0).name
    uuid = spot.card if spot else None
    return [_less(host, promised, uuid) if host.name == name else host for host in hosts]


def _less(host: HostCapacity, used: Resources, uuid: str | None) -> HostCapacity:
    gpu = used.gpu
    cards = tuple(with_slice(card, gpu) if gpu and (uuid is None or card.uuid == uuid) else card for card in host.cards)
    return replace(
        host,
        servers_free=None if host.servers_free is None else max(0, host.servers_free - 1),
        cpu_free=None if host.cpu_free is None else max(0.0, host.cpu_free - (used.cpu or 0)),
        memory_free_bytes=None
        if host.memory_free_bytes is None
        else max(0, host.memory_free_bytes - (used.memory_bytes or 0)),
        cards=cards,
    )
