"""Reports: what a student may have written becomes evidence, or is refused with the name of the field."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.evidence import BadReport, parse_hold, parse_report
from labspawner.evidence.report import MAX_BYTES, MAX_LISTED, MAX_SHOWN
from labspawner.model import Activity, Work, WorkKind

VALID = timedelta(minutes=3)
MINUTE = timedelta(minutes=1)


def iso(minutes: float) -> str:
    return (NOW - minutes * MINUTE).isoformat()


def read(**changes: Any) -> Activity:
    return parse(json.dumps({"v": 1, "at": NOW.isoformat(), **changes}).encode())


def parse(body: bytes) -> Activity:
    return parse_report(body, now=NOW, valid_for=VALID)


def a_kernel(**changes: Any) -> dict[str, Any]:
    values = {"id": "k1", "name": "python3", "path": "a.ipynb", "busy_since": None, "last_execution": None}
    return {**values, "waiting_for_input": False, **changes}


def a_terminal(**changes: Any) -> dict[str, Any]:
    return {"name": "1", "foreground": None, "since": None, "last_activity": None, **changes}


def test_an_empty_report_says_only_that_it_came():
    assert read() == Activity(taken_at=NOW, valid_until=NOW + VALID)


def test_what_is_said_of_pages_and_documents_is_kept():
    report = read(clients={"connected": 2, "last_input": iso(4), "visible": True}, unsaved=["a.ipynb", "b.py"])

    assert (report.clients, report.unsaved, report.last_activity) == (2, 2, NOW - 4 * MINUTE)


def test_busy_cells_and_foreground_programs_are_work_the_longest_first():
    report = read(
        kernels=[a_kernel(busy_since=iso(3)), a_kernel(path="", busy_since=iso(9)), a_kernel()],
        terminals=[a_terminal(), a_terminal(foreground="python train.py", since=iso(60))],
    )

    assert report.work == (
        Work(kind=WorkKind.TERMINAL, what="python train.py", since=NOW - 60 * MINUTE),
        Work(kind=WorkKind.KERNEL, what="python3", since=NOW - 9 * MINUTE),
        Work(kind=WorkKind.KERNEL, what="a.ipynb", since=NOW - 3 * MINUTE),
    )
    assert report.work_count == 3


def test_a_cell_that_waits_for_input_is_counted_apart():
    report = read(kernels=[a_kernel(busy_since=iso(3), waiting_for_input=True), a_kernel(waiting_for_input=True)])

    assert (report.work_count, report.waiting) == (0, 1)


@pytest.mark.parametrize(
    "use",
    [
        {"last_activity": iso(5)},
        {"clients": {"last_input": iso(5)}},
        {"kernels": [a_kernel(last_execution=iso(5))]},
        {"terminals": [a_terminal(last_activity=iso(5))]},
    ],
)
def test_the_newest_use_counts_wherever_it_stands(use):
    old = {"last_activity": iso(50), "clients": {"last_input": iso(60)}}

    assert read(**{**old, **use}).last_activity == NOW - 5 * MINUTE


def test_a_servers_clock_that_is_wrong_does_not_matter():
    report = read(at=iso(-90), last_activity=iso(-85), kernels=[a_kernel(busy_since=iso(-80))])

    assert report.taken_at == NOW
    assert report.last_activity == NOW - 5 * MINUTE
    assert report.work[0].since == NOW - 10 * MINUTE


@pytest.mark.parametrize("instant", [iso(-5), "9999-12-31T23:59:59+00:00"])
def test_the_future_is_now(instant):
    assert read(last_activity=instant).last_activity == NOW


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"])
def test_what_is_older_than_ten_years_is_that_old(instant):
    assert NOW - timedelta(days=3661) < read(last_activity=instant).last_activity < NOW - timedelta(days=3650)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-14:00"])
def test_any_clock_is_read_without_an_accident(at):
    assert read(at=at, last_activity=NOW.isoformat()).last_activity <= NOW


def test_unknown_keys_are_left_alone():
    report = read(gpus=[{"uuid": 1}], kernels=[a_kernel(colour="red")], clients={"connected": 1, "browser": "x"})

    assert report.clients == 1


def test_only_a_few_works_are_kept_and_all_are_counted():
    report = read(kernels=[a_kernel(busy_since=iso(number)) for number in range(MAX_LISTED)])

    assert (len(report.work), report.work_count) == (MAX_SHOWN, MAX_LISTED)


def test_a_long_name_is_cut():
    assert len(read(kernels=[a_kernel(path="x" * 5000, busy_since=iso(1))]).work[0].what) == 200


def test_a_kernel_without_a_name_is_work_too():
    assert read(kernels=[{"busy_since": iso(1)}]).work[0].what == "?"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"v": 2}, "v"),
        ({"v": "1"}, "v"),
        ({"v": True}, "v"),
        ({"v": 1.0}, "v"),
        ({"at": None}, "at"),
        ({"at": "2026-11-02T10:00:00"}, "at"),
        ({"at": 1793613600}, "at"),
        ({"last_activity": "yesterday"}, "last_activity"),
        ({"last_activity": ["2026"]}, "last_activity"),
        ({"kernels": {}}, "kernels"),
        ({"kernels": [1]}, "kernels"),
        ({"kernels": [{}] * (MAX_LISTED + 1)}, "kernels"),
        ({"kernels": [a_kernel(busy_since=True)]}, "busy_since"),
        ({"kernels": [a_kernel(waiting_for_input="no")]}, "waiting_for_input"),
        ({"kernels": [a_kernel(id=7)]}, "id"),
        ({"kernels": [a_kernel(path=["a"])]}, "path"),
        ({"terminals": [a_terminal(foreground=1)]}, "foreground"),
        ({"terminals": [a_terminal(name=1)]}, "name"),
        ({"terminals": [None]}, "terminals"),
        ({"clients": []}, "clients"),
        ({"clients": {"connected": -1}}, "connected"),
        ({"clients": {"connected": 1e9}}, "connected"),
        ({"clients": {"connected": True}}, "connected"),
        ({"clients": {"connected": 10**30}}, "connected"),
        ({"clients": {"visible": 1}}, "visible"),
        ({"unsaved": "a"}, "unsaved"),
        ({"unsaved": [1]}, "unsaved"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_name(changes, field):
    with pytest.raises(BadReport) as refused:
        read(**changes)

    assert f"The report's {field} must be" in refused.value.message
    assert refused.value.status_code == 400


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'"x"', b"[" * 50_000, b"NaN"])
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(BadReport):
        parse(body)


def test_a_report_that_is_too_large_is_refused_unread():
    with pytest.raises(BadReport, match="larger than 64 KiB"):
        parse(b"{" + b" " * MAX_BYTES + b"}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
fields = st.sampled_from(["v", "at", "last_activity", "kernels", "terminals", "clients", "unsaved"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(fields, json_values, max_size=4), st.binary(max_size=200))
def test_any_bytes_are_evidence_or_a_sentence(changes, body):
    for text in (body, json.dumps({"v": 1, "at": NOW.isoformat(), **changes}).encode()):
        with suppress(BadReport):
            report = parse(text)
            assert report.last_activity is None or report.last_activity <= NOW


@pytest.mark.parametrize(
    ("body", "seconds"), [(b'{"seconds": 7200}', 7200), (b'{"seconds": 0}', 0), (b'{"seconds": 0.5}', 0.5)]
)
def test_a_hold_is_a_number_of_seconds(body, seconds):
    assert parse_hold(body) == seconds


@pytest.mark.parametrize("value", ["-1", '"2h"', "null", "true", "NaN", "Infinity", "1e300", "[]"])
def test_anything_else_is_no_hold(value):
    with pytest.raises(BadReport, match="seconds"):
        parse_hold(b'{"seconds": ' + value.encode() + b"}")
    with pytest.raises(BadReport):
        parse_hold(b"{}")
