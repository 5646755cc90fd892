"""The inside of the spawn form."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bs4 import BeautifulSoup

from labspawner.courses import field_name
from labspawner.model import Resources, Slice
from labspawner.pages.form import render_spawn_form
from labspawner.pages.views import (
    Availability,
    Choice,
    CourseGroup,
    ProfileCard,
    SelectField,
    SpawnPage,
    TextField,
    chips_for,
)
from labspawner.sentences import Sentence

EVIL = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


def a_card(slug: str = "base", **changes) -> ProfileCard:
    return ProfileCard(
        **{"course": "py101", "slug": slug, "title": {"en": "JupyterLab", "zh-CN": "实验环境"}, **changes}
    )


def a_page(*cards: ProfileCard, **changes) -> SpawnPage:
    course = CourseGroup(slug="py101", title={"en": "Python", "zh-CN": "编程"}, cards=cards or (a_card(),))
    return SpawnPage(**{"user_name": "student1", "courses": (course,), **changes})


def rendered(page: SpawnPage, language: str = "en") -> BeautifulSoup:
    return BeautifulSoup(render_spawn_form(page, language), "html.parser")


def checked(html: BeautifulSoup) -> list[str]:
    return [radio["value"] for radio in html.select("input[type=radio][checked]")]


def test_each_profile_is_a_radio_input_named_profile():
    html = rendered(a_page(a_card("base"), a_card("big")))

    radios = html.select("input[type=radio]")
    assert [(radio["name"], radio["value"]) for radio in radios] == [
        ("profile", "py101/base"),
        ("profile", "py101/big"),
    ]


def test_each_radio_has_a_label_and_a_description():
    html = rendered(a_page())

    radio = html.select_one("input[type=radio]")
    assert html.select_one(f"label[for='{radio['id']}']").text == "JupyterLab"
    assert html.find(id=radio["aria-describedby"]) is not None


def test_courses_are_groups_with_a_legend_in_the_readers_language():
    assert rendered(a_page(), "zh-CN").select_one("fieldset legend").text == "编程"
    assert rendered(a_page(), "zh-CN").select_one(".lab-card-title").text == "实验环境"


def test_the_last_choice_is_preselected():
    html = rendered(a_page(a_card("base"), a_card("big"), preselected="py101/big"))

    assert checked(html) == ["py101/big"]


@pytest.mark.parametrize("last", [None, "py101/gone", "other/base", ""])
def test_without_a_last_choice_that_exists_the_first_is_preselected(last):
    assert checked(rendered(a_page(a_card("base"), a_card("big"), preselected=last))) == ["py101/base"]


def test_a_last_choice_that_is_disabled_now_is_not_preselected():
    html = rendered(a_page(a_card("base", disabled=Sentence("closed now")), a_card("big"), preselected="py101/base"))

    assert checked(html) == ["py101/big"]


def test_a_disabled_profile_says_why_and_offers_no_options():
    field = SelectField(course="py101", slug="base", option="ui", label={"en": "UI"}, choices=())
    html = rendered(a_page(a_card(disabled=Sentence("closed now"), options=(field,))), "zh-CN")

    assert html.select_one("input[type=radio]").has_attr("disabled")
    assert html.select_one(".lab-why").text == "目前未开放"
    assert html.select_one("select") is None


def test_when_nothing_can_be_chosen_the_page_says_so():
    html = rendered(a_page(a_card(disabled=Sentence("closed now"))))

    assert checked(html) == []
    assert "Nothing here can be started" in html.select_one(".lab-none").text


def test_options_are_selects_named_after_course_profile_and_option():
    choices = (Choice(value="lab", label={"en": "Lab"}), Choice(value="nb", label={"en": "Notebook"}, selected=True))
    field = SelectField(course="py101", slug="base", option="ui", label={"en": "UI"}, choices=choices)

    html = rendered(a_page(a_card(options=(field,))))

    select = html.select_one("details select")
    assert select["name"] == field_name("py101", "base", "ui") == "option--py101--base--ui"
    assert [option["value"] for option in select.select("option[selected]")] == ["nb"]
    assert html.select_one(f"label[for='{select['id']}']").text == "UI"


def a_typed_option(**changes) -> SelectField:
    typed = TextField(
        **{
            "label": {"en": "Image name"},
            "entry": {"en": "Other...", "zh-CN": "其他……"},
            "hint": {"en": "write lab/name:1"},
            "pattern": "lab/[a-z-]+:1",
            **changes,
        }
    )
    choices = (Choice(value="scipy", label={"en": "SciPy"}),)
    return SelectField(course="py101", slug="base", option="image", label={"en": "Image"}, choices=choices, typed=typed)


def test_an_option_with_a_typed_answer_has_a_last_entry_for_it_and_a_labelled_text_field():
    html = rendered(a_page(a_card(options=(a_typed_option(),))), "zh-CN")

    last = html.select("details select option")[-1]
    text = html.select_one("details input[type=text]")
    assert (last["value"], last.text) == ("unlisted-choice", "其他……")
    assert text["name"] == field_name("py101", "base", "image") + "--unlisted-choice"
    assert html.select_one(f"label[for='{text['id']}']").text == "Image name"
    assert (text["maxlength"], text["value"], text["data-pattern"]) == ("120", "", "lab/[a-z-]+:1")
    assert html.find(id=text["aria-describedby"].split()[0]).text == "write lab/name:1"
    assert html.select("select option[selected]") == []


def test_what_was_typed_last_is_there_again():
    html = rendered(a_page(a_card(options=(a_typed_option(value="lab/a:1", selected=True),), options_open=True)))

    assert html.select_one("input[type=text]")["value"] == "lab/a:1"
    assert [option["value"] for option in html.select("option[selected]")] == ["unlisted-choice"]
    assert html.select_one("details").has_attr("open")


def test_an_option_that_can_only_be_typed_shows_just_the_text_field():
    field = SelectField(
        course="py101",
        slug="base",
        option="tag",
        label={"en": "Tag"},
        summary={"en": "Of the image."},
        typed=TextField(label={"en": "Tag"}, entry={"en": "Other..."}),
    )

    html = rendered(a_page(a_card(options=(field,))))

    assert html.select_one("select") is None
    assert len(html.select("label[for^=option--]")) == 1
    assert html.find(id=f"{field.name}-about").text == "Of the image."
    assert not html.select_one("details").has_attr("open")


def test_the_browser_never_refuses_the_form_for_a_text_field():
    """A `pattern` would, and without a word where the field lies in closed options of another card."""
    text = rendered(a_page(a_card(options=(a_typed_option(),)))).select_one("input[type=text]")

    assert not {"pattern", "required"} & set(text.attrs)


def test_a_card_shows_its_icon_to_the_eye_only_and_notes_for_staff():
    html = rendered(a_page(a_card(icon="🐍", notes=(Sentence("Closed for students now; opens {when}.", when="x"),))))

    assert (html.select_one(".lab-icon").text, html.select_one(".lab-icon")["aria-hidden"]) == ("🐍", "true")
    assert html.select_one(".lab-note").text == "Closed for students now; opens x."
    assert not html.select_one("input[type=radio]").has_attr("disabled")


def test_a_student_without_a_course_reads_what_to_do_and_the_own_name():
    html = rendered(SpawnPage(user_name="学生<b>" + "x" * 300, courses=()))

    assert "You are in no course yet" in html.text
    assert html.select_one("code").text == "学生<b>" + "x" * 300
    assert html.select_one("input") is None


def test_a_course_without_profiles_is_not_shown():
    html = rendered(SpawnPage(user_name="s", courses=(CourseGroup(slug="empty", title={"en": "Empty"}, cards=()),)))

    assert html.select_one("fieldset") is None


def test_availability_is_said_in_words_beside_its_mark():
    html = rendered(a_page(a_card(availability=Availability.of(6))))

    assert html.select_one(".lab-free-free").text.strip() == "6 free"
    assert html.select_one(".lab-dot")["aria-hidden"] == "true"


@pytest.mark.parametrize(
    ("free", "kind", "words"),
    [(None, "unknown", "places not counted"), (-1, "full", "full now"), (0, "full", "full now"), (2, "few", "2 free")],
)
def test_availability_follows_from_how_many_fit(free, kind, words):
    availability = Availability.of(free)

    assert (availability.kind.value, str(availability.text)) == (kind, words)


def test_a_closed_profile_may_say_why():
    assert str(Availability.closed().text) == "closed now"
    assert str(Availability.closed(Sentence("dry run")).text) == "dry run"


def test_course_errors_are_shown_escaped_where_they_are_given():
    html = rendered(a_page(broken=("py101.yaml line 3: <b>6</b> has no unit",)))

    assert "line 3: <b>6</b>" in html.select_one(".lab-broken pre").text


def test_what_instructors_write_is_escaped_everywhere():
    evil = {"en": EVIL}
    field = SelectField(
        course="py101",
        slug="base",
        option=EVIL,
        label=evil,
        summary=evil,
        choices=(Choice(value=EVIL, label=evil),),
        typed=TextField(label=evil, entry=evil, hint=evil, pattern=EVIL, value=EVIL),
    )
    card = a_card(
        course=EVIL,
        slug=EVIL,
        title=evil,
        summary=evil,
        icon=EVIL,
        notes=(Sentence("{text}", text=EVIL),),
        chips=(Sentence("{text}", text=EVIL),),
        options=(field,),
    )
    page = SpawnPage(
        user_name=EVIL, courses=(CourseGroup(slug=EVIL, title=evil, summary=evil, cards=(card,)),), broken=(EVIL,)
    )

    html = rendered(page)

    assert html.find("script") is None
    assert html.find("img") is None
    assert html.select_one("input")["value"] == f"{EVIL}/{EVIL}"
    assert "49" not in html.text


def test_chips_tell_what_a_server_has_and_when_it_stops():
    resources = Resources(
        cpu=0.5, memory_bytes=12 * 2**30, disk_bytes=2**30, gpu=Slice(memory_bytes=6 * 2**30, compute_pct=25)
    )

    chips = chips_for(resources, idle_after=timedelta(minutes=20), max_age=timedelta(hours=4))

    assert [str(chip) for chip in chips] == [
        "GPU 6 GiB",
        "25 % of a GPU's time",
        "0.5 CPU",
        "12 GiB memory",
        "1 GiB disk",
        "stops after 20 min idle",
        "at most 4 h",
        "keeps files",
    ]


def test_chips_say_nothing_where_nothing_is_limited():
    assert chips_for(Resources(gpu=Slice(memory_bytes=2**30))) == (
        Sentence("GPU {memory}", memory="1 GiB"),
        Sentence("keeps files"),
    )


def test_chips_say_where_a_server_is_put_to_sleep():
    chips = chips_for(Resources(), idle_after=timedelta(hours=1), hibernates=True)

    assert [str(chip) for chip in chips] == ["hibernates after 1 h idle", "keeps files"]


def test_chips_say_where_files_are_lost():
    assert chips_for(Resources(), keeps_files=False) == (Sentence("files end with the server"),)
