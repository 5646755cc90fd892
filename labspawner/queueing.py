"""The line in front of a full provider: who is next, and how long it may take. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.sentences import Sentence

ROUND_TO = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Wait:
    """place: 1 for who is next. low, high: a range for the wait, or None where nothing is known."""

    place: int
    low: timedelta | None = None
    high: timedelta | None = None


def estimate(place: int, started: Iterable[datetime], typical: timedelta | None, now: datetime) -> Wait:
    """Guess how long the one at `place` waits, from when the running servers started and how long one typically runs.

    A range, because sessions differ: half to twice the guess, rounded outward to five minutes.
    """
    if typical is None:
        return Wait(place)
    ends = sorted(max(start + typical, now) for start in started)
    if not ends:
        return Wait(place)
    rounds, index = divmod(place - 1, len(ends))
    guess = ends[index] - now + rounds * typical
    return Wait(place, (guess / 2) // ROUND_TO * ROUND_TO, -(-(guess * 2) // ROUND_TO) * ROUND_TO or ROUND_TO)


def in_words(wait: Wait) -> Sentence:
    """What the student reads while waiting."""
    if wait.high is None or wait.low is None:
        return Sentence("Everything is in use. You are number {place} in line.", place=wait.place)
    return Sentence(
        "Everything is in use. You are number {place} in line; this usually takes {low} to {high} minutes.",
        place=wait.place,
        low=round(wait.low.total_seconds() / 60),
        high=round(wait.high.total_seconds() / 60),
    )
