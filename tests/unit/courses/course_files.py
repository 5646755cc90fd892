"""Courses for tests, each valid as it stands; name only what the test is about."""

from __future__ import annotations

from typing import Any

from labspawner.courses import Course, Loaded, Problem, Profile, Snapshot, parse_course
from labspawner.courses.yamltree import Tree
from labspawner.pages.i18n import CHINESE, translate
from labspawner.sentences import Sentence


def a_profile(slug: str = "base", **changes: Any) -> dict[str, Any]:
    return {"slug": slug, "title": "Python notebook", "variants": [{"provider": "local"}], **changes}


def a_course(slug: str = "py101", *profiles: dict[str, Any], **changes: Any) -> Course:
    return Course.model_validate(
        {"course": slug, "title": "Python Basics", "profiles": list(profiles) or [a_profile()], **changes}
    )


def profile_of(**changes: Any) -> Profile:
    return a_course("py101", a_profile(**changes)).profiles[0]


def a_snapshot(*courses: Course) -> Snapshot:
    return Snapshot(Loaded(course, f"{course.course}.yaml", Tree({}, {}, {})) for course in courses)


def text_of(slug: str = "py101", title: str = "Python Basics", profile: str = "base") -> str:
    return (
        f"course: {slug}\ntitle: {title}\nprofiles:\n"
        f"  - slug: {profile}\n    title: Notebook\n    variants:\n      - {{provider: local, memory: 1GiB}}\n"
    )


def course_in(text: str) -> Course:
    result = parse_course(text)
    assert isinstance(result, Loaded), [str(problem) for problem in result]
    return result.course


def problems_in(text: str) -> tuple[Problem, ...]:
    result = parse_course(text)
    assert isinstance(result, tuple), "the file is good"
    assert all(isinstance(problem.message, Sentence) for problem in result), result
    assert all(translate(problem.message, CHINESE) != problem.message for problem in result), result
    return result


INTERFACE = {
    "title": "Interface",
    "choices": {
        "lab": {"title": "JupyterLab", "set": {"settings": {"default_url": "/lab"}}},
        "doc": {"title": "Simple", "set": {"settings": {"default_url": "/doc"}, "memory": "2GiB"}},
    },
}
IMAGE = {
    "title": "Image",
    "choices": {"scipy": {"title": "SciPy", "set": {"image": "lab/scipy:1"}}},
    "unlisted_choice": {
        "enabled": True,
        "validation_regex": r"lab/[a-z]+:\d+",
        "validation_message": "write lab/name:1",
        "set": {"image": "{value}", "settings": {"labels": ["{value}", "{x}"], "n": 1}},
    },
}
