"""Courses of the console in a running hub: a draft, an archived course and a forged row start nothing, by whatever path."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone

import pytest

from labspawner.model import CourseState
from labspawner.store import Store, Written
from labspawner.testing.hub import server_path
from labspawner.testing.waiting import eventually_sync

_NUMBERS = itertools.count(1)


def a_course(slug: str, more: str = "", profile: str = "p") -> str:
    return (
        f"course: {slug}\ntitle: {slug}\n{more}profiles:\n"
        f"  - {{slug: {profile}, title: P, variants: [{{provider: sim}}]}}\n"
    )


class Book:
    """The written courses of the hub, changed as the console changes them, and the hub has heard of it then."""

    def __init__(self, hub) -> None:
        self.hub = hub
        self.admin = hub.login("admin")

    def heard(self, *, says: str = "", hides: str = "") -> None:
        """Wait until an administrator, who sees drafts and every problem, reads so."""

        def told() -> bool:
            page = self.admin.get("/hub/spawn").text
            return says in page and not (hides and hides in page)

        eventually_sync(told, 20, f"the spawn page says {says!r} and not {hides!r}")

    def write(self, slug: str, text: str, state: CourseState = CourseState.PUBLISHED) -> None:
        async def work(store: Store) -> Written:
            return await store.coursebook.create(slug, text, by="ann", now=_now(), state=state)

        self.hub.with_store(work)

    def move(self, slug: str, state: CourseState) -> None:
        async def work(store: Store) -> None:
            written = await store.coursebook.get(slug)
            assert written is not None
            await store.coursebook.set_state(slug, state, if_match=written.etag, by="ann", now=_now())

        self.hub.with_store(work)


def _now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture
def book(hub) -> Book:
    return Book(hub)


@pytest.fixture
def slug(student) -> str:
    """The name of a course that nobody else writes."""
    return f"w{next(_NUMBERS)}-{student}"


def starts_nothing(hub, user: str, slug: str) -> bool:
    """Whether the hub refuses the user this course in the words for what is not there, asked in every way there is."""
    answers = [hub.ask(user, {"profile": f"{slug}/p"}), hub.ask(user, {"profile": f"{slug}/p", "options": {}})]
    form = hub.login(user).post_form(f"/hub/spawn/{user}", {"profile": f"{slug}/p"})
    page = hub.login(user).get(f"/hub/spawn/{user}?profile={slug}/p")
    assert f'value="{slug}/p"' not in page.text
    assert form.status != 302
    assert [answer.status for answer in answers] == [403, 403], [answer.text for answer in answers]
    assert all("You have no profile" in answer.message for answer in answers)
    assert hub.leases(user) == []
    return True


def test_a_draft_is_tried_out_by_its_staff_and_started_by_nobody_else(hub, student, book: Book, slug: str):
    staff = f"{student}-staff"
    hub.add_user(student, f"course-{slug}")
    hub.add_user(staff, f"course-{slug}-instructors")
    book.write(slug, a_course(slug), CourseState.DRAFT)
    book.heard(says=f"{slug}/p")

    assert starts_nothing(hub, student, slug)
    assert hub.start_server(staff, f"{slug}/p")["ready"]
    hub.stop_server(staff)
    browser = hub.login(student)

    book.move(slug, CourseState.PUBLISHED)
    eventually_sync(lambda: f"{slug}/p" in browser.get("/hub/spawn").text, 60, "students see it")
    assert hub.start_server(student, f"{slug}/p")["ready"]
    hub.stop_server(student)


def test_an_archived_course_is_started_by_nobody_and_its_servers_go_on(hub, student, book: Book, slug: str):
    hub.add_user(student, f"course-{slug}", f"course-{slug}-instructors")
    book.write(slug, a_course(slug))
    book.heard(says=f"{slug}/p")
    hub.start_server(student, f"{slug}/p")

    book.move(slug, CourseState.ARCHIVED)
    book.heard(hides=f"{slug}/p")
    second = hub.ask(student, {"profile": f"{slug}/p"}, name="second")

    assert second.status == 403
    assert hub.servers(student)[""]["ready"]
    hub.stop_server(student)
    assert hub.api.call("POST", server_path(student)).status == 403  # with the options of last time
    assert starts_nothing(hub, student, slug)


@pytest.mark.parametrize(
    "more",
    [
        "access: {everyone: true}\n",
        "access: {groups: [everybody-here]}\n",
        "access: {staff: [everybody-here]}\n",
        "access: {groups: [course-%s], staff: [course-%s-instructors, everybody-here]}\n",
    ],
    ids=["everyone", "foreign group", "foreign staff", "one more group"],
)
def test_a_row_that_the_console_should_have_refused_gives_nobody_a_profile(
    hub, student, book: Book, slug: str, more: str
):
    hub.add_user(student, "everybody-here")
    book.write(slug, a_course(slug, more.replace("%s", slug)))
    book.heard(says=f"{slug}:3:")  # the problem with it, in its third line

    assert starts_nothing(hub, student, slug)


def test_a_row_under_the_name_of_a_file_replaces_nothing(hub, student, book: Book):
    book.write("py101", a_course("py101", profile="mine"))
    try:
        book.heard(says="files win")
        refused = hub.ask(student, {"profile": "py101/mine"})
        started = hub.start_server(student, "py101/sim")
    finally:
        book.move("py101", CourseState.ARCHIVED)  # other tests share this hub

    assert refused.status == 403
    assert started["ready"]
