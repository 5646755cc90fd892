"""How a start tells what it does: event by event, and nothing goes on before the last one was taken.

A launch is an async generator, whose reader stores each checkpoint before it asks on. The start itself is a coroutine that
does one thing after another; this is what lies between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

from labspawner.deadlines import within
from labspawner.model import Event, Progress
from labspawner.sentences import Sentence

T = TypeVar("T")


class Line:
    """From one start to one reader."""

    def __init__(self) -> None:
        self._events: deque[tuple[Event, asyncio.Future[None] | None]] = deque()
        self._news = asyncio.Event()
        self._percent = 0
        self._said: Sentence | None = None

    async def give(self, event: Event) -> None:
        """Return when the reader has taken `event` and asks for more."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.append((event, taken))
        self._news.set()
        await taken

    async def say(self, percent: int, message: Sentence) -> None:
        """The same for a stage in words."""
        await self.give(self._progress(percent, message))

    def mention(self, percent: int, message: Sentence) -> None:
        """A stage in words that nobody has to wait for; once."""
        if message != self._said:
            self._events.append((self._progress(percent, message), None))
            self._news.set()

    async def until(self, worker: asyncio.Future[T], deadline: float) -> AsyncIterator[Event]:
        """What `worker` gives, until it is done or the loop's clock shows `deadline`: then it raises TimeoutError."""
        worker.add_done_callback(lambda _: self._news.set())
        loop = asyncio.get_running_loop()
        while True:
            while self._events:
                event, taken = self._events.popleft()
                yield event
                if taken is not None and not taken.done():
                    taken.set_result(None)
            if worker.done():
                return
            self._news.clear()
            await within(max(0.0, deadline - loop.time()), self._news.wait())

    def _progress(self, percent: int, message: Sentence) -> Progress:
        self._percent = max(self._percent, min(100, percent))
        self._said = message
        return Progress(self._percent, message)
