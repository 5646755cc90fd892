from __future__ import annotations

import asyncio
import time

import pytest

from labspawner.testing.waiting import NotInTime, eventually, eventually_sync


async def test_it_answers_the_first_true_value_of_a_plain_or_async_function():
    values = iter([0, None, "", "here"])

    async def later() -> str:
        return next(values)

    assert await eventually(lambda: 7) == 7
    assert await eventually(later) == "here"


def test_it_waits_without_a_loop_too():
    values = iter([0, None, "here"])

    assert eventually_sync(lambda: next(values)) == "here"


async def test_in_the_end_it_says_what_was_waited_for_and_seen():
    def nobody_home() -> int:
        return 0

    with pytest.raises(NotInTime, match=r"within 0.06 s: nobody_home; last seen: 0"):
        await eventually(nobody_home, 0.01)
    with pytest.raises(NotInTime, match="the door; last seen: 0"):
        eventually_sync(nobody_home, 0.05, "the door")


async def test_a_failed_assertion_means_not_yet_and_is_told_in_the_end():
    began = time.monotonic()

    def soon() -> bool:
        assert time.monotonic() - began > 0.03, "too early"
        return True

    def never() -> bool:
        raise AssertionError("too early")

    assert await eventually(soon)
    began = time.monotonic()
    assert eventually_sync(soon)
    with pytest.raises(NotInTime, match="too early"):
        await eventually(never, 0.02)
    with pytest.raises(NotInTime, match="too early"):
        eventually_sync(never, 0.02)


async def test_any_other_error_ends_the_wait_at_once():
    def broken() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await eventually(broken, 60)
    with pytest.raises(ZeroDivisionError):
        eventually_sync(broken, 60)


async def test_waiting_lets_others_run():
    done: list[int] = []

    async def other() -> None:
        done.append(1)

    task = asyncio.create_task(other())

    assert await eventually(lambda: done) == [1]
    await task
