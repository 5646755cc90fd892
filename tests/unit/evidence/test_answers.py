"""How often a server reports."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from labspawner.culling import Forecast
from labspawner.evidence import every_s
from labspawner.evidence.answers import Outlook, answer, valid_for
from labspawner.sentences import Sentence
from labspawner.store import Allowance

NOW = datetime(2026, 11, 2, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("configured", "after", "every"), [(60, None, 60), (60, 3600, 60), (60, 120, 30), (5, 120, 5), (60, 2, 1)]
)
def test_a_server_reports_as_configured_but_four_times_within_its_idle_limit(configured, after, every):
    assert every_s(configured, after) == every


def test_two_lost_reports_do_not_make_the_third_too_old():
    assert valid_for(60) > timedelta(seconds=3 * 60)


@pytest.mark.parametrize(
    ("verdict", "en", "zh"),
    [
        ("keep", "idle for only 18 min; this profile's limit is 20 min", "仅空闲"),
        ("warn", "idle for 18 min; this profile's limit is 20 min", "已空闲"),
    ],
)
def test_a_warning_does_not_say_that_the_server_is_idle_for_only_so_long(verdict, en, zh):
    why = Sentence("idle for only {idle}; this profile's limit is {limit}", idle="18 min", limit="20 min")
    said = Outlook(verdict=verdict, forecast=Forecast(NOW, "idle", (), why), warned=False)

    reason = answer(said, None, now=NOW, used=Allowance(), held_until=None, report_every_s=60)["reason"]

    assert reason["en"] == en
    assert reason["zh-CN"].startswith(zh)
