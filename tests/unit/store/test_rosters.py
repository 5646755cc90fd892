"""Who is on a course's roster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from builders import NOW
from unit.store.clock import SHARED

from labspawner.model import CourseRole
from labspawner.store import AuditEntry, Seat, Source, Store

ODD = "Ünï\x00\ud800/../🧠' OR 1=1 --" + "x" * 5000


def seat(user: str = "sam", course: str = "py101", **changes: Any) -> Seat:
    return Seat(**{"course": course, "user": user, "added_by": "ann", "added_at": NOW, **changes})


def entry(verb: str = "roster.add") -> AuditEntry:
    return AuditEntry(at=NOW, actor="ann", verb=verb, course="py101")


async def test_who_is_put_on_a_roster_is_on_it_by_name(store: Store):
    seats = [seat("tim"), seat(ODD, source=Source.CSV), seat("ann", role=CourseRole.INSTRUCTOR)]

    await store.rosters.put("py101", seats, audit=[entry()])

    assert await store.rosters.of("py101") == sorted(seats, key=lambda each: each.user)
    assert await store.rosters.of("other") == []
    assert len(await store.audit.search()) == 1


async def test_everybody_is_on_a_roster_once_and_the_last_word_counts(store: Store):
    await store.rosters.put("py101", [seat("sam"), seat("tim")])
    later = seat("sam", role=CourseRole.ASSISTANT, source=Source.CSV, added_by="bob")

    await store.rosters.put("py101", [seat("sam"), later])

    assert await store.rosters.of("py101") == [later, seat("tim")]


async def test_people_are_taken_off_one_roster_and_stay_on_others(store: Store):
    await store.rosters.put("py101", [seat("sam"), seat("tim")])
    await store.rosters.put("dl101", [seat("sam", "dl101")])

    assert await store.rosters.remove("py101", ["sam", "nobody"], audit=[entry("roster.remove")]) == 1

    assert [each.user for each in await store.rosters.of("py101")] == ["tim"]
    assert [each.course for each in await store.rosters.courses_of("sam")] == ["dl101"]


async def test_a_new_list_replaces_the_old_one_as_far_as_it_came_the_same_way(store: Store):
    await store.rosters.put("py101", [seat("hand"), seat("old", source=Source.CSV), seat("both", source=Source.CSV)])

    await store.rosters.replace(
        "py101", [seat("both", source=Source.CSV), seat("new", source=Source.CSV)], sources=[Source.CSV]
    )
    assert [each.user for each in await store.rosters.of("py101")] == ["both", "hand", "new"]

    await store.rosters.replace("py101", [seat("only")])
    assert [each.user for each in await store.rosters.of("py101")] == ["only"]


async def test_a_roster_is_changed_all_or_not_at_all(store: Store):
    await store.rosters.put("py101", [seat("sam")])

    with pytest.raises(ValueError, match="seat of 'dl101'"):
        await store.rosters.put("py101", [seat("tim"), seat("eve", "dl101")])
    with pytest.raises(ValueError, match="one word"):
        await store.rosters.replace("py101", [], audit=[entry(verb="")])

    assert await store.rosters.of("py101") == [seat("sam")]


async def test_a_roster_of_two_thousand_is_one_change(store: Store):
    seats = [seat(f"student{number:04}") for number in range(2000)]

    await store.rosters.replace("py101", seats)
    await store.rosters.replace("py101", seats[500:])

    assert await store.rosters.of("py101") == seats[500:]


async def test_hubs_in_one_database_have_their_own_rosters(make_store: Callable[..., Store]):
    ours = make_store()
    await ours.migrate()
    theirs = Store(ours._engine, clock=ours._clock, hub_id="other")
    await ours.rosters.put("py101", [seat("sam")])

    await theirs.rosters.replace("py101", [seat("eve")])
    await theirs.rosters.remove("py101", ["sam"])

    assert [each.user for each in await ours.rosters.of("py101")] == ["sam"]
    theirs._threads.shutdown()


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_many_who_put_the_same_people_on_at_once_all_succeed(make_store: Callable[..., Store]):
    stores = [make_store() for _ in range(3)]
    await stores[0].migrate()
    seats = [seat(f"student{number}") for number in range(30)]

    puts = (store.rosters.put("py101", order) for store in stores for order in (seats, seats[::-1]))
    replaced = stores[0].rosters.replace("py101", seats, sources=[Source.CSV])
    await asyncio.gather(*puts, replaced)

    assert len(await stores[0].rosters.of("py101")) == 30
