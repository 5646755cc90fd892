"""Which slices the kubelet is told to take."""

from __future__ import annotations

from typing import Any

from gpudouble import a_card
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.agent.choosing import prefer
from labspawner.gpu.agent.layout import Layout, lay_out
from labspawner.gpu.agent.settings import Pool, parse_settings
from labspawner.gpu.cards import Inventory

CARDS = [a_card(index).uuid for index in range(3)]


def a_pool(**changes: Any) -> Pool:
    return parse_settings({"classes": {"small": {"memory": "6GiB", "cores": 25, "per_card": 3}}, **changes}).pool(None)[
        1
    ]


def layout(pool: Pool, *distances: tuple[int, int, int]) -> Layout:
    """Three cards; distances: (a, b, level)."""
    known: dict[int, dict[str, int]] = {index: {} for index in range(3)}
    for a, b, level in distances:
        known[a][CARDS[b]] = known[b][CARDS[a]] = level
    cards = tuple(a_card(index, distances=known[index]) for index in range(3))
    return lay_out(Inventory(cards=cards), pool)


def chosen(
    pool: Pool, found: Layout, size: int, *, used: tuple[str, ...] = (), must: tuple[str, ...] = ()
) -> list[str]:
    """The cards of what is preferred."""
    free = [one for one in found.units if one not in used]
    ids = prefer(free, must, size, layout=found, pool=pool, in_use=used)
    return [found.units[one].card for one in ids]


def of(found: Layout, card: int, count: int) -> tuple[str, ...]:
    return tuple(unit.id for unit in found.units.values() if unit.card == CARDS[card])[:count]


def test_binpack_fills_the_fullest_card_so_that_others_stay_whole():
    pool = a_pool()
    found = layout(pool)

    assert chosen(pool, found, 1, used=(*of(found, 0, 1), *of(found, 1, 2))) == [CARDS[1]]


def test_spread_takes_the_emptiest_card():
    pool = a_pool(placement="spread")
    found = layout(pool)

    assert chosen(pool, found, 1, used=(*of(found, 0, 2), *of(found, 1, 1))) == [CARDS[2]]


def test_slices_of_other_classes_count_too():
    classes = {
        "small": {"memory": "4GiB", "cores": 10, "per_card": 2},
        "large": {"memory": "12GiB", "cores": 50, "per_card": 1},
    }
    pool = a_pool(classes=classes, placement="spread")
    found = layout(pool)
    small = [unit.id for unit in found.of_class("small")]
    large = [unit.id for unit in found.of_class("large") if unit.card == CARDS[0]]

    ids = prefer(small, (), 1, layout=found, pool=pool, in_use=large)

    assert found.units[ids[0]].card == CARDS[1]


def test_binpack_gives_several_from_one_card_where_it_has_them():
    pool = a_pool()
    found = layout(pool)

    assert chosen(pool, found, 2, used=of(found, 0, 2)) == [CARDS[1], CARDS[1]]


def test_several_that_no_card_has_go_to_near_cards():
    pool = a_pool()
    found = layout(pool, (0, 1, 40), (0, 2, 10), (1, 2, 40))

    assert sorted(set(chosen(pool, found, 4))) == [CARDS[0], CARDS[2]]


def test_spread_gives_several_from_near_cards():
    pool = a_pool(placement="spread")
    found = layout(pool, (0, 1, 40), (0, 2, 10), (1, 2, 40))

    assert chosen(pool, found, 2) == [CARDS[0], CARDS[2]]


def test_what_must_be_in_it_is_in_it():
    pool = a_pool()
    found = layout(pool)
    must = of(found, 2, 1)

    ids = prefer(list(found.units), must, 2, layout=found, pool=pool)

    assert must[0] in ids
    assert [found.units[one].card for one in ids] == [CARDS[2], CARDS[2]]


def test_devices_that_are_not_ours_are_never_preferred():
    pool = a_pool()

    assert prefer(["small-0-GPU-of-before"], (), 1, layout=layout(pool), pool=pool) == ()


@given(st.sets(st.integers(0, 8)), st.integers(0, 9), st.sampled_from(["binpack", "spread"]))
def test_as_many_as_are_wanted_and_only_what_is_available(taken: set[int], size: int, placement: str):
    pool = a_pool(placement=placement)
    found = layout(pool)
    used = [list(found.units)[index] for index in taken]
    free = [one for one in found.units if one not in used]

    ids = prefer(free, (), size, layout=found, pool=pool, in_use=used)

    assert len(ids) == len(set(ids)) == min(size, len(free))
    assert set(ids) <= set(free)
