"""Written courses in force beside files: who sees a draft, what an archive hides, and what a broken text changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import NOW
from unit.courses.course_files import text_of

from labspawner.courses import Bounds, Catalog, WrittenText, helps, is_staff, parse_choice
from labspawner.errors import BadChoice, NotAllowed
from labspawner.model import CourseState

STUDENT, STAFF, ASSISTANT = ["course-ml1"], ["course-ml1-instructors"], ["course-ml1-assistants"]


def a_row(slug: str = "ml1", text: str | None = None, **changes: Any) -> WrittenText:
    values = {"slug": slug, "text": text or text_of(slug), "state": CourseState.PUBLISHED, "etag": "1-0", **changes}
    return WrittenText(**values)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """One course in a file: dl101."""
    (tmp_path / "a.yaml").write_text(text_of("dl101", profile="lab"), encoding="utf-8")
    catalog = Catalog(tmp_path)
    catalog.refresh()
    return catalog


def slugs(catalog: Catalog) -> list[str]:
    return [course.course for course in catalog.courses()]


def everyone_gets(catalog: Catalog, groups: list[str], admin: bool = False, profile: object = "ml1/base") -> bool:
    """Whether this user gets the profile, asked in each way there is; all ways agree."""
    snapshot = catalog.snapshot
    sees = any(course.course == "ml1" for course, _ in snapshot.visible_to(groups, admin))
    starts = snapshot.may_start("ml1/base", groups, admin, NOW)
    try:
        parse_choice({"profile": profile}, snapshot, groups, admin, NOW)
        chosen = True
    except (NotAllowed, BadChoice):
        chosen = False
    assert sees == starts == chosen
    return starts


def test_a_published_course_is_in_force_beside_files(catalog: Catalog):
    catalog.set_written([a_row()])

    assert slugs(catalog) == ["dl101", "ml1"]
    assert (catalog.snapshot.state("ml1"), catalog.snapshot.written("ml1")) == (CourseState.PUBLISHED, True)
    assert (catalog.snapshot.state("dl101"), catalog.snapshot.written("dl101")) == (CourseState.PUBLISHED, False)
    assert (catalog.snapshot.state("none"), catalog.snapshot.course("none")) == (None, None)
    assert everyone_gets(catalog, STUDENT)
    assert not everyone_gets(catalog, ["course-dl101", "course-ml2", "instructors"])


@pytest.mark.parametrize("profile", ["ml1/base", "base"])
def test_a_draft_is_started_by_its_staff_and_by_nobody_else(catalog: Catalog, profile: str):
    catalog.set_written([a_row(state=CourseState.DRAFT)])

    for groups in (STAFF, ASSISTANT, [*STUDENT, *STAFF]):
        assert everyone_gets(catalog, groups, profile=profile)
    assert everyone_gets(catalog, [], admin=True)
    for groups in (STUDENT, [], ["instructors"], ["course-dl101-instructors"], ["course-ml1-instructors-x"]):
        assert not everyone_gets(catalog, groups, profile=profile)


def test_a_draft_that_is_open_to_everyone_is_still_a_draft(catalog: Catalog):
    text = text_of("ml1") + "access: {everyone: true}\n"

    catalog.set_written([a_row(text=text, state=CourseState.DRAFT, everyone=True)])
    assert not everyone_gets(catalog, [])

    catalog.set_written([a_row(text=text, etag="1-1", everyone=True)])
    assert everyone_gets(catalog, [])


def test_a_draft_is_refused_in_the_same_words_as_what_is_not_there(catalog: Catalog):
    catalog.set_written([a_row(state=CourseState.DRAFT)])

    def words(key: str) -> str:
        with pytest.raises(NotAllowed) as refused:
            catalog.require(key, STUDENT, False, NOW)
        return str(refused.value.message).replace(key, "KEY")

    assert words("ml1/base") == words("none/base")


def test_an_archived_course_is_started_by_nobody(catalog: Catalog):
    catalog.set_written([a_row()])
    catalog.set_written([a_row(state=CourseState.ARCHIVED, etag="1-1")])

    for groups in (STUDENT, STAFF, ASSISTANT, []):
        assert not everyone_gets(catalog, groups)
    assert not everyone_gets(catalog, [], admin=True)
    assert catalog.profile("ml1/base") is None
    assert slugs(catalog) == ["dl101"]


def test_a_course_comes_back_from_the_archive(catalog: Catalog):
    catalog.set_written([a_row(state=CourseState.ARCHIVED)])
    catalog.set_written([a_row(etag="1-1")])

    assert everyone_gets(catalog, STUDENT)


def test_a_course_that_is_no_longer_written_is_gone(catalog: Catalog):
    catalog.set_written([a_row(), a_row("ml2")])

    catalog.set_written([a_row("ml2")])

    assert slugs(catalog) == ["dl101", "ml2"]


def test_a_broken_text_leaves_the_last_good_one_in_force_and_says_so(catalog: Catalog):
    catalog.set_written([a_row()])

    catalog.set_written([a_row(text="course: [", etag="2-0")])

    assert everyone_gets(catalog, STUDENT)
    (problem,) = catalog.problems
    assert problem.file == "console/ml1"

    catalog.set_written([a_row(etag="3-0")])
    assert catalog.problems == ()


def test_the_state_counts_even_where_the_text_is_broken(catalog: Catalog):
    catalog.set_written([a_row()])

    catalog.set_written([a_row(text="course: [", etag="2-0", state=CourseState.DRAFT)])
    assert not everyone_gets(catalog, STUDENT)
    assert everyone_gets(catalog, STAFF)

    catalog.set_written([a_row(text="course: [", etag="2-1", state=CourseState.ARCHIVED)])
    assert not everyone_gets(catalog, [], admin=True)
    assert catalog.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        text_of("ml1") + "access: {everyone: true}\n",
        text_of("ml1") + "access: {groups: [course-dl101]}\n",
        text_of("ml1") + "access: {staff: [students]}\n",
        text_of("dl101"),
        text_of("ml1").replace("memory: 1GiB", "settings: {network: egress}"),
        text_of("ml1").replace("memory: 1GiB", "settings: {environment: {LD_PRELOAD: x}}"),
    ],
    ids=["everyone", "foreign group", "foreign staff", "foreign course", "setting", "variable"],
)
def test_the_hub_puts_nothing_in_force_that_the_console_should_have_refused(catalog: Catalog, text: str):
    before = catalog.snapshot.loaded

    catalog.set_written([a_row(text=text)])

    assert catalog.snapshot.loaded == before
    assert catalog.problems
    assert catalog.problems[0].file == "console/ml1"


@pytest.mark.parametrize("slug", ["ml1-instructors", "ml1-assistants"])
def test_the_hub_takes_no_course_whose_students_would_be_the_staff_of_another(catalog: Catalog, slug: str):
    catalog.set_written([a_row(), a_row(slug)])

    assert slugs(catalog) == ["dl101", "ml1"]


def test_a_file_wins_over_the_console_and_says_so(catalog: Catalog, tmp_path: Path):
    catalog.set_written([a_row(), a_row("dl101", text_of("dl101", title="Mine"))])

    assert [course.title["en"] for course in catalog.courses()] == ["Python Basics", "Python Basics"]
    assert not catalog.snapshot.written("dl101")
    assert "files win: archive this one" in catalog.problems[0].message

    (tmp_path / "a.yaml").unlink()
    catalog.refresh()
    assert catalog.snapshot.written("dl101")
    assert catalog.problems == ()


def test_a_draft_that_a_file_replaces_is_no_draft(catalog: Catalog):
    """The file is published, whatever the row of the same name says."""
    catalog.set_written([a_row("dl101", state=CourseState.DRAFT)])

    assert catalog.snapshot.state("dl101") is CourseState.PUBLISHED
    assert catalog.may_start("dl101/lab", ["course-dl101"], False, NOW)


def test_a_folder_that_cannot_be_listed_hides_no_written_course(catalog: Catalog, tmp_path: Path):
    catalog.set_written([a_row()])
    catalog.folder = tmp_path / "away"

    catalog.refresh()

    assert slugs(catalog) == ["dl101", "ml1"]
    assert len(catalog.problems) == 1


def test_the_administrators_bounds_hold(tmp_path: Path):
    catalog = Catalog(tmp_path, bounds=Bounds(images=("lab/*",)))

    catalog.set_written([a_row(text=text_of("ml1").replace("memory: 1GiB", "image: 'evil:1'"))])

    assert slugs(catalog) == []


def test_the_snapshot_is_the_same_object_while_nothing_changes(catalog: Catalog):
    catalog.set_written([a_row()])
    before = catalog.snapshot

    catalog.refresh()
    catalog.set_written([a_row()])

    assert catalog.snapshot is before


def test_a_text_is_checked_once_per_change_of_text(catalog: Catalog):
    row = a_row()
    catalog.set_written([row])
    good = catalog.snapshot.loaded[-1]

    catalog.set_written([replace(row, state=CourseState.DRAFT, etag="1-1")])
    assert catalog.snapshot.loaded[-1] is good

    catalog.set_written([replace(row, text=row.text + "# x\n", etag="2-0")])
    assert catalog.snapshot.loaded[-1] is not good


def test_an_assistant_helps_and_is_no_instructor(catalog: Catalog):
    catalog.set_written([a_row()])
    course = catalog.snapshot.course("ml1")
    assert course is not None

    assert helps(course, ASSISTANT, admin=False)
    assert not is_staff(course, ASSISTANT, admin=False)
    assert not helps(course, [*STUDENT, "course-dl101-assistants"], admin=False)


def test_assistants_start_outside_class_hours_and_students_do_not(catalog: Catalog):
    closed = text_of("ml1").replace(
        "    title: Notebook", "    title: N\n    hours: [{days: [sun], from: '01:00', to: '01:01'}]"
    )
    catalog.set_written([a_row(text=closed.replace("profiles:", "timezone: UTC\nprofiles:"))])

    assert catalog.may_start("ml1/base", ASSISTANT, False, NOW)
    assert catalog.may_start("ml1/base", STAFF, False, NOW)
    assert not catalog.may_start("ml1/base", STUDENT, False, NOW)
