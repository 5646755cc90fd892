"""What staff said is kept as long as somebody may read it, and no longer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from builders import NOW, a_lease

from labspawner.model import Phase
from labspawner.store import SaidMessage, Store

HOUR = timedelta(hours=1)


def said(lease: Any, number: int, **changes: Any) -> SaidMessage:
    values = {"lease_id": lease.id, "id": number, "text": f"message {number}", "by": "teacher", "at": NOW}
    return SaidMessage(**{**values, **changes})


async def keep(store: Store, message: SaidMessage) -> bool:
    return await store.keep_message(message, most=3, before=message.at - 12 * HOUR)


async def test_what_was_said_is_read_back_as_it_was_typed_oldest_first(store: Store):
    lease = a_lease()
    await store.add(lease)
    first = said(lease, 7, text="再过 10 分钟下课 \\ \x00 'quoted' <b>", by="zoë")
    second = said(lease, 8, at=NOW + HOUR)

    assert await keep(store, second)
    assert await keep(store, first)

    assert await store.messages(lease.hub_id, since=NOW) == [first, second]


async def test_of_each_server_the_newest_few_are_kept(store: Store):
    lease, other = a_lease(), a_lease(server_name="other")
    await store.add(lease)
    await store.add(other)
    await keep(store, said(other, 1))

    for number in range(1, 6):
        await keep(store, said(lease, number))

    found = await store.messages(lease.hub_id, since=NOW - HOUR)
    assert [one.id for one in found if one.lease_id == lease.id] == [3, 4, 5]
    assert [one.id for one in found if one.lease_id == other.id] == [1]


async def test_what_is_too_old_goes_with_the_next_message_of_the_same_hub_alone(store: Store):
    lease, foreign = a_lease(), a_lease(hub_id="another", user="other")
    await store.add(lease)
    await store.add(foreign)
    await keep(store, said(lease, 1, at=NOW - 13 * HOUR))
    await keep(store, said(foreign, 1, at=NOW - 13 * HOUR))

    await keep(store, said(lease, 2))

    assert [one.id for one in await store.messages(lease.hub_id, since=NOW - 24 * HOUR)] == [2]
    assert [one.id for one in await store.messages("another", since=NOW - 24 * HOUR)] == [1]


async def test_what_was_said_before_is_left_out(store: Store):
    lease = a_lease()
    await store.add(lease)
    await keep(store, said(lease, 1, at=NOW - HOUR))

    assert await store.messages(lease.hub_id, since=NOW) == []


async def test_nothing_is_kept_for_a_server_that_is_not_on_record(store: Store):
    lease = a_lease()

    assert not await keep(store, said(lease, 1))

    await store.add(lease)
    assert await store.messages(lease.hub_id, since=NOW - HOUR) == []


async def test_a_server_that_has_ended_takes_its_messages_along(store: Store):
    lease = a_lease()
    await store.add(lease)
    await keep(store, said(lease, 1))

    await store.update(lease.id, phase=Phase.ENDED)

    assert await store.messages(lease.hub_id, since=NOW - HOUR) == []
