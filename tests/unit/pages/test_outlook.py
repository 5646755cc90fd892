"""What the culler's rules mean for a running server, in words: every case is a line."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import NOW

from labspawner.culling import ServerView, forecast
from labspawner.culling.policy import CullPolicy
from labspawner.model import Activity, Ending, Evidence, Work, WorkKind
from labspawner.pages.home.facts import Inside, LastEnd, Outlook, ServerFacts, ServerStatus, Used
from labspawner.pages.home.outlook import inside_of, outlook_of
from labspawner.pages.home.words import Tone, card, ends_at
from labspawner.pages.i18n import CHINESE, catalog
from labspawner.sentences import Sentence

SLEEPS = {"after_s": 1200, "action": "hibernate"}


def ago(**span):
    return NOW - timedelta(**span)


def a_view(**changes):
    values = {"user": "student1", "server_name": "", "started": ago(hours=1), "last_activity": ago(minutes=8)}
    return ServerView(**{**values, **changes})


def reported(**changes):
    report = Activity(taken_at=NOW, valid_until=NOW + timedelta(minutes=3), **changes)
    return Evidence(expected=True, report=report)


def said(outlook, **facts):
    values = {"name": "", "label": "", "status": ServerStatus.RUNNING, "outlook": outlook, **facts}
    return card(ServerFacts(**values), NOW)


def lines(view, **cull):
    return [str(line) for line in said(outlook_of(view, {"cull": cull}, NOW)).end]


@pytest.mark.parametrize(
    ("view", "cull", "words"),
    [
        (a_view(), {"after_s": 1200}, "Stops in 12 min unless used: idle for 8 min."),
        (a_view(last_activity=NOW), {"after_s": 1200}, "In use. Stops after 20 min without use."),
        (a_view(), SLEEPS, "Hibernates in 12 min unless used: idle for 8 min."),
        (a_view(last_activity=NOW), SLEEPS, "In use. Hibernates after 20 min without use."),
        (a_view(last_activity=ago(minutes=25)), SLEEPS, "Hibernates any moment unless used: idle for 25 min."),
        (
            a_view(known=Evidence(held_until=NOW + timedelta(hours=2))),
            SLEEPS,
            f"Not hibernated as idle before {NOW + timedelta(hours=2)}: you asked to keep it.",
        ),
        (a_view(last_activity=ago(minutes=25)), {"after_s": 1200}, "Stops any moment unless used: idle for 25 min."),
        (a_view(), {}, "It has no time limit."),
        (a_view(), {"after_s": "nonsense"}, "It has no time limit."),
        (a_view(started=ago(hours=5)), {"max_age_s": 4 * 3600}, "Ends any moment, used or not: its limit is 4 h."),
        (
            a_view(known=reported(last_activity=ago(minutes=8), clients=1)),
            {"after_s": 1200},
            "Stops in 12 min unless used: idle for 8 min.",
        ),
        (
            a_view(known=Evidence(held_until=NOW + timedelta(hours=2))),
            {"after_s": 1200},
            f"Not stopped as idle before {NOW + timedelta(hours=2)}: you asked to keep it.",
        ),
        (
            a_view(known=Evidence(extended_until=NOW + timedelta(minutes=42))),
            {"after_s": 1200},
            "Stops in 42 min unless used: idle for 8 min.",
        ),
        (
            a_view(known=reported(last_activity=NOW, gpu_last_busy=ago(minutes=15))),
            {"after_s": 3600, "gpu_after_s": 1200},
            "Stops in 5 min unless its GPU works: that did nothing for 15 min.",
        ),
    ],
)
def test_when_a_server_stops_is_said_with_the_reason(view, cull, words):
    assert lines(view, **cull) == [words]


def test_work_keeps_a_server_and_its_age_ends_it_all_the_same():
    work = (Work(kind=WorkKind.KERNEL, what="train.ipynb", since=ago(hours=3)),)
    view = a_view(known=reported(busy=True, work=work, work_count=1))

    age, idle = lines(view, after_s=1200, max_age_s=4 * 3600)

    assert age.startswith("Ends at ")
    assert idle == "Not stopped as idle now: in use: a cell of train.ipynb has been running for 3 h."


@pytest.mark.parametrize("idle", [0, 5, 12, 19, 25])
@pytest.mark.parametrize("cull", [{"after_s": 1200}, {"max_age_s": 4000}, {"after_s": 1200, "max_age_s": 4000}])
def test_the_page_foresees_the_same_end_as_the_culler(idle, cull):
    view = a_view(last_activity=ago(minutes=idle))

    assert ends_at(outlook_of(view, {"cull": cull}, NOW)) == forecast(view, CullPolicy(**cull), NOW).ends_at


@pytest.mark.parametrize(
    ("left", "limit_s", "tone"),
    [(30, 3600, Tone.CALM), (14, 3600, Tone.SOON), (2, 3600, Tone.URGENT), (14, 1200, Tone.CALM), (9, 1200, Tone.SOON)],
)
def test_a_near_end_is_a_warning_but_a_short_limit_does_not_always_warn(left, limit_s, tone):
    outlook = Outlook(idle_since=ago(minutes=5), idle_limit_s=limit_s, idle_ends_at=NOW + timedelta(minutes=left))

    shown = said(outlook)

    assert shown.tone is tone
    assert ("ends" in shown.spoken) == (tone is not Tone.CALM)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (Inside(), ["Nothing was heard from inside the server yet."]),
        (
            Inside(reported_at=ago(minutes=9)),
            ["Nothing was heard from inside the server for 9 min; it is not stopped as idle on that alone."],
        ),
        (Inside(reported_at=NOW), ["Nothing runs in it"]),
        (Inside(reported_at=NOW, watching=True), ["Open in a browser"]),
        (Inside(reported_at=NOW, busy_kernels=1, busy_since=NOW), [f"1 busy kernel since {NOW}"]),
        (Inside(reported_at=NOW, busy_kernels=3, busy_since=NOW), [f"3 busy kernels, the first since {NOW}"]),
        (Inside(reported_at=NOW, busy_kernels=2), ["Busy kernels: 2"]),
        (Inside(reported_at=NOW, waiting_kernels=1), ["A kernel waits for your input"]),
        (Inside(reported_at=NOW, terminals=("python  train.py",)), ["A terminal runs python train.py"]),
        (Inside(reported_at=NOW, terminals=("a", "b")), ["2 terminals run something"]),
        (Inside(reported_at=NOW, unsaved=1), ["1 unsaved document"]),
    ],
)
def test_what_was_heard_from_inside_is_one_line(inside, words):
    assert [str(line) for line in said(Outlook(), inside=inside).evidence] == words


@pytest.mark.parametrize(
    ("inside", "asked"),
    [
        (Inside(reported_at=NOW), []),
        (Inside(reported_at=NOW, busy_kernels=1), ["A kernel is busy; its work ends."]),
        (
            Inside(reported_at=NOW, busy_kernels=2, busy_since=ago(hours=3)),
            ["Kernels have been busy for up to 3 h; their work ends."],
        ),
        (
            Inside(reported_at=NOW, terminals=("python " + "x" * 90,), unsaved=1),
            [f"python {'x' * 52}… runs in a terminal; it ends.", "1 document is not saved."],
        ),
    ],
)
def test_a_stop_asks_only_where_something_would_be_lost(inside, asked):
    assert [str(line) for line in said(Outlook(), inside=inside).stop.confirm] == asked


def test_a_report_is_read_as_kernels_terminals_and_open_pages():
    work = (
        Work(kind=WorkKind.KERNEL, what="a.ipynb", since=ago(hours=1)),
        Work(kind=WorkKind.KERNEL, what="b.ipynb", since=ago(hours=3)),
        Work(kind=WorkKind.TERMINAL, what="python train.py"),
    )

    inside = inside_of(reported(busy=True, work=work, work_count=5, clients=0, unsaved=2, waiting=1))

    assert inside == Inside(
        reported_at=NOW,
        busy_kernels=4,
        busy_since=ago(hours=3),
        waiting_kernels=1,
        terminals=("python train.py",),
        unsaved=2,
        watching=False,
    )
    assert inside_of(Evidence()) is None
    assert inside_of(Evidence(expected=True)) == Inside()


@pytest.mark.parametrize(
    ("used", "words", "tones"),
    [
        (Used(memory_bytes=3 * 2**30, memory_limit_bytes=4 * 2**30), ["3.0 of 4 GiB"], [Tone.CALM]),
        (Used(memory_bytes=700 * 2**20, memory_limit_bytes=768 * 2**20), ["700 of 768 MiB"], [Tone.SOON]),
        (Used(memory_bytes=500, memory_limit_bytes=1000 * 2**10), ["0 of 1000 KiB"], [Tone.CALM]),
        (Used(cores=4.2, cores_limit=2.0), ["4.2 of 2 cores"], [Tone.CALM]),
        (Used(cores=0.0, cores_limit=1.0), ["0.0 of 1 core"], [Tone.CALM]),
        (Used(measuring=True), ["being measured"], [Tone.CALM]),
        (Used(disk_bytes=99, disk_limit_bytes=100), ["0 of 0 KiB"], [Tone.URGENT]),
        (Used(disk_bytes=99), [], []),
    ],
)
def test_what_is_used_is_said_in_the_unit_of_its_limit(used, words, tones):
    meters = said(Outlook(), used=used).meters

    assert [str(meter.text) for meter in meters] == words
    assert [meter.tone for meter in meters] == tones
    assert all(meter.percent is None or meter.percent <= 100 for meter in meters)


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("user", "Stopped by you"),
        ("culler", "Stopped by the rules of its profile"),
        ("hub", "Stopped by the lab"),
        ("reconciler", "Stopped by the lab"),
        ("failure", "Stopped by itself"),
        ("prof. wang", "Stopped by prof. wang"),
    ],
)
def test_who_stopped_a_server_is_said(by, words):
    last = LastEnd(title={}, ending=Ending(by=by, reason=Sentence("already gone")), at=ago(minutes=3))

    why, when, kept = said(None, status=ServerStatus.OFF, last_end=last).ended

    assert (why, kept) == ("already gone", "Your files are kept.")
    assert when == f"{words}, 3 min ago, at {ago(minutes=3)}."


def test_a_server_that_does_not_run_says_nothing_of_time_and_use():
    shown = said(Outlook(age_ends_at=NOW, age_limit_s=1), status=ServerStatus.STOPPING, used=Used(memory_bytes=1))

    assert (shown.end, shown.meters, shown.stop, shown.extend) == ((), (), None, None)


def test_parked_without_an_end_is_kept_for_ever():
    assert said(None, status=ServerStatus.PARKED, parked="x").end == ("It is kept until you resume or delete it.",)


def test_each_state_has_a_word_in_chinese():
    for status in ServerStatus:
        assert card(ServerFacts(name="", label="", status=status), NOW).state in catalog(CHINESE)


def test_a_server_that_sleeps_is_not_said_to_stop_while_something_keeps_it_or_nothing_is_known_of_its_use():
    kept = Outlook(idle_limit_s=1200, kept=Sentence("a kernel is busy"), hibernates=True)

    assert [str(line) for line in said(kept).end] == ["Not hibernated as idle now: a kernel is busy."]
    assert [str(line) for line in said(Outlook(idle_limit_s=1200, hibernates=True)).end] == [
        "Hibernates after 20 min without use."
    ]
