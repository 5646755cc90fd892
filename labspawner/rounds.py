"""Polls in rounds: JupyterHub asks each server by a timer of its own; here one listing answers for all that are due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

log = logging.getLogger(__name__)

STEPS = 30
"""A poll may come late by this part of its interval, so that those of many servers fall together."""


class Polled(Protocol):
    """A JupyterHub Spawner, as far as it is polled. poll_interval: seconds. poll_jitter: part of it by which a poll may be
    moved."""

    user: Any
    name: str
    poll_interval: float
    poll_jitter: float

    async def poll_and_notify(self) -> object: ...


class Rounds:
    """Polls every server once per interval, from `add` to `drop`; one that is seen running costs no task of its own.

    look: takes a new listing of all hosts, where the last one is too old. runs: whether that listing, without more
    questions, shows a server running; every other server is asked in JupyterHub's own way.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], runs: Callable[[Polled], bool]) -> None:
        self._look = look
        self._runs = runs
        self._due: dict[Polled, float] = {}
        self._asking: dict[Polled, asyncio.Task[None]] = {}
        self._sooner = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, server: Polled) -> None:
        """Poll `server` from now on; once is enough."""
        self._due[server] = self._next(server)
        self._sooner.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def drop(self, server: Polled) -> None:
        """Poll it no longer; a poll that is under way ends by itself."""
        self._due.pop(server, None)

    async def close(self) -> None:
        """End all polls."""
        self._due.clear()
        for task in (self._task, *self._asking.values()):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def _next(self, server: Polled) -> float:
        step = server.poll_interval / STEPS
        moved = random.uniform(-1, 1) * server.poll_jitter  # noqa: S311 - to spread polls, not to hide them
        at = asyncio.get_running_loop().time() + server.poll_interval * (1 + moved)
        return (at // step + 1) * step

    async def _run(self) -> None:
        """Round after round, until there is nothing to poll."""
        while self._due:
            self._sooner.clear()
            wait_s = min(self._due.values()) - asyncio.get_running_loop().time()
            if wait_s > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._sooner.wait(), wait_s)
            else:
                await self._round()

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [server for server, at in self._due.items() if at <= now]
        try:
            await self._look()
        except Exception:
            log.exception("no listing for the polls; each server is asked by itself")
        for server in due:
            if server in self._due:  # it was not dropped meanwhile
                self._due[server] = self._next(server)
                if not self._runs(server) and server not in self._asking:
                    self._asking[server] = asyncio.get_running_loop().create_task(self._ask(server))

    async def _ask(self, server: Polled) -> None:
        try:
            await server.poll_and_notify()
        except Exception:
            log.exception("a poll failed; the next one comes in %.0f s", server.poll_interval)
        finally:
            del self._asking[server]
