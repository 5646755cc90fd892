"""How often a server reports."""

from __future__ import annotations

from datetime import timedelta

import pytest

from labspawner.evidence import every_s
from labspawner.evidence.answers import valid_for


@pytest.mark.parametrize(
    ("configured", "after", "every"), [(60, None, 60), (60, 3600, 60), (60, 120, 30), (5, 120, 5), (60, 2, 1)]
)
def test_a_server_reports_as_configured_but_four_times_within_its_idle_limit(configured, after, every):
    assert every_s(configured, after) == every


def test_two_lost_reports_do_not_make_the_third_too_old():
    assert valid_for(60) > timedelta(seconds=3 * 60)
