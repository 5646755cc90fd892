"""Spans of time and kinds of work, as the sentences of a verdict say them."""

from __future__ import annotations

from datetime import datetime, timedelta

from labspawner.model import Activity, Work, WorkKind
from labspawner.sentences import Sentence
from labspawner.units import human_duration

_SHOWN_CHARS = 80


def since(instant: datetime, now: datetime) -> timedelta:
    """How long ago; a clock that runs ahead means now."""
    return max(now - instant, timedelta(0))


def span(length: timedelta) -> str:
    """Whole minutes from one minute on, rounded down: "idle for 20 min" at a limit of 20 min, not "20 min 7 s"."""
    seconds = int(length.total_seconds())
    return human_duration(timedelta(seconds=seconds - seconds % 60 if seconds >= 60 else seconds))


def limit(seconds: float) -> str:
    return human_duration(timedelta(seconds=seconds))


def work_words(report: Activity, now: datetime) -> Sentence:
    """What a busy server is busy with: its longest work, and how many more there are."""
    if not report.work:
        return Sentence("it says that it is busy")
    first, more = _one(report.work[0], now), report.work_count - 1
    return Sentence("{work}, and {count} more", work=first, count=more) if more > 0 else first


def quiet_words(report: Activity) -> Sentence:
    """Why a server that reports is idle, although something about it may look busy."""
    if report.waiting:
        return Sentence("a cell waits for input, and nobody typed any")
    if report.clients:
        return Sentence("a page was open, but nobody used it and nothing ran")
    return Sentence("nobody used it and nothing ran")


def _one(work: Work, now: datetime) -> Sentence:
    what = work.what if len(work.what) <= _SHOWN_CHARS else work.what[: _SHOWN_CHARS - 3] + "..."
    if work.since is None:
        if work.kind is WorkKind.KERNEL:
            return Sentence("a cell of {what} is running", what=what)
        return Sentence("{what} is running in a terminal", what=what)
    length = span(since(work.since, now))
    if work.kind is WorkKind.KERNEL:
        return Sentence("a cell of {what} has been running for {span}", what=what, span=length)
    return Sentence("{what} has been running in a terminal for {span}", what=what, span=length)
