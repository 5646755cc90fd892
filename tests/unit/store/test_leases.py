"""Leases: what is stored comes back, one live lease per server, and phases change only from where they are expected."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest
from builders import NOW, a_lease
from unit.store.clock import Clock

from labspawner.errors import LeaseConflict, Permanent, UnknownLease
from labspawner.model import LIVE_PHASES, Ending, Handle, LeaseId, Phase, ReleaseMode, Resources, Slice
from labspawner.sentences import Sentence, plain
from labspawner.store import Store

IDLE = Ending(by="culler", reason=Sentence("Idle for {span}.", span="20 min"))
OTHER = Ending(by="teacher", reason=Sentence("The class is over."))


def a_full_lease(**changes):
    lease = a_lease(
        server_name="gpu",
        profile_rev="r7",
        pinned={"title": {"en": "GPU", "zh-CN": "图形"}, "list": [1, 2.5, None, True], "order": {"b": 1, "a": 2}},
        url="http://127.0.0.1:4711",
        reserves=Resources(cpu=1.5, memory_bytes=2**31, gpu=Slice(memory_bytes=6 * 2**30, compute_pct=25)),
        release_mode=ReleaseMode.HIBERNATE,
        ready_at=NOW + timedelta(seconds=3),
        ending=IDLE,
        attempts=3,
        phase=Phase.STOPPING,
    )
    handle = Handle(lease_id=lease.id, provider="sim", data={"pid": 42, "unit": "lab-é"})
    return lease.with_(handle=handle, **changes)


async def test_a_lease_comes_back_as_it_was_stored(store: Store):
    lease = a_full_lease()

    await store.add(lease)

    found = await store.get(lease.id)
    assert found == lease
    assert list(found.pinned["order"]) == ["b", "a"]
    assert found.ending.reason.params == {"span": "20 min"}
    assert found.created_at.tzinfo is timezone.utc


@pytest.mark.parametrize(
    "name",
    [
        "学生" * 200,
        "🧑‍🔬" * 700,
        "a\x00b",
        "\ud800lone\udfff",
        "DOMAIN\\ann",
        "\\u0000",
        "\\\\u0000\x00",
        "x" * 5000,
        "' ; drop table leases; --",
        " ",
        "\u202e\ufeff\uffff",
    ],
    ids=ascii,
)
async def test_any_user_and_server_name_is_kept_and_found_again(store: Store, name: str):
    lease = a_lease(user=name, server_name=name, ending=Ending(by=name, reason=plain(name)))

    await store.add(lease)

    assert await store.live("test-hub", user=name, server_name=name) == [lease]
    with pytest.raises(LeaseConflict):
        await store.add(a_lease(user=name, server_name=name))


async def test_an_unknown_id_is_no_lease_even_if_no_database_can_hold_it(store: Store):
    assert await store.get(LeaseId("l\x00\ud800")) is None


async def test_a_second_live_lease_of_one_server_is_a_conflict(store: Store):
    first = a_lease()
    await store.add(first)

    with pytest.raises(LeaseConflict) as refused:
        await store.add(a_lease())

    assert await store.live("test-hub") == [first]
    assert "Another start or stop" in refused.value.message


async def test_a_taken_id_is_a_conflict(store: Store):
    lease = a_lease()
    await store.add(lease)

    with pytest.raises(LeaseConflict):
        await store.add(lease.with_(user="student2"))


@pytest.mark.parametrize("different", [{"hub_id": "hub2"}, {"user": "student2"}, {"server_name": "gpu"}], ids=str)
async def test_other_hubs_users_and_servers_do_not_conflict(store: Store, different):
    await store.add(a_lease())

    await store.add(a_lease(**different))

    assert len(await store.live("test-hub")) + len(await store.live("hub2")) == 2


async def test_names_that_read_the_same_when_joined_do_not_conflict(store: Store):
    await store.add(a_lease(user="ab", server_name="c"))

    await store.add(a_lease(user="a", server_name="bc"))

    assert len(await store.live("test-hub")) == 2


async def test_a_server_may_start_again_once_its_lease_has_ended(store: Store):
    first = a_lease()
    await store.add(first)
    await store.update(first.id, phase=Phase.ENDED)

    second = a_lease()
    await store.add(second)

    assert await store.live("test-hub") == [second]


async def test_a_parked_lease_does_not_keep_its_server_from_another_start(store: Store):
    parked = a_lease(phase=Phase.PARKED)
    await store.add(parked)

    active = a_lease(profile="py101/gpu")
    await store.add(active)

    assert {lease.id for lease in await store.live("test-hub")} == {parked.id, active.id}


async def test_a_parked_lease_wakes_only_when_its_server_has_no_active_one(store: Store):
    parked, active = a_lease(phase=Phase.PARKED), a_lease(profile="py101/gpu")
    await store.add(parked)
    await store.add(active)

    with pytest.raises(LeaseConflict):
        await store.update(parked.id, phase=Phase.QUEUED)
    await store.update(active.id, phase=Phase.PARKED)
    woken = await store.update(parked.id, phase=Phase.QUEUED)

    assert woken.phase is Phase.QUEUED


async def test_of_many_simultaneous_starts_of_one_server_one_wins(store: Store):
    outcomes = await asyncio.gather(*(store.add(a_lease()) for _ in range(8)), return_exceptions=True)

    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, LeaseConflict) for outcome in outcomes) == 7


async def test_live_leases_are_listed_oldest_first_and_by_user_and_server(store: Store):
    late = a_lease(user="ann", created_at=NOW + timedelta(seconds=1))
    early = a_lease(user="ann", server_name="gpu")
    other_hub = a_lease(user="ann", hub_id="hub2")
    parked = a_lease(user="bob", phase=Phase.PARKED)
    ended = a_lease(user="ann", server_name="old", phase=Phase.ENDED, ended_at=NOW)
    for lease in (late, early, other_hub, parked, ended):
        await store.add(lease)

    assert await store.live("test-hub", user="ann") == [early, late]
    assert await store.live("test-hub", user="ann", server_name="") == [late]
    assert {lease.id for lease in await store.live("test-hub")} == {late.id, early.id, parked.id}
    assert await store.live("test-hub", user="Ann") == []


async def test_a_new_phase_stamps_its_instant(store: Store, clock: Clock):
    lease = a_lease()
    await store.add(lease)

    launching_at = clock.forward(seconds=1)
    launching = await store.update(lease.id, expected={Phase.QUEUED}, phase=Phase.LAUNCHING)
    ready_at = clock.forward(seconds=5)
    ready = await store.update(lease.id, phase=Phase.READY, url="http://127.0.0.1:1")
    clock.forward(seconds=5)
    same = await store.update(lease.id, attempts=2, phase=Phase.READY)
    ended_at = clock.forward(hours=1)
    ended = await store.update(lease.id, phase=Phase.ENDED, ending=IDLE)

    assert (launching.phase, launching.phase_at, launching.ready_at) == (Phase.LAUNCHING, launching_at, None)
    assert (ready.phase_at, ready.ready_at, ready.url) == (ready_at, ready_at, "http://127.0.0.1:1")
    assert (same.phase_at, same.ready_at, same.attempts) == (ready_at, ready_at, 2)
    assert (ended.phase_at, ended.ended_at, ended.ready_at) == (ended_at, ended_at, ready_at)
    assert await store.get(lease.id) == ended


async def test_instants_that_are_given_are_kept(store: Store):
    lease = a_lease()
    await store.add(lease)
    then = NOW - timedelta(days=1)

    ended = await store.update(lease.id, phase=Phase.ENDED, ended_at=then, phase_at=then)

    assert (ended.ended_at, ended.phase_at) == (then, then)


async def test_an_instant_in_another_timezone_is_the_same_instant(store: Store):
    there = datetime(2026, 11, 2, 18, 0, 0, 123456, tzinfo=timezone(timedelta(hours=8)))
    lease = a_lease(created_at=there)

    await store.add(lease)

    found = await store.get(lease.id)
    assert found.created_at == there
    assert found.created_at.utcoffset() == timedelta(0)


async def test_an_instant_without_a_timezone_is_refused(store: Store):
    with pytest.raises(ValueError, match="needs a timezone"):
        await store.add(a_lease(created_at=NOW.replace(tzinfo=None)))

    assert await store.live("test-hub") == []


async def test_a_phase_that_is_not_expected_is_a_conflict_and_changes_nothing(store: Store):
    lease = a_lease(phase=Phase.STOPPING)
    await store.add(lease)

    with pytest.raises(LeaseConflict):
        await store.update(lease.id, expected={Phase.LAUNCHING, Phase.QUEUED}, phase=Phase.READY, url="http://x:1")

    assert await store.get(lease.id) == lease


async def test_of_simultaneous_changes_from_one_phase_one_wins(store: Store):
    lease = a_lease(phase=Phase.READY)
    await store.add(lease)

    stops = (store.update(lease.id, expected={Phase.READY}, phase=Phase.STOPPING, attempts=n) for n in range(8))
    outcomes = await asyncio.gather(*stops, return_exceptions=True)

    (won,) = (outcome for outcome in outcomes if not isinstance(outcome, LeaseConflict))
    assert await store.get(lease.id) == won


@pytest.mark.parametrize("phase", sorted(LIVE_PHASES))
async def test_an_ended_lease_never_lives_again(store: Store, phase: Phase):
    lease = a_lease(phase=Phase.ENDED, ended_at=NOW)
    await store.add(lease)

    for expected in (None, set(Phase)):
        with pytest.raises(LeaseConflict):
            await store.update(lease.id, expected=expected, phase=phase)

    assert await store.get(lease.id) == lease


async def test_a_late_checkpoint_of_an_ended_lease_is_a_conflict(store: Store):
    lease = a_lease(phase=Phase.ENDED, ended_at=NOW)
    await store.add(lease)

    with pytest.raises(LeaseConflict):
        await store.update(lease.id, handle=Handle(lease_id=lease.id, provider="sim"))


async def test_ending_twice_keeps_the_first_ending(store: Store, clock: Clock):
    lease = a_lease()
    await store.add(lease)
    first = await store.update(lease.id, phase=Phase.ENDED, ending=IDLE)
    clock.forward(hours=1)

    again = await store.update(lease.id, phase=Phase.ENDED, ending=OTHER)
    expecting = await store.update(lease.id, expected=set(Phase), phase=Phase.ENDED, ending=OTHER)

    assert again == expecting == first == await store.get(lease.id)
    with pytest.raises(LeaseConflict):
        await store.update(lease.id, expected=LIVE_PHASES, phase=Phase.ENDED)


async def test_a_change_that_expects_an_ended_lease_is_made(store: Store):
    lease = a_lease(phase=Phase.ENDED, ended_at=NOW)
    await store.add(lease)

    changed = await store.update(lease.id, expected={Phase.ENDED}, attempts=9)

    assert changed == lease.with_(attempts=9) == await store.get(lease.id)


async def test_changing_an_unknown_lease_is_an_error_of_its_own(store: Store):
    with pytest.raises(UnknownLease, match="lgone") as refused:
        await store.update(LeaseId("lgone"), phase=Phase.READY)

    assert isinstance(refused.value, Permanent)
    assert isinstance(refused.value, LookupError)


@pytest.mark.parametrize("field", ["id", "hub_id", "created_at", "colour"])
async def test_a_field_that_never_changes_or_does_not_exist_is_refused(store: Store, field: str):
    lease = a_lease()
    await store.add(lease)

    with pytest.raises(TypeError, match=field):
        await store.update(lease.id, **{field: "x"})

    assert await store.get(lease.id) == lease


async def test_a_lease_follows_its_user_and_server_to_a_new_name(store: Store):
    lease = a_lease()
    await store.add(lease)

    await store.update(lease.id, user="student1-renamed", server_name="second")

    assert [found.id for found in await store.live(lease.hub_id, user="student1-renamed")] == [lease.id]
    await store.add(a_lease())  # the old name is free again


async def test_a_rename_to_a_server_that_has_a_live_lease_is_a_conflict(store: Store):
    lease, other = a_lease(), a_lease(user="student2")
    await store.add(lease)
    await store.add(other)

    with pytest.raises(LeaseConflict):
        await store.update(other.id, user=lease.user)


async def test_a_handle_of_another_lease_is_refused(store: Store):
    lease = a_lease()
    await store.add(lease)

    with pytest.raises(ValueError, match="lother"):
        await store.update(lease.id, handle=Handle(lease_id=LeaseId("lother"), provider="sim"))


@pytest.mark.parametrize("value", [float("nan"), object()], ids=["nan", "object"])
async def test_data_that_is_not_json_is_refused(store: Store, value):
    with pytest.raises((ValueError, TypeError)):
        await store.add(a_lease(pinned={"x": value}))

    assert await store.live("test-hub") == []


async def test_fields_can_be_cleared(store: Store):
    lease = a_full_lease(phase=Phase.READY)
    await store.add(lease)

    cleared = await store.update(lease.id, handle=None, url=None, ending=None)

    assert cleared == await store.get(lease.id) == lease.with_(handle=None, url=None, ending=None)
