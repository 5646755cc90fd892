"""The agent's file: what is wrong in it is named, with what to write instead; and cards are cut only where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gpudouble import MEMORY, a_card
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.agent.layout import DoesNotFit, Layout, lay_out
from labspawner.gpu.agent.overlap import Earlier, held_back
from labspawner.gpu.agent.settings import BadSettings, Pool, load_settings, parse_settings
from labspawner.gpu.cards import Inventory
from labspawner.gpu.limits import DeviceLimit, SliceLimits

SMALL: dict[str, Any] = {"memory": "6GiB", "cores": 25, "per_card": 3}


def a_pool(**changes: Any) -> Pool:
    return parse_settings({"classes": {"small": SMALL}, **changes}).pool(None)[1]


def cut(pool: Pool, *cards: Any) -> Layout:
    return lay_out(Inventory(cards=cards or (a_card(),)), pool)


def test_a_file_with_classes_alone_is_one_pool(tmp_path: Path):
    path = tmp_path / "agent.yaml"
    path.write_text("classes: {small: {memory: 6GiB, cores: 25, per_card: 3}}\nplacement: spread\nevery: 5s\n")

    settings = load_settings(path)

    name, pool = settings.pool(None)
    assert (name, pool.placement, pool.classes["small"].memory, settings.every) == ("default", "spread", 6 * 2**30, 5.0)


def test_of_several_pools_one_has_to_be_named():
    settings = parse_settings({"pools": {"a": {"classes": {"small": SMALL}}, "b": {"classes": {"large": SMALL}}}})

    assert list(settings.pool("b")[1].classes) == ["large"]
    with pytest.raises(BadSettings, match=r"--pool \(a, b\)"):
        settings.pool(None)
    with pytest.raises(BadSettings, match="no node pool 'c'"):
        settings.pool("c")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"classes": {"small": {**SMALL, "memory": 6}}}, r"write 6GiB or 6MiB"),
        ({"classes": {"small": {**SMALL, "memory": "6.0001GiB"}}}, "whole number of MiB"),
        ({"classes": {"small": {**SMALL, "cores": 0}}}, "1% to 100%"),
        ({"classes": {"small": {**SMALL, "per_card": 0}}}, "greater than or equal to 1"),
        ({"classes": {"small": {"memory": "6GiB"}}}, "per_card: Field required"),
        ({"classes": {"Small": SMALL}}, "'Small' is no name for a class"),
        ({"classes": {"a" * 21: SMALL}}, "no name for a class"),
        ({"classes": {}}, "at least 1 item"),
        ({"classes": {"small": {**SMALL, "size": "6GiB"}}}, "size: there is no such key"),
        ({"classes": {"small": SMALL}, "runtimes": "nvidia"}, "runtimes: there is no such key"),
        ({"classes": {"small": SMALL}, "environment": {"CUDA_DISABLE_CONTROL": "1"}}, "cannot be set here"),
        ({"classes": {"small": SMALL}, "driver": ["lib", "/usr/lib"]}, "no absolute path"),
        ({"classes": {"small": SMALL}, "state": "run"}, "no absolute path"),
        ({"classes": {"small": SMALL}, "metrics": "9445"}, "no address"),
        ({"classes": {"small": SMALL}, "pretend": "none"}, "not a size"),
        ({"pools": {}}, "at least 1 item"),
        ({}, "pools: Field required"),
        (None, "the file"),
        ([1], "the file"),
    ],
)
def test_what_is_wrong_is_named(data: object, why: str):
    with pytest.raises(BadSettings, match=why):
        parse_settings(data)


@pytest.mark.parametrize(("text", "why"), [("{", "no YAML"), (None, "cannot be read"), ("\xff", "no YAML|is no")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, why: str):
    path = tmp_path / "agent.yaml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))

    with pytest.raises(BadSettings, match=why):
        load_settings(path)


def test_each_slice_has_a_name_of_its_own_that_is_the_same_every_time():
    found = cut(a_pool(), a_card(0), a_card(1))

    assert len(found.units) == 6
    assert found.units.keys() == cut(a_pool(), a_card(0), a_card(1)).units.keys()
    assert f"small-2-{a_card(1).uuid}" in found.units


def test_four_slices_of_6_gib_do_not_fit_a_card_that_is_sold_as_24_gib():
    pool = a_pool(classes={"small": {**SMALL, "per_card": 4}})

    with pytest.raises(DoesNotFit) as caught:
        cut(pool)

    assert str(caught.value) == (
        f"4 x small of 6144 MiB are 24576 MiB, and card 0 (Double RTX, {a_card().uuid}) has 24564 MiB. "
        "What would fit: small with per_card: 3; or small with memory: 6141MiB"
    )


def test_what_the_refusal_proposes_does_fit():
    for changes in ({"per_card": 3}, {"memory": "6141MiB", "per_card": 4}):
        assert cut(a_pool(classes={"small": {**SMALL, **changes}}))


def test_more_compute_time_than_there_is_is_refused_unless_nobody_counts_it():
    classes = {"small": {**SMALL, "cores": 40}}

    with pytest.raises(DoesNotFit, match=r"120 % of the compute time.*cores: 33%"):
        cut(a_pool(classes=classes))
    assert cut(a_pool(classes=classes, cores_policy="off")).units


def test_classes_may_share_a_card_or_have_cards_of_their_own():
    small, large = {**SMALL, "memory": "4GiB", "cores": 10}, {"memory": "12000MiB", "cores": 70, "per_card": 1}

    shared = cut(a_pool(classes={"small": small, "large": large}))
    apart = cut(
        a_pool(classes={"small": {**small, "cards": 0}, "large": {**large, "cards": [a_card(1).uuid]}}),
        a_card(0),
        a_card(1),
    )

    assert (len(shared.of_class("small")), len(shared.of_class("large"))) == (3, 1)
    assert {unit.card for unit in apart.of_class("small")} == {a_card(0).uuid}
    assert {unit.card for unit in apart.of_class("large")} == {a_card(1).uuid}


def test_a_card_that_is_named_and_not_there_is_said():
    found = cut(a_pool(cards=[a_card(0).uuid, 7]))

    assert found.left_out == {"7": "there is no such card on this node"}
    assert len(found.units) == 3


def test_a_card_in_mig_mode_is_left_to_others():
    found = cut(a_pool(), a_card(0, mig=True), a_card(1))

    assert list(found.cards) == [a_card(1).uuid]
    assert "MIG" in found.left_out[a_card(0).uuid]


@given(
    st.dictionaries(
        st.sampled_from(["s", "m", "l"]),
        st.tuples(st.integers(1, 9000), st.integers(1, 40), st.integers(1, 4)),
        min_size=1,
    )
)
def test_a_layout_is_refused_exactly_where_a_card_has_less_than_it_needs(drawn: dict[str, tuple[int, int, int]]):
    pool = a_pool(
        classes={name: {"memory": f"{mib}MiB", "cores": c, "per_card": n} for name, (mib, c, n) in drawn.items()}
    )
    memory, cores = (sum(one[part] * one[2] for one in drawn.values()) for part in (0, 1))
    try:
        found = cut(pool)
    except DoesNotFit:
        assert memory * 2**20 > MEMORY or cores > 100
    else:
        assert memory * 2**20 <= MEMORY
        assert cores <= 100
        assert len(found.units) == sum(count for _, _, count in drawn.values())


def holding(*ids: str, uuid: str = a_card().uuid, gib: float = 6, cores: int = 25) -> Earlier:
    device = DeviceLimit(uuid=uuid, memory_bytes=round(gib * 2**30), cores_pct=cores)
    return Earlier(frozenset(ids), SliceLimits(name="earlier", region="/r", devices=(device,)))


def test_slices_of_an_earlier_layout_hold_back_what_has_no_room_beside_them():
    pool = a_pool()
    found = cut(pool, a_card(0), a_card(1))
    first = [unit.id for unit in found.units.values() if unit.card == a_card(0).uuid]

    assert held_back(found, pool, []) == frozenset()
    assert held_back(found, pool, [holding("large-0-GPU", gib=11)]) == {first[2]}
    assert held_back(found, pool, [holding("large-0-GPU", gib=20)]) == set(first)
    assert held_back(found, pool, [holding("large-0-GPU", gib=1, cores=60)]) == set(first[1:])


def test_a_slice_that_was_larger_before_counts_with_what_it_has():
    pool = a_pool()
    found = cut(pool)
    ids = list(found.units)

    assert held_back(found, pool, [holding(ids[0], gib=8)]) == frozenset()
    assert held_back(found, pool, [holding(ids[0], gib=14)]) == {ids[2]}


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(0.1, 20), st.integers(1, 60)), max_size=4))
def test_what_is_given_beside_earlier_slices_never_adds_up_to_more_than_a_card(drawn: list[tuple[int, float, int]]):
    pool = a_pool()
    found = cut(pool, a_card(0), a_card(1))
    earlier = [
        holding(f"old-{n}", uuid=a_card(index).uuid, gib=gib, cores=c) for n, (index, gib, c) in enumerate(drawn)
    ]

    back = held_back(found, pool, earlier)

    for index, card in enumerate(found.cards.values()):
        units = [unit for unit in found.units.values() if unit.card == card.uuid and unit.id not in back]
        held = sum(round(gib * 2**30) for number, gib, _ in drawn if number == index)
        assert not units or held + 6 * 2**30 * len(units) <= card.memory_total_bytes
