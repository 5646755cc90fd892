"""Courses in the database: of two changes at once one is refused, and nothing that was saved is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from builders import NOW
from unit.store.clock import SHARED

from labspawner.errors import Conflict, CourseExists, UnknownCourse
from labspawner.model import CourseState
from labspawner.store import AuditEntry, Store, Written
from labspawner.store.engine import transaction
from labspawner.store.schema import course_revisions, courses

TEXT = "course: py101\ntitle: {en: Python, zh-CN: 程序设计}\n"


async def create(store: Store, slug: str = "py101", text: str = TEXT, **changes: Any) -> Written:
    return await store.coursebook.create(slug, text, **{"by": "ann", "now": NOW, **changes})


async def save(store: Store, text: str, if_match: str | None, by: str = "ann", **changes: Any) -> Written:
    return await store.coursebook.save("py101", text, if_match=if_match, by=by, **{"now": NOW, **changes})


def entry(**changes: Any) -> AuditEntry:
    return AuditEntry(**{"at": NOW, "actor": "ann", "verb": "course.save", "course": "py101", **changes})


async def test_what_is_written_is_read_back_to_the_letter(store: Store):
    text = TEXT + "# tabs\t, \\u0000 and \x00, 中文, 🧠\r\n  \n\n"

    written = await create(store, text=text, comment="first 中")

    assert await store.coursebook.get("py101") == written
    assert (written.text, written.revision, written.state) == (text, 1, CourseState.DRAFT)
    assert (written.created_by, written.changed_by, written.created_at, written.everyone_by) == (
        "ann",
        "ann",
        NOW,
        None,
    )
    (revision,) = await store.coursebook.revisions("py101")
    assert (revision.text, revision.comment, revision.revision, revision.by, revision.at) == (
        text,
        "first 中",
        1,
        "ann",
        NOW,
    )


async def test_a_course_is_created_once(store: Store):
    before = await create(store)

    with pytest.raises(CourseExists, match="py101"):
        await create(store, text="another", by="bob")
    with pytest.raises(CourseExists):
        await save(store, "another", None, by="bob")

    assert await store.coursebook.get("py101") == before
    assert len(await store.coursebook.revisions("py101")) == 1


async def test_an_archived_course_keeps_its_name(store: Store):
    written = await create(store)
    await store.coursebook.set_state("py101", CourseState.ARCHIVED, if_match=written.etag, by="ann", now=NOW)

    with pytest.raises(CourseExists):
        await create(store)


@pytest.mark.parametrize("slug", ["", "x" * 41, "课程", "a" * 5000])
async def test_what_can_be_no_courses_name_is_never_written(store: Store, slug: str):
    with pytest.raises(ValueError, match="short name"):
        await create(store, slug=slug)

    assert await store.coursebook.all() == []


async def test_a_save_without_the_etag_of_what_is_there_is_refused_and_says_who_was_faster(store: Store):
    first = await create(store)
    second = await save(store, "bob's", first.etag, by="bob")

    with pytest.raises(Conflict) as refused:
        await save(store, "ann's", first.etag)

    assert (refused.value.etag, refused.value.by, refused.value.at) == (second.etag, "bob", NOW)
    assert refused.value.status_code == 412
    assert "bob" in refused.value.message
    assert (await store.coursebook.get("py101")) == second
    assert [each.text for each in await store.coursebook.revisions("py101")] == ["bob's", TEXT]


@pytest.mark.parametrize("etag", ["", "*", "1", "W/", "1-0000000000000000", "é\ud800", "1-" + "0" * 10_000])
async def test_no_etag_but_the_one_it_has_opens_a_course(store: Store, etag: str):
    before = await create(store)

    with pytest.raises(Conflict):
        await save(store, "stolen", etag)

    assert await store.coursebook.get("py101") == before


async def test_each_change_of_text_or_state_gives_another_etag(store: Store):
    written = await create(store)
    etags = [written.etag]
    for _ in range(3):
        written = await save(store, TEXT, written.etag)
        etags.append(written.etag)
    for state in (CourseState.PUBLISHED, CourseState.DRAFT, CourseState.PUBLISHED, CourseState.PUBLISHED):
        written = await store.coursebook.set_state("py101", state, if_match=written.etag, by="ann", now=NOW)
        etags.append(written.etag)

    assert len(set(etags)) == len(etags)


async def test_a_change_of_state_is_no_revision_and_refuses_a_save_that_did_not_see_it(store: Store):
    first = await create(store)
    published = await store.coursebook.set_state(
        "py101", CourseState.PUBLISHED, if_match=first.etag, by="bob", now=NOW, audit=entry(verb="course.publish")
    )

    with pytest.raises(Conflict):
        await save(store, "x", first.etag)
    with pytest.raises(Conflict):
        await store.coursebook.set_state("py101", CourseState.ARCHIVED, if_match=first.etag, by="ann", now=NOW)

    assert (published.revision, published.state, published.changed_by) == (1, CourseState.PUBLISHED, "bob")
    assert len(await store.coursebook.revisions("py101")) == 1
    assert [record.entry.verb for record in await store.audit.search()] == ["course.publish"]


async def test_a_rollback_is_a_new_revision_and_what_was_rolled_back_stays(store: Store):
    written = await create(store)
    written = await save(store, "worse", written.etag)

    back = await store.coursebook.rollback(
        "py101", 1, if_match=written.etag, by="bob", now=NOW, comment="it was better"
    )

    assert (back.text, back.revision, back.changed_by) == (TEXT, 3, "bob")
    revisions = await store.coursebook.revisions("py101")
    assert [(each.revision, each.text, each.comment) for each in revisions] == [
        (3, TEXT, "it was better"),
        (2, "worse", ""),
        (1, TEXT, ""),
    ]


async def test_a_rollback_to_what_never_was_or_without_the_etag_changes_nothing(store: Store):
    written = await create(store)
    other = await create(store, slug="other", text="secret of another course")

    for number in (0, 2, -1):
        with pytest.raises(UnknownCourse):
            await store.coursebook.rollback("py101", number, if_match=written.etag, by="ann", now=NOW)
    with pytest.raises(Conflict):
        await store.coursebook.rollback("py101", 1, if_match=other.etag, by="ann", now=NOW)

    assert await store.coursebook.get("py101") == written


async def test_what_is_not_there_is_said(store: Store):
    book = store.coursebook

    assert await book.get("py101") is None
    assert await book.revisions("py101") == []
    assert await book.etags() == {}
    for work in (
        book.save("py101", "x", if_match="1-0", by="ann", now=NOW),
        book.set_state("py101", CourseState.DRAFT, if_match="1-0", by="ann", now=NOW),
        book.rollback("py101", 1, if_match="1-0", by="ann", now=NOW),
        book.revision("py101", 1),
    ):
        with pytest.raises(UnknownCourse):
            await work


async def test_courses_are_listed_by_name_and_state(store: Store):
    for slug in ("c3", "a1", "b2"):
        await create(store, slug=slug)
    middle = await store.coursebook.get("b2")
    assert middle is not None
    await store.coursebook.set_state("b2", CourseState.PUBLISHED, if_match=middle.etag, by="ann", now=NOW)
    book = store.coursebook

    assert [each.slug for each in await book.all()] == ["a1", "b2", "c3"]
    assert [each.slug for each in await book.all([CourseState.PUBLISHED])] == ["b2"]
    assert [each.slug for each in await book.some(["c3", "a1", "none"])] == ["a1", "c3"]
    assert await book.etags() == {each.slug: each.etag for each in await book.all()}


async def test_revisions_are_read_page_by_page(store: Store):
    written = await create(store)
    for number in range(6):
        written = await save(store, str(number), written.etag)
    book = store.coursebook

    first = await book.revisions("py101", limit=3)
    rest = await book.revisions("py101", before=first[-1].revision)

    assert [each.revision for each in [*first, *rest]] == [7, 6, 5, 4, 3, 2, 1]
    assert (await book.revision("py101", 4)).text == "2"


async def test_who_let_it_be_open_to_everyone_is_kept_by_later_saves(store: Store):
    written = await create(store)
    written = await save(store, "open", written.etag, by="root", everyone_by="root")
    written = await save(store, "still", written.etag)

    assert written.everyone_by == "root"


async def test_hubs_that_share_a_database_see_their_own_courses_only(make_store: Callable[..., Store]):
    ours = make_store()
    await ours.migrate()
    theirs = ours.__class__(ours._engine, clock=ours._clock, hub_id="other")
    mine = await create(ours)
    await create(theirs, text="theirs")

    with pytest.raises(Conflict):
        await theirs.coursebook.save("py101", "stolen", if_match=mine.etag, by="eve", now=NOW)

    assert (await ours.coursebook.get("py101")) == mine
    assert [each.text for each in await theirs.coursebook.revisions("py101")] == ["theirs"]
    theirs._threads.shutdown()


def test_a_store_of_no_hub_has_no_courses():
    store = Store.open("sqlite://")

    for door in ("coursebook", "rosters", "audit", "jobs"):
        with pytest.raises(ValueError, match="hub_id"):
            getattr(store, door)

    store._shut_down()


# -- all or nothing ------------------------------------------------------------------------------------------------


async def test_a_save_and_its_audit_entry_are_written_together_or_not_at_all(store: Store):
    written = await create(store, audit=entry(verb="course.create"))

    with pytest.raises(ValueError, match="one word"):
        await save(store, "half", written.etag, audit=entry(verb=""))
    with pytest.raises(TypeError):
        await save(store, "half", written.etag, audit=entry(detail={"x": object()}))

    assert await store.coursebook.get("py101") == written
    assert len(await store.coursebook.revisions("py101")) == 1
    assert [record.entry.verb for record in await store.audit.search()] == ["course.create"]


async def test_a_crash_in_the_middle_of_a_save_leaves_nothing_of_it(store: Store):
    written = await create(store)
    changes: dict[str, object] = {"text": "half"}

    def crash() -> None:
        with transaction(store._engine, writes=True) as conn:
            store.coursebook._change(conn, "py101", written.etag, changes, "ann", NOW, "", entry())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()

    assert await store.coursebook.get("py101") == written
    assert len(await store.coursebook.revisions("py101")) == 1
    assert await store.audit.search() == []
    assert (await save(store, "again", written.etag)).revision == 2


async def test_every_course_has_the_revision_that_it_says(store: Store):
    written = await create(store)
    for number in range(3):
        written = await save(store, str(number), written.etag)

    with transaction(store._engine, writes=False) as conn:
        joined = sa.select(courses.c.text, course_revisions.c.text).join(
            course_revisions,
            (course_revisions.c.slug == courses.c.slug) & (course_revisions.c.revision == courses.c.revision),
        )
        assert [tuple(row) for row in conn.execute(joined)] == [("2", "2")]


# -- at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_many_saves_at_once_one_wins_and_the_others_hear_of_it(make_store: Callable[..., Store]):
    stores = [make_store() for _ in range(4)]
    await stores[0].migrate()
    written = await create(stores[0])

    came = await asyncio.gather(
        *(save(stores[number % 4], f"text {number}", written.etag, by=f"user{number}") for number in range(12)),
        return_exceptions=True,
    )

    won = [each for each in came if isinstance(each, Written)]
    assert len(won) == 1
    assert all(isinstance(each, (Written, Conflict)) for each in came)
    assert {each.etag for each in came if isinstance(each, Conflict)} == {won[0].etag}
    assert [each.text for each in await stores[0].coursebook.revisions("py101")] == [won[0].text, TEXT]


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_many_who_create_a_course_at_once_one_does(make_store: Callable[..., Store]):
    stores = [make_store() for _ in range(4)]
    await stores[0].migrate()

    came = await asyncio.gather(
        *(create(stores[number % 4], text=f"text {number}") for number in range(8)), return_exceptions=True
    )

    won = [each for each in came if isinstance(each, Written)]
    assert len(won) == 1
    assert sum(isinstance(each, CourseExists) for each in came) == 7
    assert [each.text for each in await stores[0].coursebook.revisions("py101")] == [won[0].text]


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_whoever_reads_again_after_a_conflict_loses_no_word(make_store: Callable[..., Store]):
    stores = [make_store() for _ in range(3)]
    await stores[0].migrate()
    await create(stores[0], text="")

    async def append(store: Store, word: str) -> None:
        while True:
            now = await store.coursebook.get("py101")
            assert now is not None
            try:
                await save(store, f"{now.text} {word}".strip(), now.etag, by=word)
            except Conflict:
                continue
            return

    words = [f"w{number}" for number in range(9)]
    await asyncio.gather(*(append(stores[number % 3], word) for number, word in enumerate(words)))

    found = await stores[0].coursebook.get("py101")
    assert found is not None
    assert sorted(found.text.split()) == words
    assert found.revision == 10
