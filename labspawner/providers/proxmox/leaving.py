"""Which nodes an administrator will take away, and when: kept with the reservations, where the running hub looks.

No lease owns an announcement, and it is forgotten half a day after its time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Protocol

from labspawner.model import Reservation
from labspawner.providers.contract import Departure

POOL = "leaving"
"""The pool of reservations that holds announcements, by name of node."""

_KEPT_FOR = timedelta(hours=12)
_FRESH_S = 5.0


class Keeping(Protocol):
    """The part of `labspawner.store.reservations.Reservations` that is used here."""

    async def held(self, now: datetime, pool: str | None = None) -> list[Reservation]: ...

    async def set_aside(self, pool: str, value: str, until: datetime, why: str = "") -> None: ...


def _now() -> datetime:
    return datetime.now(timezone.utc)


class Leaving:
    """The nodes that go away, looked up again when the last look is 5 s old."""

    def __init__(
        self, kept: Keeping, *, now: Callable[[], datetime] = _now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept = kept
        self._now = now
        self._clock = clock
        self._seen: Mapping[str, Departure] = {}
        self._seen_at = float("-inf")

    async def nodes(self) -> Mapping[str, Departure]:
        """What is announced, by name of node. Raises StoreUnavailable."""
        if self._clock() - self._seen_at >= _FRESH_S:
            self._seen = await self._look()
            self._seen_at = self._clock()
        return self._seen

    async def announce(self, node: str, at: datetime) -> bool:
        """`node` goes away at `at`; whether that is news. The same again is said to nobody twice. Raises StoreUnavailable."""
        known = (await self._look()).get(node)
        if known is not None and known.at == at:
            return False
        said = json.dumps({"at": at.isoformat(), "said_at": self._now().isoformat()})
        await self._kept.set_aside(POOL, node, at + _KEPT_FOR, why=said)
        self._seen_at = float("-inf")
        return True

    async def withdraw(self, node: str) -> bool:
        """`node` stays; whether that is news. Raises StoreUnavailable."""
        if node not in await self._look():
            return False
        await self._kept.set_aside(POOL, node, self._now() - timedelta(seconds=1))
        self._seen_at = float("-inf")
        return True

    async def _look(self) -> Mapping[str, Departure]:
        held = await self._kept.held(self._now(), POOL)
        return {each.value: found for each in held if (found := departure_in(each.why)) is not None}


def departure_in(text: str) -> Departure | None:
    """An announcement as it is kept; None for anything else. Pure."""
    try:
        said = json.loads(text)
        found = Departure(at=datetime.fromisoformat(said["at"]), said_at=datetime.fromisoformat(said["said_at"]))
    except (ValueError, TypeError, KeyError):
        return None
    return found if found.at.tzinfo is not None and found.said_at.tzinfo is not None else None
