"""How many students of a class get a place: per card and per machine, by every limit there is, never by a sum. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from labspawner.courses.models import Profile
from labspawner.courses.resolve import resolve_profile
from labspawner.model import Capacity, CardCapacity, HostCapacity, Resources, Slice
from labspawner.placement import ROUNDING, emptied, has_room
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

MANY = 9999
"""Where nothing limits them, and the most that is counted."""
_GIB, _MIB = 2**30, 2**20

Limiter = Literal["gpu_memory", "cores", "split", "memory", "cpu", "servers", "nothing"]
_LIMITS: tuple[Limiter, ...] = ("gpu_memory", "cores", "split", "memory", "cpu", "servers")
_OF_A_CARD = frozenset({"gpu_memory", "cores", "split"})


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The nearest smaller value that gains places. what: the key in the course file; value: as one writes it there."""

    what: Literal["gpu.memory", "gpu.cores", "memory", "cpu"]
    value: str
    places: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """What a class needs and what there is, if nothing else ran.

    places: servers of this kind that fit at once, counted up to 9999. unit: what `needed` and `have` count. needed: how many
    such cards or machines all students need, None where one alone cannot hold a server. limiter: what runs out first.
    better: only where there are fewer places than students.
    """

    students: int
    places: int
    needed: int | None
    have: int
    unit: Literal["card", "host"]
    limiter: Limiter
    size_bytes: int | None
    better: Suggestion | None = None

    @property
    def enough(self) -> bool:
        """Whether every student gets a place."""
        return self.places >= self.students


def seats(need: Resources, students: int, capacity: Capacity, *, cards: int = 1) -> Seats:
    """How many of `students` servers like `need` fit on these machines, were they empty. cards: slices on different cards."""
    hosts = emptied(capacity).hosts
    places = _places(hosts, need, cards)
    limiter = _limiter(hosts, need, cards, places)
    of_cards = need.gpu is not None and limiter in {*_OF_A_CARD, "nothing"}
    have = sum(len(host.cards) for host in hosts) if of_cards else len(hosts)
    found = Seats(
        students=students,
        places=places,
        needed=_needed_cards(hosts, need.gpu, students * cards)
        if of_cards and need.gpu
        else _needed_hosts(hosts, need, students, cards),
        have=have,
        unit="card" if of_cards else "host",
        limiter=limiter,
        size_bytes=need.gpu.memory_bytes if need.gpu else need.memory_bytes,
    )
    return found if found.enough else replace(found, better=_better(hosts, need, cards, places, limiter))


def seats_of(profile: Profile, students: int, capacities: Mapping[str, Capacity]) -> tuple[Seats | None, ...]:
    """The same for each variant of a profile, with its default options; None where the provider's capacity is not known."""
    defaults = {name: option.default_choice for name, option in profile.options.items() if option.default_choice}
    found: list[Seats | None] = []
    for index in range(len(profile.variants)):
        variant = resolve_profile(profile, defaults, index)
        capacity = capacities.get(variant.provider)
        gpu = variant.settings.get("gpu")
        cards = gpu.get("cards") if isinstance(gpu, dict) else None
        each = cards if isinstance(cards, int) else 1
        found.append(seats(variant.resources, students, capacity, cards=each) if capacity is not None else None)
    return tuple(found)


def in_words(found: Seats) -> Sentence:
    """What an instructor reads beside the form."""
    verdict = _verdict(found)
    if found.better is None:
        return verdict
    return Sentence("{verdict} {advice}", verdict=verdict, advice=_advice(found.better))


def _verdict(found: Seats) -> Sentence:
    numbers = {"students": found.students, "needed": found.needed, "have": found.have, "places": found.places}
    if found.needed is None or found.places == 0:
        return Sentence("No machine here can hold such a server, even an empty one.")
    if found.unit == "host" and found.enough:
        return Sentence("Enough for {students} students.", students=found.students)
    if found.unit == "host":
        return Sentence(
            "{students} students need {needed} machines like these; there are {have}: {places} places.", **numbers
        )
    size = human_bytes(found.size_bytes or 0)
    if found.enough:
        return Sentence("Enough for {students} students: {size} each on {have} cards.", size=size, **numbers)
    return Sentence(
        "{students} students with {size} of GPU memory each need {needed} cards; there are {have}: {places} places.",
        size=size,
        **numbers,
    )


def _advice(better: Suggestion) -> Sentence:
    if better.what == "gpu.memory":
        template = "With {value} of GPU memory there would be {places}."
        return Sentence(template, value=better.value, places=better.places)
    if better.what == "gpu.cores":
        return Sentence(
            "With {value} of a card's time there would be {places}.", value=better.value, places=better.places
        )
    if better.what == "memory":
        return Sentence("With {value} of memory there would be {places}.", value=better.value, places=better.places)
    return Sentence("With {value} cores there would be {places}.", value=better.value, places=better.places)


def _places(hosts: Iterable[HostCapacity], need: Resources, cards: int, without: Limiter = "nothing") -> int:
    """Servers that fit on empty machines. without: a limit that is not looked at."""
    return min(MANY, sum(_on_host(host, need, cards, without) for host in hosts))


def _on_host(host: HostCapacity, need: Resources, cards: int, without: Limiter) -> int:
    most = [MANY]
    if host.servers_total is not None and without != "servers":
        most.append(host.servers_total)
    if need.cpu and host.cpu_total is not None and without != "cpu":
        most.append(math.floor((host.cpu_total + ROUNDING) / need.cpu))
    if need.memory_bytes and host.memory_total_bytes is not None and without != "memory":
        most.append(host.memory_total_bytes // need.memory_bytes)
    if need.gpu is not None:
        most.append(_spread([_on_card(card, need.gpu, without) for card in host.cards], cards))
    return max(0, min(most))


def _on_card(card: CardCapacity, gpu: Slice, without: Limiter = "nothing") -> int:
    """Slices that fit on one empty card."""
    if without == "nothing" and not has_room(card, gpu):
        return 0
    most = [MANY]
    if without != "gpu_memory":
        most.append(card.memory_total_bytes // gpu.memory_bytes)
    if without != "cores":
        most.append(card.compute_total_pct // gpu.compute_pct)
    if card.slots_total is not None and without != "split":
        most.append(card.slots_total)
    return min(most)


def _spread(slices: Sequence[int], each: int) -> int:
    """Servers that take `each` slices on as many different cards, where card i has room for slices[i]."""
    if each <= 1:
        return sum(slices)
    count = sum(slices) // each
    while count and sum(min(room, count) for room in slices) < each * count:
        count = min(count - 1, sum(min(room, count) for room in slices) // each)
    return count


def _limiter(hosts: Sequence[HostCapacity], need: Resources, cards: int, places: int) -> Limiter:
    """The limit without which there would be the most places; of several that stand in each other's way, the tightest."""
    gains = {limit: _places(hosts, need, cards, limit) - places for limit in _LIMITS}
    best = max(_LIMITS, key=lambda limit: gains[limit])
    if gains[best] > 0:
        return best
    if need.gpu is not None and not any(has_room(card, need.gpu) for host in hosts for card in host.cards):
        return "gpu_memory"
    if places >= MANY:
        return "nothing"
    # Two limits meet: whichever is lifted, the other one holds.
    if need.gpu is not None:
        return "gpu_memory"
    return "memory" if need.memory_bytes else "cpu" if need.cpu else "servers"


def _needed_cards(hosts: Sequence[HostCapacity], gpu: Slice, slices: int) -> int | None:
    return _needed([_on_card(card, gpu) for host in hosts for card in host.cards], slices)


def _needed_hosts(hosts: Sequence[HostCapacity], need: Resources, students: int, cards: int) -> int | None:
    return _needed([_on_host(host, need, cards, "nothing") for host in hosts], students)


def _needed(rooms: Sequence[int], wanted: int) -> int | None:
    """How many of these hold `wanted`, the roomiest first; where they do not suffice, with more of the roomiest."""
    best = max(rooms, default=0)
    if best == 0:
        return None
    used = 0
    for room in sorted(rooms, reverse=True):
        if wanted <= 0 or room == 0:
            break
        wanted, used = wanted - room, used + 1
    return used + max(0, math.ceil(wanted / best))


def _better(
    hosts: Sequence[HostCapacity], need: Resources, cards: int, places: int, limiter: Limiter
) -> Suggestion | None:
    """The nearest smaller value of what limits that gains places; None where that value alone gains none."""
    gpu = need.gpu
    if limiter == "gpu_memory" and gpu is not None:
        totals = [card.memory_total_bytes for host in hosts for card in host.cards]
        tries = _sizes(_next(totals, gpu.memory_bytes))
        shrunk: Callable[[int], Resources] = lambda size: replace(need, gpu=replace(gpu, memory_bytes=size))  # noqa: E731
        return _first(hosts, cards, places, "gpu.memory", ((text, shrunk(size)) for text, size in tries))
    if limiter == "cores" and gpu is not None:
        totals = [card.compute_total_pct for host in hosts for card in host.cards]
        pct = _next(totals, gpu.compute_pct)
        less = ((f"{pct}%", replace(need, gpu=replace(gpu, compute_pct=pct))) for _ in range(pct > 0))
        return _first(hosts, cards, places, "gpu.cores", less)
    if limiter == "memory" and need.memory_bytes:
        tries = _sizes(_next([host.memory_total_bytes or 0 for host in hosts], need.memory_bytes))
        return _first(
            hosts, cards, places, "memory", ((text, replace(need, memory_bytes=size)) for text, size in tries)
        )
    if limiter == "cpu" and need.cpu:
        tenths = _next([round((host.cpu_total or 0) * 10) for host in hosts], math.ceil(need.cpu * 10))
        fewer = ((f"{tenths / 10:g}", replace(need, cpu=tenths / 10)) for _ in range(tenths > 0))
        return _first(hosts, cards, places, "cpu", fewer)
    return None


def _next(totals: Iterable[int], each: int) -> int:
    """The largest share smaller than `each` of which one more goes into one of `totals`; 0 where there is none."""
    return max((total // (total // each + 1) for total in totals if total > 0), default=0)


def _sizes(largest: int) -> Iterable[tuple[str, int]]:
    """Sizes that people write, not above `largest`: tenths of a GiB, else whole MiB."""
    tenths = largest * 10 // _GIB
    if tenths >= 10:
        text = f"{tenths / 10:.1f}".removesuffix(".0")
        yield f"{text}GiB", tenths * _GIB // 10
    if largest >= _MIB:
        yield f"{largest // _MIB}MiB", largest // _MIB * _MIB


def _first(
    hosts: Sequence[HostCapacity],
    cards: int,
    places: int,
    what: Literal["gpu.memory", "gpu.cores", "memory", "cpu"],
    tries: Iterable[tuple[str, Resources]],
) -> Suggestion | None:
    """The first of `tries` that gains places."""
    for text, smaller in tries:
        if (more := _places(hosts, smaller, cards)) > places:
            return Suggestion(what, text, more)
    return None
