"""How many fit, and when the next one does: per host and card, the same as placing them one by one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.model import Capacity, CardCapacity, HostCapacity, LeaseId, Resources, Slice
from labspawner.placement import End, Ledger, covers, first_room, places

GIB = 2**30
MOST = 60


def a_capacity(*hosts: HostCapacity, counted: tuple[str, ...] = ()) -> Capacity:
    return Capacity(hosts=hosts, taken_at=NOW, counted=frozenset(LeaseId(one) for one in counted))


def a_host(
    name: str = "a", *, servers: int | None = None, memory: int | None = None, cards: tuple[int, ...] = ()
) -> HostCapacity:
    """A host that is empty. memory, cards: GiB."""
    return HostCapacity(
        name=name,
        servers_total=servers,
        servers_free=servers,
        memory_total_bytes=None if memory is None else memory * GIB,
        memory_free_bytes=None if memory is None else memory * GIB,
        cards=tuple(
            CardCapacity(uuid=f"{name}-{number}", memory_total_bytes=size * GIB, memory_free_bytes=size * GIB)
            for number, size in enumerate(cards)
        ),
    )


def a_slice(gib: int, pct: int = 10) -> Resources:
    return Resources(gpu=Slice(memory_bytes=gib * GIB, compute_pct=pct))


def an_end(lease: str, minutes: int, resources: Resources, **where: str) -> End:
    return End(at=NOW + timedelta(minutes=minutes), lease_id=LeaseId(lease), resources=resources, **where)


cards = st.builds(
    CardCapacity,
    uuid=st.uuids().map(str),
    memory_total_bytes=st.just(24 * GIB),
    memory_free_bytes=st.integers(0, 24).map(lambda gib: gib * GIB),
    compute_free_pct=st.integers(0, 100),
    slots_free=st.none() | st.integers(0, 10),
    leaves=st.just(()) | st.just((Slice(memory_bytes=2 * GIB, compute_pct=20),)),
)
hosts = st.builds(
    HostCapacity,
    name=st.uuids().map(str),
    servers_total=st.just(20),
    servers_free=st.integers(0, 20),
    cpu_total=st.just(32.0),
    cpu_free=st.integers(0, 128).map(lambda quarters: quarters / 4) | st.none(),
    memory_total_bytes=st.just(64 * GIB),
    memory_free_bytes=st.integers(0, 64).map(lambda gib: gib * GIB) | st.none(),
    cards=st.lists(cards, max_size=3).map(tuple),
)
needs = st.builds(
    Resources,
    cpu=st.none() | st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    memory_bytes=st.none() | st.integers(1, 9).map(lambda gib: gib * GIB),
    gpu=st.none()
    | st.builds(Slice, memory_bytes=st.integers(1, 9).map(lambda gib: gib * GIB), compute_pct=st.integers(5, 60)),
)


@given(st.lists(hosts, min_size=1, max_size=3), needs, st.lists(needs, max_size=3))
@settings(max_examples=150, deadline=None)
def test_counted_at_once_is_as_many_as_placed_one_by_one(found, need, promised):
    capacity = a_capacity(*found)
    admitted = {LeaseId(str(number)): one for number, one in enumerate(promised)}

    assert Ledger(capacity, admitted).count(need) == places(need, capacity, admitted, most=MOST + 1)


def test_what_is_left_on_several_cards_is_never_added_up():
    capacity = a_capacity(a_host(cards=(5, 5)), a_host("b", cards=(7,)))

    assert Ledger(capacity, {}).count(a_slice(6)) == 1
    assert Ledger(capacity, {}).count(a_slice(12)) == 0
    assert Ledger(capacity, {}).count(a_slice(5)) == 3


def test_a_host_without_limits_makes_the_number_unlimited():
    assert Ledger(a_capacity(a_host(servers=2), a_host("b")), {}).count(Resources()) is None
    assert Ledger(a_capacity(), {}).count(Resources()) == 0


def test_the_total_is_of_empty_hosts_whoever_runs():
    full = HostCapacity(name="a", servers_total=6, servers_free=0)

    assert (Ledger(a_capacity(full), {}).count(Resources()), Ledger(a_capacity(full), {}).count_empty(Resources())) == (
        0,
        6,
    )


def test_the_total_knows_how_many_slices_a_card_may_hold():
    card = CardCapacity(uuid="G", memory_total_bytes=24 * GIB, memory_free_bytes=0, slots_free=0, slots_total=2)

    assert Ledger(a_capacity(HostCapacity(name="a", cards=(card,))), {}).count_empty(a_slice(1)) == 2


@pytest.mark.parametrize(
    ("promised", "need", "enough"),
    [
        (Resources(), Resources(), True),
        (Resources(memory_bytes=2), Resources(memory_bytes=1), True),
        (Resources(memory_bytes=1), Resources(memory_bytes=2), False),
        (Resources(memory_bytes=1), Resources(), False),  # what is not counted may be as large as it likes
        (Resources(cpu=2.0, memory_bytes=2), Resources(cpu=3.0, memory_bytes=1), False),
        (a_slice(2), a_slice(1), True),
        (a_slice(1), a_slice(2), False),
        (a_slice(2, 10), a_slice(2, 20), False),
        (a_slice(2), Resources(), False),
        (Resources(), a_slice(1), False),
        (Resources(disk_bytes=1), Resources(disk_bytes=2), False),
    ],
)
def test_a_promise_is_enough_for_what_is_smaller_in_everything(promised, need, enough):
    assert covers(promised, need) is enough


# -- when the next place is free --------------------------------------------------------------------------------------


def full_of(*leases: str, servers: int) -> tuple[Capacity, dict[LeaseId, Resources]]:
    """One host that is full of these leases, as its provider counts."""
    host = HostCapacity(name="a", servers_total=servers, servers_free=0)
    return a_capacity(host, counted=leases), {LeaseId(lease): Resources() for lease in leases}


def test_the_next_place_is_free_when_the_first_server_ends():
    capacity, admitted = full_of("one", "two", servers=2)
    ends = [an_end("two", 5, Resources()), an_end("one", 30, Resources())]

    assert first_room(Resources(), capacity, admitted, ends) == NOW + timedelta(minutes=5)


def test_where_one_end_is_not_enough_it_takes_more_on_the_same_card():
    def card(uuid: str) -> CardCapacity:
        return CardCapacity(uuid=uuid, memory_total_bytes=8 * GIB, memory_free_bytes=0)

    capacity = a_capacity(HostCapacity(name="a", cards=(card("G0"), card("G1"))), counted=("a", "b", "c"))
    half = a_slice(4)
    admitted = {LeaseId(one): half for one in "abc"}
    ends = [an_end("a", 5, half, card="G0"), an_end("b", 10, half, card="G1"), an_end("c", 20, half, card="G0")]

    assert first_room(a_slice(4), capacity, admitted, ends) == NOW + timedelta(minutes=5)
    assert first_room(a_slice(8), capacity, admitted, ends) == NOW + timedelta(minutes=20)
    assert first_room(a_slice(9), capacity, admitted, ends) is None


def test_an_end_whose_place_is_not_known_promises_nothing():
    hosts = [HostCapacity(name=name, servers_total=1, servers_free=0) for name in "ab"]
    capacity = a_capacity(*hosts, counted=("one",))
    admitted = {LeaseId("one"): Resources()}

    assert first_room(Resources(), capacity, admitted, [an_end("one", 5, Resources())]) is None
    assert first_room(Resources(), capacity, admitted, [an_end("one", 5, Resources(), host="b")]) is not None


def test_an_end_that_the_figures_do_not_contain_yet_is_simply_no_promise_any_more():
    capacity = a_capacity(a_host(servers=1))
    admitted = {LeaseId("new"): Resources()}

    assert first_room(Resources(), capacity, admitted, [an_end("new", 5, Resources())]) == NOW + timedelta(minutes=5)
    assert first_room(Resources(), capacity, admitted, [an_end("somebody", 5, Resources())]) is None
