"""What staff said reaches whoever uses a server, also when the hub was started again meanwhile."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest
from builders import a_lease

from labspawner.errors import StoreUnavailable, UnknownLease
from labspawner.evidence.messages import KEPT_FOR, MOST, Messages
from labspawner.store import Store


@pytest.fixture
def now() -> datetime:
    """The real time: a book that opens reads what is not too old by then."""
    return datetime.now(timezone.utc)


async def test_a_message_outlives_the_hub_that_took_it(desk, now):
    lease = await desk.lease()
    said = await desk.book.messages.say(lease.id, "再过 10 分钟下课", by="teacher", now=now)

    await desk.restart()
    await desk.book.open()

    assert desk.book.messages.of(lease.id, now) == (said,)
    assert desk.book.messages.newest(lease.id, now) == said.to_json()


async def test_a_message_after_a_restart_is_newer_than_all_before_it(desk, now):
    lease = await desk.lease()
    before = Messages(desk.store, "test-hub", ids=lambda: 10**24)
    first = await before.say(lease.id, "one", by="teacher", now=now)

    after = Messages(desk.store, "test-hub", ids=lambda: 0)
    await after.open(now)
    second = await after.say(lease.id, "two", by="teacher", now=now)

    assert second.id > first.id
    assert [one.text for one in after.of(lease.id, now)] == ["one", "two"]


async def test_what_is_said_at_once_is_all_kept_up_to_the_most(desk, now):
    lease = await desk.lease()
    messages = Messages(desk.store, "test-hub", ids=lambda: 1)

    said = await asyncio.gather(
        *(messages.say(lease.id, f"{number}", by="teacher", now=now) for number in range(MOST + 2))
    )

    newest = tuple(sorted(said, key=lambda one: one.id))[-MOST:]
    assert messages.of(lease.id, now) == newest
    again = Messages(desk.store, "test-hub")
    await again.open(now)
    assert again.of(lease.id, now) == newest


async def test_a_message_is_read_for_hours_and_then_no_more(desk, now):
    lease = await desk.lease()
    await desk.book.messages.say(lease.id, "soon", by="teacher", now=now)

    assert desk.book.messages.of(lease.id, now + KEPT_FOR - timedelta(seconds=1))
    assert not desk.book.messages.of(lease.id, now + KEPT_FOR)
    later = Messages(desk.store, "test-hub")
    await later.open(now + KEPT_FOR + timedelta(seconds=1))
    assert not later.of(lease.id, now)


async def test_a_server_that_has_ended_reads_nothing_and_who_writes_hears_of_it(desk, now):
    with pytest.raises(UnknownLease):
        await desk.book.messages.say(a_lease().id, "x", by="teacher", now=now)


async def test_while_the_database_does_not_answer_nothing_is_said_to_be_sent(now, tmp_path):
    lease = a_lease()
    store = Store.open(f"sqlite:///{tmp_path}/no-such-folder/leases.sqlite")
    messages = Messages(store, "test-hub")

    with pytest.raises(StoreUnavailable):
        await messages.say(lease.id, "x", by="teacher", now=now)

    assert messages.of(lease.id, now) == ()
    await store.close()
