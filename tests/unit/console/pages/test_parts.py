"""The small pure parts: names, tables, starting points, the class wall, and what the hub's words become."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.console.pages import samples

from labspawner.courses import parse_course
from labspawner.courses.bounds import Bounds
from labspawner.courses.loader import Loaded
from labspawner.courses.written import check_written
from labspawner.service.console import views
from labspawner.service.console.doing.wall import Place
from labspawner.service.console.pages import gallery, mine, naming, wall
from labspawner.service.console.pages.rows import wall_rows
from labspawner.service.console.pages.tables import as_csv

GIB, MIB = 1024**3, 1024**2


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("titles", "slug"),
    [
        ({"en": "Deep Learning Intro"}, "deep-learning-intro"),
        ({"en": "", "zh-CN": "深度学习"}, "course-1"),
        ({"zh-CN": "深度学习", "en": "DL 101!"}, "dl-101"),
        ({"en": "3D Graphics"}, "course-3d-graphics"),
        ({"en": "École d'été"}, "ecole-d-ete"),
        ({"en": "x" * 200}, "x" * 30),
        ({"en": "A very long name of a course about everything"}, "a-very-long-name-of-a-course"),
    ],
)
def test_a_short_name_is_made_from_the_title(titles, slug):
    assert naming.slug_of(titles) == slug


@given(st.dictionaries(st.sampled_from(["en", "zh-CN"]), st.text(max_size=80)), st.integers(0, 5))
def test_a_short_name_is_always_one_and_never_taken(titles, more):
    taken: set[str] = set()
    for _ in range(more + 1):
        slug = naming.slug_of(titles, taken)
        assert naming.is_slug(slug)
        assert slug not in taken
        taken.add(slug)


@pytest.mark.parametrize("text", ["", "-x", "x-", "a--b", "1a", "Ä", "a_b", "x" * 41, "a/b", "a\n"])
def test_what_is_no_short_name_is_known(text):
    assert not naming.is_slug(text)


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =cmd|' /C calc'!A0", "\n=1"])
def test_no_cell_of_an_export_is_a_formula(cell):
    (row,) = list(csv.reader(io.StringIO(as_csv(["name"], [[cell]]).removeprefix("\ufeff"))))[1:]

    assert row[0].startswith("'")


def test_numbers_and_names_of_an_export_stay_as_they_are():
    text = as_csv(["who", "hours"], [["张伟, o'neil", -1.5], ['a "quoted" name', 2]])

    assert text.startswith("\ufeff")
    assert list(csv.reader(io.StringIO(text.removeprefix("\ufeff")))) == [
        ["who", "hours"],
        ["张伟, o'neil", "-1.5"],
        ['a "quoted" name', "2"],
    ]


# -- starting points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "size"),
    [
        ([24_564 * MIB], 4 * GIB),
        ([24 * GIB], 6 * GIB),
        ([80 * GIB, 24 * GIB], 6 * GIB),
        ([80 * GIB], 8 * GIB),
        ([6 * GIB], 1 * GIB),
        ([2 * GIB], GIB // 2),
    ],
)
def test_at_least_four_slices_of_the_offered_size_fit_on_every_card(cards, size):
    assert gallery.slice_bytes(cards) == size
    assert all(card // size >= 4 for card in cards)


def test_what_the_hub_has_not_cannot_be_picked_and_says_why():
    points = gallery.gallery([gallery.Host(name="local", kind="local")])

    assert [(point.key, point.missing is None) for point in points] == [
        ("notebook", True),
        ("slice", False),
        ("machine", False),
    ]


@pytest.mark.parametrize("key", ["notebook", "slice", "machine"])
def test_every_starting_point_makes_a_course_that_can_be_saved(key):
    point = next(one for one in gallery.gallery(samples.HOSTS) if one.key == key)

    text = mine.course_text(
        "dl101",
        {"en": "Deep: #Learning", "zh-CN": "深度学习"},
        [mine.profile_of(point, {"template": "ubuntu-dl"}, taken=())],
    )

    loaded = check_written(text, slug="dl101", bounds=Bounds(), providers={"local", "gpu", "vms"})
    assert isinstance(loaded, Loaded), loaded
    assert [profile.slug for profile in loaded.course.profiles] == [key]
    assert loaded.course.title == {"en": "Deep: #Learning", "zh-CN": "深度学习"}


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=60).filter(lambda text: text.strip()))
def test_whatever_a_course_is_called_its_text_says_so_and_nothing_else(title):
    point = gallery.gallery(samples.HOSTS)[0]

    text = mine.course_text("dl101", {"en": title.strip()}, [mine.profile_of(point, {}, taken=())])

    loaded = parse_course(text)
    if isinstance(loaded, Loaded):
        assert loaded.course.title["en"].split() == title.split()
        assert len(loaded.course.profiles) == 1


def test_a_second_profile_from_the_gallery_has_a_name_of_its_own():
    point = next(one for one in gallery.gallery(samples.HOSTS) if one.key == "slice")

    added = mine.profile_of(point, {}, taken=("python-on-a-gpu-slice", "slice"))

    assert added["slug"] == "python-on-a-gpu-slice-2"


# -- the class wall ----------------------------------------------------------------------------------------------------


def row(user: str, activity: views.Activity = views.Activity.OFF, **changes: object) -> views.WallRow:
    return views.WallRow(user=user, activity=activity, **changes)


def test_students_stand_in_the_order_in_which_people_count():
    names = ["student10", "Student2", "student1", "zoë", "张伟"]

    found = wall.arranged([row(name) for name in names], wall.Shown())

    assert [one.user for one in found] == ["student1", "Student2", "student10", "zoë", "张伟"]


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_names_can_be_put_in_order(names):
    found = wall.arranged([row(name) for name in names], wall.Shown())

    assert sorted(one.user for one in found) == sorted(names)


def test_rows_are_found_by_a_part_of_the_name_and_by_state():
    rows = [row("Anna", views.Activity.RUNNING), row("anton"), row("bob", views.Activity.RUNNING)]

    assert [one.user for one in wall.arranged(rows, wall.Shown.of("AN", "running", "name"))] == ["Anna"]
    assert [one.user for one in wall.arranged(rows, wall.Shown.of("", "no such state", "no such order"))] == [
        "Anna",
        "anton",
        "bob",
    ]


def test_those_who_end_soonest_come_first_and_those_without_an_end_last():
    soon, late = datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc)
    rows = [row("a"), row("b", ends_at=late), row("c", ends_at=soon)]

    assert [one.user for one in wall.arranged(rows, wall.Shown(sort="end"))] == ["c", "b", "a"]


def test_a_confirmation_says_how_many_and_what_is_lost():
    rows = [row("a", views.Activity.RUNNING, verdict_tone=views.Tone.OK), row("b", views.Activity.RUNNING), row("c")]

    said = wall.confirmation(wall.verb("stop"), rows)

    assert said["heading"] == "Stop 2 servers?"
    assert said["who"] == ["a", "b"]
    assert any("not saved is lost" in line for line in said["lines"])
    assert "One of them is at work just now." in said["lines"]
    assert any("left out" in line for line in said["lines"])


def test_a_start_leaves_out_whoever_runs_already():
    said = wall.confirmation(
        wall.verb("start"), [row("a", views.Activity.RUNNING), row("b"), row("c", views.Activity.PARKED)]
    )

    assert said["who"] == ["b", "c"]


def test_nobody_chosen_is_asked_to_choose():
    said = wall.confirmation(wall.verb("reset"), [])

    assert said["who"] == []
    assert said["lines"] == ["Tick some students first, then press the button again."]


# -- what the hub says -------------------------------------------------------------------------------------------------

READY = {
    "user": "a",
    "server": "",
    "phase": "ready",
    "profile_title": {"en": "GPU", "zh-CN": "显卡"},
    "provider": "sim",
    "host": "n1",
    "use": {
        "memory_bytes": GIB,
        "memory_limit_bytes": 2 * GIB,
        "gpu_memory_bytes": 6 * GIB,
        "gpu_memory_limit_bytes": 6 * GIB,
    },
    "last_activity": "2026-11-22T10:00:00+00:00",
    "busy": True,
    "verdict": "keep",
    "reason": {"en": "a cell runs", "zh-CN": "有单元格在运行"},
    "ends_at": "2026-11-22T14:00:00+00:00",
    "badge": {"mark": "good", "text": {"en": "protected", "zh-CN": "已保护"}},
}


def test_a_running_server_is_shown_in_the_readers_language():
    (found,) = wall_rows([Place(user="a", role="member", row=READY)], "zh-CN")

    assert (found.activity, found.verdict, found.verdict_tone) == (
        views.Activity.RUNNING,
        "有单元格在运行",
        views.Tone.OK,
    )
    assert (found.badge, found.badge_tone) == ("已保护", views.Tone.OK)
    assert [(one.percent, one.tone) for one in found.use] == [(100, views.Tone.URGENT), (50, views.Tone.OK)]
    assert found.ends_at == datetime(2026, 11, 22, 14, tzinfo=timezone.utc)


def test_staff_stands_on_the_wall_only_while_they_run_something():
    places = [
        Place(user="t", role="instructor"),
        Place(user="u", role="instructor", row=READY),
        Place(user="s", role="member"),
    ]

    assert [one.user for one in wall_rows(places, "en")] == ["u", "s"]


@pytest.mark.parametrize(
    "odd",
    [{}, {"phase": "no such"}, {"use": 7, "badge": None, "reason": None, "ends_at": "soon", "profile_title": None}],
)
def test_a_row_that_says_little_is_shown_all_the_same(odd):
    (found,) = wall_rows([Place(user="a", role="member", row={"user": "a", **odd})], "en")

    assert found.user == "a"


def test_a_place_in_line_has_its_number_and_its_minutes():
    waiting = {"phase": "queued", "place": 3, "wait_low_s": 1200.0, "wait_high_s": 2100.0}

    (found,) = wall_rows([Place(user="a", role="member", row=waiting)], "en")

    assert found.note == "number 3 in line, about 20 min to 35 min"
