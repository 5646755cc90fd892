"""Courses in and out: KubeSpawner's `profile_list` in, any course out as a text in our own words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from labspawner.courses.fields import shown
from labspawner.courses.loader import Loaded, Problem, parse_course
from labspawner.courses.models import MEMBER_GROUP, STAFF_GROUP, Course
from labspawner.courses.roundtrip import write
from labspawner.courses.yamltree import Unreadable, read_tree
from labspawner.sentences import Sentence

_PLACES = (
    ("profile_list",),
    ("profileList",),
    ("singleuser", "profileList"),
    ("jupyterhub", "singleuser", "profileList"),
)
"""Where a `profile_list` stands: in a file of its own, in the values of the official chart, or of one around it."""


def import_profile_list(
    text: str, *, slug: str, title: Mapping[str, str], file: str = "profile_list"
) -> str | tuple[Problem, ...]:
    """The text of a course with the profiles of a `profile_list`, or what is wrong with it.

    text: YAML or JSON: the list itself, or the values of a Helm chart that hold it.
    """
    try:
        data = read_tree(text).data
    except Unreadable as exc:
        return (Problem(file, exc.mark.line, exc.mark.column, "", exc.message),)
    return course_of(_found(data), slug=slug, title=title, file=file)


def course_of(
    profile_list: object, *, slug: str, title: Mapping[str, str], file: str = "profile_list"
) -> str | tuple[Problem, ...]:
    """The same for a `profile_list` that is read already."""
    if isinstance(profile_list, Mapping):  # the official chart's: by name, so that charts can be merged
        profile_list = [profile_list[key] for key in sorted(profile_list)]
    if not isinstance(profile_list, list) or not profile_list:
        message = Sentence(
            "{profile_list} stands where a profile_list is expected: a list of profiles",
            profile_list=shown(profile_list),
        )
        return (Problem(file, 1, 1, "", message),)
    try:
        written = json.dumps({"course": slug, "title": dict(title), "profile_list": profile_list})
    except (TypeError, ValueError):
        return (Problem(file, 1, 1, "", "a value in it is a function or an object: write plain values"),)
    found = parse_course(written, file)
    if isinstance(found, Loaded):
        return as_text(found.course)
    return tuple(Problem(file, 1, 1, each.path, f"{each.path}: {each.message}") for each in found)


def as_text(course: Course) -> str:
    """A course as the text of a course file, which reads as the same course. Defaults are left out."""
    data: dict[str, Any] = course.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    access = data.get("access", {})
    for key, group in (("groups", MEMBER_GROUP), ("staff", STAFF_GROUP)):
        if access.get(key) == [group.format(slug=course.course)]:
            del access[key]
    if not access:
        data.pop("access", None)
    for profile in data["profiles"]:
        profile["variants"] = [
            {"provider": variant["provider"], **_whole_cores(variant)} for variant in profile["variants"]
        ]
        for entry in profile.get("hours", ()):
            if entry.get("timezone") == course.timezone:
                del entry["timezone"]
    return write(data)


def _whole_cores(variant: Mapping[str, Any]) -> dict[str, Any]:
    cpu = variant.get("cpu")
    return {**variant, "cpu": int(cpu)} if isinstance(cpu, float) and cpu.is_integer() else dict(variant)


def _found(data: Any) -> Any:
    for place in _PLACES:
        inner = data
        for key in place:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if inner is not None:
            return inner
    return data
