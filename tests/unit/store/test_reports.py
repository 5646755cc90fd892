"""Decisions, usage and old rows."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from builders import NOW, a_lease
from unit.store.clock import Clock

from labspawner.model import Decision, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.store import Store, Usage
from labspawner.store import store as door

HOUR = timedelta(hours=1)


def a_decision(lease, minutes: float = 0, **changes) -> Decision:
    values = {
        "lease_id": lease.id,
        "user": lease.user,
        "server_name": lease.server_name,
        "verdict": "keep",
        "reason": Sentence("Busy: {what}.", what="a kernel"),
        "evidence": {"kernels": 1, "gpu_pct": 3.5, "last": None},
        "at": NOW + timedelta(minutes=minutes),
    }
    return Decision(**{**values, **changes})


def a_session(start: timedelta, span: timedelta, **changes):
    values = {"phase": Phase.ENDED, "ready_at": NOW + start, "ended_at": NOW + start + span}
    return a_lease(**{**values, **changes})


async def test_decisions_come_back_newest_first_by_hub_user_and_lease(store: Store):
    ann, bob, other = a_lease(user="ann\x00"), a_lease(user="bob"), a_lease(user="bob", hub_id="hub2")
    for lease in (ann, bob, other):
        await store.add(lease)
    first, second = a_decision(ann, 1), a_decision(ann, 2, verdict="cull", applied=False)
    about_bob, elsewhere = a_decision(bob, 3), a_decision(other, 4)

    assert await store.add_decisions(iter([second, about_bob, first, elsewhere])) == 4

    assert await store.decisions(hub_id="test-hub") == [about_bob, second, first]
    assert await store.decisions(hub_id="test-hub", user="ann\x00") == [second, first]
    assert await store.decisions(hub_id="test-hub", lease_id=bob.id) == [about_bob]
    assert await store.decisions(hub_id="test-hub", limit=1) == [about_bob]
    assert await store.decisions(hub_id="hub2", user="ann\x00") == []


async def test_decisions_of_one_instant_come_back_in_the_order_they_were_made(store: Store):
    lease = a_lease()
    await store.add(lease)
    made = [a_decision(lease, evidence={"n": n}) for n in range(3)]

    await store.add_decisions(made)

    assert await store.decisions(hub_id="test-hub") == made[::-1]


async def test_more_decisions_than_one_statement_holds_are_all_stored(store: Store):
    lease = a_lease()
    await store.add(lease)

    assert await store.add_decisions(a_decision(lease, n) for n in range(1201)) == 1201

    assert len(await store.decisions(hub_id="test-hub", limit=5000)) == 1201


async def test_no_decisions_are_no_work(store: Store):
    assert await store.add_decisions([]) == 0


async def test_a_decision_about_a_lease_that_is_not_on_record_is_dropped_and_the_others_kept(
    store: Store, caplog: pytest.LogCaptureFixture
):
    lease = a_lease()
    await store.add(lease)
    gone = a_decision(lease, lease_id=LeaseId("lgone"))

    with caplog.at_level(logging.WARNING):
        assert await store.add_decisions([gone, a_decision(lease)]) == 1
        assert await store.add_decisions([gone]) == 0

    assert await store.decisions(hub_id="test-hub") == [a_decision(lease)]
    assert "count=1" in caplog.text


async def test_the_median_session_is_known_once_there_was_one(store: Store):
    assert await store.median_session_s("test-hub", "py101/base") is None

    for minutes in (10, 20, 90):
        await store.add(a_session(HOUR, timedelta(minutes=minutes)))
    await store.add(a_session(HOUR, 50 * HOUR, profile="py101/other"))
    await store.add(a_session(HOUR, 50 * HOUR, hub_id="hub2"))
    await store.add(a_lease(phase=Phase.ENDED, ended_at=NOW))
    await store.add(a_lease(phase=Phase.READY, ready_at=NOW))

    assert await store.median_session_s("test-hub", "py101/base") == 1200.0


async def test_the_median_is_of_the_last_200_sessions(store: Store):
    for n in range(205):
        await store.add(a_session(n * HOUR, timedelta(minutes=1 if n < 103 else 3)))

    assert await store.median_session_s("test-hub", "py101/base") == 180.0


async def test_usage_is_cut_at_the_window(store: Store, clock: Clock):
    clock.forward(hours=10)
    sessions = [
        a_session(-HOUR, HOUR / 2),  # before the window
        a_session(-HOUR, 2 * HOUR),  # into it: 1 h
        a_session(HOUR, HOUR / 2),  # inside: 0.5 h
        a_session(3 * HOUR, 4 * HOUR),  # out of it: 1 h
        a_session(4 * HOUR, HOUR),  # after it
        a_session(-HOUR, 9 * HOUR, user="ann", provider="proxmox"),  # all of it: 4 h
        a_session(HOUR, HOUR, user="bob", profile="py101/\\gpu"),
        a_session(HOUR, HOUR, hub_id="hub2"),
        a_lease(user="eve", phase=Phase.ENDED, ended_at=NOW + HOUR),  # never ready
    ]
    for lease in sessions:
        await store.add(lease)

    rows = await store.usage("test-hub", NOW, NOW + 4 * HOUR)

    assert rows == [
        Usage(user="ann", profile="py101/base", provider="proxmox", seconds=4 * 3600),
        Usage(user="bob", profile="py101/\\gpu", provider="sim", seconds=3600),
        Usage(user="student1", profile="py101/base", provider="sim", seconds=2.5 * 3600),
    ]


async def test_a_running_server_counts_up_to_now_and_a_parked_one_up_to_its_parking(store: Store, clock: Clock):
    await store.add(a_lease(user="runs", phase=Phase.READY, ready_at=NOW))
    await store.add(a_lease(user="stops", phase=Phase.STOPPING, ready_at=NOW, phase_at=NOW + HOUR))
    await store.add(a_lease(user="parked", phase=Phase.PARKED, ready_at=NOW, phase_at=NOW + HOUR / 2))
    await store.add(a_lease(user="resumes", phase=Phase.LAUNCHING, ready_at=NOW))
    clock.forward(hours=2)

    rows = await store.usage("test-hub", NOW - HOUR, NOW + 24 * HOUR)

    assert {row.user: row.seconds for row in rows} == {"runs": 7200, "stops": 7200, "parked": 1800}


async def test_usage_of_several_weeks_is_each_weeks_own_and_of_one_course(store: Store, clock: Clock):
    clock.forward(hours=10)
    for lease in (
        a_session(-HOUR, HOUR / 2),  # before the first edge
        a_session(HOUR, 2 * HOUR),  # over an edge: an hour on each side
        a_session(2 * HOUR, HOUR, user="ann"),
        a_session(HOUR, HOUR, profile="py1012/base"),
        a_session(HOUR, HOUR, profile="py/101"),
        a_session(5 * HOUR, HOUR),  # after the last edge
    ):
        await store.add(lease)

    found = await store.usage_between("test-hub", [NOW, NOW + 2 * HOUR, NOW + 4 * HOUR, NOW + 5 * HOUR], course="py101")

    assert [{use.user: use.seconds for use in week} for week in found] == [
        {"student1": 3600},
        {"ann": 3600, "student1": 3600},
        {},
    ]
    assert found[0] == [
        use for use in await store.usage("test-hub", NOW, NOW + 2 * HOUR) if use.profile[:6] == "py101/"
    ]


async def test_usage_takes_no_name_of_a_course_for_a_pattern(store: Store, clock: Clock):
    clock.forward(hours=2)
    await store.add(a_session(0 * HOUR, HOUR))

    for pattern in ("%", "py_01", "py101/base%", "p%", ""):
        found = await store.usage_between("test-hub", [NOW, NOW + HOUR], course=pattern)
        assert bool(found[0]) is (pattern == ""), pattern


async def test_pruning_drops_what_is_old_and_never_a_live_lease(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door, "PRUNE_BATCH", 2)
    old = [a_session(-5 * HOUR, HOUR) for _ in range(5)]
    recent, live = a_session(-HOUR, HOUR), a_lease(phase=Phase.READY, created_at=NOW - 900 * HOUR)
    for lease in (*old, recent, live):
        await store.add(lease)
    late = a_decision(old[0], 5)  # of an old lease, but itself not old
    kept = a_decision(live, 5)
    await store.add_decisions([a_decision(live, -120), a_decision(recent, -120), a_decision(live, -120), late, kept])

    dropped = await store.prune(NOW - HOUR)

    assert dropped >= 8
    assert [await store.get(lease.id) for lease in old] == [None] * 5
    assert await store.get(recent.id) == recent
    assert await store.live("test-hub") == [live]
    assert await store.decisions(hub_id="test-hub") == [kept]
    assert await store.prune(NOW - HOUR) == 0
