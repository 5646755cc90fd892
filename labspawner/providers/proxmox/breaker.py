"""Refused credentials are not tried again and again: each try costs the cluster three seconds of a worker."""

from __future__ import annotations

FIRST_S, LONGEST_S = 10.0, 600.0
_PROBE_S = 60.0


class Breaker:
    """Open after a 401, for a growing while. Times are seconds that only grow, given by the caller."""

    def __init__(self, *, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s
        self._opened_at: float | None = None
        self._until = 0.0
        self.why = ""
        """What the cluster said when it refused; empty while nothing was refused."""

    def held_back(self, now: float) -> float | None:
        """Seconds until the next try; None: go. After a pause one may go, and the others wait for what it meets."""
        if self._opened_at is None:
            return None
        if now < self._until:
            return self._until - now
        self._until = now + _PROBE_S
        return None

    def again_in(self, now: float) -> float:
        """The same to look at: 0 while nothing is held back."""
        return max(0.0, self._until - now) if self._opened_at is not None else 0.0

    def refused(self, now: float, *, asked_at: float, why: str) -> bool:
        """The cluster said 401 to a request of `asked_at`; answers whether that is news: those that were under way together
        count as one."""
        if self._opened_at is not None:
            if asked_at < self._opened_at:
                return False
            self._pause_s = min(2 * self._pause_s, self._longest_s)
        self._opened_at, self._until, self.why = now, now + self._pause_s, why
        return True

    def unsettled(self, now: float, *, asked_at: float) -> None:
        """A request of `asked_at` had no answer: if it was the one that went, let another go."""
        if self._opened_at is not None and asked_at >= self._opened_at:
            self._until = min(self._until, now)

    def worked(self, *, asked_at: float) -> None:
        """A request of `asked_at` was not refused: if that was after the last refusal, the credentials are good."""
        if self._opened_at is None or asked_at >= self._opened_at:
            self._opened_at, self._pause_s, self.why = None, self._first_s, ""
