"""Courses in from KubeSpawner, and out as a text that reads as the same course."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.courses.course_files import IMAGE, INTERFACE, a_course, a_profile, course_in

from labspawner.courses import from_profile_list
from labspawner.courses.porting import as_text, course_of, import_profile_list

SAMPLES = sorted((Path(__file__).parents[3] / "courses").glob("*.yaml"))
LIST = """
- display_name: Small notebook
  description: For lectures
  default: true
  kubespawner_override: {image: "lab/scipy:1", cpu_limit: 2, mem_limit: 4G, node_selector: {pool: lab}}
  profile_options:
    image:
      display_name: Image
      choices: {torch: {display_name: PyTorch, kubespawner_override: {image: "lab/torch:2"}}}
- {display_name: Large, slug: large}
"""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_course_reads_as_itself_again(path: Path):
    course = course_in(path.read_text(encoding="utf-8"))

    assert course_in(as_text(course)) == course


def test_all_that_a_course_can_say_reads_as_itself_again():
    course = a_course(
        "py101",
        a_profile(
            options={"interface": INTERFACE, "image": IMAGE},
            idle={"after": "90s", "warn": ["30s"], "hold": "never", "extend": {"step": "1h30m"}},
            hours=[
                {"days": ["mon"], "from": "10:00", "to": "24:00"},
                {"days": ["sun"], "from": "00:00", "to": "01:00", "timezone": "UTC"},
            ],
            variants=[{"provider": "p", "cpu": 2.0, "memory": "1.5GiB", "gpu": {"memory": "6000MiB", "cores": 25}}],
        ),
        timezone="Asia/Shanghai",
        access={"groups": ["a", "course-py101"], "everyone": True},
        title={"zh-CN": "中: 文", "en": "? {x}"},
    )  # fmt: skip

    text = as_text(course)

    assert course_in(text) == course
    assert "staff" not in text


def test_a_profile_list_becomes_a_course_in_our_words():
    text = import_profile_list(LIST, slug="old", title={"en": "Old"})

    assert isinstance(text, str)
    assert "kubespawner_override" not in text.replace("settings: {kubespawner_override: {node_selector", "")
    course = course_in(text)
    assert [profile.slug for profile in course.profiles] == ["small-notebook", "large"]
    variant = course.profiles[0].variants[0]
    assert (variant.provider, variant.image, variant.memory, variant.cpu) == ("kubernetes", "lab/scipy:1", 2**32, 2.0)
    assert variant.settings == {"kubespawner_override": {"node_selector": {"pool": "lab"}}}


def test_a_profile_list_means_the_same_as_the_hub_reads_it():
    entries = [{"display_name": "A", "kubespawner_override": {"image": "x"}}, {"display_name": "B", "slug": "b"}]

    text = course_of(entries, slug="old", title={"en": "Old"})

    assert isinstance(text, str)
    assert course_in(text).profiles == from_profile_list(entries)


@pytest.mark.parametrize(
    "around", ["profile_list", "profileList", "singleuser.profileList", "jupyterhub.singleuser.profileList"]
)
def test_a_list_is_found_where_charts_and_people_put_it(around: str):
    data: object = [{"display_name": "A"}]
    for key in reversed(around.split(".")):
        data = {key: data, "other": 1}

    assert isinstance(import_profile_list(json.dumps(data), slug="old", title={"en": "Old"}), str)


def test_the_charts_list_by_name_is_sorted():
    text = import_profile_list("{b: {display_name: B}, a: {display_name: A}}", slug="old", title={"en": "Old"})

    assert isinstance(text, str)
    assert [profile.slug for profile in course_in(text).profiles] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "is not closed"),
        ("[]", "a list stands where a profile_list is expected"),
        ("7", "7 stands where"),
        ("[{display_name: A, kubespawner_overide: {}}]", "unknown key 'kubespawner_overide'"),
        ("[{display_name: 中文}]", "'slug' is missing"),
        ("a: &a [*a]", "levels deep"),
    ],
)
def test_what_is_no_profile_list_says_why(text: str, says: str):
    found = import_profile_list(text, slug="old", title={"en": "Old"}, file="values.yaml")

    assert isinstance(found, tuple)
    assert any(says in problem.message for problem in found), found
    assert all(problem.file == "values.yaml" for problem in found)


def test_a_function_in_a_list_is_not_written():
    found = course_of(
        [{"display_name": "A", "kubespawner_override": {"image": print}}], slug="old", title={"en": "Old"}
    )

    assert isinstance(found, tuple)
    assert "function" in found[0].message
