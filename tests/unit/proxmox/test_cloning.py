"""The line before the clones: who goes, who waits, and what comes after a failure."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.providers.proxmox.cloning import (
    BACKOFF_S,
    MOST_IDS,
    CloneQueue,
    Limits,
    Next,
    Trouble,
    Wish,
    admitted,
    after,
    pause_s,
)

LIMITS = Limits(linked_per_template=2, full_per_storage=1, per_storage=3)
WISHES = st.lists(
    st.builds(
        Wish, template=st.integers(min_value=1, max_value=3), storage=st.sampled_from(["a", "b"]), full=st.booleans()
    ),
    max_size=12,
)


def linked(template: int = 9000, storage: str = "shared") -> Wish:
    return Wish(template=template, storage=storage)


def full(template: int = 9000, storage: str = "shared") -> Wish:
    return Wish(template=template, storage=storage, full=True)


def test_as_many_linked_clones_of_one_template_go_as_the_limit_says() -> None:
    assert admitted([linked()] * 5, [], LIMITS) == (0, 1)
    assert admitted([linked()] * 5, [linked()], LIMITS) == (0,)


def test_full_clones_are_counted_per_storage_whatever_their_template() -> None:
    assert admitted([full(1), full(2), full(3, "other")], [], LIMITS) == (0, 2)


def test_a_storage_takes_no_more_than_its_limit_of_both_kinds() -> None:
    assert admitted([linked(1), linked(2), linked(3), linked(4)], [], LIMITS) == (0, 1, 2)


def test_nobody_is_overtaken_by_one_that_wants_the_same_storage_or_template() -> None:
    # The full clone waits for the storage; the linked one behind it would fit, and waits all the same.
    assert admitted([full(1), linked(2)], [full(3)], LIMITS) == ()


def test_clones_of_other_storages_and_templates_go_past_those_that_wait() -> None:
    assert admitted([full(1), linked(2, "other")], [full(3)], LIMITS) == (1,)


@given(WISHES, WISHES)
def test_those_let_in_keep_all_limits_and_the_first_always_goes_when_nothing_runs(
    waiting: list[Wish], running: list[Wish]
) -> None:
    let_in = admitted(waiting, [], LIMITS)
    going = [waiting[position] for position in let_in]

    assert not waiting or let_in[0] == 0
    for storage in {wish.storage for wish in going}:
        there = [wish for wish in going if wish.storage == storage]
        assert len(there) <= LIMITS.per_storage
        assert sum(wish.full for wish in there) <= LIMITS.full_per_storage
    for template in {wish.template for wish in going}:
        assert sum(not wish.full and wish.template == template for wish in going) <= LIMITS.linked_per_template
    assert set(admitted(waiting, running, LIMITS)) <= set(range(len(waiting)))


async def test_a_ticket_is_called_when_the_one_before_it_leaves() -> None:
    queue = CloneQueue(Limits(linked_per_template=1))
    first, second, third = (queue.enter(linked()) for _ in range(3))

    assert first.called
    assert (second.called, second.ahead) == (False, 0)
    assert (third.called, third.ahead) == (False, 1)
    first.leave()
    assert await second.wait(60)
    assert not third.called


async def test_who_leaves_the_line_without_a_turn_holds_nobody_up() -> None:
    queue = CloneQueue(Limits(linked_per_template=1))
    first, second, third = (queue.enter(linked()) for _ in range(3))

    second.leave()
    first.leave()
    first.leave()

    assert await third.wait(60)


async def test_waiting_for_a_turn_ends_with_its_time() -> None:
    queue = CloneQueue(Limits(linked_per_template=1))
    queue.enter(linked())

    assert not await queue.enter(linked()).wait(0.01)


async def test_a_crowd_goes_through_in_its_order_and_never_more_at_once_than_allowed() -> None:
    queue = CloneQueue(Limits(linked_per_template=3))
    order: list[int] = []
    going: set[int] = set()
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        ticket = queue.enter(linked())
        try:
            assert await ticket.wait(60)
            order.append(number)
            going.add(number)
            most = max(most, len(going))
            await asyncio.sleep(0)
            going.discard(number)
        finally:
            ticket.leave()

    await asyncio.gather(*(one(number) for number in range(20)))

    assert order == list(range(20))
    assert most == 3


def test_an_id_that_is_taken_is_never_tried_again() -> None:
    assert after(Trouble.TAKEN, taken_now=False, tries_of_id=1, ids_tried=1) is Next.OTHER_ID


def test_a_lock_is_waited_for_unless_somebody_took_the_id_meanwhile() -> None:
    assert after(Trouble.LOCKED, taken_now=False, tries_of_id=1, ids_tried=1) is Next.SAME_ID
    assert after(Trouble.LOCKED, taken_now=True, tries_of_id=1, ids_tried=1) is Next.OTHER_ID


def test_a_lock_that_stays_costs_the_id_and_in_the_end_the_start() -> None:
    worn = len(BACKOFF_S) + 1

    assert after(Trouble.LOCKED, taken_now=False, tries_of_id=worn, ids_tried=1) is Next.OTHER_ID
    assert after(Trouble.LOCKED, taken_now=False, tries_of_id=worn, ids_tried=MOST_IDS) is Next.GIVE_UP
    assert after(Trouble.TAKEN, taken_now=True, tries_of_id=1, ids_tried=MOST_IDS) is Next.GIVE_UP


def test_other_failures_are_not_tried_again() -> None:
    assert after(Trouble.OTHER, taken_now=False, tries_of_id=1, ids_tried=1) is Next.GIVE_UP


@pytest.mark.parametrize("tries", range(1, 7))
def test_pauses_grow_and_are_spread(tries: int) -> None:
    base = BACKOFF_S[min(tries, 4) - 1]

    assert pause_s(tries, 0.0) == base
    assert base < pause_s(tries, 1.0) <= 1.25 * base
