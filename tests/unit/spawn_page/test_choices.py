"""What is preset: the profile of the last start and its answers, whatever was saved of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.spawn_page.spawn_pages import MEMBER, MONDAY_10, Engine, a_course, a_profile, card, checked, shown

from labspawner.courses import Catalog, field_name, options_from_form, parse_choice

UNLISTED = "--unlisted-choice"
OPTIONS = {
    "ui": {"title": "Interface", "choices": {"lab": {"title": "Lab"}, "doc": {"title": "Simple", "default": True}}},
    "image": {
        "title": "Image",
        "choices": {"scipy": {"title": "SciPy"}},
        "unlisted_choice": {
            "enabled": True,
            "title": "Image name",
            "validation_regex": "lab/[a-z-]+:1",
            "validation_message": "write lab/name:1",
        },
    },
    "tag": {"title": "Tag", "unlisted_choice": {"enabled": True, "validation_regex": "[0-9]*"}},
}
WITH_OPTIONS = a_profile("base", f"options: {json.dumps(OPTIONS)}")


def selected(html, key="py101/base"):
    return [entry["value"] for entry in card(html, key).select("option[selected]")]


def typed(html, option, key="py101/base"):
    return html.find("input", attrs={"name": field_name(*key.split("/"), option) + UNLISTED})["value"]


def is_open(html, key="py101/base"):
    return card(html, key).select_one("details").has_attr("open")


def posted(html):
    """What a browser without JavaScript posts when Start is clicked."""
    form: dict[str, list[str]] = {"profile": checked(html)}
    for select in html.select("select"):
        chosen = select.select_one("option[selected]") or select.select_one("option")
        form[select["name"]] = [chosen["value"]]
    return {**form, **{text["name"]: [text["value"]] for text in html.select("input[type=text]")}}


# -- the profile ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", ["py101/two", "two"])
def test_the_profile_of_the_last_start_is_preselected_by_either_name(courses, saved):
    catalog = courses(a_course(a_profile("one", "default: true"), a_profile("two")))

    assert checked(shown(catalog, last={"profile": saved})) == ["py101/two"]


@pytest.mark.parametrize("last", [None, {}, {"profile": "py101/gone"}, {"profile": "dl101/base"}, {"profile": ""}])
def test_without_a_last_start_the_default_is_preselected(courses, last):
    catalog = courses(a_course(a_profile("one"), a_profile("two", "default: true")), a_course(slug="dl101"))

    assert checked(shown(catalog, last=last)) == ["py101/two"]


def test_what_cannot_be_started_is_not_preselected(courses):
    closed = 'hours: [{days: [tue], from: "09:00", to: "11:00", timezone: UTC}]'
    catalog = courses(
        a_course(a_profile("one", "default: true", closed), a_profile("two")),
        a_course(a_profile("three"), a_profile("four", "default: true"), slug="dl101"),
    )

    html = shown(catalog, groups=(*MEMBER, "course-dl101"), last={"profile": "py101/one"})

    assert checked(html) == ["dl101/four"]


# -- the answers ------------------------------------------------------------------------------------------------------


def test_without_a_last_start_the_defaults_are_preset_and_the_options_closed(courses):
    html = shown(courses(a_course(WITH_OPTIONS)))

    assert selected(html) == ["doc", "scipy"]
    assert (typed(html, "image"), typed(html, "tag")) == ("", "")
    assert not is_open(html)


def test_the_last_answers_are_preset_and_shown(courses):
    last = {"profile": "py101/base", "options": {"ui": "lab", "image--unlisted-choice": "lab/a:1"}}

    html = shown(courses(a_course(WITH_OPTIONS)), last=last)

    assert selected(html) == ["lab", "unlisted-choice"]
    assert typed(html, "image") == "lab/a:1"
    assert is_open(html)


@pytest.mark.parametrize("answers", [{"ui": "lab"}, {"image": "unlisted-choice", "image--unlisted-choice": "evil"}])
def test_what_was_refused_is_there_again_to_be_mended(courses, answers):
    html = shown(courses(a_course(WITH_OPTIONS)), last={"profile": "base", **answers})

    assert is_open(html)
    assert typed(html, "image") == answers.get("image--unlisted-choice", "")


def test_other_that_was_left_empty_is_still_chosen(courses):
    html = shown(courses(a_course(WITH_OPTIONS)), last={"profile": "base", "options": {"image": "unlisted-choice"}})

    assert selected(html) == ["doc", "unlisted-choice"]
    assert typed(html, "image") == ""


@pytest.mark.parametrize("text", ["x" * 121, "a\nb", "\0", "\ud800", 3, ["x"], True, {"a": 1}])
def test_a_typed_answer_that_no_keyboard_wrote_is_left_out(courses, text):
    html = shown(courses(a_course(WITH_OPTIONS)), last={"profile": "base", "image--unlisted-choice": text})

    assert typed(html, "image") == ""


def test_answers_that_are_no_answers_any_more_are_the_defaults_again(courses):
    old = {"ui": "vim", "image": "torch", "ui--unlisted-choice": "vim", "gone": "x"}

    html = shown(courses(a_course(WITH_OPTIONS)), last={"profile": "py101/base", "options": old})

    assert selected(html) == ["doc", "scipy"]
    assert not is_open(html)


def test_the_answers_of_one_profile_are_not_those_of_another(courses):
    catalog = courses(a_course(WITH_OPTIONS, WITH_OPTIONS.replace("base", "two")))

    html = shown(catalog, last={"profile": "py101/base", "options": {"ui": "lab"}})

    assert (selected(html)[0], selected(html, "py101/two")[0]) == ("lab", "doc")


def test_an_option_that_is_only_typed_takes_its_own_title(courses):
    html = shown(courses(a_course(WITH_OPTIONS)))

    labels = [label.text for label in html.select(".lab-option label")]
    assert labels == ["Interface", "Image", "Image name", "Tag"]


def test_a_text_field_without_a_title_is_called_as_its_entry(courses):
    options = {"image": {**OPTIONS["image"], "unlisted_choice": {"enabled": True, "validation_regex": "a"}}}

    html = shown(courses(a_course(a_profile("base", f"options: {json.dumps(options)}"))), language="zh-CN")

    assert html.select_one(".lab-typed label").text == "其他……" == html.select_one(".lab-other").text


@pytest.mark.parametrize(
    "answers",
    [{}, {"ui": "lab"}, {"image--unlisted-choice": "lab/a:1"}, {"tag--unlisted-choice": "7", "image": "scipy"}],
)
def test_what_the_page_presets_is_what_a_click_on_start_asks_for(courses, answers):
    catalog = courses(a_course(WITH_OPTIONS))
    asked = {"profile": "py101/base", "options": answers}

    html = shown(catalog, last=asked)

    meant = parse_choice(asked, catalog.snapshot, MEMBER, False, MONDAY_10)
    assert parse_choice(options_from_form(posted(html)), catalog.snapshot, MEMBER, False, MONDAY_10) == meant


# -- junk and malice ----------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["profile", "options", *OPTIONS, *(name + UNLISTED for name in OPTIONS)])
VALUES = st.sampled_from(["py101/base", "base", "lab", "doc", "unlisted-choice", "lab/a:1", "scipy", "7", ""])
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def one_course(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    catalog = Catalog(tmp_path_factory.mktemp("courses"))
    (catalog.folder / "py101.yaml").write_text(a_course(WITH_OPTIONS, a_profile("two")), encoding="utf-8")
    catalog.refresh()
    return catalog


@settings(deadline=None, max_examples=60)
@given(last=JSON | st.dictionaries(KEYS, VALUES | JSON, max_size=5))
def test_whatever_was_saved_the_page_is_there_and_start_can_be_clicked(one_course, last):
    html = shown(one_course, Engine(), last=last)

    assert len(checked(html)) == 1
    assert str(html).encode()
    assert len(selected(html)) == 2


EVIL = "\"><script>alert('x')</script><img src=x onerror=alert(1)>'{{ 7*7 }}{% raw %}"


@pytest.mark.parametrize("groups", [MEMBER, ("course-py101-instructors",)])
def test_hostile_words_stay_words(courses, groups):
    evil = json.dumps(EVIL)
    options = {
        "image": {
            "title": EVIL,
            "summary": EVIL,
            "choices": {"a": {"title": EVIL}},
            "unlisted_choice": {
                "enabled": True,
                "title": EVIL,
                "display_name_in_choices": EVIL,
                "validation_regex": "[\"'><&]*",
                "validation_message": EVIL,
            },
        }
    }
    profile = a_profile("base", f"title: {evil}", f"summary: {evil}", 'icon: "<b>&"', f"options: {json.dumps(options)}")
    catalog = courses(a_course(profile, head=f"title: {evil}\nsummary: {evil}\n"), f"course: {evil}\n")
    last = {"profile": "py101/base", "options": {"image--unlisted-choice": EVIL}}

    html = shown(catalog, groups=groups, user_name=EVIL, last=last)

    assert html.find("script") is None
    assert html.find("img") is None
    assert html.find("b") is None
    assert not [tag for tag in html.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
    assert "49" not in html.text
    assert html.select_one("legend").text == html.select_one(".lab-card-title").text == EVIL
    assert typed(html, "image") == EVIL


# -- broken files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [{"groups": ("course-py101-instructors",)}, {"groups": (), "admin": True}])
def test_staff_read_what_is_wrong_with_the_files_without_the_servers_folders(courses, who):
    html = shown(courses(a_course(), broken="course: x\ntitle: 3\n"), **who)

    messages = [pre.text for pre in html.select(".lab-broken pre")]
    assert messages
    assert all(message.startswith("broken.yaml:") for message in messages)
    assert checked(html) == ["py101/base"]


def test_students_read_nothing_of_broken_files(courses):
    html = shown(courses(a_course(), broken="course: x\n"))

    assert html.select_one(".lab-broken") is None
