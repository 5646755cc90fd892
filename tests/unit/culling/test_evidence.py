"""Deciding by evidence: what is work, what is idle, and what nobody can tell. Pure, so every case is a line."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW

from labspawner.culling import Cull, CullPolicy, Keep, ServerView, decide, evidence
from labspawner.model import Activity, Evidence, HostLook, ReleaseMode, Work, WorkKind

IDLE_20_MIN = CullPolicy(after_s=1200)
WARNED = CullPolicy(after_s=1200, warn_s=(600, 120))


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def a_report(**changes: Any) -> Activity:
    """A report that came just now, of a server that nobody has used for hours."""
    values: dict[str, Any] = {
        "taken_at": NOW,
        "valid_until": NOW + timedelta(minutes=3),
        "last_activity": ago(hours=3),
        "clients": 0,
    }
    return Activity(**{**values, **changes})


def a_view(report: Activity | None = None, **changes: Any) -> ServerView:
    """A server with an open page, which the hub therefore calls active."""
    values: dict[str, Any] = {"user": "student1", "server_name": "", "started": ago(hours=9), "last_activity": NOW}
    known = {name: changes.pop(name) for name in list(changes) if name in Evidence.__dataclass_fields__}
    return ServerView(**{**values, **changes}, known=Evidence(report=report, **known))


def a_cell(**changes: Any) -> Activity:
    work = Work(kind=WorkKind.KERNEL, what="train.ipynb", since=ago(hours=2, minutes=5))
    return a_report(work=(work,), work_count=1, **changes)


def a_quiet_host(**changes: Any) -> HostLook:
    return HostLook(**{"since": ago(hours=9), "looked_at": ago(minutes=1), **changes})


# -- a fresh report ----------------------------------------------------------------------------------------------------


def test_a_forgotten_tab_is_idle_though_the_hub_sees_traffic_and_the_reason_says_so():
    verdict = decide(a_view(a_report(clients=1)), IDLE_20_MIN, NOW)

    assert isinstance(verdict, Cull)
    assert verdict.cause == "idle"
    assert verdict.reason == (
        "idle for 3 h; this profile's limit is 20 min (a page was open, but nobody used it and nothing ran)"
    )


def test_a_silent_busy_cell_with_its_tab_closed_is_work():
    verdict = decide(a_view(a_cell(), last_activity=ago(hours=9)), IDLE_20_MIN, NOW)

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == "in use: a cell of train.ipynb has been running for 2 h 5 min"


def test_a_program_in_the_foreground_of_a_terminal_is_work():
    work = Work(kind=WorkKind.TERMINAL, what="python train.py", since=None)

    verdict = decide(a_view(a_report(work=(work,), work_count=3)), IDLE_20_MIN, NOW)

    assert verdict.reason == "in use: python train.py is running in a terminal, and 2 more"
    assert isinstance(verdict, Keep)


def test_a_program_says_for_how_long_it_has_been_running():
    work = Work(kind=WorkKind.TERMINAL, what="python train.py", since=ago(minutes=90))

    reason = decide(a_view(a_report(work=(work,), work_count=1)), IDLE_20_MIN, NOW).reason

    assert reason == "in use: python train.py has been running in a terminal for 1 h 30 min"


def test_a_cell_that_waits_for_input_is_no_work():
    verdict = decide(a_view(a_report(waiting=1, clients=1)), IDLE_20_MIN, NOW)

    assert isinstance(verdict, Cull)
    assert "a cell waits for input" in verdict.reason


@pytest.mark.parametrize("clients", [None, 0])
def test_a_quiet_server_without_pages_is_idle(clients):
    verdict = decide(a_view(a_report(clients=clients), last_activity=ago(hours=3)), IDLE_20_MIN, NOW)

    assert verdict.reason.endswith("(nobody used it and nothing ran)")


def test_the_newest_real_use_in_the_report_counts():
    verdict = decide(a_view(a_report(last_activity=ago(minutes=4))), IDLE_20_MIN, NOW)

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == "idle for only 4 min; this profile's limit is 20 min"


def test_a_server_that_was_never_used_is_idle_since_its_start():
    verdict = decide(a_view(a_report(last_activity=None), started=ago(minutes=30)), IDLE_20_MIN, NOW)

    assert str(verdict.reason).startswith("idle for 30 min")


def test_a_report_of_which_nothing_follows_keeps():
    verdict = decide(a_view(a_report(last_activity=None), started=None), IDLE_20_MIN, NOW)

    assert verdict == Keep(verdict.reason)


def test_busy_for_ever_is_ended_by_the_age_limit():
    verdict = decide(a_view(a_cell()), CullPolicy(after_s=1200, max_age_s=3600), NOW)

    assert isinstance(verdict, Cull)
    assert verdict.cause == "max_age"


def test_a_report_that_only_says_busy_still_keeps():
    assert decide(a_view(a_report(busy=True)), IDLE_20_MIN, NOW).reason == "in use: it says that it is busy"


def test_a_long_name_does_not_fill_the_page():
    work = Work(kind=WorkKind.KERNEL, what="x" * 500, since=None)

    reason = decide(a_view(a_report(work=(work,), work_count=1)), IDLE_20_MIN, NOW).reason

    assert len(reason) < 150


# -- no report, where there should be one ------------------------------------------------------------------------------

STALE = {"taken_at": ago(hours=1), "valid_until": ago(minutes=57)}


@pytest.mark.parametrize("known", [{"expected": True}, {"report": a_report(**STALE)}])
@pytest.mark.parametrize("host", [None, a_quiet_host(looked_at=ago(minutes=11))])
def test_missing_evidence_is_unknown_and_never_culled_on_that_alone(known, host):
    view = a_view(known.get("report"), expected=known.get("expected", False), host=host, last_activity=ago(days=2))

    verdict = decide(view, IDLE_20_MIN, NOW)

    assert verdict == Keep(verdict.reason)
    assert str(verdict.reason).startswith("unknown")


def test_missing_evidence_with_old_traffic_and_a_quiet_host_is_idle_and_says_why():
    view = a_view(a_report(**STALE), host=a_quiet_host(), last_activity=ago(minutes=45))

    verdict = decide(view, IDLE_20_MIN, NOW)

    assert verdict.reason == (
        "idle for 45 min; this profile's limit is 20 min (it sends no reports; no traffic came and its host saw no work)"
    )
    assert isinstance(verdict, Cull)


@pytest.mark.parametrize(
    "changes",
    [
        {"last_activity": ago(minutes=5)},
        {"host": a_quiet_host(last_busy=ago(minutes=5))},
        {"host": a_quiet_host(since=ago(minutes=5))},
        {"report": a_report(**{**STALE, "last_activity": ago(minutes=5)})},
        {"report": a_cell(**{**STALE, "taken_at": ago(minutes=5)})},
        {"started": ago(minutes=5)},
    ],
)
def test_any_sign_of_use_keeps_a_server_without_reports(changes):
    report = changes.pop("report", a_report(**STALE))

    verdict = decide(
        a_view(report, **{"host": a_quiet_host(), "last_activity": ago(days=1), **changes}), IDLE_20_MIN, NOW
    )

    assert verdict.reason == "idle for only 5 min; this profile's limit is 20 min"


def test_a_server_of_which_no_reports_are_expected_is_judged_by_the_hub():
    assert isinstance(decide(a_view(last_activity=ago(hours=1)), IDLE_20_MIN, NOW), Cull)
    assert isinstance(decide(a_view(last_activity=ago(minutes=1)), IDLE_20_MIN, NOW), Keep)


def test_work_that_the_host_measured_keeps_a_server_that_never_reports():
    view = a_view(last_activity=ago(hours=1), host=a_quiet_host(last_busy=ago(minutes=3)))

    assert isinstance(decide(view, IDLE_20_MIN, NOW), Keep)


# -- wishes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "word"), [("held_until", "held"), ("extended_until", "extended")])
@pytest.mark.parametrize("report", [None, a_report()])
def test_a_wish_keeps_until_its_instant_and_not_beyond(wish, word, report):
    view = a_view(report, last_activity=ago(hours=3), **{wish: NOW + timedelta(minutes=30, seconds=5)})

    verdict = decide(view, IDLE_20_MIN, NOW)
    later = NOW + timedelta(minutes=31)
    renewed = replace(view, known=replace(view.known, report=report and replace(report, valid_until=later)))

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == f"{word} for another 30 min"
    assert isinstance(decide(renewed, IDLE_20_MIN, later), Cull)


def test_a_wish_does_not_lift_the_age_limit():
    view = a_view(a_report(), held_until=NOW + timedelta(days=1))

    assert decide(view, CullPolicy(after_s=1200, max_age_s=3600), NOW).cause == "max_age"


# -- warnings ----------------------------------------------------------------------------------------------------------


def idle_for(minutes: float, **known: Any) -> ServerView:
    return a_view(a_report(last_activity=ago(minutes=minutes)), **known)


def test_a_server_that_reports_is_not_culled_before_it_was_warned():
    verdict = decide(idle_for(20.5), WARNED, NOW)

    assert verdict == Keep(verdict.reason)
    assert verdict.reason == "idle for 20 min, and being warned; this profile's limit is 20 min"


def test_a_warning_that_was_never_asked_for_delays_by_one_mark_only():
    assert isinstance(decide(idle_for(21.99), WARNED, NOW), Keep)
    assert isinstance(decide(idle_for(22), WARNED, NOW), Cull)


def test_a_warning_given_at_its_mark_costs_no_time():
    assert isinstance(decide(idle_for(20, warned_at=ago(minutes=2)), WARNED, NOW), Cull)


def test_a_warning_given_late_is_given_in_full():
    assert isinstance(decide(idle_for(20.5, warned_at=ago(minutes=1)), WARNED, NOW), Keep)
    assert isinstance(decide(idle_for(21.5, warned_at=ago(minutes=2)), WARNED, NOW), Cull)


def test_a_warning_of_an_earlier_end_does_not_count():
    assert isinstance(decide(idle_for(20.5, warned_at=ago(hours=1)), WARNED, NOW), Keep)


def test_a_server_without_reports_is_culled_without_a_warning():
    assert isinstance(decide(a_view(last_activity=ago(minutes=20)), WARNED, NOW), Cull)


# -- the GPU -----------------------------------------------------------------------------------------------------------


def test_an_idle_gpu_ends_the_server_though_a_cell_is_busy():
    verdict = decide(a_view(a_cell(gpu_last_busy=ago(minutes=25))), CullPolicy(gpu_after_s=1200), NOW)

    assert verdict == Cull(verdict.reason, ReleaseMode.STOP, "gpu")
    assert verdict.reason == "its GPU did nothing for 25 min; this profile's limit is 20 min"


@pytest.mark.parametrize("report", [a_report(), a_report(gpu_last_busy=ago(minutes=1)), None])
def test_a_gpu_that_works_or_is_not_known_ends_nothing(report):
    assert isinstance(decide(a_view(report), CullPolicy(gpu_after_s=1200), NOW), Keep)


def test_the_gpu_of_a_server_that_started_just_now_is_not_idle():
    view = a_view(a_report(gpu_last_busy=ago(hours=5)), started=ago(minutes=1))

    assert isinstance(decide(view, CullPolicy(gpu_after_s=1200), NOW), Keep)


# -- what is kept of it ------------------------------------------------------------------------------------------------


def test_the_evidence_names_all_that_was_known():
    view = a_view(
        a_cell(waiting=1, unsaved=2, gpu_last_busy=NOW),
        host=a_quiet_host(last_busy=NOW),
        expected=True,
        held_until=NOW,
        extended_until=NOW,
        warned_at=NOW,
    )

    facts = evidence(view)

    assert facts["work"] == [{"kind": "kernel", "what": "train.ipynb", "since": ago(hours=2, minutes=5).isoformat()}]
    assert facts.keys() >= {"reported_at", "last_use", "open_pages", "unsaved", "host_last_busy", "held_until"}


@pytest.mark.parametrize("name", ["extended_until", "held_until", "warned_at"])
def test_an_instant_without_a_timezone_is_refused(name):
    with pytest.raises(ValueError, match="timezone"):
        a_view(**{name: datetime(2026, 1, 1)})  # noqa: DTZ001
