"""The decision itself: pure, so every case is a line."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from labspawner.culling import Cull, CullPolicy, Keep, ServerView, cause_of, decide, evidence
from labspawner.model import Activity, LeaseId, ReleaseMode
from labspawner.sentences import Sentence

IDLE_20_MIN = CullPolicy(after_s=1200)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def a_view(**changes: Any) -> ServerView:
    values: dict[str, Any] = {"user": "student1", "server_name": "", "started": ago(hours=1), "last_activity": NOW}
    return ServerView(**{**values, **changes})


def test_a_server_idle_for_longer_than_its_limit_is_culled_and_the_reason_says_both_times():
    verdict = decide(a_view(last_activity=ago(minutes=21, seconds=7)), IDLE_20_MIN, NOW)

    assert verdict == Cull(verdict.reason, ReleaseMode.STOP, "idle")
    assert verdict.reason == "idle for 21 min; this profile's limit is 20 min"
    assert verdict.reason.template == "idle for {idle}; this profile's limit is {limit}"


def test_a_server_idle_for_exactly_its_limit_is_culled():
    assert isinstance(decide(a_view(last_activity=ago(minutes=20)), IDLE_20_MIN, NOW), Cull)


def test_a_server_idle_for_less_than_its_limit_is_kept_and_the_reason_says_how_long():
    verdict = decide(a_view(last_activity=ago(seconds=45)), IDLE_20_MIN, NOW)

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == "idle for only 45 s; this profile's limit is 20 min"


def test_the_policy_says_what_is_done():
    policy = replace(IDLE_20_MIN, action=ReleaseMode.HIBERNATE)

    verdict = decide(a_view(last_activity=ago(hours=1)), policy, NOW)

    assert isinstance(verdict, Cull)
    assert verdict.action is ReleaseMode.HIBERNATE


def test_without_a_policy_a_server_is_kept_however_old_and_stuck():
    view = a_view(last_activity=ago(days=9), pending="spawn", pending_since=ago(days=9))

    assert decide(view, None, NOW) == Keep(Sentence("no cull policy applies to this server"))


def test_without_an_idle_limit_an_idle_server_is_kept():
    assert decide(a_view(last_activity=ago(days=9)), CullPolicy(), NOW) == Keep(
        Sentence("this profile has no idle limit")
    )


def test_a_server_that_is_neither_ready_nor_pending_is_kept():
    assert decide(a_view(ready=False, last_activity=ago(days=9)), IDLE_20_MIN, NOW) == Keep(Sentence("not running"))


def test_a_server_that_was_never_used_is_idle_since_its_start():
    verdict = decide(a_view(last_activity=None, started=ago(minutes=30)), IDLE_20_MIN, NOW)

    assert verdict.reason == "idle for 30 min; this profile's limit is 20 min"


def test_a_start_counts_as_activity_after_a_resume():
    view = a_view(last_activity=ago(days=7), started=ago(minutes=1))

    assert isinstance(decide(view, IDLE_20_MIN, NOW), Keep)


def test_a_server_of_which_nothing_is_known_is_kept():
    verdict = decide(a_view(last_activity=None, started=None), CullPolicy(after_s=1, max_age_s=1), NOW)

    assert verdict == Keep(Sentence("nothing is known of its activity"))


def test_a_busy_server_is_kept_and_the_reason_names_the_evidence():
    view = a_view(last_activity=ago(hours=9), activity=Activity(busy=True, evidence="a kernel is running"))

    assert decide(view, IDLE_20_MIN, NOW) == Keep(Sentence("in use: {evidence}", evidence="a kernel is running"))


def test_busy_without_words_still_keeps():
    verdict = decide(a_view(last_activity=ago(hours=9), activity=Activity(busy=True)), IDLE_20_MIN, NOW)

    assert verdict.reason == "in use: busy"


def test_newer_evidence_of_the_provider_counts_as_activity():
    view = a_view(last_activity=ago(hours=9), activity=Activity(last_activity=ago(minutes=2)))

    assert isinstance(decide(view, IDLE_20_MIN, NOW), Keep)


@pytest.mark.parametrize("activity", [None, Activity(), Activity(busy=False), Activity(last_activity=ago(days=2))])
def test_evidence_that_is_missing_or_says_idle_never_culls_by_itself(activity):
    assert isinstance(decide(a_view(last_activity=ago(minutes=1), activity=activity), IDLE_20_MIN, NOW), Keep)


def test_a_server_older_than_its_limit_is_culled_though_it_is_busy():
    view = a_view(started=ago(hours=4, minutes=2), activity=Activity(busy=True))

    verdict = decide(view, CullPolicy(max_age_s=4 * 3600), NOW)

    assert verdict == Cull(verdict.reason, ReleaseMode.STOP, "max_age")
    assert verdict.reason == "running for 4 h 2 min; this profile's limit is 4 h"


def test_the_age_of_a_server_whose_start_is_unknown_never_culls():
    assert isinstance(decide(a_view(started=None), CullPolicy(max_age_s=1), NOW), Keep)


@pytest.mark.parametrize("ahead", [timedelta(seconds=3), timedelta(minutes=59), timedelta(days=4000)])
def test_activity_in_the_future_counts_as_activity_now(ahead):
    verdict = decide(a_view(last_activity=NOW + ahead, started=NOW + ahead), CullPolicy(after_s=1, max_age_s=1), NOW)

    assert verdict.reason == "idle for only 0 s; this profile's limit is 1 s"


@pytest.mark.parametrize(
    ("pending", "reason"),
    [
        ("spawn", "a start is in progress"),
        ("stop", "a stop is in progress"),
        ("check", "the hub is busy with it: check"),
        ("rename", "the hub is busy with it: rename"),
    ],
)
def test_a_pending_server_is_kept_though_it_is_idle_and_old(pending, reason):
    view = a_view(ready=False, pending=pending, pending_since=ago(minutes=5), last_activity=ago(days=1))

    verdict = decide(view, CullPolicy(after_s=1, max_age_s=1, stuck_after_s=1800), NOW)

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == reason


@pytest.mark.parametrize(
    ("pending", "reason"),
    [
        ("spawn", "stuck in starting for 31 min"),
        ("stop", "stuck in stopping for 31 min"),
        ("check", "stuck in check for 31 min"),
    ],
)
def test_a_server_pending_for_too_long_is_culled(pending, reason):
    view = a_view(ready=False, pending=pending, pending_since=ago(minutes=31))

    verdict = decide(view, CullPolicy(stuck_after_s=1800), NOW)

    assert verdict == Cull(verdict.reason, ReleaseMode.STOP, "stuck")
    assert verdict.reason == reason


@pytest.mark.parametrize("stuck_after_s", [None, 1800])
def test_a_server_that_waits_in_line_is_never_stuck(stuck_after_s):
    view = a_view(ready=False, pending="spawn", pending_since=None, started=ago(hours=9))

    assert isinstance(decide(view, CullPolicy(stuck_after_s=stuck_after_s), NOW), Keep)


@pytest.mark.parametrize("field", ["started", "last_activity", "pending_since"])
def test_a_view_with_an_instant_without_timezone_is_refused(field):
    with pytest.raises(ValueError, match="timezone"):
        a_view(**{field: datetime(2026, 1, 1)})  # noqa: DTZ001


def test_a_view_with_evidence_without_timezone_is_refused():
    with pytest.raises(ValueError, match="timezone"):
        a_view(activity=Activity(last_activity=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_the_evidence_holds_what_is_known_and_nothing_else():
    view = a_view(lease_id=LeaseId("l1"), activity=Activity(busy=False, evidence="no kernel"), started=None)

    assert evidence(view) == {"last_activity": NOW.isoformat(), "busy": False, "provider_evidence": "no kernel"}


# A busy machine is no failure.
patient = settings(deadline=None)
seconds = st.floats(min_value=1, max_value=10**7)
instants = st.datetimes(datetime(2026, 6, 1), datetime(2027, 3, 1), timezones=st.just(timezone.utc))  # noqa: DTZ001
policies = st.builds(
    CullPolicy,
    after_s=st.none() | seconds,
    max_age_s=st.none() | seconds,
    stuck_after_s=st.none() | seconds,
    action=st.sampled_from(ReleaseMode),
)
views = st.builds(
    ServerView,
    user=st.just("u"),
    server_name=st.just(""),
    ready=st.booleans(),
    pending=st.sampled_from([None, None, "spawn", "stop", "check"]),
    pending_since=st.none() | instants,
    started=st.none() | instants,
    last_activity=st.none() | instants,
    activity=st.none()
    | st.builds(Activity, last_activity=st.none() | instants, busy=st.none() | st.booleans(), evidence=st.just("")),
)


@patient
@given(views, st.none() | policies, instants)
def test_every_verdict_has_a_reason(view, policy, now):
    reason = decide(view, policy, now).reason

    assert isinstance(reason, Sentence)
    assert reason.strip()


@patient
@given(views, policies, instants, st.floats(min_value=0, max_value=1))
def test_recent_activity_is_never_culled_for_idleness(view, policy, now, share):
    recent = now - timedelta(seconds=(policy.after_s or 1) * share * 0.999)

    verdict = decide(replace(view, last_activity=recent), policy, now)

    assert isinstance(verdict, Keep) or verdict.cause in {"max_age", "stuck"}
    assert isinstance(verdict, Keep) or cause_of(verdict.reason) == verdict.cause


@patient
@given(views, st.none() | policies, instants, st.timedeltas(timedelta(0), timedelta(days=300)))
def test_a_verdict_to_cull_stays_as_time_passes(view, policy, now, later):
    if isinstance(decide(view, policy, now), Cull):
        assert isinstance(decide(view, policy, now + later), Cull)


@patient
@given(views, policies, instants)
def test_evidence_of_work_only_ever_keeps(view, policy, now):
    idle = replace(view, activity=None)
    busy = replace(view, activity=Activity(busy=True))

    if isinstance(decide(idle, policy, now), Keep):
        assert isinstance(decide(busy, policy, now), Keep)


def test_the_kind_of_an_idle_cull_can_be_read_back_from_its_reason():
    verdict = decide(a_view(last_activity=ago(minutes=21)), IDLE_20_MIN, NOW)

    assert isinstance(verdict, Cull)
    assert cause_of(verdict.reason) == verdict.cause == "idle"
