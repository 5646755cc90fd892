"""Membership, edited profiles, and broken course files, in a hub that is running."""

from __future__ import annotations

import itertools

import pytest
from bs4 import BeautifulSoup

from labspawner.testing.hub import server_path
from labspawner.testing.waiting import eventually_sync

_NUMBERS = itertools.count(1)


def a_course(slug: str, title: str = "First", start_s: str = "0.05") -> str:
    return (
        f"course: {slug}\ntitle: {slug}\nprofiles:\n  - slug: p\n    title: {title}\n"
        f"    variants: [{{provider: sim, settings: {{start_s: {start_s}}}}}]\n"
    )


@pytest.fixture
def course(hub, student):
    """A course of one's own, in force, with the student as its member."""
    slug = f"c{next(_NUMBERS)}-{student}"
    hub.write_course(f"{slug}.yaml", a_course(slug))
    hub.add_user(student, f"course-{slug}")
    _until_page_says(hub, f"{slug}/p")  # its last look at the folder may have begun a moment before
    yield slug
    (hub.folder / "courses" / f"{slug}.yaml").unlink(missing_ok=True)


def test_who_is_removed_from_the_group_cannot_start_again_with_saved_options(hub, student, course):
    hub.start_server(student, f"{course}/p")
    removed = hub.api.call("DELETE", f"/hub/api/groups/course-{course}/users", {"users": [student]})
    assert removed.status == 200

    assert hub.servers(student)[""]["ready"]  # what runs goes on
    hub.stop_server(student)
    again = hub.api.call("POST", server_path(student))
    page = hub.login(student).get(f"/hub/spawn/{student}")

    assert again.status == 403
    assert "You have no profile" in again.message
    assert hub.leases(student) == []
    assert f"{course}/p" not in page.text


def test_saved_options_start_the_same_profile_again(hub, student, course):
    hub.start_server(student, f"{course}/p")
    hub.stop_server(student)

    assert hub.api.call("POST", server_path(student)).status in {201, 202}

    hub.wait_ready(student)
    assert hub.lease(student).profile == f"{course}/p"


def test_an_edited_profile_changes_the_next_server_and_not_the_one_that_runs(hub, student, course):
    hub.start_server(student, f"{course}/p")
    before = hub.lease(student)

    hub.write_course(f"{course}.yaml", a_course(course, title="Second"))
    _until_page_says(hub, "Second")

    running = hub.lease(student)
    assert (running.profile_rev, running.pinned) == (before.profile_rev, before.pinned)
    hub.stop_server(student)
    hub.start_server(student, f"{course}/p")
    assert hub.lease(student).profile_rev != before.profile_rev
    assert hub.lease(student).pinned["title"] == {"en": "Second"}


def test_a_broken_file_leaves_the_last_good_version_in_force_and_all_other_courses(hub, student, course):
    hub.start_server(student, f"{course}/p")
    good = hub.lease(student).profile_rev
    hub.stop_server(student)

    hub.write_course(f"{course}.yaml", "course: [\n  not: yaml: at all")
    eventually_sync(lambda: f"{course}.yaml" in _problems(hub), 10, "the hub says which file is broken")

    hub.start_server(student, f"{course}/p")
    assert hub.lease(student).profile_rev == good
    hub.stop_server(student)
    hub.start_server(student, "py101/sim")
    hub.stop_server(student)

    hub.write_course(f"{course}.yaml", a_course(course, title="Mended"))
    _until_page_says(hub, "Mended")
    assert hub.start_server(student, f"{course}/p")["ready"]
    assert hub.lease(student).pinned["title"] == {"en": "Mended"}


def test_a_file_that_was_never_good_stops_only_its_own_course(hub, student):
    hub.write_course("bad.yaml", "course: bad\nprofiles: 7\n")
    try:
        eventually_sync(lambda: "bad.yaml" in _problems(hub), 10, "the hub says which file is broken")

        refused = hub.ask(student, {"profile": "bad/p"})
        hub.start_server(student, "py101/sim")
    finally:
        (hub.folder / "courses" / "bad.yaml").unlink()

    assert refused.status == 403


def test_a_removed_course_cannot_be_started_and_its_server_runs_on(hub, student, course):
    hub.start_server(student, f"{course}/p")
    (hub.folder / "courses" / f"{course}.yaml").unlink()
    eventually_sync(
        lambda: f"{course}/p" not in hub.login("admin").get("/hub/spawn").text, 10, "the course left the page"
    )

    home = hub.login(student).get("/hub/home")

    assert home.status == 200
    assert hub.servers(student)[""]["ready"]
    hub.stop_server(student)
    assert hub.api.call("POST", server_path(student)).status == 403


def test_one_server_per_profile_where_the_course_says_so(hub, student, course):
    text = a_course(course) + "    limits: {per_user: 1}\n"
    hub.write_course(f"{course}.yaml", text.replace("First", "Limited"))
    _until_page_says(hub, "Limited")
    hub.start_server(student, f"{course}/p")

    second = hub.ask(student, {"profile": f"{course}/p"}, name="two")

    assert second.status == 403, second.text
    assert "1 is the limit" in second.message
    assert [lease.server_name for lease in hub.leases(student)] == [""]


def test_an_admin_starts_for_a_student_with_the_students_groups(hub, student):
    browser = hub.login("admin")
    page = browser.get(f"/hub/spawn/{student}")
    assert "py101/base" in page.text
    assert "dl101/base" not in page.text

    answer = browser.post_form(f"/hub/spawn/{student}", {"profile": "dl101/base"})

    assert "You have no profile" in answer.text
    assert hub.leases(student) == []


@pytest.mark.parametrize("prefix", ["", "opt-"])
def test_a_link_with_a_profile_chooses_it_and_starts_nothing(hub, student, prefix):
    browser = hub.login(student)

    answer = browser.get(f"/hub/spawn?{prefix}profile=py101/choosy&{prefix}option--py101--choosy--interface=classic")

    assert answer.status == 200
    chosen = BeautifulSoup(answer.text, "html.parser")
    assert [radio["value"] for radio in chosen.select("input[name=profile][checked]")] == ["py101/choosy"]
    assert [option["value"] for option in chosen.select("option[selected]")] == ["classic"]
    assert "profile" not in chosen.select_one("#spawn_form")["action"]
    assert hub.leases(student) == []


@pytest.mark.parametrize(
    "query",
    ["profile=dl101/base", "profile=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "opt-=x", "profile=", "lang=en", "x=1"],
)
def test_a_link_with_anything_else_is_the_page_as_usual(hub, student, query):
    answer = hub.login(student).get(f"/hub/spawn?{query}")

    assert answer.status == 200
    assert "py101/base" in answer.text
    assert "<script>alert" not in answer.text
    assert "Not for everyone" not in answer.text
    assert "It was not started" not in answer.text
    assert hub.leases(student) == []


def _problems(hub) -> str:
    return hub.login("admin").get("/hub/spawn").text


def _until_page_says(hub, title):
    browser = hub.login("admin")
    eventually_sync(lambda: title in browser.get("/hub/spawn").text, 10, f"the spawn page says {title}")
