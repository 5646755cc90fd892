"""`labspawner bench pve`: a missed target is seen, and ends with 1. The measurement itself is for a quiet machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from labspawner.cli.bench.pve import STUDENTS, Row, Storm, compare, show, soak_rows
from labspawner.testing.pvesoak import Report

NAIVE = Storm(ready=1, failures=Counter({"id taken": 19}), all_ready_s=37.0, requests=2.6, stall_ms=0.0)
OURS = Storm(ready=STUDENTS, failures=Counter(), all_ready_s=70.0, requests=17.5, stall_ms=50.0)


def rows(*, ours: Storm = OURS, **changes: float) -> dict[str, Row]:
    values = {"per_hour": 160.0, "cold_s": 100.0, "resume_s": 7.0, **changes}
    return {row.what: row for row in compare(NAIVE, ours, **values)}


def missed(found: dict[str, Row]) -> list[str]:
    return [what for what, row in found.items() if not row.reached]


def test_what_was_measured_once_reaches_every_target():
    assert missed(rows()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"per_hour": 801.0}, "API requests, idle hour, 100 VMs"),
        ({"resume_s": 10.1}, "resume, of a cold start"),
        ({"ours": replace(OURS, ready=19)}, "ready, of 20 at once"),
        ({"ours": replace(OURS, failures=Counter({"busy": 1}))}, "failures that students read"),
        ({"ours": replace(OURS, requests=25.1)}, "API requests, a start"),
        ({"ours": replace(OURS, stall_ms=101.0)}, "event loop, longest stall"),
    ],
)
def test_each_target_can_be_missed(changes, what):
    assert missed(rows(**changes)) == [what]


@pytest.mark.parametrize("field", ["lost", "left", "unseen", "unsaid"])
def test_a_soak_that_lost_something_has_missed_its_target(field):
    report = Report(spawns=1000, ready=700)
    getattr(report, field).append("VM 20001")

    assert sum(not row.reached for row in soak_rows(report)) == 1
    assert not report.good


def test_the_table_names_targets_and_what_missed_them(capsys):
    show(list(rows(per_hour=900.0).values()))

    said = capsys.readouterr().out
    assert "<= 800" in said
    assert said.count("MISSED") == 1
