"""The cards of a node, cut into slices of fixed classes; or why that is impossible, in numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labspawner.gpu.agent.settings import MIB, BadSettings, Pool
from labspawner.gpu.cards import Card, Inventory
from labspawner.gpu.limits import CorePolicy

MOST_PCT = 100


class DoesNotFit(BadSettings):
    """The classes do not fit a card; the text has the numbers, and what would."""


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One slice that there is, whoever has it: what the kubelet calls a device. number: from 0, of this class and card."""

    class_name: str
    card: str
    number: int

    @property
    def id(self) -> str:
        """The kubelet's name for it: the same after every restart."""
        return f"{self.class_name}-{self.number}-{self.card.replace('/', '_')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Cards and their slices. units: by id. left_out: cards that are not cut, and why."""

    cards: Mapping[str, Card] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def of_class(self, name: str) -> tuple[Unit, ...]:
        """The slices of one class, in a fixed order."""
        return tuple(unit for unit in self.units.values() if unit.class_name == name)


def lay_out(inventory: Inventory, pool: Pool) -> Layout:
    """Cut each card as the pool says. Raises DoesNotFit, for the first card that has too little."""
    cards: dict[str, Card] = {}
    left_out: dict[str, str] = {}
    units: list[Unit] = []
    for card in inventory.cards:
        classes = _classes_on(card, pool)
        if not classes:
            continue
        if card.mig:
            left_out[card.uuid] = "it is in MIG mode, and its parts are for NVIDIA's own device plugin"
            continue
        _check(card, classes, pool)
        cards[card.uuid] = card
        units += [Unit(name, card.uuid, number) for name in classes for number in range(pool.classes[name].per_card)]
    known = {name for card in inventory.cards for name in (card.uuid, str(card.index))}
    for name in _named(pool) - known:
        left_out[name] = "there is no such card on this node"
    return Layout(cards=cards, units={unit.id: unit for unit in units}, left_out=left_out)


def _named(pool: Pool) -> set[str]:
    lists: list[Sequence[str]] = [wanted for wanted in _card_lists(pool) if wanted != "auto"]
    return {name for wanted in lists for name in wanted}


def _card_lists(pool: Pool) -> Iterable[Sequence[str]]:
    yield pool.cards
    yield from (one.cards for one in pool.classes.values())


def _classes_on(card: Card, pool: Pool) -> list[str]:
    if not _is_in(card, pool.cards):
        return []
    return [name for name, one in pool.classes.items() if _is_in(card, one.cards)]


def _is_in(card: Card, wanted: Sequence[str]) -> bool:
    return wanted == "auto" or card.uuid in wanted or str(card.index) in wanted


def _check(card: Card, names: Sequence[str], pool: Pool) -> None:
    has = card.memory_total_bytes // MIB
    needs = sum(pool.classes[name].per_card * (pool.classes[name].memory // MIB) for name in names)
    what = " and ".join(
        f"{pool.classes[name].per_card} x {name} of {pool.classes[name].memory // MIB} MiB" for name in names
    )
    which = f"card {card.index} ({card.name}, {card.uuid})"
    if needs > has:
        ways = "; or ".join(_ways(has - needs, names, pool))
        raise DoesNotFit(f"{what} are {needs} MiB, and {which} has {has} MiB. What would fit: {ways}")
    share = sum(pool.classes[name].per_card * pool.classes[name].cores for name in names)
    if share > MOST_PCT and pool.core_policy is not CorePolicy.OFF:
        spread = MOST_PCT // sum(pool.classes[name].per_card for name in names)
        raise DoesNotFit(
            f"{what} have {share} % of the compute time of {which} together, and there are {MOST_PCT} %: "
            f"for example cores: {max(1, spread)}%, or cores_policy: off"
        )


def _ways(short_by: int, names: Sequence[str], pool: Pool) -> Iterable[str]:
    """For each class what would make all fit, if it alone changed. short_by: MiB, below 0."""
    found = False
    for name in names:
        one = pool.classes[name]
        memory = one.memory // MIB
        fewer = one.per_card + short_by // memory  # rounded down: enough of them go
        smaller = memory + short_by // one.per_card
        if fewer >= 1:
            found = True
            yield f"{name} with per_card: {fewer}"
        if smaller >= 1:
            found = True
            yield f"{name} with memory: {smaller}MiB"
    if not found:
        yield "fewer classes on this card"
