"""One look for all who ask: what the hub said a moment ago, and what was made of it.

Rights are the business of whoever asks, before they ask. What is made of a look is kept under everything that it depends on
beside the look itself (a language, what the reader may do), so that nothing made for one reader is shown to another kind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_MADE = 24
"""So many things are kept of one look; what is asked for in ever new ways (a search) pushes all of it out."""
MOST_KEYS = 200
_marks = itertools.count(1)


class Memo:
    """What was made of one look, by what else it depends on. times: how often something was made."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self.times = 0

    def make(self, key: Hashable, how: Callable[[], R]) -> R:
        """What `how` gave the first time that it was asked for under `key`; where it raises, nothing is kept."""
        try:
            found: R = self._made[key]
        except KeyError:
            found = how()
            self.times += 1
            if len(self._made) >= MOST_MADE:
                self._made.clear()
            self._made[key] = found
        return found


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """What was found. Nobody changes `value`: others read it too. mark: the same number as long as the same is found."""

    value: T
    mark: int = field(default_factory=lambda: next(_marks))
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _Begun(Generic[T]):
    at: float
    rests_on: Hashable
    task: asyncio.Task[Look[T]] = field(repr=False)


class Shared(Generic[T]):
    """Answers by key, each looked for once for all who want it at the same time, and once in `at_most_s`.

    rests_on: another value when whatever is known may be wrong from now on. watched: whether somebody tells of changes; as
    long as nobody does, an answer is only for those who wait for it. same: whether two answers say the same, so that what
    was made of the first counts on.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[T]],
        *,
        at_most_s: float,
        rests_on: Callable[[], Hashable],
        watched: Callable[[], bool] = lambda: True,
        same: Callable[[T, T], bool] = lambda one, other: one == other,
    ) -> None:
        self._look = look
        self._at_most_s = at_most_s
        self._rests_on = rests_on
        self._watched = watched
        self._same = same
        self._begun: dict[str, _Begun[T]] = {}
        self._found: dict[str, Look[T]] = {}
        self._running: set[asyncio.Task[Look[T]]] = set()

    async def get(self, key: str = "") -> Look[T]:
        """What is known, or what is found now. Raises what looking raises, and keeps no failure."""
        begun = self._begun.get(key)
        if begun is None or not self._counts(begun):
            begun = self._begin(key)
        return await asyncio.shield(begun.task)

    def _counts(self, begun: _Begun[T]) -> bool:
        """Whether a look is still worth having: nothing has changed since it began, and it is young or under way."""
        if begun.rests_on != self._rests_on():
            return False
        if not begun.task.done():
            return True
        if begun.task.cancelled() or begun.task.exception() is not None or not self._watched():
            return False
        return asyncio.get_running_loop().time() - begun.at < self._at_most_s

    def _begin(self, key: str) -> _Begun[T]:
        if key not in self._begun and len(self._begun) >= MOST_KEYS:
            self._begun.clear()
            self._found.clear()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._looked(key))
        self._running.add(task)
        task.add_done_callback(self._ended)
        begun = self._begun[key] = _Begun(loop.time(), self._rests_on(), task)
        return begun

    async def _looked(self, key: str) -> Look[T]:
        """A look of its own: whoever asked first and goes away does not end it for the others."""
        value = await self._look(key)
        before = self._found.get(key)
        found = Look(value, before.mark, before.memo) if before and self._same(before.value, value) else Look(value)
        self._found[key] = found
        return found

    def _ended(self, task: asyncio.Task[Look[T]]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # known to whoever waited; nobody may be left

    async def close(self) -> None:
        """End the looks that are under way."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
