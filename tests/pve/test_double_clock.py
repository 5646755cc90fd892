"""The double's own time: fast, and in order however slow the machine is."""

from __future__ import annotations

import asyncio
import time

from labspawner.testing.pve.clock import Clock
from labspawner.testing.waiting import eventually


async def test_what_is_due_earlier_comes_first_also_when_both_are_overdue() -> None:
    clock, seen = Clock(pace=1e6), []
    clock.set_pace(0)

    async def after(seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append(seconds)

    waiting = [asyncio.ensure_future(after(seconds)) for seconds in (30.0, 10.0, 20.0)]
    await asyncio.sleep(0)
    clock.set_pace(1e6)
    _stall_the_machine()
    await asyncio.gather(*waiting)
    clock.close()

    assert seen == [10.0, 20.0, 30.0]


async def test_many_short_waits_are_no_longer_than_one_long_wait_of_the_same_length() -> None:
    clock, seen = Clock(pace=1e6), []

    async def steps() -> None:
        for _ in range(9):
            await clock.sleep(1.0)
        seen.append("steps")

    async def deadline() -> None:
        await clock.sleep(10.0)
        seen.append("deadline")

    await asyncio.gather(steps(), deadline())
    clock.close()

    assert seen == ["steps", "deadline"]


async def test_now_never_passes_what_has_still_to_happen() -> None:
    clock = Clock(pace=1e6)
    clock.set_pace(0)
    due = clock.now() + 5.0
    waiting = asyncio.ensure_future(clock.sleep(5.0))
    await asyncio.sleep(0)

    clock.set_pace(1e6)
    _stall_the_machine()

    assert clock.now() == due
    await waiting
    clock.close()


async def test_a_wait_that_nobody_awaits_any_more_holds_up_nothing() -> None:
    clock = Clock(pace=1000)
    given_up = asyncio.ensure_future(clock.sleep(1e9))
    await asyncio.sleep(0)
    given_up.cancel()

    await clock.sleep(5.0)
    clock.close()

    assert given_up.cancelled()


async def test_a_clock_that_stands_still_goes_on_when_it_is_told_so() -> None:
    clock = Clock(pace=1000)
    clock.set_pace(0)
    waiting = asyncio.ensure_future(clock.sleep(5.0))
    before = clock.now()

    await asyncio.sleep(0)
    assert clock.now() == before
    assert not waiting.done()
    clock.set_pace(1000)

    await eventually(waiting.done)
    clock.close()


async def test_an_event_ends_a_wait_and_its_absence_too() -> None:
    clock, came = Clock(pace=1000), asyncio.Event()

    assert not await clock.wait(came, 1.0)
    came.set()
    assert await clock.wait(came, 1.0)
    clock.close()


def _stall_the_machine() -> None:
    """Keep the loop busy, as a slow machine does, until all that waits is overdue."""
    over = time.monotonic() + 0.002
    while time.monotonic() < over:
        pass
