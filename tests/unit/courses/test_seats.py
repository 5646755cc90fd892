"""How many of a class get a place: the count is what a placement of each, one by one, would come to."""

from __future__ import annotations

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.courses.course_files import profile_of

from labspawner.courses.seats import MANY, Suggestion, in_words, seats, seats_of
from labspawner.model import Capacity, CardCapacity, HostCapacity, LeaseId, Resources, Slice
from labspawner.pages.i18n import translate
from labspawner.placement import places

GIB, MIB = 2**30, 2**20


def cards(count: int, mib: int = 24_564, *, slots: int | None = 10, host: str = "n") -> tuple[CardCapacity, ...]:
    return tuple(
        CardCapacity(
            uuid=f"{host}-{number}", memory_total_bytes=mib * MIB, memory_free_bytes=0, compute_free_pct=0,
            slots_free=0, slots_total=slots,
        )
        for number in range(count)
    )  # fmt: skip


def having(*hosts: HostCapacity) -> Capacity:
    return Capacity(hosts=hosts, taken_at=NOW, counted=frozenset({LeaseId("x")}))


def gpu(gib: float, pct: int = 25, **more: float) -> Resources:
    return Resources(gpu=Slice(memory_bytes=int(gib * GIB), compute_pct=pct), **more)  # type: ignore[arg-type]


LAB = having(HostCapacity(name="a", cards=cards(2, host="a")), HostCapacity(name="b", cards=cards(2, host="b")))


def test_a_class_of_24_with_6_gib_each_on_four_cards_that_report_a_little_less_than_24():
    found = seats(gpu(6), 24, LAB)

    assert (found.places, found.needed, found.have, found.unit, found.limiter) == (12, 8, 4, "card", "gpu_memory")
    assert found.better == Suggestion("gpu.memory", "5.9GiB", 16)
    assert in_words(found) == (
        "24 students with 6 GiB of GPU memory each need 8 cards; there are 4: 12 places. "
        "With 5.9GiB of GPU memory there would be 16."
    )
    assert translate(in_words(found), "zh-CN") == (
        "24 名学生每人 6 GiB 显存，需要 8 块显卡，现有 4 块：可供 12 人。若改为 5.9GiB 显存，可供 16 人。"
    )


def test_a_sum_of_memory_over_cards_counts_for_nothing():
    assert seats(gpu(13), 4, having(HostCapacity(name="a", cards=cards(3)))).places == 3
    assert seats(gpu(25), 1, having(HostCapacity(name="a", cards=cards(9)))).places == 0


@pytest.mark.parametrize(
    ("need", "host", "limiter", "places_", "better"),
    [
        (gpu(2, 40), {"cards": cards(1)}, "cores", 2, Suggestion("gpu.cores", "33%", 3)),
        (gpu(1, 5), {"cards": cards(1)}, "split", 10, None),
        (gpu(6, 25, cpu=8), {"cards": cards(4), "cpu_total": 16.0}, "cpu", 2, Suggestion("cpu", "5.3", 3)),
        (gpu(6, 25, memory_bytes=16 * GIB), {"cards": cards(4), "memory_total_bytes": 33 * GIB}, "memory", 2,
         Suggestion("memory", "11GiB", 3)),
        (Resources(cpu=1.0), {"servers_total": 3, "cpu_total": 16.0}, "servers", 3, None),
        (Resources(memory_bytes=3 * GIB), {"memory_total_bytes": 8 * GIB}, "memory", 2,
         Suggestion("memory", "2.6GiB", 3)),
        (gpu(6, 30), {"cards": cards(1)}, "gpu_memory", 3, None),
    ],
    ids=["cores", "split", "cpu", "memory beside a card", "servers", "memory", "two limits at once"],
)  # fmt: skip
def test_what_runs_out_first_is_named_with_the_nearest_value_that_gains(need, host, limiter, places_, better):
    found = seats(need, 20, having(HostCapacity(name="a", **host)))

    assert (found.places, found.limiter, found.better) == (places_, limiter, better)
    assert str(places_) in in_words(found)


def test_what_fits_nowhere_says_so():
    for need in (gpu(30), Resources(cpu=99.0), Resources(memory_bytes=99 * GIB)):
        found = seats(
            need, 5, having(HostCapacity(name="a", cpu_total=8.0, memory_total_bytes=8 * GIB, cards=cards(1)))
        )

        assert (found.places, found.needed, found.enough) == (0, None, False)
        assert "No machine here" in in_words(found)
    assert seats(gpu(1), 5, having()).places == 0


def test_a_class_that_fits_needs_no_advice():
    found = seats(gpu(6), 12, LAB)

    assert (found.enough, found.needed, found.better) == (True, 4, None)
    assert in_words(found).startswith("Enough for 12 students")


def test_without_any_limit_there_is_room_for_all():
    found = seats(Resources(), 24, having(HostCapacity(name="a")))

    assert (found.places, found.limiter, found.enough) == (MANY, "nothing", True)


def test_each_server_with_two_slices_takes_two_different_cards():
    host = HostCapacity(name="a", cards=(*cards(1, 24_564), *cards(1, 8_000, host="small")))

    assert seats(gpu(6, 10), 9, having(host), cards=2).places == 1
    assert seats(gpu(6, 10), 9, LAB, cards=2).places == 6
    assert seats(gpu(6, 10), 9, LAB, cards=3).places == 0


def test_a_place_of_fixed_size_is_for_one():
    mig = tuple(
        CardCapacity(uuid=f"m{n}", memory_total_bytes=10 * GIB, memory_free_bytes=0, slots_total=1) for n in range(7)
    )

    assert seats(gpu(2, 1), 20, having(HostCapacity(name="a", cards=mig))).places == 7


def test_each_variant_of_a_profile_is_counted_where_it_would_run():
    profile = profile_of(
        variants=[
            {"provider": "kubernetes", "memory": "1GiB", "gpu": {"memory": "6GiB", "cores": 25, "cards": 2}},
            {"provider": "local", "memory": "1GiB"},
            {"provider": "gone"},
        ]
    )
    local = having(HostCapacity(name="h", memory_total_bytes=4 * GIB))

    pods, here, gone = seats_of(profile, 24, {"kubernetes": LAB, "local": local})

    assert pods is not None
    assert here is not None
    assert (pods.places, here.places, gone) == (6, 4, None)


_card = st.tuples(st.integers(1, 30), st.sampled_from([None, 1, 2, 5]))
_host = st.builds(
    lambda number, servers, cpu, memory, made: HostCapacity(
        name=f"h{number}", servers_total=servers, cpu_total=cpu, memory_total_bytes=memory and memory * GIB,
        cards=tuple(
            CardCapacity(uuid=f"{number}-{place}", memory_total_bytes=gib * GIB, memory_free_bytes=0, slots_total=slots)
            for place, (gib, slots) in enumerate(made)
        ),
    ),
    st.integers(0, 10**6), st.sampled_from([None, 0, 2, 9]), st.sampled_from([None, 1.0, 7.5]),
    st.sampled_from([None, 3, 20]), st.lists(_card, max_size=3),
)  # fmt: skip
_need = st.builds(
    lambda cpu, memory, slice_: Resources(
        cpu=cpu, memory_bytes=memory and memory * GIB,
        gpu=slice_ and Slice(memory_bytes=slice_[0] * GIB, compute_pct=slice_[1]),
    ),
    st.sampled_from([None, 0.5, 2.0]), st.sampled_from([None, 1, 4]),
    st.sampled_from([None, (1, 10), (6, 25), (5, 100), (12, 34)]),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_need, st.lists(_host, max_size=3, unique_by=lambda host: host.name), st.integers(1, 40))
def test_the_count_is_that_of_placing_them_one_by_one(need: Resources, hosts: list[HostCapacity], students: int):
    capacity = having(*hosts)
    empty = Capacity(
        hosts=tuple(_empty(host) for host in hosts),
        taken_at=NOW,
    )

    found = seats(need, students, capacity)

    assert min(found.places, 60) == places(need, empty, {}, most=60)
    if found.better is not None:
        assert found.better.places > found.places
    assert (found.needed is None) == (found.places == 0) or not found.enough
    assert in_words(found)


def _empty(host: HostCapacity) -> HostCapacity:
    from dataclasses import replace

    return replace(
        host, servers_free=host.servers_total, cpu_free=host.cpu_total, memory_free_bytes=host.memory_total_bytes,
        cards=tuple(
            replace(card, memory_free_bytes=card.memory_total_bytes, compute_free_pct=100, slots_free=card.slots_total)
            for card in host.cards
        ),
    )  # fmt: skip
