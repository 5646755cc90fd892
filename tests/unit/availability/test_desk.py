"""One computation for all who look: when it is made, when it is not, and what each of them gets of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from builders import NOW, a_lease
from unit.availability.conftest import SECRET, STUDENT, Rooms

from labspawner.availability import Availability, Blocked, Viewer
from labspawner.courses import Catalog, WrittenText
from labspawner.lifecycle import Variant
from labspawner.lifecycle.admission import Room
from labspawner.model import CourseState, LeaseId, Phase, Resources
from labspawner.testing.waiting import eventually

GIB = 2**30


async def test_a_student_is_told_of_the_own_courses_and_of_no_other(desk: Availability):
    assert set(await desk.of(STUDENT)) == {"py101/base", "py101/limited"}
    assert await desk.of(Viewer(user="nobody", groups=frozenset())) == {}
    assert "secret/only" in await desk.of(Viewer(user="admin", groups=frozenset(), admin=True))


async def test_three_hundred_who_look_are_one_question_to_the_provider(desk: Availability, rooms: Rooms):
    viewers = [replace(STUDENT, user=f"s{number}") for number in range(300)]

    answers = await asyncio.gather(*(desk.of(viewer) for viewer in viewers))

    assert rooms.asked == ["lab"]
    assert {answer["py101/base"].free_now for answer in answers} == {5}


async def test_what_changed_in_this_hub_is_seen_by_the_next_who_looks(desk: Availability, rooms: Rooms):
    before = await desk.look()
    rooms.set("lab", Room(free=4, total=9))

    assert (await desk.of(STUDENT))["py101/base"].free_now == 4
    assert (await desk.look()).version != before.version


async def test_who_asks_after_a_change_is_not_told_what_an_earlier_look_saw(
    desk: Availability, rooms: Rooms, monkeypatch
):
    seen, go_on, ask = asyncio.Event(), asyncio.Event(), rooms.rooms

    async def slowly(*asked):
        found = await ask(*asked)
        seen.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(rooms, "rooms", slowly)
    early = asyncio.create_task(desk.of(STUDENT))
    await seen.wait()
    rooms.set("lab", Room(free=0, total=9))
    late = [asyncio.create_task(desk.of(STUDENT)) for _ in range(30)]
    await asyncio.sleep(0)
    go_on.set()

    assert (await early)["py101/base"].free_now == 5
    assert {answer["py101/base"].free_now for answer in await asyncio.gather(*late)} == {0}
    assert rooms.asked == ["lab", "lab"]


async def test_a_look_that_finds_nothing_new_has_the_old_version(desk: Availability, rooms: Rooms):
    before = await desk.look()
    rooms.room_changed.ring()
    after = await desk.look()

    assert after.version == before.version
    assert rooms.asked == ["lab", "lab"]


async def test_what_is_old_is_looked_at_again_though_nothing_was_heard(open_desk, rooms: Rooms):
    desk = open_desk(fresh_s=0.0)
    await desk.look()
    rooms.free["lab"] = Room(free=1, total=9)

    assert (await desk.of(STUDENT))["py101/base"].free_now == 1


async def test_options_of_ones_own_are_asked_for_and_shared(desk: Availability, rooms: Rooms):
    large = replace(STUDENT, last={"profile": "py101/base", "options": {"size": "large"}})

    await desk.of(large)
    await desk.of(replace(large, user="other"))

    assert rooms.asked == ["lab", "lab"]
    assert Resources(memory_bytes=8 * GIB) in rooms.needs


async def test_a_broken_provider_costs_only_its_own_profiles(desk: Availability, rooms: Rooms, caplog):
    rooms.free["lab"] = KeyError("secret")

    answers = await desk.of(STUDENT)

    assert answers["py101/base"].blocked_by == (Blocked.PROVIDER_SILENT,)
    assert "cannot tell what is free" in caplog.text


async def test_a_limit_per_user_is_the_users_own(desk: Availability, rooms: Rooms):
    rooms.leases = [a_lease(user="student1", profile="py101/limited", server_name="one", phase=Phase.READY)]

    assert (await desk.of(STUDENT))["py101/limited"].blocked_by == (Blocked.PER_USER_LIMIT,)
    assert (await desk.of(replace(STUDENT, user="other")))["py101/limited"].startable


async def test_ends_of_servers_are_worked_out_only_where_something_is_full(rooms: Rooms, catalog: Catalog):
    looked: list[int] = []

    async def courses() -> Catalog:
        return catalog

    def ends(leases, now):
        looked.append(len(leases))
        return {LeaseId("one"): NOW + timedelta(minutes=5)}

    desk = Availability(rooms, courses, lambda: NOW, ends=ends)
    await desk.look()
    assert looked == []
    rooms.set("lab", Room(free=0, total=9))
    await desk.look()
    rooms.room_changed.ring()
    await desk.look()
    assert looked == [0]
    await desk.close()


async def test_who_watches_hears_of_each_change_once_and_nothing_goes_on_afterwards(desk: Availability, rooms: Rooms):
    seen = []
    async with aclosing(desk.changes()) as pictures:
        async for picture in pictures:
            seen.append(picture.rooms["lab", Resources()])
            if len(seen) == 3:
                break
            rooms.set("lab", Room(free=5 - len(seen), total=9))

    assert [room.free for room in seen if room is not None] == [5, 4, 3]
    asked = len(rooms.asked)
    rooms.set("lab", Room(free=0, total=9))
    await asyncio.sleep(0)
    assert len(rooms.asked) == asked


async def test_many_changes_of_a_moment_are_told_together(open_desk, rooms: Rooms):
    desk = open_desk(gap_s=0.2, tick_s=0.4)
    async with aclosing(desk.changes()) as pictures:
        await anext(pictures)
        for free in (4, 3, 2, 1, 0):
            rooms.set("lab", Room(free=free, total=9))
        found = await anext(pictures)

    room = found.rooms["lab", Resources()]
    assert room is not None
    assert room.free == 0


async def test_what_a_host_changes_by_itself_is_seen_by_who_watches(open_desk, rooms: Rooms):
    desk = open_desk(fresh_s=0.0)
    async with aclosing(desk.changes()) as pictures:
        await anext(pictures)
        rooms.free["lab"] = Room(free=2, total=9)  # nobody rings
        found = await asyncio.wait_for(anext(pictures), timeout=60)

    room = found.rooms["lab", Resources()]
    assert room is not None
    assert room.free == 2


async def test_a_course_that_changes_is_another_version_of_courses(
    open_desk: Callable[..., Availability], catalog: Catalog, rooms: Rooms
):
    desk = open_desk()
    await desk.look()
    before = desk.versions(state=1)
    (catalog.folder / "secret.yaml").write_text(SECRET.replace("Only", "Other"), encoding="utf-8")
    catalog.refresh()
    rooms.room_changed.ring()
    await desk.look()
    after = desk.versions(state=2)

    assert [name for name in before if before[name] != after[name]] == ["state", "availability", "courses"]


async def test_who_waits_is_offered_what_has_room_by_the_name_that_its_course_gave_it(desk: Availability, rooms: Rooms):
    pinned = {"variant": {"title": {"en": "the spare one"}}}
    rooms.instead = (Variant(provider="lab", resources=Resources(cpu=1.0), index=1, pinned=pinned),)

    (other,) = await desk.instead(await desk.look(), "student1", "")
    rooms.set("lab", Room(free=0, total=9))

    assert (other.variant, other.title, other.free) == (2, {"en": "the spare one"}, 5)
    assert await desk.instead(await desk.look(), "student1", "") == ()


async def test_a_hold_is_part_of_what_changes(desk: Availability, rooms: Rooms):
    before = await desk.look()
    rooms.held["student1"] = SimpleNamespace(id="h", user="student1", profile="py101/base", until=NOW, provider="lab")
    rooms.room_changed.ring()

    assert (await desk.look()).version != before.version
    assert (await desk.of(STUDENT))["py101/base"].hold_until == NOW


async def test_closing_ends_what_is_under_way(open_desk, rooms: Rooms):
    desk = open_desk()
    pictures = desk.changes()
    await anext(pictures)

    await desk.close()

    await eventually(lambda: all(task is asyncio.current_task() for task in asyncio.all_tasks()), deadline_s=60)
    await pictures.aclose()


@pytest.mark.parametrize(
    "last", [None, 1, {"profile": 3}, {"profile": "py101/base", "options": 7}, {"profile": "x" * 10_000}]
)
async def test_saved_options_of_any_shape_are_borne(desk: Availability, last):
    assert "py101/base" in await desk.of(replace(STUDENT, last=last))


HOURS = """
course: exam
title: Exam
timezone: UTC
profiles:
  - slug: only
    title: Only
    variants: [{provider: lab}]
    hours: [{days: [tue], from: "09:00", to: "10:00"}]
"""


@pytest.mark.parametrize(
    ("group", "startable"),
    [("course-exam", False), ("course-exam-assistants", True), ("course-exam-instructors", True)],
)
async def test_outside_its_hours_a_course_is_open_to_those_who_help_to_run_it(desk, catalog: Catalog, group, startable):
    (catalog.folder / "exam.yaml").write_text(HOURS, encoding="utf-8")
    catalog.refresh()

    answers = await desk.of(Viewer(user="x", groups=frozenset({group})))

    assert answers["exam/only"].startable is startable
    assert answers["exam/only"].opens_at is not None


async def test_a_draft_is_offered_to_its_staff_alone_and_its_publication_is_heard(desk, catalog: Catalog, rooms: Rooms):
    text = "course: draft\ntitle: Draft\nprofiles:\n  - {slug: only, title: Only, variants: [{provider: lab}]}\n"
    student = Viewer(user="x", groups=frozenset({"course-draft"}))
    staff = replace(student, groups=frozenset({"course-draft-instructors"}))

    async def told(state: CourseState) -> tuple[set[str], set[str], str]:
        catalog.set_written([WrittenText(slug="draft", text=text, state=state, etag="1")])
        rooms.room_changed.ring()
        return set(await desk.of(student)), set(await desk.of(staff)), (await desk.look()).version

    before, after = await told(CourseState.DRAFT), await told(CourseState.PUBLISHED)

    assert before[:2] == (set(), {"draft/only"})
    assert after[:2] == ({"draft/only"}, {"draft/only"})
    assert before[2] != after[2]


async def test_staff_may_ask_why_somebody_is_not_offered_a_profile(desk: Availability, catalog: Catalog):
    catalog.set_written(
        [
            WrittenText(
                slug="draft",
                text="course: draft\ntitle: D\nprofiles:\n  - {slug: only, title: Only, variants: [{provider: lab}]}\n",
                state=CourseState.DRAFT,
                etag="1",
            )
        ]
    )
    member = Viewer(user="x", groups=frozenset({"course-draft"}))

    assert (await desk.why(STUDENT, "py101/base")).startable
    assert (await desk.why(STUDENT, "secret/only")).blocked_by == (Blocked.NOT_YOURS,)
    assert (await desk.why(STUDENT, "no/such")).blocked_by == (Blocked.NOT_YOURS,)
    assert (await desk.why(member, "draft/only")).blocked_by == (Blocked.DRAFT,)
