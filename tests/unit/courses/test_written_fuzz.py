"""Whatever somebody types as a course, the answer is a course or a list of problems, and it comes soon."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from unit.courses.course_files import text_of

from labspawner.courses import Bounds, Loaded, check_written
from labspawner.courses.diffing import compare
from labspawner.courses.editing import NotEditable, course_as_form, form_as_profile, profile_as_form, with_profile
from labspawner.courses.written import MAX_PROBLEMS, MAX_WRITTEN_BYTES
from labspawner.pages.i18n import CHINESE, translate
from labspawner.sentences import Sentence

SAMPLES = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[3] / "courses").glob("*.yaml"))]

_words = st.sampled_from(
    [
        *(
            "course: ml1",
            "title: T",
            "profiles:",
            "- slug: a",
            "  ",
            "\n",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "&a ",
            "*a",
            "<<: *a",
        ),
        *(
            "!!python/object:os.system x",
            "%YAML 1.1\n",
            "---\n",
            "...",
            "#",
            "|",
            ">",
            "'",
            '"',
            "? ",
            "\t",
            "\r\n",
            "\x00",
        ),
        *(
            "variants: [{provider: local}]",
            "memory: 1GiB",
            "cores: 25%",
            "9" * 400,
            "0x" + "f" * 50,
            ".inf",
            "1e999",
            "~",
        ),
        *(
            "\ud800",
            "\u202e",
            "\ufeff",
            "\x85",
            "\u2028",
            "🧠",
            "settings: {environment: {A: b}}",
            "validation_regex: '(a|a)*b'",
        ),
        *("access: {everyone: true}", "hours: [{days: [mon], from: '1', to: '2'}]", "options: {o: {choices: {}}}"),
    ]
)
_soup = st.lists(st.one_of(_words, st.text(max_size=10)), max_size=40).map("".join)


@st.composite
def _mangled(draw: st.DrawFn) -> str:
    """A good course with something cut out, put in or said twice."""
    text = draw(st.sampled_from([*SAMPLES, text_of("ml1")]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        put = draw(st.one_of(_words, st.just(text[start:end] * 2), st.just("")))
        text = text[:start] + put + text[end:]
    return text


def in_chinese(message: str) -> bool:
    """Whether a reader of Chinese reads it so; pydantic's own words for what nobody has met yet stay English."""
    assert isinstance(message, Sentence), message
    return message.template == "{told}{hint}" or bool(re.search("[\u4e00-\u9fff]", translate(message, CHINESE)))


def answered(text: str) -> bool:
    """Whether the text is a course; the answer is one or the other, and names its places."""
    found = check_written(text, slug="ml1", bounds=Bounds(), providers=["local"])
    if isinstance(found, Loaded):
        return True
    assert found
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in found)
    assert len(found) <= MAX_PROBLEMS + 1
    assert all(in_chinese(problem.message) for problem in found)
    return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(_soup, _mangled(), st.text()))
@example("")
@example("course: ml1\ntitle: \ud800\nprofiles: []")
@example("course: ml1\ntitle: 'a\x00b'")
@example("? [a]\n: b")
@example("{" * 5000)
@example("[" * 100_000)
@example("- " * 50_000)
@example("a: " * 20_000)
@example("&a [*a]")
@example("a: &a {<<: *a}")
@example("course: !!binary x")
@example("\ufeffcourse: ml1")
def test_any_text_is_a_course_or_a_list_of_problems(text: str):
    answered(text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_mangled())
def test_a_form_shows_a_text_or_says_that_it_cannot(text: str):
    try:
        course_as_form(text)
        form = profile_as_form(text, "base")
        changed = with_profile(text, "base", {**form_as_profile(form), "icon": "x"})
    except NotEditable:
        return
    else:
        assert profile_as_form(changed, "base")["icon"] == "x"


@settings(max_examples=40, deadline=None)
@given(st.one_of(_soup, _mangled()), st.one_of(_soup, _mangled()))
def test_any_two_texts_have_a_difference(before: str, after: str):
    difference = compare(before, after)

    assert bool(difference.lines) == (before.splitlines() != after.splitlines())
    assert compare(before, before).lines == ()


def _profiles(number: int) -> str:
    return "course: ml1\ntitle: T\nprofiles:\n" + "".join(
        f"- {{slug: p{index}, title: P, variants: [{{provider: local}}]}}\n" for index in range(number)
    )


BOMBS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "merges": "a: &a {x: 1}\n" + "".join(
        f"{name}: &{name} {{<<: [{','.join(['*' + before] * 10)}]}}\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep": "course: " + "[" * 2000 + "]" * 2000,
    "wide": "course: ml1\nx: [" + "1," * 120_000 + "]",
    "profiles": _profiles(4000),
    "keys": "".join(f"k{number}: 1\n" for number in range(25_000)),
    "number": "course: ml1\ntitle: " + "9" * 250_000,
    "plain": "title: " + "word " * 50_000,
    "lines": "title:\n" + "  word\n" * 30_000,
    "blank": "\n" * 250_000,
    "comments": "# x\n" * 60_000,
    "quotes": "title: \"" + "\\x41" * 60_000,
    "folded": "title: >\n" + "  a\n\n" * 40_000,
    "spaces": "title:" + " " * 250_000 + "x",
    "colons": "a:" * 100_000,
    "anchors": "".join(f"k{number}: &a{number} x\n" for number in range(12_000)),
    "controls": "title: " + "\x01" * 100_000,
    "huge": "x" * 10_000_000,
    "many errors": "course: ml1\ntitle: T\nprofiles:\n" + "- {slug: A A, bad: 1, variants: [{memory: 6}]}\n" * 1200,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_no_bomb_goes_off(name: str):
    """One that did would take all memory, or longer than any test may."""
    text = BOMBS[name]
    assert name == "huge" or len(text.encode()) <= MAX_WRITTEN_BYTES

    assert answered(text) is False


@pytest.mark.parametrize("line", ["a\n", "    variants:\n", "\n"])
def test_no_two_texts_take_long_to_compare(line: str):
    assert compare(line * 3000 + "b\n" + line * 3000, ("b\n" + line * 2) * 2000).lines
    assert compare((line + "b\n") * 480, ("b\n" + line * 2) * 330).lines
