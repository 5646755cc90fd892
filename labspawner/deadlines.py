"""Waiting for work of our own: with a deadline, or to its end. `asyncio.wait_for` loses a cancellation that comes as the
work is done (Python 3.10 and 3.11), and waits for ever for work that ignores being cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

LET_GO_S = 10.0
"""How long cancelled work may take to clean up behind itself."""


class StrayCancellation(RuntimeError):
    """The work was cancelled, and not by us: a library's accident, which must not look like somebody's wish."""


async def within(seconds: float | None, work: Coroutine[Any, Any, T], *, let_go_s: float = LET_GO_S) -> T:
    """The result of `work`. Raises asyncio.TimeoutError when it is not done after `seconds` (None: no limit).

    By then `work` was cancelled and has ended, unless it ignored that for `let_go_s`. Cancelling the caller does the
    same to `work`, and is never lost. Raises StrayCancellation where `work` was cancelled by somebody else.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await let_go(task, let_go_s)
        raise
    if not task.done():
        await let_go(task, let_go_s)
        if not task.done() or task.cancelled() or task.exception() is not None:
            raise asyncio.TimeoutError
    return result_of(task)


def result_of(task: asyncio.Task[T]) -> T:
    """What `task`, which is done, came to. Raises StrayCancellation where it was cancelled."""
    if task.cancelled():
        raise StrayCancellation(f"cancelled by nobody here: {task.get_name()}")
    return task.result()


async def let_go(task: asyncio.Task[Any], seconds: float = LET_GO_S) -> None:
    """Cancel `task` and give it `seconds` to end. One that does not is left to itself, and the log says so."""
    task.add_done_callback(_heard)
    task.cancel()
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        log.error("cancelled %.0f s ago and still at work: %r", seconds, task.get_coro())


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which runs to its end: a cancellation of the caller is passed on only after that."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # told twice; the first one is passed on below
                await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("cancelled, and what was waited for had failed too: %s", error)
        raise
    return task.result()


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody asks what it came to any more, so that asyncio need not complain about it."""
    if not task.cancelled():
        task.exception()
