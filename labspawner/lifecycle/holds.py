"""A place that is kept for a moment for somebody who has just clicked, so that the page they saw does not lie."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.errors import NoRoom, Transient
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.orders import Variant
from labspawner.model import LeaseId, Resources
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

HOLD_FOR = timedelta(seconds=75)
TAKES = 5
"""How many holds somebody may take without starting within `TAKES_WITHIN`: a click too many costs nobody, but who only
clicks keeps places from those who would work."""
TAKES_WITHIN = timedelta(minutes=10)
_MOST_USERS = 5_000


class TooManyHolds(Transient):
    """Somebody takes places and starts nothing."""

    reason = "too_many_holds"
    status_code = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A place of `resources` at `provider`, until `until`, for one start of `profile` by `user`.

    variant: which of the profile's variants it is for, from 0.
    """

    id: str
    user: str
    profile: str
    provider: str
    resources: Resources
    variant: int = 0
    until: datetime

    @property
    def key(self) -> LeaseId:
        """What the place is promised to until a lease takes it over."""
        return LeaseId(f"hold:{self.id}")


class Holds:
    """One hold per user at most. A start of its profile by its user takes it over; else it lapses by itself.

    hold_for: how long it is kept. All of it is in memory: a hub that restarts has forgotten its holds, and the starts
    that come then are let in or wait like any other.
    """

    def __init__(
        self, admission: Admission, clock: Callable[[], datetime], *, hold_for: timedelta = HOLD_FOR, takes: int = TAKES
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._hold_for = hold_for
        self._takes = takes
        self._holds: dict[str, Hold] = {}
        self._taken: dict[str, deque[datetime]] = {}
        self._taking: set[str] = set()
        self._lapses: dict[str, asyncio.TimerHandle] = {}

    def of(self, user: str) -> Hold | None:
        """What is held for a user now."""
        hold = self._holds.get(user)
        return hold if hold is not None and hold.until > self._clock() else None

    def all(self) -> list[Hold]:
        """What is held now, the first to lapse first."""
        return sorted((hold for user in self._holds if (hold := self.of(user))), key=lambda hold: hold.until)

    async def take(self, user: str, profile: str, variants: Sequence[Variant], *, fallback: bool = False) -> Hold:
        """Keep a place for a start of the first of `variants`, or with `fallback` of the first that has room.

        Replaces what was held for the user before. Raises NoRoom where there is none, or others wait for it;
        TooManyHolds; and what admission raises.
        """
        now = self._clock()
        self._count(user, now)
        if user in self._taking:
            raise TooManyHolds(
                Sentence("Your last click is still being looked at. Wait a second."),
                detail=f"two holds at once user={user}",
                retry_after_s=1,
            )
        self._taking.add(user)
        try:
            self.release(user)
            error: Transient | None = None
            for index, variant in enumerate(variants if fallback else variants[:1]):
                hold = Hold(
                    id=secrets.token_urlsafe(12),
                    user=user,
                    profile=profile,
                    provider=variant.provider,
                    resources=variant.resources,
                    variant=index if variant.index is None else variant.index,
                    until=now + self._hold_for,
                )
                try:
                    await self._admission.take(hold.key, variant.provider, variant.resources, held=True)
                except Transient as exc:
                    error = error or exc
                else:
                    self._keep(hold)
                    return hold
            raise error or NoRoom(
                Sentence("Everything is in use. Try again in a few minutes, or pick another profile.")
            )
        finally:
            self._taking.discard(user)

    def release(self, user: str, hold_id: str | None = None) -> bool:
        """Give back what is held for a user; with `hold_id`, only that. Says whether there was something."""
        hold = self._holds.get(user)
        if hold is None or (hold_id is not None and hold_id != hold.id):
            return False
        self._forget(hold)
        self._admission.give_back(hold.key)
        return True

    def spend(self, user: str, profile: str, lease_id: LeaseId, variants: Sequence[Variant]) -> Variant | None:
        """Hand what is held for this user and profile to a lease: the variant that it is for; None where there is nothing.

        A hold is spent once, whatever comes of the start. One that is for another profile, or not enough for any of
        `variants`, is given back: its user has made another choice.
        """
        self._taken.pop(user, None)  # who starts does not only click
        hold = self.of(user)
        if hold is None:
            return None
        self._forget(hold)
        for variant in variants if hold.profile == profile else ():
            if variant.provider == hold.provider and self._admission.pass_on(hold.key, lease_id, variant.resources):
                return variant
        self._admission.give_back(hold.key)
        return None

    def close(self) -> None:
        """Forget all of them."""
        for hold in list(self._holds.values()):
            self._forget(hold)

    def _count(self, user: str, now: datetime) -> None:
        """One more attempt. Raises TooManyHolds."""
        if len(self._taken) > _MOST_USERS:
            self._taken = {one: times for one, times in self._taken.items() if now - times[-1] < TAKES_WITHIN}
        times = self._taken.setdefault(user, deque())
        while times and now - times[0] >= TAKES_WITHIN:
            times.popleft()
        if len(times) >= self._takes:
            wait = times[0] + TAKES_WITHIN - now
            raise TooManyHolds(
                Sentence(
                    "You asked for a place {count} times and started nothing. Start without one, or wait.",
                    count=len(times),
                ),
                detail=f"too many holds user={user}",
                retry_after_s=max(1.0, wait.total_seconds()),
            )
        times.append(now)

    def _keep(self, hold: Hold) -> None:
        self._holds[hold.user] = hold
        seconds = (hold.until - self._clock()).total_seconds()
        loop = asyncio.get_running_loop()
        self._lapses[hold.id] = loop.call_later(max(0.0, seconds), self._lapse, hold)
        log.info("place held user=%s profile=%s provider=%s", hold.user, hold.profile, hold.provider)

    def _lapse(self, hold: Hold) -> None:
        if self.release(hold.user, hold.id):
            log.info("hold lapsed user=%s profile=%s provider=%s", hold.user, hold.profile, hold.provider)

    def _forget(self, hold: Hold) -> None:
        self._holds.pop(hold.user, None)
        if (timer := self._lapses.pop(hold.id, None)) is not None:
            timer.cancel()
