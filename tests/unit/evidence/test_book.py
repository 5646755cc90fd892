"""The book of evidence: what a server is told, what is kept of it, and what it may ask for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from builders import NOW, a_lease

from labspawner.errors import StoreUnavailable, UnknownLease
from labspawner.evidence import BadReport, Refused
from labspawner.model import HostLook, Phase
from labspawner.store import Allowance
from labspawner.testing.waiting import eventually

CELL = {"id": "k", "path": "train.ipynb", "busy_since": (NOW - timedelta(hours=1)).isoformat()}


# -- reports -----------------------------------------------------------------------------------------------------------


async def test_an_answer_says_when_the_server_ends_and_why(desk, minutes):
    said = await desk.report(await desk.lease(), used_min=5)

    assert (said["verdict"], said["cause"], said["report_every_s"]) == ("keep", "idle", 60)
    assert minutes(said["ends_at"]) == 15
    assert [minutes(mark) for mark in said["warn_at"]] == [5, 13]
    assert said["reason"] == {
        "en": "idle for only 5 min; this profile's limit is 20 min",
        "zh-CN": said["reason"]["zh-CN"],
    }
    assert said["extend"] == {"step_s": 1800.0, "left_today": 2}
    assert said["hold"] == {"until": None, "left_s": 3600.0}


async def test_work_has_no_end_but_by_age(desk, minutes):
    busy = await desk.report(await desk.lease(), kernels=[CELL])
    aged = await desk.report(await desk.lease(max_age_s=4 * 3600.0), kernels=[CELL])

    assert (busy["verdict"], busy["ends_at"], busy["cause"], busy["warn_at"]) == ("keep", None, None, [])
    assert minutes(aged["ends_at"]) == 60
    assert aged["cause"] == "max_age"


async def test_without_a_policy_nothing_ends_and_nothing_is_granted(desk):
    lease = await desk.lease(lease={"pinned": {}})

    said = await desk.report(lease)

    assert (said["ends_at"], said["extend"], said["hold"]) == (None, None, {"until": None, "left_s": 0.0})
    assert await desk.book.extension(lease, NOW) is None


async def test_a_policy_that_cannot_be_read_ends_nothing_and_is_said_once(desk, caplog):
    lease = await desk.lease(after_s="soon")

    assert (await desk.report(lease))["ends_at"] is None
    await desk.report(lease)

    assert len([record for record in caplog.records if "unreadable policy" in record.message]) == 1


async def test_a_server_that_is_still_starting_may_report(desk):
    lease = await desk.lease(lease={"phase": Phase.LAUNCHING})

    assert (await desk.report(lease))["verdict"] == "keep"


async def test_a_bad_report_changes_nothing(desk):
    lease = await desk.lease()

    with pytest.raises(BadReport):
        await desk.book.report(lease, b"{}", NOW)

    assert (await desk.book.known(lease.id)).report is None


async def test_reports_come_at_least_four_times_within_a_short_limit(desk):
    said = await desk.report(await desk.lease(after_s=60.0, warn_s=[]))

    assert said["report_every_s"] == 15


async def test_the_next_report_is_asked_for_right_at_the_next_mark(desk):
    said = await desk.report(await desk.lease(), used_min=9.5)

    assert said["report_every_s"] == 30


async def test_work_that_ended_between_two_reports_was_use_until_then(desk, minutes):
    lease = await desk.lease()
    await desk.report(lease, used_min=60, kernels=[CELL])
    desk.forward(minutes=1)

    said = await desk.report(lease, used_min=60)

    assert minutes(said["ends_at"]) == 20


async def test_the_hub_is_asked_once_for_the_start_of_a_server_that_reports(desk):
    lease = await desk.lease()
    for _ in range(5):
        await desk.report(lease)

    assert desk.asked == 1


# -- warnings ----------------------------------------------------------------------------------------------------------


async def test_a_mark_that_is_reached_is_a_warning_and_the_end_waits_for_the_last_one(desk, minutes):
    lease = await desk.lease()

    verdicts = []
    for used in (9, 10, 17.9, 18.5, 20.4, 20.5):
        verdicts.append((await desk.report(lease, used_min=used))["verdict"])
        desk.now = NOW  # only the last use moves

    assert verdicts[:3] == ["keep", "warn", "warn"]
    assert verdicts[3] == "warn"


async def test_a_server_is_culled_only_after_its_last_warning_was_given_in_full(desk, minutes):
    lease = await desk.lease()
    desk.now = NOW + timedelta(minutes=19)
    late = await desk.report(lease, used_min=19)
    desk.now = NOW + timedelta(minutes=20, seconds=59)
    before = await desk.report(lease, used_min=20 + 59 / 60)
    desk.now = NOW + timedelta(minutes=21)
    after = await desk.report(lease, used_min=21)

    assert [late["verdict"], before["verdict"], after["verdict"]] == ["warn", "warn", "cull"]
    assert minutes(late["ends_at"]) == minutes(before["ends_at"]) == 21
    assert late["report_every_s"] == 15


async def test_a_warning_is_remembered_over_a_restart_of_the_hub(desk, minutes):
    lease = await desk.lease()
    desk.now = NOW + timedelta(minutes=18, seconds=30)
    await desk.report(lease, used_min=18.5)

    await desk.restart()
    desk.forward(minutes=1)
    said = await desk.report(lease, used_min=19.5)

    assert minutes(said["ends_at"]) == 20.5


async def test_use_after_a_warning_takes_it_back(desk):
    lease = await desk.lease()
    desk.now = NOW + timedelta(minutes=19)
    await desk.report(lease, used_min=19)

    assert (await desk.report(lease, used_min=0))["verdict"] == "keep"


async def test_the_age_limit_is_warned_of_too(desk):
    said = await desk.report(await desk.lease(max_age_s=3 * 3600.0 + 90))

    assert (said["verdict"], said["cause"]) == ("warn", "max_age")


# -- extensions --------------------------------------------------------------------------------------------------------


async def test_extend_pushes_the_end_by_a_step_for_each_click(desk, minutes):
    lease = await desk.lease(warn_s=[])
    await desk.report(lease, used_min=5)

    first, second = await desk.book.extend(lease, NOW), await desk.book.extend(lease, NOW)

    assert (minutes(first["ends_at"]), minutes(second["ends_at"])) == (45, 75)
    assert (first["extend"]["left_today"], second["extend"]["left_today"]) == (1, 0)
    with pytest.raises(Refused, match="2 times today"):
        await desk.book.extend(lease, NOW)


async def test_a_busy_server_is_extended_from_where_it_would_end_if_left_alone(desk, minutes):
    lease = await desk.lease(warn_s=[])
    await desk.report(lease, kernels=[CELL])
    await desk.book.extend(lease, NOW)

    assert (await desk.book.known(lease.id)).extended_until == NOW + timedelta(minutes=50)


async def test_clicks_of_two_tabs_at_once_never_exceed_the_bound(desk):
    lease = await desk.lease()
    await desk.report(lease)

    results = await asyncio.gather(*(desk.book.extend(lease, NOW) for _ in range(6)), return_exceptions=True)

    assert [isinstance(result, Refused) for result in results].count(False) == 2


async def test_a_new_day_has_new_clicks(desk):
    lease = await desk.lease()
    for _ in range(2):
        await desk.book.extend(lease, NOW)
    tomorrow = NOW + timedelta(days=1)

    assert (await desk.book.extension(lease, NOW))[1] == 0
    assert (await desk.book.extension(lease, tomorrow))[:2] == (1800.0, 2)
    await desk.book.extend(lease, tomorrow)


async def test_what_was_granted_is_known_after_a_restart(desk, store):
    lease = await desk.lease()
    today = desk.make().__class__(store, "test-hub", ready=store.migrate, live=desk.leases.get)
    await today.extend(lease, NOW)
    await today.close()

    again = desk.make(today=lambda now: NOW.astimezone().date().isoformat())
    left = (await again.extension(lease, NOW))[1]
    await again.close()

    assert left == 1


@pytest.mark.parametrize(
    ("cull", "why"),
    [
        ({"extend": None}, "no extension"),
        ({"after_s": None}, "no idle limit"),
        ({"max_age_s": 3 * 3600.0 + 300}, "its age"),
    ],
)
async def test_what_cannot_be_extended_is_refused_and_costs_no_click(desk, cull, why):
    lease = await desk.lease(**cull)

    with pytest.raises(Refused, match=why):
        await desk.book.extend(lease, NOW)

    assert await desk.store.granted("test-hub", NOW.date().isoformat()) == {}
    found = await desk.book.extension(lease, NOW)
    assert found is None or why in found[2]


async def test_a_server_that_never_reported_is_extended_by_what_the_hub_saw(desk, minutes):
    desk.last_activity = NOW - timedelta(minutes=10)
    lease = await desk.lease()

    await desk.book.extend(lease, NOW)

    assert (await desk.book.known(lease.id)).extended_until == NOW + timedelta(minutes=40)


async def test_a_lease_that_is_not_on_record_gets_nothing(desk):
    gone = a_lease(phase=Phase.READY, pinned={"cull": {"after_s": 60.0, "extend": {"step_s": 60.0}}})

    with pytest.raises(UnknownLease):
        await desk.book.extend(gone, NOW)
    with pytest.raises(UnknownLease):
        await desk.book.hold(gone, 60, NOW)


# -- holds -------------------------------------------------------------------------------------------------------------


async def test_a_hold_keeps_an_idle_server_and_giving_it_up_ends_that(desk, minutes):
    lease = await desk.lease(warn_s=[])
    await desk.report(lease, used_min=30)

    held = await desk.book.hold(lease, 1800, NOW)
    given_up = await desk.book.hold(lease, 0, NOW)

    assert (held["verdict"], minutes(held["hold"]["until"]), held["hold"]["left_s"]) == ("keep", 30, 1800)
    assert (given_up["verdict"], given_up["hold"]) == ("cull", {"until": None, "left_s": 3600})


async def test_a_hold_beyond_the_budget_is_refused_and_says_what_is_left(desk):
    lease = await desk.lease()
    await desk.book.hold(lease, 1800, NOW)
    later = NOW + timedelta(minutes=30)

    with pytest.raises(Refused, match="for 30 min more today"):
        await desk.book.hold(lease, 1801, later)
    await desk.book.hold(lease, 1800, later)
    with pytest.raises(Refused, match="for as long as its profile allows"):
        await desk.book.hold(lease, 60, later + timedelta(minutes=30))


async def test_a_hold_over_midnight_is_the_day_befores(desk):
    lease = await desk.lease()
    await desk.book.hold(lease, 3600, NOW)

    held = await desk.book.hold(lease, 3600, NOW + timedelta(days=1))

    assert held["hold"]["left_s"] == 0
    assert await desk.store.granted("test-hub", "2026-11-03") == {lease.id: Allowance(held_s=3600)}


@pytest.mark.parametrize(("cull", "why"), [({"hold_s": 0.0}, "does not allow"), ({"after_s": None}, "no idle limit")])
async def test_where_a_hold_means_nothing_it_is_refused(desk, cull, why):
    with pytest.raises(Refused, match=why):
        await desk.book.hold(await desk.lease(**cull), 60, NOW)


# -- memory and store --------------------------------------------------------------------------------------------------


async def test_many_reports_are_one_write(desk, store, monkeypatch):
    monkeypatch.setattr("labspawner.evidence.book.HURRY_S", 3600.0)  # nobody but the test writes here
    leases = [await desk.lease() for _ in range(20)]
    for lease in leases:
        await desk.report(lease)
    assert await store.standings([lease.id for lease in leases]) == {}
    writes = []
    put = store.put_standings
    monkeypatch.setattr(store, "put_standings", lambda standings: writes.append(len(standings)) or put(standings))

    await desk.book.flush()
    await desk.book.flush()

    assert writes == [20, 0]
    assert len(await store.standings([lease.id for lease in leases])) == 20


async def test_reports_are_written_behind_at_once_when_the_verdict_changes(desk, store):
    lease = await desk.lease()

    await desk.report(lease)

    async def written() -> bool:
        return bool(await store.standings([lease.id]))

    await eventually(written, deadline_s=20)


async def test_what_is_known_outlives_a_restart(desk):
    lease = await desk.lease()
    await desk.report(lease, used_min=3)
    known = await desk.book.known(lease.id)

    await desk.restart()

    assert await desk.book.known(lease.id) == known


async def test_a_store_that_does_not_answer_loses_nothing(desk, store, monkeypatch, caplog):
    lease = await desk.lease()
    desk.book = desk.make(flush_s=0.01)
    put, failures = store.put_standings, iter([True, True])

    async def failing(standings):
        if standings and next(failures, False):
            raise StoreUnavailable("later")
        return await put(standings)

    monkeypatch.setattr(store, "put_standings", failing)
    await desk.report(lease)

    async def written() -> bool:
        return bool(await store.standings([lease.id]))

    await eventually(written, deadline_s=20)
    assert len([record for record in caplog.records if "cannot write" in record.message]) == 1


async def test_a_book_that_could_not_be_opened_is_opened_by_the_next_call(desk, store):
    answers = iter([False, True])

    async def ready() -> None:
        if not next(answers):
            raise StoreUnavailable("later")

    lease = await desk.lease()
    desk.book = desk.make(ready=ready)

    with pytest.raises(StoreUnavailable):
        await desk.report(lease)
    assert (await desk.report(lease))["verdict"] == "keep"


async def test_servers_that_ended_are_forgotten(desk):
    lease = await desk.lease()
    await desk.report(lease)
    del desk.leases[lease.id]

    await desk.book.flush()

    assert (await desk.book.known(lease.id)).report is None


async def test_what_the_host_measured_is_kept_beside_the_reports(desk):
    lease, host = await desk.lease(), HostLook(since=NOW, looked_at=NOW)
    await desk.report(lease)

    await desk.book.looked(lease.id, host, expected=True)
    await desk.report(lease)

    known = await desk.book.known(lease.id)
    assert (known.host, known.expected) == (host, True)
    assert known.report is not None


async def test_use_right_before_the_end_is_written_at_once(desk, store):
    lease = await desk.lease(warn_s=[])
    await desk.report(lease, used_min=19)
    await desk.book.flush()

    await desk.report(lease, used_min=0)

    async def written() -> bool:
        return (await store.standings([lease.id]))[lease.id].evidence.report.last_activity == NOW

    await eventually(written, deadline_s=20)
