"""Whether and where a request fits: never from a sum, and never more than there is."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.model import Capacity, CardCapacity, CardPolicy, HostCapacity, LeaseId, Resources, Slice
from labspawner.placement import Fits, Full, Ledger, TooLarge, choose_cards, place, places

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
GIB = 2**30


def a_host(name: str = "a", **changes: object) -> HostCapacity:
    return HostCapacity(name=name, **changes)  # type: ignore[arg-type]


def a_card(uuid: str = "G0", total: int = 8, free: int | None = None, **changes: object) -> CardCapacity:
    left = total if free is None else free
    return CardCapacity(
        uuid=uuid,
        memory_total_bytes=total * GIB,
        memory_free_bytes=left * GIB,
        **changes,  # type: ignore[arg-type]
    )


def having(*hosts: HostCapacity, counted: frozenset[LeaseId] = frozenset()) -> Capacity:
    return Capacity(hosts=hosts, taken_at=NOW, counted=counted)


def a_slice(gib: int, pct: int = 100) -> Resources:
    return Resources(gpu=Slice(memory_bytes=gib * GIB, compute_pct=pct))


def memory(gib: int) -> Resources:
    return Resources(memory_bytes=gib * GIB)


def with_memory(name: str, total: int, free: int) -> HostCapacity:
    return a_host(name, memory_total_bytes=total * GIB, memory_free_bytes=free * GIB)


def test_two_halves_on_two_cards_are_no_whole():
    capacity = having(a_host(cards=(a_card("G0", 8, 4), a_card("G1", 8, 4))))

    assert place(a_slice(6, 1), capacity, {}) == Full(4 * GIB)
    assert place(a_slice(4, 1), capacity, {}) == Fits("a", "G0")


def test_two_halves_on_two_hosts_are_no_whole():
    assert place(memory(6), having(with_memory("a", 8, 4), with_memory("b", 8, 4)), {}) == Full(4 * GIB)


def test_the_host_with_the_most_memory_left_is_taken():
    assert place(memory(1), having(with_memory("a", 8, 4), with_memory("b", 8, 6)), {}) == Fits("b")


def test_the_fullest_card_that_fits_is_taken_so_that_large_slices_find_whole_ones():
    capacity = having(a_host(cards=(a_card("G0", 8, 8), a_card("G1", 8, 3), a_card("G2", 8, 1))))

    assert place(a_slice(2, 1), capacity, {}) == Fits("a", "G1")


def test_the_emptiest_card_is_taken_where_slices_are_spread():
    cards = (a_card("G0", 8, 3), a_card("G1", 8, 8), a_card("G2", 8, 7))

    capacity = having(a_host(cards=cards, card_policy=CardPolicy.SPREAD))

    assert place(a_slice(2, 1), capacity, {}) == Fits("a", "G1")


def test_four_slices_of_6_gib_do_not_fit_a_card_that_reports_24564_mib():
    card = CardCapacity(uuid="G0", memory_total_bytes=24_564 * 2**20, memory_free_bytes=24_564 * 2**20, slots_free=10)

    assert places(a_slice(6, 25), having(a_host(cards=(card,))), {}, most=10) == 3


def linked(*pairs: tuple[int, int], count: int = 4) -> tuple[CardCapacity, ...]:
    """Cards G0, G1, ... of which those in a pair are near to each other."""
    near = {frozenset(pair) for pair in pairs}
    return tuple(
        a_card(
            f"G{one}",
            distances={
                f"G{other}": 10 if frozenset((one, other)) in near else 50 for other in range(count) if other != one
            },
        )
        for one in range(count)
    )


def test_two_slices_of_one_server_go_to_cards_that_are_near_to_each_other():
    chosen = choose_cards(linked((1, 3)), Slice(memory_bytes=GIB), count=2, policy=CardPolicy.TOPOLOGY)

    assert chosen is not None
    assert {card.uuid for card in chosen} == {"G1", "G3"}


def test_one_slice_leaves_pairs_of_near_cards_whole_where_topology_counts():
    chosen = choose_cards(linked((0, 1), (1, 3)), Slice(memory_bytes=GIB), policy=CardPolicy.TOPOLOGY)

    assert chosen is not None
    assert [card.uuid for card in chosen] == ["G2"]


def test_more_slices_than_cards_with_room_get_none():
    assert choose_cards(linked(count=2), Slice(memory_bytes=GIB), count=3) is None


@pytest.mark.parametrize("short", [{"compute_free_pct": 20}, {"slots_free": 0}], ids=str)
def test_a_card_without_compute_or_slots_left_is_full_and_no_size_is_named(short: dict[str, object]):
    assert place(a_slice(1, 50), having(a_host(cards=(a_card(**short),))), {}) == Full(0)


def test_a_card_is_of_no_use_on_a_host_without_places_or_cores():
    for busy in ({"servers_total": 3, "servers_free": 0}, {"cpu_total": 8.0, "cpu_free": 0.5}):
        capacity = having(a_host(cards=(a_card(),), **busy))

        assert place(Resources(cpu=1, gpu=Slice(memory_bytes=GIB)), capacity, {}) == Full(0)


@pytest.mark.parametrize(
    ("need", "host", "verdict"),
    [
        (a_slice(16), a_host(cards=(a_card(total=8),)), TooLarge(16 * GIB, 8 * GIB)),
        (a_slice(1), a_host(), TooLarge(GIB, 0)),
        (memory(9), a_host(memory_total_bytes=8 * GIB, memory_free_bytes=0), TooLarge(9 * GIB, 8 * GIB)),
        (Resources(cpu=9), a_host(cpu_total=8.0, cpu_free=8.0), TooLarge(0, 0)),
        (Resources(), a_host(servers_total=0, servers_free=0), TooLarge(0, 0)),
    ],
)
def test_what_fits_no_empty_host_is_too_large(need: Resources, host: HostCapacity, verdict: TooLarge):
    assert place(need, having(host), {}) == verdict


def test_without_hosts_nothing_fits():
    assert place(memory(1), having(), {LeaseId("l1"): memory(1)}) == TooLarge(GIB, 0)


def test_a_promise_is_subtracted_unless_the_listing_has_it_already():
    promised = {LeaseId("l1"): memory(3)}
    host = with_memory("a", 8, 4)

    assert place(memory(2), having(host), promised) == Full(GIB)
    assert place(memory(2), having(host, counted=frozenset(promised)), promised) == Fits("a")


def test_a_promise_that_fits_nowhere_any_more_still_takes_what_is_there():
    promised = {LeaseId("l1"): memory(6)}

    assert place(memory(2), having(with_memory("a", 8, 4)), promised) == Full(0)


def test_a_promised_slice_that_fits_no_card_fills_every_card_of_its_host():
    promised = {LeaseId("l1"): a_slice(7, 1)}
    capacity = having(a_host(cards=(a_card("G0", 8, 4), a_card("G1", 8, 4, slots_free=2))))

    assert place(a_slice(1, 1), capacity, promised) == Full(0)


def test_ten_tenths_of_a_core_are_one_core():
    promised = {LeaseId(f"l{number}"): Resources(cpu=0.1) for number in range(9)}

    assert place(Resources(cpu=0.1), having(a_host(cpu_total=1.0, cpu_free=1.0)), promised) == Fits("a")


def test_places_are_counted_up_to_the_number_asked_for():
    capacity = having(with_memory("a", 8, 8))

    assert places(memory(2), capacity, {}, most=20) == 4
    assert places(memory(2), capacity, {LeaseId("l1"): memory(2)}, most=20) == 3
    assert places(memory(2), capacity, {}, most=2) == 2


small = st.integers(0, 8)
cards = st.lists(
    st.builds(
        lambda free, taken, pct, slots: (free + taken, free, pct, slots),
        small,
        small,
        st.integers(0, 100),
        st.none() | st.integers(0, 4),
    ),
    max_size=3,
)
hosts = st.lists(st.tuples(st.none() | small, st.none() | small, st.none() | st.integers(0, 4), cards), max_size=3)
needs = st.builds(
    lambda cpu, mem, gpu, pct: Resources(
        cpu=cpu, memory_bytes=mem and mem * GIB, gpu=Slice(memory_bytes=gpu * GIB, compute_pct=pct) if gpu else None
    ),
    st.none() | small,
    st.none() | small,
    small,
    st.integers(1, 100),
)


def _hosts(drawn: list[tuple[int | None, int | None, int | None, list[tuple[int, int, int, int | None]]]]) -> Capacity:
    made = []
    for number, (cpu, mem, servers, found) in enumerate(drawn):
        made.append(
            a_host(
                f"h{number}",
                cpu_total=cpu,
                cpu_free=cpu,
                memory_total_bytes=None if mem is None else mem * GIB,
                memory_free_bytes=None if mem is None else mem * GIB,
                servers_total=servers,
                servers_free=servers,
                cards=tuple(
                    a_card(f"G{number}.{index}", total, free, compute_free_pct=pct, slots_free=slots)
                    for index, (total, free, pct, slots) in enumerate(found)
                ),
            )
        )
    return having(*made)


@settings(deadline=None)
@given(hosts, st.lists(needs, max_size=12), st.sampled_from(CardPolicy))
def test_no_host_and_no_card_is_ever_overcommitted(drawn, wanted, policy):
    capacity = having(*(replace(host, card_policy=policy) for host in _hosts(drawn).hosts))
    promised: dict[LeaseId, Resources] = {}
    went: list[tuple[Resources, Fits]] = []
    for number, need in enumerate(wanted):
        verdict = place(need, capacity, promised)
        if isinstance(verdict, Fits):
            promised[LeaseId(f"l{number}")] = need
            went.append((need, verdict))

    for host in capacity.hosts:
        here = [need for need, spot in went if spot.host == host.name]
        assert host.servers_free is None or len(here) <= host.servers_free
        assert host.cpu_free is None or sum(need.cpu or 0 for need in here) <= host.cpu_free + 1e-4
        assert host.memory_free_bytes is None or sum(need.memory_bytes or 0 for need in here) <= host.memory_free_bytes
        for card in host.cards:
            slices = [need.gpu for need, spot in went if spot.card == card.uuid and need.gpu]
            assert sum(part.memory_bytes for part in slices) <= card.memory_free_bytes
            assert sum(part.compute_pct for part in slices) <= card.compute_free_pct
            assert card.slots_free is None or len(slices) <= card.slots_free


@settings(deadline=None)
@given(cards, st.integers(1, 8), st.integers(1, 100), st.integers(1, 3), st.sampled_from(CardPolicy))
def test_the_chosen_cards_are_different_ones_with_room_and_every_policy_finds_them(drawn, gib, pct, count, policy):
    gpu = Slice(memory_bytes=gib * GIB, compute_pct=pct)
    found = [
        a_card(f"G{index}", total, free, compute_free_pct=left, slots_free=slots)
        for index, (total, free, left, slots) in enumerate(drawn)
    ]

    chosen = choose_cards(found, gpu, count=count, policy=policy)

    fitting = [
        card
        for card in found
        if card.memory_free_bytes >= gpu.memory_bytes and card.compute_free_pct >= pct and card.slots_free != 0
    ]
    assert (chosen is None) == (len(fitting) < count)
    assert chosen is None or (len({card.uuid for card in chosen}) == count and all(card in fitting for card in chosen))


@settings(deadline=None)
@given(hosts, needs)
def test_what_is_too_large_stays_so_when_everybody_leaves_and_what_fits_fits_an_empty_host(drawn, need):
    capacity = _hosts(drawn)

    verdict = place(need, capacity, {})

    empty = tuple(
        replace(
            host,
            cards=tuple(
                replace(card, memory_free_bytes=card.memory_total_bytes, compute_free_pct=100, slots_free=None)
                for card in host.cards
            ),
        )
        for host in capacity.hosts
    )
    assert isinstance(place(need, having(*empty), {}), TooLarge) == isinstance(verdict, TooLarge)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_a_ledger_that_is_kept_says_what_counting_anew_says(hosts, wants, counted):
    capacity = having(
        *(with_memory(f"h{number}", total, min(total, free)) for number, (total, free) in enumerate(hosts)),
        counted=frozenset(LeaseId(f"l{number}") for number in counted),
    )
    ledger, promised = Ledger(capacity, {}), {}

    for number, gib in enumerate(wants):
        assert ledger.place(memory(gib)) == place(memory(gib), capacity, promised)
        promised[LeaseId(f"l{number}")] = memory(gib)
        ledger.promise(LeaseId(f"l{number}"), memory(gib))


def of_class(uuid: str, gib: int, cores: int, *, free: bool = True, leaves: tuple[Slice, ...] = ()) -> CardCapacity:
    """A place of fixed size, as slice classes and MIG profiles give them."""
    return CardCapacity(
        uuid=uuid,
        memory_total_bytes=gib * GIB,
        memory_free_bytes=gib * GIB if free else 0,
        compute_free_pct=cores if free else 0,
        compute_total_pct=cores,
        slots_free=1 if free else 0,
        leaves=leaves,
    )


def test_a_slice_that_a_smaller_class_holds_waits_for_that_class_and_takes_no_larger_place():
    small = Slice(memory_bytes=6 * GIB, compute_pct=25)
    full = having(a_host(cards=(of_class("s", 6, 25, free=False), of_class("l", 12, 50, leaves=(small,)))))

    assert place(a_slice(4, 25), full, {}) == Full(0)
    assert place(a_slice(4, 50), full, {}) == Fits("a", "l"), "too much compute time for the small class"
    assert place(a_slice(8, 10), full, {}) == Fits("a", "l")


def test_more_compute_time_than_any_class_has_never_fits():
    capacity = having(a_host(cards=(of_class("s", 6, 25),)))

    assert place(a_slice(4, 30), capacity, {}) == TooLarge(4 * GIB, 6 * GIB)
