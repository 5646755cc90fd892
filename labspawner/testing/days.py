"""Days and times that are far from those at which tests happen to run: no test may fail because it ran at midnight."""

from __future__ import annotations

from datetime import datetime, timezone

from labspawner.courses.hours import DAYS, Day


def a_far_day(now: datetime | None = None) -> Day:
    """A day of the week that begins more than a day from now, and ended more than a day ago, wherever one is."""
    return DAYS[((now or datetime.now(timezone.utc)).weekday() + 3) % 7]


def at_noon(now: datetime | None = None) -> str:
    """For the configuration of a hub: it counts by days that do not end while a test runs."""
    return f"import os, time\nos.environ['TZ'] = {noon(now)!r}\ntime.tzset()\n"


def noon(now: datetime | None = None) -> str:
    """For TZ: the time zone in which it is noon, or within the hour after, so that today goes on for hours."""
    east = 12 - (now or datetime.now(timezone.utc)).astimezone(timezone.utc).hour
    return f"NOON{-east:+d}"  # POSIX counts to the west
