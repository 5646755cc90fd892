"""A form and the text are the same thing: what was not changed stays, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.courses.course_files import course_in

from labspawner.courses.editing import (
    NotEditable,
    add_profile,
    as_course,
    course_as_form,
    duplicate_profile,
    form_as_profile,
    move_profile,
    new_course,
    profile_as_form,
    remove_profile,
    with_course,
    with_profile,
)
from labspawner.courses.forms import same
from labspawner.courses.yamltree import Unreadable, read_tree

SAMPLES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[3] / "courses").glob("*.yaml"))
}
PROFILES = [(name, profile.slug) for name, text in SAMPLES.items() for profile in course_in(text).profiles]

TEXT = """\
# Above everything.
course: ml1   # for good
title: 'Machine  Learning'

profiles:
# the first
- slug: small          # short
  title: {zh-CN: 小, en: "Small"}
  variants:
  - provider: local
    memory:   1024MiB   # one
    cpu: 2
    # about the settings
    settings: {environment: {A: "1GiB"}, default_url: "/lab"}
  - {provider: other, memory: 2GiB}
  idle:
    after: 60m
    warn: [ 10m, 2m ]

# the second
- slug: large
  title: Large
  default: true
  variants: [{provider: local, memory: 4GiB}]

# the third
- {slug: last, title: Last, variants: [{provider: local}]}
"""


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that are only in one of the two."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def edit(text: str, slug: str, **changes: Any) -> str:
    return with_profile(text, slug, form_as_profile({**profile_as_form(text, slug), **changes}))


# -- to the byte ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "slug"), PROFILES)
def test_a_form_that_nobody_changed_changes_nothing(name: str, slug: str):
    text = SAMPLES[name]

    assert with_profile(text, slug, form_as_profile(profile_as_form(text, slug))) == text
    assert with_course(text, course_as_form(text)) == text


def test_nothing_that_is_taken_away_takes_a_comment_of_something_else_along():
    text = TEXT.replace("profiles:\n# the first", "timezone: UTC\n# about profiles\nprofiles:\n# the first")

    assert with_course(text, {"timezone": None}) == text.replace("timezone: UTC\n", "")
    assert edit(text, "small", idle={}) == text.replace("  idle:\n    after: 60m\n    warn: [ 10m, 2m ]\n", "")


@pytest.mark.parametrize(("name", "slug"), PROFILES)
def test_one_change_touches_one_line_of_the_sample_courses(name: str, slug: str):
    gone, new = changed(SAMPLES[name], edit(SAMPLES[name], slug, icon="👍"))

    assert len(gone) <= 1
    assert len(new) == 1
    assert "👍" in new[0]


def test_a_value_is_changed_and_its_comment_and_spaces_around_stay():
    form = profile_as_form(TEXT, "small")
    form["variants"][0]["cpu"] = "3"

    assert changed(TEXT, with_profile(TEXT, "small", form_as_profile(form))) == (["    cpu: 2"], ["    cpu: 3"])


def test_another_way_to_write_the_same_is_no_change():
    form = profile_as_form(TEXT, "small")
    form["variants"][0]["memory"] = "1GiB"
    form["variants"][0]["cpu"] = 2.0
    form["idle"] = {"after": "1h", "warn": "600s, 2m"}

    assert with_profile(TEXT, "small", form_as_profile(form)) == TEXT


def test_what_only_a_provider_reads_is_never_taken_for_the_same():
    form = profile_as_form(TEXT, "small")
    form["variants"][0]["settings"]["environment"]["A"] = "1024MiB"

    after = with_profile(TEXT, "small", form_as_profile(form))

    assert course_in(after).profiles[0].variants[0].settings["environment"] == {"A": "1024MiB"}


def test_a_course_gets_another_title_and_nothing_else():
    assert changed(TEXT, with_course(TEXT, {"title": {"en": "New: one"}})) == (
        ["title: 'Machine  Learning'"],
        ["title: 'New: one'"],
    )


def test_what_is_not_named_stays_and_what_is_empty_goes():
    text = with_course(TEXT, {"summary": {"en": "About", "zh-CN": "关于"}, "timezone": "UTC"})
    assert course_as_form(text) == {
        "course": "ml1",
        "title": {"en": "Machine  Learning"},
        "summary": {"en": "About", "zh-CN": "关于"},
        "timezone": "UTC",
    }

    assert with_course(text, {"summary": {"en": " "}, "timezone": ""}) == TEXT
    assert with_course(text, {"profiles": [], "access": {"everyone": True}}) == text


def test_lines_as_a_browser_sends_them_stay_so():
    text = TEXT.replace("\n", "\r\n")

    after = edit(text, "large", icon="x")

    assert after.replace("\r\n", "") == edit(TEXT, "large", icon="x").replace("\n", "")
    assert "\n" not in after.replace("\r\n", "")


# -- groups and lists ----------------------------------------------------------------------------------------------


def test_a_variant_is_added_changed_and_taken_out_of_the_middle():
    form = profile_as_form(TEXT, "small")
    form["variants"] = [form["variants"][0], {"provider": "third", "cpu": "0.5"}, form["variants"][1]]
    three = with_profile(TEXT, "small", form_as_profile(form))

    assert [each.provider for each in course_in(three).profiles[0].variants] == ["local", "third", "other"]
    assert set(TEXT.splitlines()) <= set(three.splitlines())

    form["variants"] = form["variants"][::2]
    assert with_profile(three, "small", form_as_profile(form)) == TEXT


def test_a_group_comes_and_goes():
    limits = edit(TEXT, "large", limits={"max_age": "4h", "per_user": "2"}, queue_for="1h")

    assert course_in(limits).profiles[1].limits.per_user == 2
    assert edit(limits, "large", limits={"max_age": "", "per_user": None}, queue_for="") == TEXT


def test_a_slice_is_added_and_taken_away():
    form = profile_as_form(TEXT, "large")
    assert "gpu" not in form["variants"][0]
    form["variants"][0]["gpu"] = {"memory": "6GiB", "cores": "25", "type": "A100 80GB, H100", "policy": ""}
    sliced = with_profile(TEXT, "large", form_as_profile(form))

    gpu = course_in(sliced).profiles[1].variants[0].gpu
    assert gpu is not None
    assert (gpu.cores, gpu.type, gpu.policy) == (25, ("A100 80GB", "H100"), None)

    form["variants"][0].pop("gpu")
    assert with_profile(sliced, "large", form_as_profile(form)) == TEXT


@pytest.mark.parametrize("slug", ["small", "large", "last"])
def test_a_profile_is_added_and_taken_away_again(slug: str):
    more = add_profile(TEXT, {"slug": "new", "title": {"en": "New"}, "variants": [{"provider": "local"}]})
    assert [each.slug for each in course_in(more).profiles] == ["small", "large", "last", "new"]
    assert remove_profile(more, "new") == TEXT

    less = remove_profile(TEXT, slug)
    assert slug not in [each.slug for each in course_in(less).profiles]
    assert changed(TEXT, less)[1] == []


def test_a_profile_that_is_taken_away_takes_its_comment_along():
    assert "# the second" not in remove_profile(TEXT, "large")
    assert "# the third" in remove_profile(TEXT, "large")
    assert "# the first" in remove_profile(TEXT, "large")


def test_the_last_profile_of_a_course_stays():
    one = remove_profile(remove_profile(TEXT, "small"), "large")

    with pytest.raises(NotEditable, match="Archive the course"):
        remove_profile(one, "last")


@pytest.mark.parametrize(
    ("slug", "step", "order"),
    [
        ("small", 1, ["large", "small", "last"]),
        ("last", -1, ["small", "last", "large"]),
        ("last", -9, ["last", "small", "large"]),
        ("small", 9, ["large", "last", "small"]),
        ("small", -1, ["small", "large", "last"]),
    ],
)
def test_a_profile_moves_with_its_comment(slug: str, step: int, order: list[str]):
    moved = move_profile(TEXT, slug, step)

    assert [each.slug for each in course_in(moved).profiles] == order
    assert sorted(moved.splitlines()) == sorted(TEXT.splitlines())
    lines = moved.splitlines()
    for comment, mark in (
        ("# the first", "slug: small"),
        ("# the second", "slug: large"),
        ("# the third", "slug: last"),
    ):
        assert mark in lines[lines.index(comment) + 1]


def test_a_copy_of_a_profile_has_another_name_and_is_not_the_preselected_one():
    after = duplicate_profile(TEXT, "large", "huge")

    profiles = course_in(after).profiles
    assert [(each.slug, each.default) for each in profiles] == [
        ("small", False),
        ("large", True),
        ("huge", False),
        ("last", False),
    ]
    assert profiles[2].variants == profiles[1].variants
    assert changed(TEXT, after) == ([], ["- slug: huge"])


@pytest.mark.parametrize(("name", "slug"), PROFILES)
def test_every_profile_of_the_samples_is_copied_moved_and_removed(name: str, slug: str):
    text = SAMPLES[name]
    copied = duplicate_profile(text, slug, "twin")

    assert remove_profile(copied, "twin") == text
    assert changed(text, copied)[0] == []
    assert sorted(move_profile(text, slug, 1).splitlines()) == sorted(text.splitlines())


def test_a_text_becomes_that_of_another_course():
    text = TEXT + "access: {groups: [course-ml1], everyone: true}\n"

    after = as_course(text, "ml2")

    assert after == TEXT.replace("course: ml1 ", "course: ml2 ")
    assert course_in(after).access.groups == ("course-ml2",)


@pytest.mark.parametrize(
    "title", ["?0", "?Why", ":a", "- x", "#", "1e3", "yes", "{value}", "a: b", "'", '"', "!x", "@", "007"]
)
def test_any_title_can_be_written_and_read(title: str):
    written = new_course("ml1", {"en": title})

    assert course_as_form(written)["title"] == {"en": title}
    assert course_as_form(with_course(TEXT, {"title": {"en": title, "zh-CN": title}}))["title"]["zh-CN"] == title


def test_a_new_course_is_a_course():
    course = course_in(new_course("ml1", {"en": "ML: one", "zh-CN": "机器学习"}, "Asia/Shanghai"))

    assert (course.course, course.title["zh-CN"], course.timezone) == ("ml1", "机器学习", "Asia/Shanghai")
    assert (
        course_in(new_course("ml1", {"en": "x"}, provider="kubernetes")).profiles[0].variants[0].provider
        == "kubernetes"
    )


# -- what a form cannot do -----------------------------------------------------------------------------------------


MIXED = """\
course: mixed
title: Mixed
profiles:
  # ours
  - slug: own
    title: Own
    variants: [{provider: sim, memory: 1GiB}]
  - display_name: Theirs # from the old hub
    slug: theirs
    kubespawner_override: {image: "lab/a:1"}
"""


def test_a_profile_in_kubespawners_words_keeps_nobody_from_changing_the_others():
    form = profile_as_form(MIXED, "own")

    changed = with_profile(MIXED, "own", {**form, "title": {"en": "Mine"}})

    assert changed == MIXED.replace("title: Own", "title: Mine")
    with pytest.raises(NotEditable, match="This profile is written in KubeSpawner's words"):
        profile_as_form(MIXED, "theirs")
    with pytest.raises(NotEditable, match="This profile is written in KubeSpawner's words"):
        with_profile(MIXED, "theirs", form)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("course: [", "line 1"),
        ("[a]", "is no course"),
        ("course: a\ntitle: A\nprofile_list: []\n", "KubeSpawner's words"),
        ("course: a\nprofiles: [{display_name: A}]\n", "KubeSpawner's words"),
        ("course: a\nprofiles: x\n", "no list of profiles"),
        ("course: a\nprofiles: 7\n", "no list of profiles"),
        ("course: a\nprofiles: [{slug: b}]\n", "no profile small"),
    ],
)
def test_what_a_form_cannot_show_says_why(text: str, says: str):
    with pytest.raises(NotEditable, match=says) as refused:
        profile_as_form(text, "small")
    assert refused.value.message == str(refused.value)


def test_a_value_that_others_share_is_changed_for_one_only():
    shared = (
        "course: ml1\ntitle: T\nprofiles:\n"
        "- slug: a\n  title: A\n  variants: &v\n  - {provider: local, memory: 1GiB}\n"
        "- slug: b\n  title: B\n  variants: *v\n"
    )

    after = edit(shared, "b", variants=[{"provider": "local", "memory": "2GiB"}])

    memories = [each.variants[0].memory for each in course_in(after).profiles]
    assert memories == [2**30, 2**31]


# -- forms ---------------------------------------------------------------------------------------------------------


def test_what_fields_hold_becomes_what_the_file_takes():
    assert form_as_profile(
        {
            "slug": " small ",
            "title": {"en": " A ", "zh-CN": ""},
            "summary": {"en": "", "zh-CN": " "},
            "default": "on",
            "variants": [{"provider": "local", "cpu": "0.5", "memory": "", "settings": {}, "gpu": {"cards": "2"}}],
            "idle": {"warn": "10m, 2m", "extend": {"step": "30m", "per_day": "4"}},
            "limits": {"per_user": "1", "max_age": None},
            "hours": [{"days": "mon, wed", "from": "10:00", "to": "12:00"}],
            "options": {},
        }
    ) == {
        "slug": "small",
        "title": {"en": "A"},
        "default": True,
        "variants": [{"provider": "local", "cpu": 0.5, "gpu": {"cards": 2}}],
        "idle": {"warn": ["10m", "2m"], "extend": {"step": "30m", "per_day": 4}},
        "limits": {"per_user": 1},
        "hours": [{"days": ["mon", "wed"], "from": "10:00", "to": "12:00"}],
    }


def test_what_cannot_be_read_stays_for_the_loader_to_complain_of():
    form = {"variants": [{"cpu": "two", "memory": "6"}], "limits": {"per_user": "1e3"}}

    assert form_as_profile(form) == form


@pytest.mark.parametrize(
    ("name", "one", "other", "equal"),
    [
        ("memory", "1GiB", "1024MiB", True),
        ("memory", "1GiB", "1GB", False),
        ("after", "60m", "1h", True),
        ("cores", 25, "25%", True),
        ("cores", "25", "26%", False),
        ("cpu", 2, 2.0, True),
        ("cpu", 1, True, False),
        ("title", "A", {"en": "A "}, True),
        ("title", "1 GiB", "1GiB", False),
        ("title", 101, {"en": "101"}, True),
        ("warn", ["60s"], ["1m"], True),
        ("template", 9100, "9100", True),
        ("icon", "1", 1, False),
        ("default", False, None, True),
        ("per_user", 0, None, False),
        ("limits", {}, None, True),
        ("memory", [], "1GiB", False),
        ("memory", "9" * 400 + "GiB", "1GiB", False),
    ],
)
def test_when_two_ways_to_write_mean_the_same(name: str, one: Any, other: Any, equal: bool):
    assert same(name, one, other) is equal
    assert same(name, other, one) is equal


_text = st.text("aZ中 :#'\"{}[]&*!|>-?%@`,\\é0🧠", min_size=1, max_size=12).filter(str.strip)
_size = st.builds("{}{}".format, st.integers(1, 999), st.sampled_from(["MiB", "GiB", "Ki"]))
_time = st.builds("{}{}".format, st.integers(1, 99), st.sampled_from("smhd"))
_variant = st.fixed_dictionaries(
    {"provider": st.sampled_from(["local", "other"])},
    optional={
        "cpu": st.sampled_from([1, 0.5, 16]),
        "memory": _size,
        "gpu": st.fixed_dictionaries({"memory": _size}, optional={"cores": st.integers(1, 100)}),
        "settings": st.dictionaries(_text, _text | st.integers() | st.booleans() | st.lists(_text), max_size=2),
    },
)  # fmt: skip
_profile = st.fixed_dictionaries(
    {"title": st.dictionaries(st.sampled_from(["en", "zh-CN"]), _text.map(str.strip), min_size=1)},
    optional={
        "summary": st.dictionaries(st.sampled_from(["en", "zh-CN"]), _text.map(str.strip), min_size=1),
        "icon": _text.map(str.strip),
        "default": st.just(True),
        "variants": st.lists(_variant, min_size=1, max_size=3),
        "idle": st.dictionaries(st.sampled_from(["after", "retain"]), _time, min_size=1),
        "limits": st.fixed_dictionaries({"per_user": st.integers(1, 9)}),
        "queue_for": _time,
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_profile, st.sampled_from(["small", "large", "last"]))
def test_what_a_form_wrote_is_what_the_form_shows(profile: dict[str, Any], slug: str):
    wanted = {"slug": slug, **profile}

    after = with_profile(TEXT, slug, wanted)

    assert form_as_profile(profile_as_form(after, slug)) == form_as_profile(wanted)
    for other in {"small", "large", "last"} - {slug}:
        assert profile_as_form(after, other) == profile_as_form(TEXT, other)
    assert course_as_form(after) == course_as_form(TEXT)
    assert after.startswith("# Above everything.\ncourse: ml1   # for good\ntitle: 'Machine  Learning'\n\nprofiles:\n")
    assert with_profile(after, slug, form_as_profile(profile_as_form(after, slug))) == after


def test_whoever_changes_what_was_read_of_a_text_changes_it_for_nobody_else() -> None:
    text = "course: once\nprofiles: [{slug: a}]\n"
    read_tree(text).data["profiles"].clear()

    assert read_tree(text).data == {"course": "once", "profiles": [{"slug": "a"}]}
    assert read_tree(text).values == read_tree(f"{text}").values


def test_a_text_that_cannot_be_read_is_told_with_its_place_every_time() -> None:
    for _ in range(2):
        with pytest.raises(Unreadable) as caught:
            read_tree("course: a\ncourse: b\n")
        assert caught.value.mark.line == 2
