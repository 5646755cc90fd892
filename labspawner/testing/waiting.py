"""Waiting for what is true soon: poll with a deadline, never sleep and hope.

A deadline is what a quick machine that does nothing else may take. What is waited for is given `PATIENCE` times that: a
deadline ends the wait for what never comes, and is no promise of the product about time.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")
PATIENCE = 6
_FIRST_S, _LONGEST_S = 0.005, 0.2


class NotInTime(AssertionError):
    """What was waited for did not become true; the text says what was seen last."""


@overload
async def eventually(
    predicate: Callable[[], Coroutine[Any, Any, T]], deadline_s: float = 10.0, what: str = ""
) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], deadline_s: float = 10.0, what: str = "") -> T: ...


async def eventually(predicate: Callable[[], Any], deadline_s: float = 10.0, what: str = "") -> Any:
    """The first true value of `predicate`, a plain or async function; raises NotInTime after PATIENCE * `deadline_s` seconds.

    An AssertionError out of `predicate` counts as "not yet"; any other exception ends the wait.
    """
    until, pause, last = time.monotonic() + PATIENCE * deadline_s, _FIRST_S, "nothing"
    while True:
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            last = repr(value)
        except AssertionError as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() >= until:
            raise NotInTime(_words(predicate, what, deadline_s, last))
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_S)


def eventually_sync(predicate: Callable[[], T], deadline_s: float = 10.0, what: str = "") -> T:
    """The same for code without an event loop."""
    until, pause, last = time.monotonic() + PATIENCE * deadline_s, _FIRST_S, "nothing"
    while True:
        try:
            if value := predicate():
                return value
            last = repr(value)
        except AssertionError as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() >= until:
            raise NotInTime(_words(predicate, what, deadline_s, last))
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_S)


def _words(predicate: object, what: str, deadline_s: float, last: str) -> str:
    name = what or getattr(predicate, "__name__", repr(predicate))
    return f"not true within {PATIENCE * deadline_s:g} s: {name}; last seen: {last[:2000]}"
