"""The one validator: whatever a form or the REST API sends, the answer is a choice or a sentence."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.courses.course_files import IMAGE, INTERFACE, a_course, a_profile, a_snapshot

from labspawner.courses import Choice, Snapshot, field_name, options_from_form, parse_choice
from labspawner.errors import BadChoice, LabError, NotAllowed
from labspawner.sentences import Sentence

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
MEMBER = {"course-py101"}
SNAPSHOT = a_snapshot(
    a_course("py101", a_profile("base", options={"ui": INTERFACE, "image": IMAGE}), a_profile("project")),
    a_course("dl101", a_profile("base"), a_profile("gpu")),
    a_course("one", access={"groups": ["solo"]}),
)


def choose(
    user_options: object, groups: set[str] = MEMBER, snapshot: Snapshot = SNAPSHOT, admin: bool = False
) -> Choice:
    return parse_choice(user_options, snapshot, groups, admin, NOW)


def refusal(user_options: object, groups: set[str] = MEMBER) -> Sentence:
    with pytest.raises((BadChoice, NotAllowed)) as caught:
        choose(user_options, groups)
    assert str(caught.value)
    return caught.value.message


def test_our_shape_is_read() -> None:
    choice = choose({"profile": "py101/base", "options": {"ui": "doc"}})

    assert (choice.profile_key, choice.course.course, choice.profile.slug) == ("py101/base", "py101", "base")
    assert choice.options == {"ui": "doc", "image": "scipy"}


@pytest.mark.parametrize("profile", ["py101/base", "base"])
def test_the_flat_shape_of_kubespawner_is_read(profile: str) -> None:
    flat = {"profile": profile, "ui": "doc", "image--unlisted-choice": "lab/torch:2"}

    choice = choose(flat)

    assert choice.profile_key == "py101/base"
    assert choice.options == {"ui": "doc", "image--unlisted-choice": "lab/torch:2"}


def test_a_stored_choice_is_read_back_as_the_same_choice() -> None:
    choice = choose({"profile": "base", "image--unlisted-choice": "lab/torch:2"})

    assert choose(choice.to_user_options()) == choice


def test_what_was_not_said_is_the_default() -> None:
    for options in ({}, None, {"ui": None}, {"ui": "", "image--unlisted-choice": ""}):
        assert choose({"profile": "py101/base", "options": options}).options == {"ui": "lab", "image": "scipy"}


def test_an_option_that_can_only_be_typed_may_be_left_out() -> None:
    typed = {"title": "Tag", "unlisted_choice": {"enabled": True, "validation_regex": r"\d+"}}
    snapshot = a_snapshot(a_course("py101", a_profile(options={"tag": typed})))

    assert choose({}, snapshot=snapshot).options == {}


@pytest.mark.parametrize("nothing", [None, {}, {"profile": None}, {"profile": ""}, {"options": {}}])
def test_nothing_at_all_picks_the_only_profile(nothing: object) -> None:
    assert choose(nothing, {"solo"}).profile_key == "one/base"


def test_nothing_at_all_is_refused_where_there_is_something_to_pick() -> None:
    assert refusal({}) == "Pick a profile first."
    assert "not in any course yet" in refusal({}, set())


def test_a_short_name_counts_only_among_the_courses_one_is_in() -> None:
    assert choose({"profile": "base"}, {"course-dl101"}).profile_key == "dl101/base"
    assert "Send one of: py101/base, dl101/base." in refusal({"profile": "base"}, {"course-py101", "course-dl101"})
    assert "You have no profile 'gpu'" in refusal({"profile": "gpu"})


@pytest.mark.parametrize(
    "key", ["dl101/gpu", "dl101/none", "none/none", "/", "py101/", "/base", "py101/base/", "../base"]
)
def test_a_profile_of_somebody_else_is_refused_as_one_that_does_not_exist(key: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        choose({"profile": key})

    assert caught.value.status_code == 403
    assert caught.value.message == f"You have no profile '{key}'. Pick one from the list."


def test_an_administrator_may_pick_anything_that_exists() -> None:
    assert choose({"profile": "dl101/gpu"}, set(), admin=True).profile_key == "dl101/gpu"
    with pytest.raises(NotAllowed):
        parse_choice({"profile": "no/such"}, SNAPSHOT, set(), True, NOW)


def test_class_hours_hold_for_a_choice() -> None:
    hours = [{"days": ["tue"], "from": "10:00", "to": "12:00"}]
    snapshot = a_snapshot(a_course("py101", a_profile(hours=hours), timezone="UTC"))

    with pytest.raises(NotAllowed) as caught:
        choose({"profile": "py101/base"}, snapshot=snapshot)
    assert "only at class hours" in caught.value.message


@pytest.mark.parametrize(
    ("user_options", "told"),
    [
        ("base", 'The choice is \'base\'. Send an object like {"profile": "course/profile"}.'),
        ([1], "The choice is a list."),
        (float("nan"), "The choice is nan."),
        ({"profile": 3}, "The profile is 3. Send its name as text."),
        ({"profile": ["py101/base"]}, "The profile is a list."),
        ({"profile": True}, "The profile is true."),
        ({"profile": "py101/base", "options": [1]}, "The options are a list."),
        ({"profile": "py101/base", "options": {}, "ui": "lab"}, "This profile has no option 'ui'."),
        ({"profile": "py101/base", "options": {"gpu": "1"}}, "This profile has no option 'gpu'."),
        ({"profile": "py101/base", 3: "1"}, "This profile has no option 3."),
        ({"profile": "py101/base", "ui": "vim"}, "'vim' is not a choice for 'ui'. Choose one of: lab, doc."),
        ({"profile": "py101/base", "ui": ["lab"]}, "a list is not a choice for 'ui'."),
        ({"profile": "py101/base", "ui": {"a": 1}}, "a group of keys is not a choice for 'ui'."),
        ({"profile": "py101/base", "ui": 0}, "0 is not a choice for 'ui'."),
        ({"profile": "py101/base", "ui--unlisted-choice": "x"}, "'ui' takes only the choices that are listed."),
        ({"profile": "py101/base", "ui": "unlisted-choice"}, "'unlisted-choice' is not a choice for 'ui'."),
        ({"profile": "py101/base", "image": "unlisted-choice"}, "Type a value for 'image', or choose another answer."),
        ({"profile": "py101/base", "image--unlisted-choice": 3}, "'image' is 3. Send text."),
        ({"profile": "py101/base", "image--unlisted-choice": "evil"}, "'evil' does not fit 'image': write lab/name:1"),
        ({"profile": "py101/base", "image--unlisted-choice": "lab/a:1\nEVIL"}, "does not fit"),
        ({"profile": "py101/base", "image--unlisted-choice": "lab/a:1\n"}, "does not fit"),
        ({"profile": "py101/base", "image--unlisted-choice": "lab/" + "a" * 10**6 + ":1"}, "does not fit"),
    ],
)
def test_a_bad_choice_is_a_sentence_that_says_what_is_wrong(user_options: object, told: str) -> None:
    message = refusal(user_options)

    assert told in message
    assert len(message) < 300


@pytest.mark.parametrize("text", ["x" * 10**6, "a\0b/\0", "\ud800", "\u202e/evil", "<script>/x", "{x}/{0}", "%s/%d"])
def test_a_bad_name_is_shown_short_and_printable(text: str) -> None:
    for message in (refusal({"profile": text}), refusal({"profile": "py101/base", "options": {text: "1"}})):
        assert message.isprintable()
        assert len(message) < 200
        assert message.encode()
        assert Sentence.from_json(message.to_json()) == message


def test_a_pattern_without_words_of_its_own_is_shown() -> None:
    option = {"title": "Tag", "unlisted_choice": {"enabled": True, "validation_regex": r"\d{1,3}"}}
    snapshot = a_snapshot(a_course("py101", a_profile(options={"tag": option})))

    with pytest.raises(BadChoice) as caught:
        choose({"tag--unlisted-choice": "x"}, snapshot=snapshot)
    assert caught.value.message.endswith(r"it must match \d{1,3}")


KEYS = st.sampled_from(["profile", "options", "ui", "image", "image--unlisted-choice", "ui--unlisted-choice"])
NAMES = st.sampled_from(["py101/base", "base", "project", "lab", "doc", "unlisted-choice", "lab/a:1", "dl101/gpu", ""])
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(JSON | st.dictionaries(KEYS, NAMES | JSON, max_size=5))
def test_any_json_is_a_choice_or_a_sentence(user_options: object) -> None:
    try:
        result: Choice | LabError = choose(user_options)
    except (BadChoice, NotAllowed) as refused:
        result = refused

    if isinstance(result, LabError):
        assert result.message.isprintable()
        assert result.status_code in {400, 403}
    else:
        assert result.course.course == "py101"
        assert choose(result.to_user_options()) == result


# -- the form ------------------------------------------------------------------------------------------------------


def test_our_form_gives_our_shape() -> None:
    form = {
        "_xsrf": ["secret"],
        "profile": ["py101/base"],
        field_name("py101", "base", "ui"): ["doc"],
        field_name("py101", "project", "ui"): ["of another card"],
        field_name("dl101", "base", "ui"): ["of another course"],
    }

    assert options_from_form(form) == {"profile": "py101/base", "options": {"ui": "doc"}}


@pytest.mark.parametrize("profile", ["base", "py101/base"])
def test_the_form_of_kubespawner_gives_our_shape(profile: str) -> None:
    form = {
        "profile": [profile],
        "profile-option-base--ui": ["doc"],
        "profile-option-base--image--unlisted-choice": ["lab/torch:2"],
        "profile-option-base2--ui": ["of another card"],
    }

    assert options_from_form(form) == {
        "profile": profile,
        "options": {"ui": "doc", "image--unlisted-choice": "lab/torch:2"},
    }


@pytest.mark.parametrize(
    ("listed", "kept"),
    [("scipy", {"image": "scipy"}), ("unlisted-choice", {"image--unlisted-choice": "lab/torch:2"})],
)
def test_the_list_decides_whether_the_text_beside_it_counts(listed: str, kept: dict[str, str]) -> None:
    name = field_name("py101", "base", "image")
    form = {"profile": ["py101/base"], name: [listed], f"{name}--unlisted-choice": ["lab/torch:2"]}

    assert options_from_form(form)["options"] == kept


@pytest.mark.parametrize("typed", [{}, {"image--unlisted-choice": [""]}])
def test_other_without_a_text_is_refused_and_not_taken_for_the_default(typed: dict[str, list[str]]) -> None:
    prefix = field_name("py101", "base", "")
    form = {"profile": ["py101/base"], f"{prefix}image": ["unlisted-choice"]}
    form.update({f"{prefix}{name}": values for name, values in typed.items()})

    assert "Type a value for 'image'" in refusal(options_from_form(form))


@pytest.mark.parametrize("form", [{}, {"profile": []}, {"profile": [""]}, {"profile": None}, {"profile": [3]}, {3: 4}])
def test_a_form_without_a_profile_says_nothing(form: dict[Any, Any]) -> None:
    assert options_from_form(form) == {}


def test_a_form_of_bytes_is_read() -> None:
    assert options_from_form({"profile": [b"py101/base\xff"], 3: 4}) == {"profile": "py101/base�", "options": {}}


@given(st.dictionaries(st.text(max_size=9) | st.just("profile"), st.lists(st.text(max_size=9), max_size=2), max_size=4))
def test_any_form_is_read_without_an_error(form: dict[str, list[str]]) -> None:
    assert set(options_from_form(form)) <= {"profile", "options", "variant"}
