"""Which slices the kubelet should take: full cards first, or empty ones; several for one server near to each other. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from labspawner.gpu.agent.layout import Layout, Unit
from labspawner.gpu.agent.settings import Pool

_FARTHEST = 10**6


def prefer(
    available: Sequence[str],
    must_include: Sequence[str],
    size: int,
    *,
    layout: Layout,
    pool: Pool,
    in_use: Collection[str] = (),
) -> tuple[str, ...]:
    """The ids that make the best `size` of `available`; fewer where there are not so many that we know.

    binpack: the fullest card that has them all; else as few cards as possible, near to each other. spread: the emptiest
    cards, near to each other. in_use: ids that pods have; of other classes than the one that is asked for, too.
    """
    units = {one: layout.units[one] for one in available if one in layout.units}
    chosen = [layout.units[one] for one in must_include if one in layout.units][:size]
    left = {unit.id: unit for unit in units.values() if unit not in chosen}
    free = _free_mib(layout, pool, in_use)
    while len(chosen) < size and left:
        card = _best_card(left, chosen, size - len(chosen), free=free, layout=layout, placement=pool.placement)
        unit = min((unit for unit in left.values() if unit.card == card), key=lambda unit: unit.number)
        del left[unit.id]
        chosen.append(unit)
    return tuple(unit.id for unit in chosen)


def _best_card(
    left: Mapping[str, Unit],
    chosen: Sequence[Unit],
    missing: int,
    *,
    free: Mapping[str, int],
    layout: Layout,
    placement: Literal["binpack", "spread"],
) -> str:
    room = Counter(unit.card for unit in left.values())
    taken = Counter(unit.card for unit in chosen)

    def far(card: str) -> int:
        return sum(0 if other == card else layout.cards[card].distances.get(other, _FARTHEST) for other in taken)

    def binpack(card: str) -> tuple[int, ...]:
        return (
            -min(taken[card], 1),
            far(card),
            0 if room[card] >= missing else 1,
            free[card] if room[card] >= missing else -room[card],
            layout.cards[card].index,
        )

    def spread(card: str) -> tuple[int, ...]:
        return (taken[card], -free[card] if not taken else far(card), -free[card], layout.cards[card].index)

    return min(room, key=binpack if placement == "binpack" else spread)


def _free_mib(layout: Layout, pool: Pool, in_use: Collection[str]) -> dict[str, int]:
    free = {uuid: card.memory_total_bytes for uuid, card in layout.cards.items()}
    for one in in_use:
        if (unit := layout.units.get(one)) is not None:
            free[unit.card] -= pool.classes[unit.class_name].memory
    return free
