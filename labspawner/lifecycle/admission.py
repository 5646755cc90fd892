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
from labspawner.placement import Fits, Full, Ledger, TooLarge, places
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
FRESH_S = 0.25
"""How long one answer serves all who ask. An old one never shows too much room: what was promised since is subtracted,
what was given back since still counts. So only who finds no room in it asks again."""


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


@dataclass(frozen=True, slots=True)
class _Look:
    """One question to a provider, which many wait for. began: seconds of the event loop's clock."""

    began: float
    answer: asyncio.Task[Capacity]

    def failed(self) -> bool:
        return self.answer.done() and (self.answer.cancelled() or self.answer.exception() is not None)


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
        self._looks: dict[str, _Look] = {}
        self._given_back: dict[str, float] = {}
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
        self._given_back[provider] = asyncio.get_running_loop().time()
        for has_gpu in (False, True):
            if event := self._freed.get((provider, has_gpu)):
                event.set()

    async def try_now(self, lease_id: LeaseId, provider: str, resources: Resources) -> None:
        """Promise `resources`, or raise `NoRoom`, `NeverFits` or `ProviderUnavailable` at once; BadConfig for a provider
        that is not configured.

        Nobody is overtaken: with a line in front of the same pool, it is `NoRoom`.
        """
        began = asyncio.get_running_loop().time()
        capacity = await self._capacity(provider, CAPACITY_S)
        if not isinstance(self._ledger(provider, capacity).place(resources), Fits):
            capacity = await self._capacity(provider, CAPACITY_S, not_before=began)
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
            capacity = await self._capacity(provider, PATIENCE_S)
        except LabError:
            return None
        if self._in_line(provider, resources):
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
        """End the tasks that watch the lines, and the questions to providers."""
        tasks = [*self._doormen.values(), *(look.answer for look in self._looks.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _in_line(self, provider: str, resources: Resources) -> bool:
        """Whether anybody waits for this kind of place."""
        return bool(self._lines.get((provider, resources.gpu is not None)))

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

    async def _capacity(self, provider: str, seconds: float, *, not_before: float = float("-inf")) -> Capacity:
        """What the provider has, from a look that began `FRESH_S` ago at most, and not before that instant nor before
        something was given back here."""
        if provider not in self._providers:
            raise BadConfig(
                Sentence("This profile needs a provider that is not set up here. Tell your instructor."),
                detail=f"provider={provider} is not configured",
            )
        now = asyncio.get_running_loop().time()
        look = self._looks.get(provider)
        not_before = max(now - FRESH_S, not_before, self._given_back.get(provider, not_before))
        if look is None or look.began < not_before or look.failed():
            asked = within(CAPACITY_S, self._providers[provider].capacity(), let_go_s=PATIENCE_S)
            look = self._looks[provider] = _Look(now, asyncio.get_running_loop().create_task(asked))
            look.answer.add_done_callback(_heard)
        done, _ = await asyncio.wait({look.answer}, timeout=seconds)
        try:
            if not done:
                raise asyncio.TimeoutError
            return look.answer.result()
        except asyncio.TimeoutError as exc:
            raise ProviderUnavailable(
                Sentence("The machines for this profile do not answer. Try again in a few minutes."),
                detail=f"provider={provider} did not tell its capacity in {seconds:.0f} s",
                retry_after_s=60,
            ) from exc

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
        log.info("admitted lease=%s provider=%s host=%s card=%s", lease_id, provider, spot.host, spot.card)


def _heard(answer: asyncio.Task[Capacity]) -> None:
    """An error that nobody waited for any more needs no complaint from asyncio."""
    if not answer.cancelled():
        answer.exception()


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
