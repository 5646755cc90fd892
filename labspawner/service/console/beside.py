"""What runs beside requests: jobs that an earlier process left, newcomers who are put into their courses, old records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from labspawner.errors import LabError
from labspawner.service.console.doing.rosters import keep_in_step
from labspawner.service.console.house import House
from labspawner.service.console.problems import Problem
from labspawner.service.console.runner import Runner

log = logging.getLogger(__name__)

NEWCOMERS_S = 3.0
"""A student who logs in for the first time finds their course after this long at most."""
_ALL_EVERY = 100
_PRUNE_S = 86_400.0
AUDIT_KEPT = timedelta(days=730)
JOBS_KEPT = timedelta(days=30)


class Beside:
    """The tasks of one process. A hub or a database that is away is asked again; nothing here ends because of that."""

    def __init__(self, house: House, *, newcomers_s: float = NEWCOMERS_S) -> None:
        self._house = house
        self._newcomers_s = newcomers_s
        self._tasks: list[asyncio.Task[None]] = []
        self._rounds = 0
        self._seen: set[str] = set()
        house.runner = Runner(house)

    def open(self) -> None:
        """Begin."""
        self._house.events.open()
        works = [
            self._until_done("resume jobs", self._house.runner.resume),
            self._again("put newcomers into their courses", self._newcomers_s, self._newcomers),
            self._again("forget old records", _PRUNE_S, self._prune),
        ]
        self._tasks = [asyncio.get_running_loop().create_task(work) for work in works]

    async def close(self) -> None:
        """End all of it; what is not done yet is done by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._house.events.close()
        await self._house.runner.close()

    async def _until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (LabError, Problem) as exc:
                log.warning("cannot %s yet: %s", what, exc)
                await asyncio.sleep(5.0)
            else:
                return

    async def _again(self, what: str, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (LabError, Problem) as exc:
                log.info("cannot %s just now: %s", what, exc)
            except Exception:
                log.exception("cannot %s; trying again", what)
            await asyncio.sleep(every_s)

    async def _newcomers(self) -> None:
        """Put those who have just become users of the hub into the courses whose roster names them. Once in a while everybody
        is looked at, so that what was missed is mended."""
        all_of_them = self._rounds % _ALL_EVERY == 0
        known = await (self._house.hub.users() if all_of_them else self._house.hub.newest_users())
        new = frozenset(known if all_of_them else known - self._seen)
        for slug in await self._house.store.rosters.courses() if new else ():
            if put := await keep_in_step(self._house, slug, known=new):
                log.info("newcomers put into their groups course=%s people=%d", slug, put)
        self._seen |= known
        self._rounds += 1

    async def _prune(self) -> None:
        now = self._house.now()
        await self._house.store.audit.prune(now - AUDIT_KEPT)
        await self._house.store.jobs.prune(now - JOBS_KEPT)
