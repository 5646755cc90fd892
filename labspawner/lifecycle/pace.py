"""How long starts take, as this hub has seen it."""

from __future__ import annotations

from collections import deque
from statistics import median

KEPT = 20


class Pace:
    """The last starts of each profile, in memory: after a restart it learns anew."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[str, float]]] = {}

    def note(self, profile: str, provider: str, seconds: float) -> None:
        """A start took so long, from its place until it was ready."""
        self._seen.setdefault(profile, deque(maxlen=KEPT)).append((provider, max(0.0, seconds)))

    def typical_s(self, profile: str, provider: str | None = None) -> float | None:
        """The median of the last starts, in seconds; None where there was none. provider: only those there."""
        seen = [seconds for where, seconds in self._seen.get(profile, ()) if provider in {None, where}]
        return median(seen) if seen else None
