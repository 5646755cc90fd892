"""The verdict on a slice, read in what a server prints: a stranger's words."""

from __future__ import annotations

import json

import pytest

from labspawner.extension.slices import LOG_MARK
from labspawner.gpu.verdict import NOBODY_TESTS
from labspawner.model import SliceTest
from labspawner.providers.kubernetes.trying import verdict_in

PASSED = LOG_MARK + json.dumps({part: {"verdict": "passed"} for part in ("server", "kernel")})
FAILED = LOG_MARK + json.dumps({part: {"verdict": "failed", "reason": "too much"} for part in ("server", "kernel")})
BEGUN = LOG_MARK + json.dumps({"begun": True})


@pytest.mark.parametrize(
    ("lines", "tested"),
    [
        ([BEGUN, PASSED], SliceTest.PASSED),
        ([BEGUN, FAILED], SliceTest.FAILED),
        (["noise", PASSED, "more noise"], SliceTest.PASSED),
        ([PASSED, FAILED], SliceTest.FAILED),
    ],
)
def test_the_last_verdict_counts(lines: list[str], tested: SliceTest):
    found = verdict_in("\n".join(lines))

    assert found is not None
    assert found.tested is tested


def test_a_test_that_runs_has_no_verdict_yet():
    assert verdict_in(BEGUN) is None
    assert verdict_in(LOG_MARK + '{"server": {"verd') is None


@pytest.mark.parametrize("text", ["", "noise", f"x {PASSED}"])
def test_where_none_was_begun_nobody_tests(text: str):
    assert verdict_in(text) is NOBODY_TESTS
