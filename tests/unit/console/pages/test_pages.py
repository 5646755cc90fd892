"""Every page of the instructor, rendered: whole in both languages, and harmless whatever somebody has written."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from unit.console.pages import samples

from labspawner.pages import i18n
from labspawner.service.console.pages.folding import folding
from labspawner.service.console.pages.render import HERE, Frame, names, render, switched

PAGES = sorted(samples.pages())
LANGUAGES = ("en", "zh-CN")
ASCII_WORDS = re.compile(r"[A-Za-z]{3,} [A-Za-z]{3,} [A-Za-z]{3,}")

FOREIGN = (
    "textarea, pre, code, bdi, .con-diff, #problems, #seats, #con-words, #trouble, #refused, .con-wrong, .con-revisions, "
    ".con-profiles .con-state, .con-wall .con-small"
)
"""What samples, and their people, wrote in no language of ours."""


def soup(name: str, language: str = "en", evil: str = "") -> BeautifulSoup:
    return BeautifulSoup(samples.page(name, language, evil), "html.parser")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_that_somebody_wrote_becomes_markup(name):
    page = soup(name, evil=samples.EVIL)

    assert all(script.get("src") and not script.text.strip() for script in page.find_all("script"))
    assert page.find("img", src="x") is None
    for element in page.find_all(True):
        assert not [attribute for attribute in element.attrs if attribute.startswith("on")], element
        assert "style" not in element.attrs, element
        assert not str(element.get("href", "")).lower().startswith("javascript:")
    assert page.find("style") is None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_one_heading_a_title_and_its_language(name, language):
    page = soup(name, language)

    assert page.html["lang"] == language
    assert len(page.find_all("h1")) == 1
    assert page.title.text.strip()
    ids = [element["id"] for element in page.find_all(id=True)]
    assert sorted(ids) == sorted(set(ids)), "an id is there twice"


@pytest.mark.parametrize("name", PAGES)
def test_every_field_has_a_label_and_every_form_that_changes_something_its_token(name):
    page = soup(name)

    labelled = {label["for"] for label in page.find_all("label", attrs={"for": True})}
    for field in page.select("input:not([type=hidden]), select, textarea"):
        named = field.get("id") in labelled or field.find_parent("label") or field.get("aria-label")
        assert named, field
    for form in page.find_all("form", method="post"):
        assert form.find("input", attrs={"name": "_xsrf", "value": "token"}), form


@pytest.mark.parametrize("name", PAGES)
def test_what_is_described_by_something_finds_it_on_the_page(name):
    page = soup(name)

    for element in page.find_all(attrs={"aria-describedby": True}):
        for target in element["aria-describedby"].split():
            assert page.find(id=target), f"{element} names #{target}"


@pytest.mark.parametrize("name", PAGES)
def test_no_english_is_left_on_a_chinese_page(name):
    page = soup(name, "zh-CN")
    for foreign in page.select(FOREIGN):
        foreign.decompose()

    assert ASCII_WORDS.findall(page.get_text(" ")) in ([], ["Deep Learning Intro"])


def test_three_hundred_students_are_on_one_page():
    rows = samples.rows(count=300)
    template, values = samples.pages()["wall"]

    page = BeautifulSoup(
        samples.rendered(samples.a_frame(), template, **{**values, "seats": rows, "total": 300}), "html.parser"
    )

    assert len(page.select("#wall-rows > tr")) == 300


def test_who_may_only_look_sees_no_button_that_changes_anything():
    template, values = samples.pages()["wall"]
    course = samples.a_course(can=samples.views.Can())

    page = BeautifulSoup(
        samples.rendered(samples.a_frame(), template, **{**values, "course": course, "verbs": [], "jobs": []}),
        "html.parser",
    )

    assert page.select("main form[method=post] button") == []
    assert page.select("input[name=who]") == []


def test_an_assistant_has_no_button_to_stop_or_reset():
    can = samples.views.Can(start=True, extend=True, message=True)

    assert [one.key for one in samples.wall.verbs(can)] == ["start", "extend", "message"]


def test_a_file_course_cannot_be_saved_and_its_tabs_lead_to_the_reason():
    page = soup("file")

    assert page.find(id="save") is None
    assert page.find("textarea", id="text").has_attr("readonly")
    assert page.find(id="file-course") is None
    assert page.find(id="read-only")["href"].endswith("/courses/dl101/profiles/")


@pytest.mark.parametrize(("name", "where"), [("file-profiles", "dl101.yaml"), ("hub-profiles", "profile_list")])
def test_where_a_course_stands_that_is_not_written_here_is_said_once_on_its_profiles(name, where):
    page = soup(name)

    assert where in page.find(id="file-course").text
    assert page.find(id="read-only") is None
    assert page.find(id="edit-gpu").text == "Look at it"
    assert page.find(id="add") is None


def test_a_file_course_names_its_commit():
    assert "1a2b3c4" in soup("file-profiles").find(id="file-course").text


@pytest.mark.parametrize(
    "uri",
    ["//evil.example/x", "https://evil.example/", "/services/labspawner/?lang=en&next=//evil.example", "", "\\\\evil"],
)
def test_the_language_switch_stays_on_this_host(uri):
    assert re.match(r"/(?!/)", switched(uri, "zh-CN"))


def test_a_place_with_anything_in_it_stays_below_the_prefix():
    assert Frame(language="en").url("courses", "../../x y", "") == "/services/labspawner/courses/..%2F..%2Fx%20y/"


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({}, []),
        ({"demo": True}, ["Loopback demo. For trying it out, on this machine alone."]),
        ({"demo": True, "bare": True}, ["Loopback demo. Servers are plain processes on this machine, not isolated"]),
        ({"pretended": True}, ["Pretended GPU. There is no GPU behind the slices of this hub"]),
        ({"demo": True, "pretended": True}, ["Loopback demo.", "Pretended GPU."]),
    ],
)
def test_a_page_says_at_its_top_what_the_hubs_own_pages_say(notes, said):
    template, values = samples.pages()["wall"]

    page = BeautifulSoup(samples.rendered(samples.a_frame(**notes), template, **values), "html.parser")

    found = [" ".join(note.text.split()) for note in page.select(".lab-demo")]
    assert len(found) == len(said)
    assert all(text.startswith(words) for text, words in zip(found, said, strict=True))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_translated_when_a_template_is_compiled_reads_as_if_it_were_translated_each_time(language):
    """The templates once more, by an environment that knows nothing of languages."""
    plainly = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    frame = samples.a_frame(language)
    for name in sorted(
        {"courses", "profiles", "edit", "yaml", "history", "links", "usage", "confirm", "error"} & set(PAGES)
    ):
        template, values = samples.pages(samples.EVIL)[name]
        assert plainly.get_template(template).render(**names(frame), **values) == render(frame, template, **values)


def test_only_a_whole_sentence_is_translated_when_a_template_is_compiled():
    environment = Environment(extensions=[folding("zh-CN")], autoescape=True)
    whole = """{{ t("Courses") }}|{{ t('Courses')|length }}|"""
    source = whole + """{{ t("Courses", n=1) }}|{{ x.t("Courses") }}|{{ t(w) }}|t("Courses")"""

    def t(text: str, **values: object) -> str:
        return f"called {text} {values}"

    said = environment.from_string(source).render(t=t, w="Courses", x={"t": lambda text: f"another {text}"})

    folded = i18n.translate("Courses", "zh-CN")
    assert folded != "Courses"
    assert said.split("|") == [
        folded,
        str(len(folded)),
        "called Courses {&#39;n&#39;: 1}",
        "another Courses",
        "called Courses {}",
        't("Courses")',
    ]
