"""What the hub tells its console of servers, lines and cards: all that is asked for, and no secret."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from builders import NOW, a_lease

from labspawner.culling import Forecast
from labspawner.evidence.answers import Outlook
from labspawner.inner.facts import decision_json, holds_json, lines_json, notices_json, provider_json, server_json
from labspawner.lifecycle import Notice
from labspawner.lifecycle.admission import Place
from labspawner.lifecycle.holds import Hold
from labspawner.lifecycle.usages import Use
from labspawner.model import (
    Activity,
    Capacity,
    CardCapacity,
    Decision,
    Ending,
    GpuUsage,
    Handle,
    HostCapacity,
    Lease,
    LeaseId,
    Phase,
    Resources,
    Slice,
    Usage,
)
from labspawner.queueing import Wait
from labspawner.sentences import Sentence

GIB = 2**30
SLICE = {"card": "G0", "memory_bytes": GIB, "compute_pct": 25, "tested": "passed", "pretended": True}
QUIET: dict[str, Any] = {
    "outlook": None,
    "use": None,
    "report": None,
    "last_activity": None,
    "place": None,
    "extend": None,
}


def a_server(lease: str = "one", *, phase: Phase = Phase.READY, gpu: bool = False, **data: Any) -> Lease:
    held: dict[str, Any] = {"gpu": SLICE} if gpu else {}
    return a_lease(
        id=LeaseId(lease),
        phase=phase,
        ready_at=NOW,
        reserves=Resources(memory_bytes=GIB, gpu=Slice(memory_bytes=GIB) if gpu else None),
        handle=Handle(lease_id=LeaseId(lease), provider="sim", data={**data, **held}),
        pinned={"title": {"en": "Base"}},
    )


def test_a_server_is_told_with_where_it_is_and_no_secret_of_its_handle():
    lease = a_server(gpu=True, node="n1", vmid=104, token="s3cret", run_dir="/run/x", nested={"password": "s3cret"})

    told = server_json(lease, **QUIET)

    assert (told["host"], told["card"], told["phase"], told["course"]) == ("n1", "G0", "ready", "py101")
    assert told["handle"] == {"node": "n1", "vmid": 104}
    assert told["slice"] == {
        "memory_bytes": GIB,
        "compute_pct": 25,
        "tested": "passed",
        "pretended": True,
        "courtesy": False,
    }
    assert told["profile_title"] == {"en": "Base"}
    assert "s3cret" not in json.dumps(told)
    assert "/run/x" not in json.dumps(told)


def test_what_a_server_does_and_when_it_ends_is_told_in_both_languages():
    reason = Sentence("idle for {idle}; this profile's limit is {limit}", idle="46 min", limit="45 min")
    end = NOW + timedelta(minutes=9)
    outlook = Outlook(verdict="warn", forecast=Forecast(end, "idle", (), reason), warned=False)
    gpu = GpuUsage(memory_bytes=1, memory_limit_bytes=2)
    use = Use(Usage(taken_at=NOW, memory_bytes=3, memory_limit_bytes=4, gpu=gpu), 0.5)
    report = Activity(last_activity=NOW, work_count=1)

    told = server_json(a_server(), **{**QUIET, "outlook": outlook, "use": use, "report": report})

    assert (told["verdict"], told["cause"], told["ends_at"]) == ("warn", "idle", end.isoformat())
    assert told["reason"] == {"en": str(reason), "zh-CN": "已空闲 46 分钟；此配置的上限是 45 分钟"}
    assert (told["use"]["gpu_memory_bytes"], told["use"]["cores"], told["busy"]) == (1, 0.5, True)
    assert told["last_activity"] == NOW.isoformat()


def test_of_a_server_that_is_not_ready_nothing_is_foretold():
    outlook = Outlook(verdict="cull", forecast=Forecast(NOW, "idle", (), Sentence("x")), warned=False)

    told = server_json(a_server(phase=Phase.STOPPING), **{**QUIET, "outlook": outlook})

    assert (told["verdict"], told["ends_at"], told["reason"]) == (None, None, None)


def test_a_line_is_told_with_who_stands_in_it_of_the_course_that_was_asked_for():
    wait = Wait(2, timedelta(minutes=5), timedelta(minutes=20))
    mine, other = a_server("mine", phase=Phase.QUEUED), LeaseId("of another course")
    lines = {("sim", True): [Place(lease_id=one, wait=wait, since=NOW) for one in (other, mine.id)]}

    (line,) = lines_json(lines, {mine.id: mine})
    (told,) = line["waiting"]

    assert (line["provider"], line["kind"], told["user"], told["place"]) == ("sim", "gpu", "student1", 2)
    assert (told["low_s"], told["high_s"]) == (300.0, 1200.0)
    assert lines_json(lines, {}) == []


def test_a_hold_is_told_without_what_would_give_it_away():
    hold = Hold(id="s3cret", user="s", profile="c/p", provider="sim", resources=Resources(), until=NOW)

    assert holds_json([hold]) == [{"user": "s", "profile": "c/p", "provider": "sim", "until": NOW.isoformat()}]


def a_host(name: str, *cards: str) -> HostCapacity:
    return HostCapacity(
        name=name,
        memory_total_bytes=8 * GIB,
        memory_free_bytes=4 * GIB,
        cards=tuple(CardCapacity(uuid=card, memory_total_bytes=GIB, memory_free_bytes=0) for card in cards),
    )


def test_leases_stand_at_the_host_and_card_that_their_handles_name():
    capacity = Capacity(hosts=(a_host("a", "G0", "G1"), a_host("b")), taken_at=NOW)
    leases = [
        a_server("by-card", gpu=True),
        a_server("by-host", host="b"),
        a_server("nowhere"),
        a_server("lost", host="z"),
    ]

    told = provider_json("sim", capacity, "", leases, pretended=False)

    a, b = told["hosts"]
    assert (a["leases"], b["leases"]) == (["by-card"], ["by-host"])
    assert [card["leases"] for card in a["cards"]] == [["by-card"], []]
    assert told["unplaced"] == ["nowhere", "lost"]
    assert told["error"] is None


def test_with_one_host_all_stand_there_and_a_mig_device_is_known_by_its_name():
    capacity = Capacity(hosts=(a_host("a", "MIG-1"),), taken_at=NOW)
    told = provider_json("sim", capacity, "", [a_server("one"), a_server("two", gpu=True)], pretended=True)

    (host,) = told["hosts"]
    assert host["leases"] == ["one", "two"]
    assert (host["cards"][0]["mig"], told["pretended"], told["unplaced"]) == (True, True, [])


def test_a_silent_provider_is_told_with_its_sentence_and_its_leases():
    told = provider_json("sim", None, Sentence("It does not answer."), [a_server()], pretended=False)

    assert told["error"] == {"en": "It does not answer.", "zh-CN": "没有响应。"}
    assert (told["hosts"], told["unplaced"]) == ([], ["one"])


def test_decisions_and_notices_are_told_in_both_languages():
    reason = Sentence("It was stopped by hand.")
    decision = Decision(
        lease_id=LeaseId("one"),
        user="s",
        server_name="",
        verdict="cull",
        reason=reason,
        evidence={"busy": False},
        at=NOW,
    )
    notice = Notice(profile_title={"en": "T"}, ending=Ending(by="culler", reason=reason), at=NOW, profile="c/p")

    assert decision_json(decision)["reason"]["en"] == "It was stopped by hand."
    assert decision_json(decision)["evidence"] == {"busy": False}
    (told,) = notices_json({("s", ""): notice})
    assert (told["user"], told["by"], set(told["reason"])) == ("s", "culler", {"en", "zh-CN"})
