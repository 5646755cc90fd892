"""Why a server is about to be stopped, noted before the hub is asked to; and why it was, read at the next login."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import NOW, a_lease

from labspawner.errors import LeaseConflict, UnknownLease
from labspawner.model import Ending, LeaseId, Phase, ReleaseMode
from labspawner.sentences import Sentence
from labspawner.store import Store

IDLE = Ending(by="culler", reason=Sentence("Idle for {span}.", span="20 min"))
OTHER = Ending(by="teacher", reason=Sentence("The class is over."))


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.LAUNCHING, Phase.READY, Phase.PARKED])
async def test_an_intention_stands_in_the_live_lease(store: Store, phase: Phase):
    lease = a_lease(phase=phase)
    await store.add(lease)

    noted = await store.intend(lease.id, IDLE, ReleaseMode.STOP)

    assert noted == await store.get(lease.id) == lease.with_(ending=IDLE, release_mode=ReleaseMode.STOP)


async def test_an_intention_withdrawn_leaves_the_lease_as_it_was(store: Store):
    lease = a_lease(phase=Phase.READY, release_mode=ReleaseMode.HIBERNATE)
    await store.add(lease)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)

    assert await store.withdraw(lease.id, IDLE) is True

    assert await store.get(lease.id) == lease
    assert await store.withdraw(lease.id, IDLE) is False


async def test_the_later_intention_wins_and_the_earlier_one_cannot_withdraw_it(store: Store):
    lease = a_lease(phase=Phase.READY, release_mode=ReleaseMode.HIBERNATE)
    await store.add(lease)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    await store.intend(lease.id, OTHER, ReleaseMode.DESTROY)

    assert await store.withdraw(lease.id, IDLE) is False
    assert (await store.get(lease.id)).ending == OTHER
    assert await store.withdraw(lease.id, OTHER) is True
    assert await store.get(lease.id) == lease


async def test_a_release_mode_set_meanwhile_is_not_undone(store: Store):
    lease = a_lease(phase=Phase.READY)
    await store.add(lease)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    await store.update(lease.id, release_mode=ReleaseMode.HIBERNATE)

    await store.withdraw(lease.id, IDLE)

    assert (await store.get(lease.id)).release_mode is ReleaseMode.HIBERNATE


async def test_an_intention_that_is_acted_on_cannot_be_withdrawn(store: Store):
    lease = a_lease(phase=Phase.READY)
    await store.add(lease)
    await store.intend(lease.id, IDLE, ReleaseMode.STOP)
    stopping = await store.update(lease.id, phase=Phase.STOPPING)

    assert await store.withdraw(lease.id, IDLE) is False

    assert await store.get(lease.id) == stopping
    assert stopping.ending == IDLE


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.ENDED])
async def test_what_is_stopping_or_has_ended_takes_no_intention(store: Store, phase: Phase):
    lease = a_lease(phase=phase, ending=OTHER)
    await store.add(lease)

    with pytest.raises(LeaseConflict):
        await store.intend(lease.id, IDLE, ReleaseMode.STOP)

    assert await store.get(lease.id) == lease


async def test_an_unknown_lease_takes_no_intention(store: Store):
    with pytest.raises(UnknownLease):
        await store.intend(LeaseId("lgone"), IDLE, ReleaseMode.STOP)

    assert await store.withdraw(LeaseId("lgone"), IDLE) is False


async def test_a_reason_with_words_that_json_lacks_keeps_its_english_text(store: Store):
    lease = a_lease()
    await store.add(lease)

    await store.intend(lease.id, Ending(by="culler", reason=Sentence("Idle for {s}.", s=NOW)), ReleaseMode.STOP)

    assert (await store.get(lease.id)).ending.reason == f"Idle for {NOW}."


async def test_a_reason_that_is_a_plain_string_comes_back_as_a_sentence(store: Store):
    lease = a_lease(ending=Ending(by="hub", reason="{not a field}"))  # type: ignore[arg-type]

    await store.add(lease)

    reason = (await store.get(lease.id)).ending.reason
    assert isinstance(reason, Sentence)
    assert reason == "{not a field}"


async def test_the_newest_ending_of_each_server_is_found(store: Store):
    def ended(minutes: float, **changes):
        at = NOW + timedelta(minutes=minutes)
        return a_lease(**{"phase": Phase.ENDED, "ended_at": at, "ending": IDLE, **changes})

    older, newer = ended(1), ended(2)
    silent = ended(3, ending=None)
    second = ended(5, server_name="gpu", ending=OTHER)
    too_old = ended(-1, user="bob")
    just_in_time = ended(0, user="carol")
    elsewhere = ended(1, hub_id="hub2")
    still_live = a_lease(phase=Phase.READY, ending=IDLE)
    for lease in (newer, older, silent, second, too_old, just_in_time, elsewhere, still_live):
        await store.add(lease)

    found = await store.latest_endings("test-hub", since=NOW)

    assert found == [second, newer, just_in_time]
