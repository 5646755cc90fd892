"""When it would end if nothing happened: always what `decide` will say then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.culling import Cull, CullPolicy, Keep, ServerView, decide, forecast, if_nothing_happens
from labspawner.model import Activity, Evidence, HostLook, Work, WorkKind

MOMENT = timedelta(microseconds=1)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def a_view(last_use_min: float = 0, **changes: Any) -> ServerView:
    report = Activity(taken_at=NOW, valid_until=NOW + timedelta(minutes=3), last_activity=ago(minutes=last_use_min))
    values: dict[str, Any] = {
        "user": "student1",
        "server_name": "",
        "started": ago(hours=2),
        "known": Evidence(report=report),
    }
    return ServerView(**{**values, **changes})


def test_an_idle_server_ends_at_its_limit_with_the_marks_before_it():
    found = forecast(a_view(15), CullPolicy(after_s=1200, warn_s=(120, 600)), NOW)

    assert found.ends_at == NOW + timedelta(minutes=5)
    assert found.cause == "idle"
    assert found.warn_at == (ago(minutes=5), NOW + timedelta(minutes=3))
    assert found.reason == "idle for only 15 min; this profile's limit is 20 min"


def test_the_age_limit_comes_first_where_it_is_nearer():
    found = forecast(a_view(0), CullPolicy(after_s=7200, max_age_s=2.5 * 3600), NOW)

    assert (found.ends_at, found.cause) == (NOW + timedelta(minutes=30), "max_age")


def test_a_busy_server_ends_by_age_only():
    report = Activity(valid_until=NOW, work=(Work(kind=WorkKind.KERNEL, what="a"),), work_count=1)
    view = a_view(known=Evidence(report=report))

    assert forecast(view, CullPolicy(after_s=60), NOW).ends_at is None
    assert forecast(view, CullPolicy(after_s=60, max_age_s=9 * 3600), NOW).cause == "max_age"


@pytest.mark.parametrize("changes", [{"pending": "stop"}, {"ready": False}])
def test_what_does_not_run_has_no_forecast(changes):
    assert forecast(a_view(99, **changes), CullPolicy(after_s=60), NOW).ends_at is None


def test_without_a_policy_nothing_ends():
    assert forecast(a_view(99), None, NOW).ends_at is None
    assert forecast(a_view(99), CullPolicy(), NOW).ends_at is None


def test_what_is_due_says_since_when():
    assert forecast(a_view(30), CullPolicy(after_s=1200), NOW).ends_at == ago(minutes=10)


def test_a_server_that_is_late_to_be_warned_gets_one_mark():
    found = forecast(a_view(30), CullPolicy(after_s=1200, warn_s=(120,)), NOW)

    assert found.ends_at == ago(minutes=8)


def test_a_wish_moves_the_end():
    view = a_view(30)
    held = Evidence(report=view.known.report, held_until=NOW + timedelta(hours=1))

    assert forecast(a_view(known=held), CullPolicy(after_s=1200), NOW).ends_at == NOW + timedelta(hours=1)


instants = st.integers(-400, 60).map(lambda minutes: NOW + timedelta(minutes=minutes))
maybe = st.none() | instants
reports = st.none() | st.builds(
    Activity,
    taken_at=maybe,
    valid_until=maybe | st.just(NOW + timedelta(minutes=3)),
    last_activity=maybe,
    work_count=st.integers(0, 1),
    busy=st.none() | st.booleans(),
    gpu_last_busy=maybe,
)
hosts = st.none() | st.builds(HostLook, since=instants, looked_at=instants, last_busy=maybe)
views = st.builds(
    ServerView,
    user=st.just("u"),
    server_name=st.just(""),
    started=maybe,
    last_activity=maybe,
    known=st.builds(
        Evidence,
        expected=st.booleans(),
        report=reports,
        host=hosts,
        extended_until=maybe,
        held_until=maybe,
        warned_at=st.none() | st.integers(-60, 0).map(lambda minutes: NOW + timedelta(minutes=minutes)),
    ),
)
spans = st.none() | st.integers(1, 500).map(lambda minutes: minutes * 60.0)
policies = st.builds(
    CullPolicy,
    after_s=spans,
    gpu_after_s=spans,
    max_age_s=spans,
    warn_s=st.lists(st.integers(1, 30).map(lambda minutes: minutes * 60.0), max_size=3).map(tuple),
)


@settings(max_examples=600, deadline=None)
@given(views, policies)
def test_decide_culls_at_the_end_that_is_forecast_and_not_before(view, policy):
    found = forecast(view, policy, NOW)

    if found.ends_at is None:
        later = NOW + timedelta(days=400)
        assert isinstance(decide(if_nothing_happens(view, policy, NOW, later), policy, later), Keep)
        return
    at = max(found.ends_at, NOW)
    verdict = decide(if_nothing_happens(view, policy, NOW, at), policy, at)
    assert isinstance(verdict, Cull), (found, verdict)
    if found.ends_at > NOW:
        before = found.ends_at - MOMENT
        assert isinstance(decide(if_nothing_happens(view, policy, NOW, before), policy, before), Keep)


@settings(max_examples=300, deadline=None)
@given(views, policies, st.integers(0, 600))
def test_a_verdict_to_cull_stays_one_as_time_passes(view, policy, minutes):
    later = NOW + timedelta(minutes=minutes)

    if isinstance(decide(view, policy, NOW), Cull):
        assert isinstance(decide(if_nothing_happens(view, policy, NOW, later), policy, later), Cull)


@settings(max_examples=300, deadline=None)
@given(views, policies)
def test_nobody_is_culled_for_idleness_before_the_limit_since_the_last_use_that_anybody_saw(view, policy):
    verdict = decide(view, policy, NOW)
    report = view.known.report

    if isinstance(verdict, Cull) and verdict.cause == "idle" and report and report.last_activity:
        assert (NOW - report.last_activity).total_seconds() >= policy.after_s
