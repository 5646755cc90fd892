"""The double's own time, which may pass faster than ours, and in which things happen in the right order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Literal

_SETTLE_ROUNDS = 12  # turns of the loop that what one moment set off may take before the next moment comes


class Clock:
    """Passes `pace` times as fast as our time. `sleep` and `now` are all that the double knows of time.

    Moments come one after another: what is due later never overtakes what is due earlier, also when the machine is so
    slow that both are overdue. Otherwise a lock's waiter could time out before its holder, done long ago, lets go.
    """

    def __init__(self, pace: float = 1000.0, start: float | None = None) -> None:
        self.pace = pace
        self._start = time.time() if start is None else start
        self._zero = time.monotonic()
        self._moments: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()
        self._added: asyncio.Event | None = None
        self._driver: asyncio.Task[None] | None = None
        self._latest = self._start
        self._settling = False
        self.before: Callable[[float], Awaitable[None]] | None = None  # asked for each sleep, before it begins

    def set_pace(self, pace: float) -> None:
        """Go on at another pace from now on; 0 stands still."""
        self._start, self._zero, self.pace = self.now(), time.monotonic(), pace
        if self._added is not None:
            self._added.set()

    def now(self) -> float:
        """Seconds since 1970, by the double's clock. Never goes back, never past what has still to happen."""
        if self._settling:
            return self._latest
        at = self._start + (time.monotonic() - self._zero) * self.pace
        if self._moments:
            at = min(at, self._moments[0][0])
        self._latest = max(self._latest, at)
        return self._latest

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` of the double's time have passed."""
        if self.before is not None:
            await self.before(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._moments, (self.now() + seconds, next(self._count), due))
        if self._added is None or self._driver is None or self._driver.done():
            self._added = asyncio.Event()
            self._driver = asyncio.get_running_loop().create_task(self._drive(self._added))
        self._added.set()
        await due

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Whether `event` came within that time."""
        if event.is_set():
            return True
        loop = asyncio.get_running_loop()
        came, over = loop.create_task(event.wait()), loop.create_task(self.sleep(seconds))
        try:
            await asyncio.wait((came, over), return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            came.cancel()
            over.cancel()

    async def _drive(self, added: asyncio.Event) -> None:
        while True:
            while self._moments and self._moments[0][2].done():
                heapq.heappop(self._moments)  # whoever waited was cancelled
            added.clear()
            if not self._moments:
                await added.wait()
                continue
            rest = self._real_rest(self._moments[0][0]) if self.pace > 0 else 3600.0
            if rest > 0:
                await _until(added, rest)
                continue
            self._latest, _, due = heapq.heappop(self._moments)
            self._settling = True  # what this moment sets off happens at this moment, however late we are
            due.set_result(None)
            for _ in range(_SETTLE_ROUNDS):
                await asyncio.sleep(0)
            self._settling = False

    def _real_rest(self, when: float) -> float:
        return (when - self._start) / self.pace - (time.monotonic() - self._zero)

    def close(self) -> None:
        if self._driver is not None:
            self._driver.cancel()


async def _until(added: asyncio.Event, seconds: float) -> None:
    """Return when something was added, or after that time."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, added.set)
    try:
        await added.wait()
    finally:
        timer.cancel()


ClockKind = Literal["virtual", "real"]
