"""What a course file may say, and what follows from it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from unit.courses.course_files import a_course, a_profile, profile_of

from labspawner import units
from labspawner.courses import Course, from_profile_list, in_language, next_opening, open_at
from labspawner.courses.fields import shown, write_bytes, write_duration
from labspawner.courses.hours import zone
from labspawner.courses.patterns import matches

MONDAY_10 = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)


def test_access_is_for_the_groups_of_the_course_unless_the_file_says_otherwise() -> None:
    plain, written = a_course("py101"), a_course("py101", access={"groups": ["all-students"]})

    assert plain.access.groups == ("course-py101",)
    assert plain.access.staff == ("course-py101-instructors",)
    assert written.access.groups == ("all-students",)
    assert written.access.staff == ("course-py101-instructors",)
    assert not plain.access.everyone


def test_units_are_read_and_required() -> None:
    profile = profile_of(
        variants=[{"provider": "k8s", "memory": "1.5GiB", "gpu": {"memory": "6GiB", "cores": "25%"}}],
        idle={"after": "1h30m"},
    )

    assert profile.variants[0].memory == 3 * 2**29
    assert profile.variants[0].gpu is not None
    assert profile.variants[0].gpu.cores == 25
    assert profile.idle.after == timedelta(minutes=90)
    with pytest.raises(ValidationError, match="6 has no unit: write 6GiB or 6MiB"):
        profile_of(variants=[{"provider": "local", "memory": 6}])
    with pytest.raises(ValidationError, match="write 20m for minutes or 20h for hours"):
        profile_of(idle={"after": 20})


@pytest.mark.parametrize("value", ["9" * 400 + "GiB", 10**16, -(10**20), "9" * 41])
def test_a_size_of_absurd_length_is_an_error_not_a_crash(value: object) -> None:
    with pytest.raises(ValidationError):
        profile_of(variants=[{"provider": "local", "memory": value}])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"idle": {"after": "0s"}}, "more than 0"),
        ({"idle": {"after": "10m", "gpu_after": "5m", "warn": ["5m"]}}, "write less than 5m"),
        ({"variants": [{"provider": "local", "settings": {"image": "x"}}]}, "write it one level up"),
        ({"variants": [{"provider": "local", "image": "a b"}]}, "without spaces"),
        ({"variants": [{"provider": "local", "cpu": float("inf")}]}, "finite"),
        ({"variants": []}, "at least 1"),
        ({"options": {"profile": {"title": "x", "choices": {"a": {"title": "A"}}}}}, "may not be called 'profile'"),
        ({"options": {"a--b": {"title": "x", "choices": {"a": {"title": "A"}}}}}, "is not an option name"),
        ({"options": {"a": {"title": "x", "choices": {"unlisted-choice": {"title": "A"}}}}}, "is not a choice name"),
        ({"options": {"a": {"title": "x"}}}, "has no choices"),
        ({"options": {"a": {"title": "x", "unlisted_choice": {"enabled": True}}}}, "needs a pattern"),
        ({"hours": [{"days": ["mon"], "from": "10:00", "to": "12:00"}]}, "hours need a time zone"),
        ({"hours": [{"days": ["mon"], "from": "10:00", "to": "10:00", "timezone": "UTC"}]}, "two entries"),
        ({"hours": [{"days": ["mon"], "from": "9:00", "to": "10:00", "timezone": "UTC"}]}, "is not a time of day"),
        ({"title": {}}, "is not a text"),
        ({"title": {"English": "x"}}, "is not a language"),
        ({"title": {"en": " "}}, "write some text"),
        ({"title": "x" * 2001}, "2000 is the most"),
    ],
)
def test_a_contradiction_is_refused_with_what_to_write(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        profile_of(**changes)


def test_two_defaults_are_refused() -> None:
    choices = {key: {"title": key, "default": True} for key in "ab"}

    with pytest.raises(ValidationError, match=r"more than one choice is the default \(a, b\)"):
        profile_of(options={"o": {"title": "O", "choices": choices}})
    with pytest.raises(ValidationError, match="more than one profile is the default"):
        a_course("py101", a_profile("a", default=True), a_profile("b", default=True))


def test_a_slug_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="two profiles have the slug 'base'"):
        a_course("py101", a_profile(), a_profile())


def test_a_course_without_profiles_or_of_another_shape_is_refused() -> None:
    for data in ({"course": "x", "title": "X", "timezone": "UTC"}, {"course": "x", "profiles": 3}, 3, "x", None):
        with pytest.raises(ValidationError):
            Course.model_validate(data)


def test_a_dumped_course_is_read_back_as_the_same_course() -> None:
    hours = [{"days": ["mon", "fri"], "from": "08:00", "to": "24:00"}]
    gpu = {"memory": "1.3KiB", "cores": 25}
    course = a_course(
        "x", a_profile(hours=hours, variants=[{"provider": "k8s", "gpu": gpu, "cpu": 0.5}]), timezone="Asia/Shanghai"
    )

    assert Course.model_validate(course.model_dump(mode="json", by_alias=True)) == course


@given(st.integers(1, units.MAX_BYTES))
def test_a_written_size_is_read_as_the_same_size(size: int) -> None:
    assert units.parse_bytes(write_bytes(size)) == size


@given(st.timedeltas(timedelta(0), units.MAX_DURATION))
def test_a_written_time_is_read_as_the_same_time(span: timedelta) -> None:
    assert abs(units.parse_duration(write_duration(span)) - span) <= timedelta(microseconds=1)


def test_a_text_is_found_in_the_nearest_language() -> None:
    text = {"en": "Python Basics", "zh-CN": "Python 基础", "pt": "Python"}

    assert in_language(text, "zh-CN") == "Python 基础"
    assert in_language(text, "zh-TW") == "Python 基础"
    assert in_language(text, "pt-BR") == "Python"
    assert in_language(text, "fr") == "Python Basics"
    assert in_language({"de": "Grundlagen"}, "fr") == "Grundlagen"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ok", "'ok'"),
        ("x" * 100, "'" + "x" * 59 + "…'"),
        ("a\0b\ud800", "'a�b�'"),
        (None, "nothing"),
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        (7, "7"),
        (10**16, "a very long number"),
        ([1], "a list"),
        ({}, "a group of keys"),
        (object(), "something else"),
    ],
)
def test_a_bad_value_is_shown_short_and_printable(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_number_too_long_for_python_to_print_is_not_printed() -> None:
    assert shown(10**5000) == "a very long number"


@pytest.mark.parametrize(
    ("day", "clock", "is_open"),
    [(2, "01:59", False), (2, "02:00", True), (2, "03:59", True), (2, "04:00", False), (3, "03:00", False)],
)
def test_a_profile_is_open_at_its_hours_in_its_own_time_zone(day: int, clock: str, is_open: bool) -> None:
    hours = [{"days": ["mon"], "from": "10:00", "to": "12:00"}]
    profile = a_course("x", a_profile(hours=hours), timezone="Asia/Shanghai").profiles[0]
    now = datetime.fromisoformat(f"2026-11-0{day}T{clock}:00+00:00")

    assert open_at(profile, now) is is_open


def test_a_profile_without_hours_is_always_open() -> None:
    assert open_at(profile_of(), MONDAY_10)
    assert next_opening(profile_of(), MONDAY_10) is None


def test_an_evening_that_ends_at_24_00_is_open_to_the_last_minute() -> None:
    profile = profile_of(hours=[{"days": ["mon"], "from": "20:00", "to": "24:00", "timezone": "UTC"}])

    assert open_at(profile, MONDAY_10.replace(hour=23, minute=59))
    assert not open_at(profile, MONDAY_10 + timedelta(hours=14))


def test_the_next_opening_is_the_nearest_one_strictly_later() -> None:
    hours = [
        {"days": ["mon"], "from": "10:00", "to": "12:00", "timezone": "UTC"},
        {"days": ["wed"], "from": "08:00", "to": "09:00", "timezone": "Europe/Berlin"},
    ]
    profile = profile_of(hours=hours)

    assert next_opening(profile, MONDAY_10 - timedelta(minutes=1)) == MONDAY_10
    assert next_opening(profile, MONDAY_10) == datetime(2026, 11, 4, 7, 0, tzinfo=timezone.utc)
    assert next_opening(profile, MONDAY_10 + timedelta(days=3)) == MONDAY_10 + timedelta(days=7)


def test_hours_keep_their_clock_time_when_summer_time_ends() -> None:
    hours = [{"days": ["sun"], "from": "10:00", "to": "11:00", "timezone": "Europe/Berlin"}]
    profile = profile_of(hours=hours)

    assert open_at(profile, datetime(2026, 10, 18, 8, 30, tzinfo=timezone.utc))
    assert open_at(profile, datetime(2026, 10, 25, 9, 30, tzinfo=timezone.utc))
    assert next_opening(profile, datetime(2026, 10, 24, 12, tzinfo=timezone.utc)) == datetime(
        2026, 10, 25, 9, 0, tzinfo=timezone.utc
    )


@pytest.mark.parametrize("name", ["Mars/Base", "../etc/passwd", "/etc/passwd", "", "Asia", "a\0b"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        zone(name)


# -- patterns ------------------------------------------------------------------------------------------------------


def test_a_pattern_has_to_match_the_whole_value() -> None:
    assert matches(r"^ok:\d+", "ok:1")
    assert not matches(r"^ok:\d+", "ok:1\nEVIL")
    assert not matches(r"ok", "ok" * 100)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(?:x*)*", "((ab){2,}c?)*", "([a-z]+/)*x", "(a{9}){10}"])
def test_a_pattern_that_could_hang_the_hub_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeats a repetition"):
        matches(pattern, "a")


@pytest.mark.parametrize("pattern", ["(", "[a", "a{99999999999999}", "(" * 5000])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        matches(pattern, "a")


@pytest.mark.parametrize("pattern", [r"lab/[a-z0-9-]+:[0-9.]+", r"([a-z0-9-]+/){0,4}[a-z]+", r"a|b*|[^c]d?"])
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    matches(pattern, "a")


# -- KubeSpawner's words -------------------------------------------------------------------------------------------

PROFILE_LIST = [
    {
        "display_name": "Small environment",
        "description": "For notebooks",
        "default": True,
        "kubespawner_override": {"image": "lab/a:1", "cpu_limit": 2, "mem_limit": "4G", "extra_labels": {"a": "b"}},
        "profile_options": {
            "image": {
                "display_name": "Image",
                "choices": {
                    "one": {"display_name": "One", "default": True, "kubespawner_override": {"image": "lab/one:1"}},
                    "big": {"display_name": "Big", "kubespawner_override": {"mem_limit": 2**33, "cpu_guarantee": 1}},
                },
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": "Other image",
                    "display_name_in_choices": "Type it",
                    "validation_regex": "lab/.+",
                    "kubespawner_override": {"image": "{value}"},
                },
            }
        },
    },
    {"display_name": "Bare", "slug": "bare"},
]


def test_a_profile_list_of_kubespawner_is_read() -> None:
    small, bare = from_profile_list(PROFILE_LIST)

    assert small.slug == "small-environment"
    assert (small.title, small.summary, small.default) == ({"en": "Small environment"}, {"en": "For notebooks"}, True)
    variant = small.variants[0]
    assert (variant.provider, variant.image, variant.cpu, variant.memory) == ("kubernetes", "lab/a:1", 2.0, 2**32)
    assert variant.settings == {"kubespawner_override": {"extra_labels": {"a": "b"}}}
    option = small.options["image"]
    assert option.default_choice == "one"
    assert option.choices["big"].set.memory == 2**33
    assert option.choices["big"].set.settings == {"kubespawner_override": {"cpu_guarantee": 1}}
    assert option.unlisted_choice.set.image == "{value}"
    assert bare.variants[0].provider == "kubernetes"


def test_what_has_no_word_of_ours_stays_in_the_override() -> None:
    override = {"mem_limit": "lots", "cpu_limit": True, "image": None}

    (profile,) = from_profile_list([{"display_name": "A", "kubespawner_override": override}])

    assert profile.variants[0].settings == {"kubespawner_override": override}


def test_reading_a_profile_list_leaves_it_as_it_was() -> None:
    before = repr(PROFILE_LIST)

    from_profile_list(PROFILE_LIST)

    assert repr(PROFILE_LIST) == before


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("x", "write a list of profiles"),
        ([3], "valid dictionary"),
        ([{"display_name": "A"}, {"display_name": "a"}], "two profiles have the slug 'a'"),
        ([{"display_name": "深度学习"}], "slug"),
        ([{"display_name": "A", "title": "B", "slug": "a"}], "mean the same: write only 'title'"),
        ([{"display_name": "A", "kubespawner_override": 3}], "write keys of KubeSpawner below it"),
        ([{"display_name": "A", "kubespawner_override": {}, "variants": []}], "write only 'variants'"),
        (
            [{"display_name": "A", "profile_options": {"o": {"display_name": "O", "choices": {"c": {
                "display_name": "C", "set": {}, "kubespawner_override": {}}}}}}],
            "write only 'set'",
        ),
    ],
)  # fmt: skip
def test_a_profile_list_that_cannot_be_read_says_why(entries: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        from_profile_list(entries)


def test_a_course_takes_either_profiles_or_a_profile_list() -> None:
    course = Course.model_validate({"course": "k", "title": "K", "profile_list": PROFILE_LIST})

    assert [profile.slug for profile in course.profiles] == ["small-environment", "bare"]
    with pytest.raises(ValidationError, match="write only 'profiles'"):
        a_course("k", profile_list=PROFILE_LIST)
    with pytest.raises(ValidationError, match="profiles"):
        Course.model_validate({"course": "k", "title": "K", "profile_list": {"a": 1}})
