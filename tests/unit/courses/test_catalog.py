"""The courses in force: a mistake in one file never reaches another course, or a class that is under way."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
from unit.courses.course_files import a_course, a_profile, a_snapshot, text_of

from labspawner.courses import Catalog, Loaded, is_staff, may_see, parse_course
from labspawner.errors import NotAllowed

MONDAY = datetime(2026, 11, 2, 10, 30, tzinfo=timezone.utc)
MORNING = [{"days": ["mon"], "from": "10:00", "to": "12:00"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(text_of("py101"), encoding="utf-8")
    (tmp_path / "b.yml").write_text(text_of("dl101"), encoding="utf-8")
    return tmp_path


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    catalog = Catalog(folder)
    catalog.refresh()
    return catalog


def slugs(catalog: Catalog) -> list[str]:
    return [course.course for course in catalog.courses()]


def test_a_catalog_is_empty_until_it_is_refreshed(folder: Path) -> None:
    catalog = Catalog(folder)

    assert catalog.courses() == ()
    catalog.refresh()
    assert slugs(catalog) == ["py101", "dl101"]
    assert catalog.problems == ()


def test_other_files_in_the_folder_are_left_alone(catalog: Catalog, folder: Path) -> None:
    for name in (".hidden.yaml", "README.md", "a.yaml~", "#a.yaml#"):
        (folder / name).write_text("nonsense: [", encoding="utf-8")

    catalog.refresh()

    assert catalog.problems == ()


def test_a_changed_file_is_read_again_and_no_other(catalog: Catalog, folder: Path) -> None:
    before = catalog.snapshot
    (folder / "a.yaml").write_text(text_of("py101", title="Changed"), encoding="utf-8")

    after = catalog.refresh()

    assert after.courses()[0].title == {"en": "Changed"}
    assert after.courses()[1] is before.courses()[1]
    assert before.courses()[0].title == {"en": "Python Basics"}


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(catalog: Catalog, folder: Path) -> None:
    old = (folder / "a.yaml").stat()
    new = folder / ".new"
    new.write_text(text_of("py102"), encoding="utf-8")
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    new.replace(folder / "a.yaml")

    catalog.refresh()

    assert slugs(catalog) == ["py102", "dl101"]


def test_a_broken_file_leaves_the_last_good_course_in_force_and_the_others_alone(
    catalog: Catalog, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.yaml").write_text("course: [", encoding="utf-8")

    catalog.refresh()
    catalog.refresh()

    assert slugs(catalog) == ["py101", "dl101"]
    assert [problem.file for problem in catalog.problems] == [str(folder / "a.yaml")]
    assert caplog.text.count("course file refused") == 1
    assert "course py101 stays as it was" in caplog.text


def test_a_mended_file_is_in_force_and_its_problem_is_gone(catalog: Catalog, folder: Path) -> None:
    (folder / "a.yaml").write_text("course: [", encoding="utf-8")
    catalog.refresh()
    (folder / "a.yaml").write_text(text_of("py101", title="Mended"), encoding="utf-8")

    catalog.refresh()

    assert catalog.courses()[0].title == {"en": "Mended"}
    assert catalog.problems == ()


def test_a_file_that_was_never_good_gives_no_course_but_a_problem(folder: Path) -> None:
    (folder / "a.yaml").write_text("course: [", encoding="utf-8")
    catalog = Catalog(folder)

    catalog.refresh()

    assert slugs(catalog) == ["dl101"]
    assert len(catalog.problems) == 1


def test_a_file_that_cannot_be_read_now_keeps_its_course_and_is_tried_again(catalog: Catalog, folder: Path) -> None:
    path = folder / "a.yaml"
    path.unlink()
    path.mkdir()
    catalog.refresh()
    catalog.refresh()
    assert slugs(catalog) == ["py101", "dl101"]
    assert catalog.problems

    path.rmdir()
    path.write_text(text_of("py101", title="Back"), encoding="utf-8")
    catalog.refresh()

    assert catalog.courses()[0].title == {"en": "Back"}
    assert catalog.problems == ()


def test_a_removed_file_removes_its_course(catalog: Catalog, folder: Path) -> None:
    (folder / "a.yaml").unlink()

    catalog.refresh()

    assert slugs(catalog) == ["dl101"]


def test_a_link_whose_file_went_away_removes_its_course(folder: Path) -> None:
    (folder / "c.yaml").symlink_to(folder / "gone")
    catalog = Catalog(folder)

    catalog.refresh()

    assert slugs(catalog) == ["py101", "dl101"]


def test_a_folder_that_cannot_be_listed_changes_nothing(catalog: Catalog, folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    catalog.refresh()
    assert slugs(catalog) == ["py101", "dl101"]
    assert "cannot be read" in catalog.problems[0].message

    folder.with_name("away").rename(folder)
    catalog.refresh()

    assert catalog.problems == ()


def test_of_two_files_with_one_course_the_first_by_name_is_in_force(catalog: Catalog, folder: Path) -> None:
    (folder / "b.yml").write_text(text_of("py101", title="Second"), encoding="utf-8")

    catalog.refresh()

    assert [course.title["en"] for course in catalog.courses()] == ["Python Basics"]
    (problem,) = catalog.problems
    assert (problem.file, problem.line) == (str(folder / "b.yml"), 1)
    assert "already in a.yaml" in problem.message


def test_the_second_course_takes_over_when_the_first_is_removed(catalog: Catalog, folder: Path) -> None:
    (folder / "b.yml").write_text(text_of("py101", title="Second"), encoding="utf-8")
    catalog.refresh()
    (folder / "a.yaml").unlink()

    catalog.refresh()

    assert catalog.courses()[0].title == {"en": "Second"}
    assert catalog.problems == ()


def test_readers_always_see_one_whole_version_while_files_change(catalog: Catalog, folder: Path) -> None:
    torn: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            snapshot = catalog.snapshot
            for course in snapshot.courses():
                if snapshot.profile(course.key(course.profiles[0])) is None:
                    torn.append(course.course)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(5):
        (folder / ".new").write_text(text_of("py101", profile=f"p{number}"), encoding="utf-8")
        (folder / ".new").replace(folder / "a.yaml")
        catalog.refresh()
    done.set()
    for reader in readers:
        reader.join()

    assert torn == []
    assert catalog.profile("py101/p4") is not None


def test_a_provider_is_checked_over_all_courses(catalog: Catalog) -> None:
    assert len(catalog.snapshot.check_providers(["kubernetes"])) == 2
    assert catalog.snapshot.check_providers(["local"]) == ()


# -- who may see and start what ------------------------------------------------------------------------------------


def test_a_student_sees_the_courses_of_their_groups_only() -> None:
    snapshot = a_snapshot(a_course("py101"), a_course("dl101"), a_course("open", access={"everyone": True}))

    def seen(groups: set[str], admin: bool = False) -> list[str]:
        return [course.course for course, _ in snapshot.visible_to(groups, admin)]

    assert seen(set()) == ["open"]
    assert seen({"course-py101"}) == ["py101", "open"]
    assert seen({"course-dl101-instructors"}) == ["dl101", "open"]
    assert seen({"py101", "course"}) == ["open"]
    assert seen(set(), admin=True) == ["py101", "dl101", "open"]


def test_the_same_words_refuse_what_is_not_there_and_what_is_not_yours() -> None:
    snapshot = a_snapshot(a_course("py101"))

    def words(key: str) -> str:
        with pytest.raises(NotAllowed) as caught:
            snapshot.require(key, set(), False, MONDAY)
        return caught.value.message.replace(key, "KEY")

    assert words("py101/base") == words("py101/none") == words("no/such")


def test_students_may_start_at_class_hours_only_and_staff_always() -> None:
    snapshot = a_snapshot(a_course("py101", a_profile(hours=MORNING), timezone="UTC"))
    evening = MONDAY.replace(hour=20)

    assert snapshot.may_start("py101/base", {"course-py101"}, False, MONDAY)
    assert not snapshot.may_start("py101/base", {"course-py101"}, False, evening)
    assert snapshot.may_start("py101/base", {"course-py101-instructors"}, False, evening)
    assert snapshot.may_start("py101/base", set(), True, evening)
    with pytest.raises(NotAllowed) as refused:
        snapshot.require("py101/base", {"course-py101"}, False, evening)
    assert "It opens next at 2026-11-09 10:00 (UTC)" in refused.value.message


def test_an_everyone_course_still_has_its_own_staff() -> None:
    course = a_course("open", access={"everyone": True})

    assert may_see(course, set(), False)
    assert not is_staff(course, set(), False)
    assert is_staff(course, {"course-open-instructors"}, False)


def test_the_catalog_answers_as_its_snapshot_does(catalog: Catalog) -> None:
    groups = {"course-py101"}

    assert catalog.visible_to(groups) == catalog.snapshot.visible_to(groups)
    assert catalog.require("py101/base", groups, False, MONDAY) == catalog.profile("py101/base")
    assert catalog.may_start("py101/base", groups, False, MONDAY)
    assert not catalog.may_start("dl101/base", groups, False, MONDAY)


def test_a_course_that_stands_in_no_file_is_in_force_beside_those_that_do(folder: Path) -> None:
    given = parse_course(text_of("given"), "c.KubeSpawner.profile_list")
    assert isinstance(given, Loaded)
    catalog = Catalog(folder, given=[given])

    catalog.refresh()

    assert slugs(catalog) == ["given", "py101", "dl101"]


def test_a_file_cannot_take_the_place_of_a_course_that_is_given(folder: Path) -> None:
    given = parse_course(text_of("py101", title="Given"), "c.KubeSpawner.profile_list")
    assert isinstance(given, Loaded)
    catalog = Catalog(folder, given=[given])

    catalog.refresh()

    assert slugs(catalog) == ["py101", "dl101"]
    assert catalog.courses()[0].title == {"en": "Given"}
    assert "c.KubeSpawner.profile_list" in str(catalog.problems[0])


def test_a_course_that_is_given_needs_no_folder(tmp_path: Path) -> None:
    given = parse_course(text_of("given"), "c.KubeSpawner.profile_list")
    assert isinstance(given, Loaded)
    catalog = Catalog(tmp_path / "missing", given=[given])

    catalog.refresh()

    assert slugs(catalog) == ["given"]
