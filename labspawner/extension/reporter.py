"""When the hub is told, and what it answered last."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from logging import getLogger
from typing import Any, Protocol

from labspawner.extension.hub import Reply

log = getLogger(__name__)

SHORTEST_S, LONGEST_S = 1.0, 900.0
AFTER_CHANGE_S = 5.0  # busy or idle is told at once, but not oftener than this
_FIRST_RETRY_S = 2.0
_REFUSED = frozenset({401, 403, 404, 405})  # a hub without labspawner, or one that has ended this server


class Posts(Protocol):
    async def post(self, what: str, body: Mapping[str, Any]) -> Reply: ...


class Reporter:
    """Reports on change at once and otherwise as often as the hub wishes, with jitter; less and less while it is away.

    collect: makes a report. state: what counts as a change when it is another. clock: seconds, monotonic.
    answer: the hub's last one, or None; answered_at: by `clock`. status: of the last attempt, 0 when nobody answered.
    """

    def __init__(
        self,
        hub: Posts,
        *,
        collect: Callable[[], Awaitable[Mapping[str, Any]]],
        state: Callable[[], object],
        clock: Callable[[], float],
        every_s: float,
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.0),  # noqa: S311 - no secret
    ) -> None:
        self._hub, self._collect, self._state = hub, collect, state
        self._clock, self._jitter = clock, jitter
        self._every_s = _clamped(every_s)
        self._due = clock()
        self._last = float("-inf")
        self._told: object = None
        self._failures = 0
        self._reporting = False
        self.answer: Mapping[str, Any] | None = None
        self.answered_at = 0.0
        self.status: int | None = None

    async def tick(self) -> None:
        """Report if it is time to; call it about every second, and when something changed."""
        if self._reporting:
            return
        now = self._clock()
        changed = self._failures == 0 and self._state() != self._told and now >= self._last + AFTER_CHANGE_S
        if now >= self._due or changed:
            await self.report()

    async def report(self) -> None:
        """Report now."""
        self._reporting = True
        try:
            state, self._last = self._state(), self._clock()
            self.take(await self._hub.post("report", await self._collect()))
            if self._failures == 0:
                self._told = state
        finally:
            self._reporting = False

    def soon(self) -> None:
        """Something changed that only the next answer shows."""
        self._due = min(self._due, self._clock() + 1.0)

    def take(self, reply: Reply) -> None:
        """Remember an answer, also one to `extend` or `hold`, and when to report next."""
        now, self.status = self._clock(), reply.status
        if reply.ok and reply.body.get("v") == 1:
            if self._failures:
                log.info("labspawner: the hub answers again")
            self._failures = 0
            self.answer, self.answered_at = reply.body, now
            self._every_s = _clamped(reply.body.get("report_every_s"), self._every_s)
            self._due = now + min(self._every_s * self._jitter(), _until_the_next_mark(reply.body))
            return
        if not self._failures:  # once, not at every attempt
            log.warning("labspawner: the hub takes no report (%s); trying again", reply.status or "no answer")
        self._failures += 1
        slowest = LONGEST_S if reply.status in _REFUSED else max(self._every_s, 60.0)
        first = 60.0 if reply.status in _REFUSED else _FIRST_RETRY_S
        self._due = now + min(first * 2.0 ** min(self._failures - 1, 16), slowest) * self._jitter()


def _until_the_next_mark(answer: Mapping[str, Any]) -> float:
    """Seconds until just after the next instant of which the answer speaks: then the hub has something new to say."""
    marks = answer.get("warn_at")
    now = _instant(answer.get("now"))
    instants = [_instant(text) for text in [*(marks if isinstance(marks, list) else []), answer.get("ends_at")]]
    ahead = [(at - now).total_seconds() for at in instants if now is not None and at is not None and at > now]
    return min(ahead, default=LONGEST_S) + 1.0


def _instant(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))  # Python before 3.11 reads no `Z`
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _clamped(seconds: object, otherwise: float = 60.0) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        return otherwise
    return min(max(float(seconds), SHORTEST_S), LONGEST_S)
