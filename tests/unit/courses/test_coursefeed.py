"""What is written in the database comes into force, and a database that is away changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from builders import NOW
from unit.courses.course_files import text_of

from labspawner.coursefeed import CourseFeed
from labspawner.courses import Catalog
from labspawner.model import CourseState
from labspawner.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/lab.sqlite", hub_id="hub")
    yield store
    await store.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


def slugs(catalog: Catalog) -> list[str]:
    return [course.course for course in catalog.courses()]


async def test_what_is_written_published_and_archived_is_in_force_after_the_next_look(store: Store, catalog: Catalog):
    feed = CourseFeed(store, catalog)
    await feed.refresh()  # of a database that nobody has set up
    assert slugs(catalog) == []

    written = await store.coursebook.create("ml1", text_of("ml1"), by="ann", now=NOW)
    await feed.refresh()
    assert catalog.snapshot.state("ml1") is CourseState.DRAFT

    written = await store.coursebook.set_state("ml1", CourseState.PUBLISHED, if_match=written.etag, by="ann", now=NOW)
    await feed.refresh()
    assert catalog.snapshot.state("ml1") is CourseState.PUBLISHED

    written = await store.coursebook.save("ml1", text_of("ml1", "New"), if_match=written.etag, by="ann", now=NOW)
    await feed.refresh()
    assert catalog.courses()[0].title == {"en": "New"}

    await store.coursebook.set_state("ml1", CourseState.ARCHIVED, if_match=written.etag, by="ann", now=NOW)
    await feed.refresh()
    assert slugs(catalog) == []


async def test_courses_of_another_hub_in_the_same_database_are_not_ours(store: Store, catalog: Catalog, tmp_path: Path):
    other = Store.open(f"sqlite:///{tmp_path}/lab.sqlite", hub_id="other")
    await other.migrate()
    await other.coursebook.create("ml1", text_of("ml1"), by="ann", now=NOW)
    await other.close()

    await CourseFeed(store, catalog).refresh()

    assert slugs(catalog) == []


async def test_only_what_changed_is_read_and_checked_again(store: Store, catalog: Catalog):
    feed = CourseFeed(store, catalog)
    for slug in ("a1", "b1"):
        await store.migrate()
        await store.coursebook.create(slug, text_of(slug), by="ann", now=NOW)
    await feed.refresh()
    before = {entry.course.course: entry for entry in catalog.snapshot.loaded}
    snapshot = catalog.snapshot

    await feed.refresh()
    assert catalog.snapshot is snapshot

    written = await store.coursebook.get("a1")
    assert written is not None
    await store.coursebook.save("a1", text_of("a1", "New"), if_match=written.etag, by="ann", now=NOW)
    await feed.refresh()
    after = {entry.course.course: entry for entry in catalog.snapshot.loaded}

    assert after["b1"] is before["b1"]
    assert after["a1"] is not before["a1"]


async def test_a_database_that_takes_long_keeps_no_page_waiting_and_is_heard_later(store: Store, catalog: Catalog):
    await store.migrate()
    hasty, patient = CourseFeed(store, catalog, first_patience_s=0.01), CourseFeed(store, catalog)
    free = threading.Event()
    held = store._threads.submit(free.wait, 60)  # as a query that hangs: the store has one thread for SQLite
    write = asyncio.create_task(store.coursebook.create("ml1", text_of("ml1"), by="ann", now=NOW))

    await hasty.refresh()
    assert slugs(catalog) == []

    free.set()
    held.result()
    await write
    await patient.refresh()
    assert slugs(catalog) == ["ml1"]
    await hasty.close()


async def test_a_database_that_does_not_answer_leaves_all_courses_in_force(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "db"
    folder.mkdir()
    store = Store.open(f"sqlite:///{folder}/lab.sqlite", hub_id="hub")
    await store.migrate()
    await store.coursebook.create("ml1", text_of("ml1"), by="ann", now=NOW)
    feed = CourseFeed(store, catalog)
    await feed.refresh()
    await store.close()
    nowhere = Store.open(f"sqlite:///{tmp_path}/gone/lab.sqlite", hub_id="hub")
    away = CourseFeed(nowhere, catalog)

    await away.refresh()
    await away.refresh()
    await nowhere.close()

    assert slugs(catalog) == ["ml1"]
    assert [record.levelname for record in caplog.records if "stay as they were" in record.message] == ["WARNING"]
