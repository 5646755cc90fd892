"""The door in front of every provider: capacity is promised here before anything is launched.

One line per provider and kind of resource (with a GPU, without), first come first served. A promise is kept until the
lease gives it back, so two students never pass on the same last slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from labspawner.deadlines import within
from labspawner.errors import BadConfig, LabError, NeverFits, NoRoom, ProviderUnavailable, Transient
from labspawner.model import Capacity, LeaseId, Resources
from labspawner.placement import Fits, Full, TooLarge, place, places
from labspawner.providers.contract import Provider
from labspawner.queueing import Wait, estimate, in_words
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

log = logging.getLogger(__name__)

Pool = tuple[str, bool]
PATIENCE_S = 1.0
"""How long a page waits for a provider's capacity."""
CAPACITY_S = 30.0
"""How long a start waits for it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a live lease was promised, by which provider, and since when it runs."""

    provider: str
    resources: Resources
    since: datetime


@dataclass(eq=False, slots=True)
class _Ticket:
    lease_id: LeaseId
    resources: Resources
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Promises and lines of one hub. Everything happens on one event loop; nothing is locked across an await.

    recheck_s: how often the head of a line asks the provider again while nothing is given back here.
    typical: how long a server of a provider usually runs, for the guess of the wait; None where nothing is known.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        clock: Callable[[], datetime],
        *,
        recheck_s: float = 2.0,
        typical: Callable[[str], timedelta | None] = lambda _provider: None,
    ) -> None:
        self._providers = providers
        self._clock = clock
        self._recheck_s = recheck_s
        self._typical = typical
        self._promised: dict[LeaseId, Promise] = {}
        self._lines: dict[Pool, list[_Ticket]] = {}
        self._doormen: dict[Pool, asyncio.Task[None]] = {}
        self._freed: dict[Pool, asyncio.Event] = {}

    def remember(self, lease_id: LeaseId, provider: str, resources: Resources, since: datetime) -> None:
        """Count a lease that was admitted by an earlier hub process."""
        self._promised[lease_id] = Promise(provider, resources, since)

    def give_back(self, lease_id: LeaseId) -> None:
        """Free what the lease was promised; who is next in line is let in at once. Safe to repeat."""
        promise = self._promised.pop(lease_id, None)
        if promise is not None:
            for has_gpu in (False, True):
                if event := self._freed.get((promise.provider, has_gpu)):
                    event.set()

    async def try_now(self, lease_id: LeaseId, provider: str, resources: Resources) -> None:
        """Promise `resources`, or raise `NoRoom`, `NeverFits` or `ProviderUnavailable` at once; BadConfig for a provider
        that is not configured.

        Nobody is overtaken: with a line in front of the same pool, it is `NoRoom`.
        """
        capacity = await self._capacity(provider, CAPACITY_S)
        if self._lines.get((provider, resources.gpu is not None)):
            raise _no_room(0)
        verdict = self._place(provider, resources, capacity)
        if isinstance(verdict, Full):
            raise _no_room(verdict.largest_free_bytes)
        self._promise(lease_id, provider, resources, verdict)

    async def free_places(self, provider: str, resources: Resources, *, most: int) -> int | None:
        """How many such servers could start now, counted up to `most`; 0 while others stand in line; None where the
        provider does not answer within `PATIENCE_S`."""
        try:
            capacity = await self._capacity(provider, PATIENCE_S)
        except LabError:
            return None
        if self._lines.get((provider, resources.gpu is not None)):
            return 0
        return places(resources, capacity, self._promised_by(provider), most=most)

    async def wait(self, lease_id: LeaseId, provider: str, resources: Resources) -> AsyncGenerator[Sentence, None]:
        """Stand in line until the promise is made; yields the place in words whenever it changes.

        Cancelling leaves the line. Raises `NeverFits` when no waiting will help.
        """
        pool = (provider, resources.gpu is not None)
        ticket = _Ticket(lease_id, resources)
        line = self._lines.setdefault(pool, [])
        line.append(ticket)
        self._freed.setdefault(pool, asyncio.Event()).set()
        if pool not in self._doormen or self._doormen[pool].done():
            self._doormen[pool] = asyncio.get_running_loop().create_task(self._serve(pool))
        said: Wait | None = None
        admitted = False
        try:
            while not ticket.admitted.done():
                told = self._estimate(pool, ticket)
                if told != said:
                    said = told
                    yield in_words(told)
                await asyncio.wait({ticket.admitted}, timeout=self._recheck_s)
            ticket.admitted.result()
            admitted = True
        finally:
            if ticket in line:
                line.remove(ticket)
                self._freed[pool].set()  # who stood behind may fit where this one did not
            if not admitted:
                if not ticket.admitted.cancel() and not ticket.admitted.cancelled():
                    ticket.admitted.exception()  # heard, so that asyncio need not complain
                self.give_back(lease_id)

    async def close(self) -> None:
        """End the tasks that watch the lines."""
        for task in self._doormen.values():
            task.cancel()
        for task in self._doormen.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _estimate(self, pool: Pool, ticket: _Ticket) -> Wait:
        line = self._lines[pool]
        place_in_line = line.index(ticket) + 1 if ticket in line else 1
        started = [
            promise.since
            for promise in self._promised.values()
            if (promise.provider, promise.resources.gpu is not None) == pool
        ]
        return estimate(place_in_line, started, self._typical(pool[0]), self._clock())

    async def _serve(self, pool: Pool) -> None:
        """Let in the head of the line as long as it fits; ends when the line is empty."""
        line, freed = self._lines[pool], self._freed[pool]
        silent = False
        while line:
            freed.clear()
            try:
                self._let_in(pool, line, await self._capacity(pool[0], CAPACITY_S))
                silent = False
            except Transient as exc:
                if not silent:
                    log.warning("line waits, provider=%s does not answer: %s", pool[0], exc)
                silent = True
            except Exception as exc:
                for ticket in line:
                    if not ticket.admitted.done():
                        ticket.admitted.set_exception(exc)
                return
            if line:
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(self._recheck_s, freed.wait())

    def _let_in(self, pool: Pool, line: list[_Ticket], capacity: Capacity) -> None:
        while line:
            ticket = line[0]
            if ticket.admitted.done():
                line.pop(0)
                continue
            try:
                verdict = self._place(pool[0], ticket.resources, capacity)
            except NeverFits as exc:
                line.pop(0)
                ticket.admitted.set_exception(exc)
                continue
            if isinstance(verdict, Full):
                return
            line.pop(0)
            self._promise(ticket.lease_id, pool[0], ticket.resources, verdict)
            ticket.admitted.set_result(None)

    async def _capacity(self, provider: str, seconds: float) -> Capacity:
        if provider not in self._providers:
            raise BadConfig(
                Sentence("This profile needs a provider that is not set up here. Tell your instructor."),
                detail=f"provider={provider} is not configured",
            )
        try:
            return await within(seconds, self._providers[provider].capacity(), let_go_s=PATIENCE_S)
        except asyncio.TimeoutError as exc:
            raise ProviderUnavailable(
                Sentence("The machines for this profile do not answer. Try again in a few minutes."),
                detail=f"provider={provider} did not tell its capacity in {seconds:.0f} s",
                retry_after_s=60,
            ) from exc

    def _place(self, provider: str, resources: Resources, capacity: Capacity) -> Fits | Full:
        verdict = place(resources, capacity, self._promised_by(provider))
        if isinstance(verdict, TooLarge):
            raise NeverFits(verdict.wanted_bytes, verdict.largest_bytes)
        return verdict

    def _promised_by(self, provider: str) -> dict[LeaseId, Resources]:
        return {
            lease_id: promise.resources for lease_id, promise in self._promised.items() if promise.provider == provider
        }

    def _promise(self, lease_id: LeaseId, provider: str, resources: Resources, spot: Fits) -> None:
        self._promised[lease_id] = Promise(provider, resources, self._clock())
        log.info("admitted lease=%s provider=%s host=%s card=%s", lease_id, provider, spot.host, spot.card)


def _no_room(largest_free_bytes: int) -> NoRoom:
    if largest_free_bytes:
        message = Sentence(
            "Everything is in use: the largest free share is {largest}. "
            "Pick a smaller profile, or try again in a few minutes.",
            largest=human_bytes(largest_free_bytes),
        )
    else:
        message = Sentence("Everything is in use. Try again in a few minutes, or pick another profile.")
    return NoRoom(message, detail=f"no room largest_free_bytes={largest_free_bytes}", retry_after_s=60)
