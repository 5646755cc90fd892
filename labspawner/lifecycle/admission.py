"""The door in front of every provider: capacity is promised here before anything is launched.

One line per provider and kind of resource (with a GPU, without), first come first served. A promise is kept until the
lease gives it back, so two students never pass on the same last slice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from labspawner.deadlines import within
from labspawner.errors import LabError, NeverFits, NoRoom, Transient
from labspawner.lifecycle.bells import Bell
from labspawner.lifecycle.looks import CAPACITY_S, PATIENCE_S, Looks
from labspawner.model import Capacity, LeaseId, Resources
from labspawner.placement import End, Fits, Full, Ledger, TooLarge, covers, first_room, places
from labspawner.providers.contract import Provider
from labspawner.queueing import Wait, estimate, in_words
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

log = logging.getLogger(__name__)

Pool = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a live lease was promised, by which provider, and since when it runs. held: it is a hold, and no server yet."""

    provider: str
    resources: Resources
    since: datetime
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a provider has for servers of one kind, all that was promised subtracted.

    free: how many more start at once, whoever waits; total: how many fit its empty hosts; None: no limit. held: how many
    of the places that are not free are kept for people who have not started yet. never: no host could hold one, even
    empty. waiting: how many stand in line for this kind of place; wait: what a newcomer would read there.
    next_free_at: the first known end of a server that makes room; None where there is room, or no end is known.
    """

    free: int | None
    total: int | None
    held: int = 0
    never: bool = False
    waiting: int = 0
    wait: Wait = field(default_factory=lambda: Wait(1))
    next_free_at: datetime | None = None

    @property
    def open(self) -> bool:
        """Whether a start that comes now begins at once."""
        return (self.free is None or self.free > 0) and not self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somebody in line. since: when they joined it."""

    lease_id: LeaseId
    wait: Wait
    since: datetime


@dataclass(eq=False, slots=True)
class _Ticket:
    lease_id: LeaseId
    resources: Resources
    since: datetime
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
        self.changed = Bell()
        self._clock = clock
        self._recheck_s = recheck_s
        self._typical = typical
        self._promised: dict[LeaseId, Promise] = {}
        self._lines: dict[Pool, list[_Ticket]] = {}
        self._doormen: dict[Pool, asyncio.Task[None]] = {}
        self._freed: dict[Pool, asyncio.Event] = {}
        self._looks = Looks(providers)
        self._ledgers: dict[str, tuple[Capacity, Ledger]] = {}

    def remember(self, lease_id: LeaseId, provider: str, resources: Resources, since: datetime) -> None:
        """Count a lease that was admitted by an earlier hub process."""
        self._promised[lease_id] = Promise(provider, resources, since)
        self._ledgers.pop(provider, None)

    def give_back(self, lease_id: LeaseId) -> None:
        """Free what the lease was promised; who is next in line is let in at once. Safe to repeat."""
        promise = self._promised.pop(lease_id, None)
        if promise is not None:
            self._ledgers.pop(promise.provider, None)
            self.wake(promise.provider)

    def wake(self, provider: str) -> None:
        """Somebody else made room there: ask anew, and let in who fits."""
        self._looks.outdate(provider)
        self.changed.ring()
        for has_gpu in (False, True):
            if event := self._freed.get((provider, has_gpu)):
                event.set()

    async def try_now(self, lease_id: LeaseId, provider: str, resources: Resources) -> None:
        """Promise `resources`, or raise `NoRoom`, `NeverFits` or `ProviderUnavailable` at once; BadConfig for a provider
        that is not configured.

        Nobody is overtaken: with a line in front of the same pool, it is `NoRoom`.
        """
        began = asyncio.get_running_loop().time()
        capacity = await self._looks.capacity(provider, CAPACITY_S)
        if not isinstance(self._ledger(provider, capacity).place(resources), Fits):
            capacity = await self._looks.capacity(provider, CAPACITY_S, not_before=began)
        if self._in_line(provider, resources):
            raise _no_room(0)
        verdict = self._place(provider, resources, capacity)
        if isinstance(verdict, Full):
            raise _no_room(verdict.largest_free_bytes)
        self._promise(lease_id, provider, resources, verdict)

    async def free_places(self, provider: str, resources: Resources, *, most: int) -> int | None:
        """How many such servers could start now, counted up to `most`; 0 while others stand in line; None where the
        provider does not answer within `PATIENCE_S`."""
        try:
            capacity = await self._looks.capacity(provider, PATIENCE_S)
        except LabError:
            return None
        if self._in_line(provider, resources):
            return 0
        return places(resources, capacity, self._promised_by(provider), most=most)

    async def rooms(
        self, provider: str, needs: Collection[Resources], ends: Sequence[End] = ()
    ) -> dict[Resources, Room] | None:
        """What there is for each kind of server, of one moment; None where the provider does not answer within
        `PATIENCE_S`. ends: of servers here, the next one first."""
        try:
            capacity = await self._looks.capacity(provider, PATIENCE_S)
        except LabError:
            return None
        ledger, promised = self._ledger(provider, capacity), self._promised_by(provider)
        holds = {id_ for id_, promise in self._promised.items() if promise.held and promise.provider == provider}
        rooms: dict[Resources, Room] = {}
        for need in needs:
            free = ledger.count(need)
            full = free == 0
            unheld = {id_: resources for id_, resources in promised.items() if id_ not in holds}
            rooms[need] = Room(
                free=free,
                total=ledger.count_empty(need),
                held=(Ledger(capacity, unheld).count(need) or 0) if full and holds else 0,
                never=full and isinstance(ledger.place(need), TooLarge),
                waiting=len(self._lines.get((provider, need.gpu is not None), ())),
                wait=self._estimate_for((provider, need.gpu is not None)),
                next_free_at=first_room(need, capacity, promised, ends) if full else None,
            )
        return rooms

    async def take(self, lease_id: LeaseId, provider: str, resources: Resources, *, held: bool = False) -> None:
        """`try_now`; held: for somebody who has not started yet."""
        await self.try_now(lease_id, provider, resources)
        if held:
            self._promised[lease_id] = replace(self._promised[lease_id], held=True)

    def pass_on(self, held: LeaseId, lease_id: LeaseId, resources: Resources) -> bool:
        """Give what is promised to `held` to a lease; False, and nothing is changed, where that is less than `resources`."""
        promise = self._promised.get(held)
        if promise is None or not covers(promise.resources, resources):
            return False
        del self._promised[held]
        self._promised[lease_id] = Promise(promise.provider, resources, self._clock())
        self._ledgers.pop(promise.provider, None)
        log.info("admitted lease=%s provider=%s by hold=%s", lease_id, promise.provider, held)
        if resources != promise.resources:
            self.wake(promise.provider)
        self.changed.ring()
        return True

    def places(self) -> dict[Pool, list[Place]]:
        """Who stands in which line, the first first."""
        return {
            pool: [
                Place(lease_id=ticket.lease_id, wait=self._estimate(pool, ticket), since=ticket.since)
                for ticket in line
                if not ticket.admitted.done()
            ]
            for pool, line in self._lines.items()
            if line
        }

    def capacities(self) -> Looks:
        """What the providers have, as they say themselves."""
        return self._looks

    async def wait(self, lease_id: LeaseId, provider: str, resources: Resources) -> AsyncGenerator[Sentence, None]:
        """Stand in line until the promise is made; yields the place in words whenever it changes.

        Cancelling leaves the line. Raises `NeverFits` when no waiting will help.
        """
        pool = (provider, resources.gpu is not None)
        ticket = _Ticket(lease_id, resources, self._clock())
        line = self._lines.setdefault(pool, [])
        line.append(ticket)
        self.changed.ring()
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
                self.changed.ring()
                self._freed[pool].set()  # who stood behind may fit where this one did not
            if not admitted:
                if not ticket.admitted.cancel() and not ticket.admitted.cancelled():
                    ticket.admitted.exception()  # heard, so that asyncio need not complain
                self.give_back(lease_id)

    async def close(self) -> None:
        """End the tasks that watch the lines, and the questions to providers."""
        for task in self._doormen.values():
            task.cancel()
        await asyncio.gather(*self._doormen.values(), return_exceptions=True)
        await self._looks.close()

    def _in_line(self, provider: str, resources: Resources) -> bool:
        """Whether anybody waits for this kind of place."""
        return bool(self._lines.get((provider, resources.gpu is not None)))

    def _estimate(self, pool: Pool, ticket: _Ticket) -> Wait:
        line = self._lines[pool]
        return self._estimate_for(pool, line.index(ticket) + 1 if ticket in line else 1)

    def _estimate_for(self, pool: Pool, place_in_line: int | None = None) -> Wait:
        """What is read at a place; None: behind everybody."""
        started = [
            promise.since
            for promise in self._promised.values()
            if (promise.provider, promise.resources.gpu is not None) == pool and not promise.held
        ]
        place_in_line = place_in_line or len(self._lines.get(pool, ())) + 1
        return estimate(place_in_line, started, self._typical(pool[0]), self._clock())

    async def _serve(self, pool: Pool) -> None:
        """Let in the head of the line as long as it fits; ends when the line is empty."""
        line, freed = self._lines[pool], self._freed[pool]
        silent = False
        while line:
            freed.clear()
            try:
                self._let_in(pool, line, await self._looks.capacity(pool[0], CAPACITY_S))
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

    def _place(self, provider: str, resources: Resources, capacity: Capacity) -> Fits | Full:
        verdict = self._ledger(provider, capacity).place(resources)
        if isinstance(verdict, TooLarge):
            raise NeverFits(verdict.wanted_bytes, verdict.largest_bytes)
        return verdict

    def _ledger(self, provider: str, capacity: Capacity) -> Ledger:
        """What is left of this capacity, counted anew only where it is another one or something was given back."""
        kept = self._ledgers.get(provider)
        if kept is None or kept[0] is not capacity:
            kept = self._ledgers[provider] = (capacity, Ledger(capacity, self._promised_by(provider)))
        return kept[1]

    def _promised_by(self, provider: str) -> dict[LeaseId, Resources]:
        return {
            lease_id: promise.resources for lease_id, promise in self._promised.items() if promise.provider == provider
        }

    def _promise(self, lease_id: LeaseId, provider: str, resources: Resources, spot: Fits) -> None:
        self._promised[lease_id] = Promise(provider, resources, self._clock())
        if provider in self._ledgers:
            self._ledgers[provider][1].promise(lease_id, resources)
        self.changed.ring()
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
