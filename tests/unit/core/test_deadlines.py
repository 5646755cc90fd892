"""Neither the work nor a cancellation is lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

from labspawner.deadlines import StrayCancellation, finished, let_go, within


async def soon(value: object = "done") -> object:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


async def test_work_that_is_done_in_time_gives_its_result_or_its_error():
    assert await within(5, soon()) == "done"
    assert await within(None, soon(3)) == 3
    with pytest.raises(KeyError):
        await within(5, soon(KeyError()))


async def test_work_that_is_late_is_cancelled_and_has_ended():
    ended = []

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, long())

    assert ended == [True]


@pytest.mark.parametrize("outcome", ["result", "error"])
async def test_work_that_ends_in_its_own_way_when_told_to_is_heard(outcome: str):
    async def long() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if outcome == "error":
                raise KeyError from None
        return "after all"

    if outcome == "result":
        assert await within(0.01, long()) == "after all"
    else:
        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, long())


async def test_work_that_ignores_its_cancellation_is_left_to_itself_and_the_log_says_so(caplog):
    let, deaf_ended = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        while not let.is_set():
            try:
                await let.wait()
            except asyncio.CancelledError:
                continue
        deaf_ended.set()
        raise KeyError("nobody hears this")

    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, deaf(), let_go_s=0.01)

    assert "still at work" in caplog.text
    let.set()
    await deaf_ended.wait()


async def test_a_cancellation_of_the_caller_ends_the_work_first():
    ended, begun = [], asyncio.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    task = asyncio.create_task(within(5, long()))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_a_cancellation_that_comes_as_the_work_is_done_is_not_lost():
    """asyncio.wait_for of Python 3.10 and 3.11 would answer the result."""
    go = asyncio.Event()
    task = asyncio.create_task(within(5, go.wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_cancelled_by_an_accident_is_no_cancellation_of_ours():
    with pytest.raises(StrayCancellation):
        await within(5, soon(asyncio.CancelledError()))


async def test_work_that_must_be_finished_is_finished_before_a_cancellation_is_passed_on():
    go, ended = asyncio.Event(), []

    async def work() -> None:
        await go.wait()
        ended.append(True)
        raise KeyError("told to nobody")

    task = asyncio.create_task(finished(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_finished_work_gives_its_result_or_its_error():
    assert await finished(soon()) == "done"
    with pytest.raises(KeyError):
        await finished(soon(KeyError()))


async def test_nobody_complains_about_what_was_let_go(caplog):
    task = asyncio.create_task(soon(KeyError()))
    await let_go(task, 1)
    done = asyncio.create_task(soon(KeyError()))
    await asyncio.wait({done})
    await let_go(done, 1)

    del task, done
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
