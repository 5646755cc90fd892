"""Telling whoever listens that something changed, and nothing more: what it is now, they look up themselves."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung on the event loop at each change; who was away hears that it rang, however often.

    rang: how often it did, for a look without waiting.
    """

    def __init__(self) -> None:
        self.rang = 0
        self._next: asyncio.Event | None = None

    def ring(self) -> None:
        """Something changed. Costs next to nothing while nobody listens."""
        self.rang += 1
        if self._next is not None:
            self._next.set()
            self._next = None

    async def since(self, heard: int) -> int:
        """Returns as soon as it has rung more often than `heard`: how often."""
        while self.rang <= heard:
            if self._next is None:
                self._next = asyncio.Event()
            await self._next.wait()
        return self.rang
