"""The bench of the console, on a few students for a few seconds: that it measures, not how fast this machine is."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from labspawner.cli.bench import bench
from labspawner.cli.bench.console import KINDS, QUICK, Acted, Row, Shown, Size, Watched, table_of
from labspawner.testing.crowd import Page

pytestmark = pytest.mark.hub

GOOD = (Watched(5.0, [200.0] * 10), Shown({"class": [20.0], "people": [30.0]}, 5.0), Acted(0.2, 20.0, 80.0))


def test_a_small_course_is_watched_paged_and_acted_on_and_every_target_is_printed():
    result = CliRunner().invoke(bench, ["console", "--quick"], terminal_width=200)

    assert result.exit_code in {0, 1}, result.output
    for words in ("watch: hub and console", "reaches the pages", "pages at 50/s", "first progress", *KINDS):
        assert words in result.output


def test_everything_within_its_target_is_reached():
    assert all(row.reached for row in table_of(Size(), *GOOD))


@pytest.mark.parametrize(
    "wrong",
    [
        (Watched(10.5, [200.0]), *GOOD[1:]),
        (Watched(5.0, [200.0] * 9 + [float("inf")]), *GOOD[1:]),
        (GOOD[0], Shown({"class": [20.0], "people": [101.0]}, 5.0), GOOD[2]),
        (*GOOD[:2], Acted(1.1, 20.0, 80.0)),
        (*GOOD[:2], Acted(0.2, 20.0, 501.0)),
    ],
)
def test_one_missed_target_is_enough(wrong):
    missed = [row for row in table_of(QUICK, *wrong) if not row.reached]

    assert len(missed) == 1


def test_a_row_without_a_target_is_always_reached():
    assert Row("all of them", float("inf"), "ms").reached


def test_a_page_has_heard_of_a_change_only_when_it_is_told_something_else():
    page = Page("student1", "", heard=[(1.0, 7), (2.1, 7), (2.5, 8), (9.0, 9)])

    assert page.first_news(2.0, 5.0) == 2.5
    assert page.first_news(3.0, 5.0) is None
