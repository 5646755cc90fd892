"""That something changed, for browsers that watch: versions and nothing else; each fetches by its own rights."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping

from labspawner.deadlines import within
from labspawner.service.console.hub import Hub
from labspawner.service.console.problems import Problem

log = logging.getLogger(__name__)

COALESCE_S = 1.0
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 15.0
_OF_HUB = ("state", "availability", "courses")


class Events:
    """One stream from the hub, fanned out. Versions grow, and begin anew with this process.

    listens: the hub tells its changes just now.
    """

    def __init__(self, hub: Hub, *, wait_s: Callable[[], float] = lambda: COALESCE_S) -> None:
        self._hub = hub
        self._wait_s = wait_s
        self._last: dict[str, object] = {}
        self._versions = dict.fromkeys(_OF_HUB, 0)
        self._jobs: dict[str, int] = {}
        self._bell = asyncio.Event()
        self.listens = False
        self._begun = 0
        self._listening: asyncio.Task[None] | None = None
        self.closed = False

    def open(self) -> None:
        """Begin to listen to the hub."""
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Listen no more; whoever watches is told that it is over."""
        self.closed = True
        self._ring()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def job_changed(self, course: str) -> None:
        """A job of this course went on."""
        self._jobs[course] = self._jobs.get(course, 0) + 1
        self._ring()

    def course_changed(self) -> None:
        """A course was written here; the hub says so too, a moment later."""
        self._versions["courses"] += 1
        self._ring()

    @property
    def of_hub(self) -> tuple[int, ...]:
        """Another value whenever something changed in the hub, or may have while it was not heard."""
        return (*self._versions.values(), self._begun)

    def versions(self, course: str) -> dict[str, int]:
        """The versions that a page of this course watches."""
        return {**self._versions, "jobs": self._jobs.get(course, 0)}

    async def watch(self, course: str, *, heartbeat_s: float) -> AsyncIterator[dict[str, int] | None]:
        """The versions now, then whenever they changed, at most once a second; None when nothing did for `heartbeat_s`."""
        told: dict[str, int] | None = None
        while not self.closed:
            bell = self._bell
            now = self.versions(course)
            if now != told:
                told = now
                yield dict(now)
                await asyncio.sleep(self._wait_s())
                continue
            try:
                await within(heartbeat_s, bell.wait())
            except asyncio.TimeoutError:
                yield None

    def heard(self, data: Mapping[str, object]) -> None:
        """What the hub says: its own versions, of which only that they changed matters here."""
        for name in _OF_HUB:
            if name in data and self._last.get(name) != data[name]:
                self._last[name] = data[name]
                self._versions[name] += 1
        self._ring()

    def _ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()

    async def _listen(self) -> None:
        pause = _FIRST_RETRY_S
        while True:
            try:
                async for data in self._hub.events():
                    if not self.listens:
                        self.listens = True
                        self._begun += 1
                    self.heard(data)
                    pause = _FIRST_RETRY_S
            except (Problem, OSError) as exc:
                log.info("the hub's events have ended, listening again in %.0f s: %s", pause, exc)
            except Exception:
                log.exception("the hub's events cannot be read, listening again in %.0f s", pause)
            finally:
                self.listens = False
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_RETRY_S)
