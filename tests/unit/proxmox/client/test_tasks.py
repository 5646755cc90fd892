"""How a task ends, and what is known when that cannot be had."""

from __future__ import annotations

import asyncio
import threading
import time
from urllib.parse import quote

import pytest
from unit.proxmox.client.scripted import Reply, refusal

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, TaskEnd
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.tasks import Tasks, pause_after

UPID = "UPID:pve1:00006F91:000A3BB6:6B0209D5:qmclone:9100:labs@pve!hub:"
PATH = f"/nodes/pve1/tasks/{quote(UPID, safe='')}"
RUNNING = {"status": "running", "type": "qmclone"}
LONG_S = 1_000_000.0
AWAY = Reply(status=595, reason="No route to host", raw=b"")


def stopped(exitstatus: str) -> dict[str, str]:
    return {"status": "stopped", "exitstatus": exitstatus}


def lines(*texts: str, start: int = 0) -> list[dict[str, object]]:
    return [{"n": start + at + 1, "t": text} for at, text in enumerate(texts)]


@pytest.fixture
def tasks(pve, a_client):
    return Tasks(a_client(pve), pace=Pace(1000))


async def test_a_task_is_waited_for_to_its_end_and_a_success_costs_no_look_at_its_log(pve, tasks):
    pve.on("GET", f"{PATH}/status", RUNNING, RUNNING, stopped("OK"))

    assert await tasks.end(UPID, within_s=LONG_S) == TaskEnd(UPID, "OK", True)

    assert len(pve.asked) == 3


async def test_a_failed_task_is_an_end_with_its_text_and_the_last_lines_of_its_log(pve, tasks):
    text = "clone failed: cfs-lock 'storage-ceph' error: got lock request timeout"
    pve.on("GET", f"{PATH}/status", stopped(text))
    pve.on("GET", f"{PATH}/log", lines(*(f"line {n}" for n in range(30)), f"TASK ERROR: {text}"))

    end = await tasks.end(UPID, within_s=LONG_S)

    assert (end.ok, end.fault, end.node) == (False, Fault.STORAGE_LOCK, "pve1")
    assert len(end.log) == 20
    assert end.log[-1] == f"TASK ERROR: {text}"


async def test_warnings_are_success_with_a_log(pve, tasks):
    pve.on("GET", f"{PATH}/status", stopped("WARNINGS: 2"))
    pve.on("GET", f"{PATH}/log", lines("WARN: a", "WARN: b"))

    end = await tasks.end(UPID, within_s=LONG_S)

    assert (end.ok, end.warnings, end.log) == (True, 2, ("WARN: a", "WARN: b"))


async def test_a_log_that_ends_without_a_status_is_lost_and_not_success(pve, tasks):
    pve.on("GET", f"{PATH}/status", stopped("unexpected status"))
    pve.on("GET", f"{PATH}/log", {"n": 1, "t": "unable to open file - No such file or directory"})

    end = await tasks.end(UPID, within_s=LONG_S)

    assert (end.ok, end.fault, end.log) == (False, Fault.LOST, ())


async def test_a_log_that_cannot_be_had_takes_nothing_from_the_end(pve, tasks):
    pve.on("GET", f"{PATH}/status", stopped("VM is locked (backup)"))
    pve.on("GET", f"{PATH}/log", AWAY)

    end = await tasks.end(UPID, within_s=LONG_S)

    assert (end.lock, end.log) == ("backup", ())


async def test_the_tail_of_a_long_log_is_its_tail(pve, tasks):
    everything = lines(*(f"line {n}" for n in range(1234)))
    pve.routes["GET", f"{PATH}/log"] = lambda asked: Reply(
        everything[int(asked.query["start"][0]) :][: int(asked.query["limit"][0])]
    )

    assert await tasks.log(UPID, 2) == ("line 1232", "line 1233")


async def test_progress_is_told_in_percent_and_words(pve, tasks):
    told: list[tuple[float | None, str]] = []
    pve.on("GET", f"{PATH}/status", *[RUNNING] * 12, stopped("OK"))
    pve.on(
        "GET",
        f"{PATH}/log",
        lines("create full clone of drive scsi0 (ssd:9100/base-9100-disk-0.qcow2)"),
        lines("transferred 0.0 B of 3.0 GiB (0.00%)", "transferred 1.2 GiB of 3.0 GiB (40.00%)", start=1),
        [],
    )

    await tasks.end(UPID, within_s=LONG_S, heard=lambda percent, line: told.append((percent, line)))

    assert told == [
        (None, "create full clone of drive scsi0 (ssd:9100/base-9100-disk-0.qcow2)"),
        (40.0, "transferred 1.2 GiB of 3.0 GiB (40.00%)"),
    ]
    assert [each.query["start"] for each in pve.asked if each.path == f"{PATH}/log"] == [["0"], ["1"], ["3"]]


async def test_progress_that_cannot_be_had_disturbs_nobody(pve, tasks):
    pve.on("GET", f"{PATH}/status", *[RUNNING] * 6, stopped("OK"))
    pve.on("GET", f"{PATH}/log", AWAY)

    assert (await tasks.end(UPID, within_s=LONG_S, heard=lambda *_: pytest.fail("nothing was said"))).ok


async def test_a_node_that_comes_back_tells_the_end(pve, tasks):
    pve.on("GET", f"{PATH}/status", RUNNING, AWAY, AWAY, refusal(500, "got timeout"), stopped("OK"))

    assert (await tasks.end(UPID, within_s=LONG_S)).ok


async def test_a_node_that_stays_away_leaves_the_outcome_unknown(pve, tasks):
    pve.on("GET", f"{PATH}/status", AWAY)

    with pytest.raises(PveSilent, match="No route to host") as caught:
        await tasks.end(UPID, within_s=10.0)

    assert caught.value.sent


async def test_a_task_that_does_not_end_leaves_the_outcome_unknown(pve, tasks):
    pve.on("GET", f"{PATH}/status", RUNNING)

    with pytest.raises(PveSilent, match="still runs"):
        await tasks.end(UPID, within_s=10.0)


async def test_a_task_that_the_node_does_not_know_is_asked_for_more_than_once(pve, tasks):
    unknown = refusal(400, "Parameter verification failed.", upid="no such task")
    pve.on("GET", f"{PATH}/status", unknown, unknown, stopped("OK"))

    assert (await tasks.end(UPID, within_s=LONG_S)).ok


async def test_a_task_that_nobody_knows_leaves_the_outcome_unknown(pve, tasks):
    pve.on("GET", f"{PATH}/status", refusal(400, "Parameter verification failed.", upid="no such task"))

    with pytest.raises(PveSilent, match="no such task") as caught:
        await tasks.end(UPID, within_s=LONG_S)

    assert caught.value.sent


async def test_a_task_that_we_may_not_ask_for_is_refused_at_once(pve, tasks):
    pve.on("GET", f"{PATH}/status", refusal(403, "Permission check failed (/nodes/pve1, Sys.Audit)"))

    with pytest.raises(PveRefused):
        await tasks.end(UPID, within_s=LONG_S)

    assert len(pve.asked) == 1


async def test_few_tasks_of_one_node_are_looked_at_at_once(pve, a_client):
    busy, most, lock, full = 0, 0, threading.Lock(), threading.Event()

    def slow(_asked):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == 2:
                full.set()
        full.wait(60)
        with lock:
            busy -= 1
        return Reply(stopped("OK"))

    upids = [UPID.replace("00006F91", f"0000{n:04X}") for n in range(8)]
    for upid in upids:
        pve.routes["GET", f"/nodes/pve1/tasks/{quote(upid, safe='')}/status"] = slow
    tasks = Tasks(a_client(pve), pace=Pace(1000), at_once=2)

    ends = await asyncio.gather(*(tasks.end(upid, within_s=LONG_S) for upid in upids))

    assert all(end.ok for end in ends)
    assert most == 2


async def test_our_tasks_since_an_instant_are_found_after_a_lost_answer(pve, tasks):
    began = int(time.time())
    entry = {"type": "qmclone", "id": "9100", "node": "pve1", "user": "labs@pve", "tokenid": "hub"}
    pve.on(
        "GET",
        "/nodes/pve1/tasks",
        [
            {**entry, "upid": "old", "starttime": began - 500, "endtime": began - 499, "status": "OK"},
            {**entry, "upid": UPID, "starttime": began, "endtime": began + 2, "status": "VM is locked (clone)"},
            {**entry, "upid": "running", "starttime": began + 1},
            {**entry, "upid": "other VM", "id": "9101", "starttime": began},
            {**entry, "upid": "other kind", "type": "qmstart", "starttime": began},
        ],
    )

    running, ended = await tasks.recent("pve1", 9100, "qmclone", began)

    assert (running.upid, running.end) == ("running", None)
    assert (ended.upid, ended.end.lock if ended.end else None) == (UPID, "clone")
    query = pve.asked[0].query
    assert (query["source"], query["typefilter"], query["vmid"]) == (["all"], ["qmclone"], ["9100"])


async def test_a_task_can_be_stopped(pve, tasks):
    pve.on("DELETE", PATH, None)

    await tasks.stop(UPID)

    assert pve.count(PATH) == 1


async def test_what_is_no_upid_is_told_at_once(tasks):
    with pytest.raises(ValueError, match="no UPID"):
        await tasks.end("OK", within_s=1.0)


def test_looks_become_rare():
    assert [pause_after(at) for at in (0.0, 4.5, 5.0, 19.0, 20.0, 600.0)] == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def test_in_a_crowd_each_is_looked_at_the_less_often_and_none_is_forgotten():
    assert [pause_after(0.0, crowd) for crowd in (1, 2, 4, 8, 100)] == [0.5, 0.5, 1.0, 2.0, 3.0]
    assert [pause_after(600.0, crowd) for crowd in (1, 3, 100)] == [2.0, 3.0, 3.0]
