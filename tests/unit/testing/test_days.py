"""Far days are far, and noon is noon, whenever somebody asks."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from labspawner.courses.hours import DAYS
from labspawner.testing.days import a_far_day, noon

MONDAY = datetime(2026, 11, 2, tzinfo=timezone.utc)
PRINT_HOUR = "import sys, datetime as d; print(d.datetime.fromtimestamp(float(sys.argv[1])).hour)"


@pytest.mark.parametrize("hours", range(0, 7 * 24, 5))
def test_a_far_day_is_more_than_a_day_away_in_every_time_zone(hours):
    now = MONDAY + timedelta(hours=hours)

    far = a_far_day(now)

    for offset in (-14, -1, 0, 1, 14):
        for away in (-24, 0, 24):
            assert DAYS[(now + timedelta(hours=offset + away)).weekday()] != far


@pytest.mark.parametrize("hour", [0, 1, 11, 12, 13, 23])
def test_noon_is_a_time_zone_in_which_the_clock_says_twelve(hour):
    now = MONDAY + timedelta(hours=hour, minutes=59)

    said = subprocess.run(
        [sys.executable, "-c", PRINT_HOUR, str(now.timestamp())], env={"TZ": noon(now)}, capture_output=True, check=True
    )

    assert said.stdout.strip() == b"12"
