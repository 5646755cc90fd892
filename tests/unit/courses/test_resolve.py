"""What a provider is asked for, and what a lease remembers."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from unit.courses.course_files import IMAGE, INTERFACE, a_course, a_profile, a_snapshot, profile_of

from labspawner.courses import ResolvedVariant, parse_choice, pin, resolve, resolve_profile, revision
from labspawner.model import Resources, Slice

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
GPU = {"memory": "6GiB", "cores": "25%", "policy": "fair"}
VARIANTS = [
    {"provider": "kubernetes", "image": "lab/base:1", "cpu": 4, "memory": "12GiB", "gpu": GPU, "start_timeout": "5m"},
    {"provider": "proxmox", "template": "ubuntu-dl", "disk": "40GiB", "title": {"en": "A machine of your own"}},
    {"provider": "local", "settings": {"default_url": "/tree", "environment": {"A": "1"}}},
]


def a_variant(index: int, **options: str) -> ResolvedVariant:
    return resolve_profile(profile_of(variants=VARIANTS, options={"ui": INTERFACE, "image": IMAGE}), options, index)


def test_a_variant_becomes_resources_and_settings() -> None:
    assert a_variant(0) == ResolvedVariant(
        provider="kubernetes",
        resources=Resources(cpu=4, memory_bytes=12 * 2**30, gpu=Slice(memory_bytes=6 * 2**30, compute_pct=25)),
        settings={"image": "lab/base:1", "gpu": {"policy": "fair"}},
        start_timeout_s=300,
        index=0,
    )
    machine = a_variant(1)
    assert machine.settings == {"template": "ubuntu-dl"}
    assert machine.resources == Resources(disk_bytes=40 * 2**30)
    assert (machine.start_timeout_s, machine.title) == (None, {"en": "A machine of your own"})


def test_a_choice_replaces_keys_and_is_merged_into_settings() -> None:
    changed = a_variant(2, ui="doc", image="scipy")

    assert changed.settings == {"default_url": "/doc", "environment": {"A": "1"}, "image": "lab/scipy:1"}
    assert changed.resources == Resources(memory_bytes=2 * 2**30)


def test_settings_are_merged_at_every_level() -> None:
    option = {"title": "O", "choices": {"b": {"title": "B", "set": {"settings": {"environment": {"B": "2"}}}}}}
    profile = profile_of(variants=VARIANTS[2:], options={"o": option})

    assert resolve_profile(profile, {"o": "b"}, 0).settings["environment"] == {"A": "1", "B": "2"}


def test_what_was_typed_is_filled_in_and_other_braces_are_left_alone() -> None:
    changed = a_variant(0, **{"image--unlisted-choice": "lab/torch:2"})

    assert changed.settings["image"] == "lab/torch:2"
    assert changed.settings["labels"] == ["lab/torch:2", "{x}"]
    assert changed.settings["n"] == 1


def test_an_option_that_is_no_longer_there_is_left_out() -> None:
    assert a_variant(0, ui="gone", other="x") == a_variant(0)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_variant_that_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        a_variant(index)


def test_changing_an_answer_never_changes_the_next_one() -> None:
    profile = profile_of(variants=VARIANTS, options={"ui": INTERFACE, "image": IMAGE})
    before = profile.model_dump_json()

    for options in ({}, {"ui": "doc"}, {"image--unlisted-choice": "lab/a:1"}):
        for index in range(3):
            settings = resolve_profile(profile, options, index).settings
            for value in settings.values():
                if isinstance(value, (dict, list)):
                    value.clear()
            settings.clear()

    assert profile.model_dump_json() == before


def test_a_choice_is_resolved_with_its_options() -> None:
    snapshot = a_snapshot(a_course("py101", a_profile(variants=VARIANTS, options={"ui": INTERFACE})))
    choice = parse_choice({"ui": "doc"}, snapshot, {"course-py101"}, False, NOW)

    assert resolve(choice).provider == "kubernetes"
    assert resolve(choice, 2).settings["default_url"] == "/doc"


def test_a_resolved_variant_survives_json() -> None:
    for index in range(3):
        variant = a_variant(index)

        assert ResolvedVariant.from_json(json.loads(json.dumps(variant.to_json()))) == variant


def test_a_lease_remembers_all_that_later_decisions_need() -> None:
    idle = {"after": "20m", "gpu_after": "10m", "warn": ["2m", "5m"], "extend": {"step": "30m"}, "retain": "14d"}
    course = a_course(
        "py101", a_profile(idle=idle, limits={"max_age": "4h", "per_user": 1}, variants=VARIANTS, queue="fail")
    )
    profile = course.profiles[0]

    pinned = pin(course, profile, 1, {"ui": "lab"})

    assert json.loads(json.dumps(pinned)) == {
        "title": {"en": "Python notebook"},
        "course_title": {"en": "Python Basics"},
        "options": {"ui": "lab"},
        "variant": resolve_profile(profile, {}, 1).to_json(),
        "index": 1,
        "fallback": "ask",
        "queue": "fail",
        "queue_for_s": 1800,
        "limits": {"per_user": 1},
        "cull": {
            "after_s": 1200,
            "gpu_after_s": 600,
            "max_age_s": 14400,
            "action": "stop",
            "retain_s": 14 * 86400,
            "warn_s": [300, 120],
            "extend": {"step_s": 1800, "per_day": 4},
            "hold_s": 14400,
        },
    }


def test_a_profile_without_a_policy_is_never_culled() -> None:
    course = a_course("py101")

    cull = pin(course, course.profiles[0], 0, {})["cull"]

    assert cull == {
        "after_s": None,
        "gpu_after_s": None,
        "max_age_s": None,
        "action": "stop",
        "retain_s": None,
        "warn_s": [],
        "extend": None,
        "hold_s": 14400.0,
    }


def test_a_revision_changes_with_the_meaning_of_a_profile_only() -> None:
    base = profile_of(idle={"after": "90m"}, limits={"per_user": 1})

    assert revision(base) == revision(profile_of(limits={"per_user": 1}, idle={"after": "1h30m", "action": "stop"}))
    assert revision(base) != revision(profile_of(limits={"per_user": 1}, idle={"after": "91m"}))
    assert len(revision(base)) == 12
    assert int(revision(base), 16) >= 0
