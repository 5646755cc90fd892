"""Patterns that cannot hang: they match what Python's matcher matches, in bounded time."""

from __future__ import annotations

import re
import warnings
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labspawner.courses.patterns import compiled, is_regular, matches
from labspawner.courses.regular import MAX_STATES, NotRegular, Regular

PATTERNS = [
    r"lab/[a-z0-9-]+:[0-9.]+",
    r"^a?b*c+$",
    r"(ab|a)(bc|c)?",
    r"[^a-c]x|\d{2,3}|\w\s\S\W\D",
    r"a{2}b{0,2}c{1,}",
    r"(?:a|b|)*c",
    r"\Aab\Z|.",
    r"a*?b+?",
    r"[\w.]+@[\d\s-]",
    r"",
    r"(a|ab)(c|bcd)(d*)",
    r"(^a|b$)c?",
]
_letters = st.text("abcdxyz01 .:/-@\n_é中", max_size=12)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_short_texts_match_as_in_python(pattern: str):
    machine, theirs = Regular(pattern), re.compile(pattern)

    for letters in product("abcd1 \n", repeat=4):
        for length in range(5):
            text = "".join(letters[:length])
            assert machine.matches(text) == (theirs.fullmatch(text) is not None), (pattern, text)


@given(st.sampled_from(PATTERNS), _letters)
@example(r"lab/[a-z0-9-]+:[0-9.]+", "lab/scipy:2026.2")
def test_any_text_matches_as_in_python(pattern: str, text: str):
    assert Regular(pattern).matches(text) == (re.fullmatch(pattern, text) is not None)


_piece = st.sampled_from(["a", "b", "[ab]", ".", "(a|b)", "(a|ab)", r"\d", "", "^", "$"])
_times = st.sampled_from(["", "?", "*", "+", "{2}", "{0,2}", "{1,}", "*?"])
_pattern = st.lists(st.tuples(_piece, _times), max_size=4).map(
    lambda parts: "".join(piece + (times if piece not in {"", "^", "$"} else "") for piece, times in parts)
)


@given(_pattern, st.text("ab1", max_size=6))
def test_any_pattern_matches_as_in_python(pattern: str, text: str):
    assert Regular(pattern).matches(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a|aa)+b", "a*" * 60 + "b", "(a*b?)*c", "(.*)*x", "(a|b|ab)*(c|d)"])
def test_no_pattern_takes_longer_for_a_text_that_does_not_fit(pattern: str):
    assert not Regular(pattern).matches("a" * 120)  # Python's matcher would not be back today


def test_what_the_hub_asks_is_answered_at_once_for_such_a_pattern():
    assert not matches("(a|a){0,8}(a|aa){0,8}b", "a" * 120)
    assert not matches("a*" * 40 + "b", "a" * 120)


@pytest.mark.parametrize(
    "pattern", [r"(?=a)", r"(?<=a)b", r"(a)\1", "(?i)a", "(?i:a)", "(", "a{1000}", r"\b", "(?#x)(?!a)b"]
)
def test_what_is_not_regular_or_too_large_is_said(pattern: str):
    with pytest.raises(NotRegular):
        Regular(pattern)
    assert not is_regular(pattern)


@pytest.mark.parametrize("pattern", ["[[a-z]x", "[a||b]", "[a&&b]"])
def test_a_pattern_of_which_python_warns_is_read_as_python_reads_it(pattern: str):
    for text in ("ax", "[x", "a", "b", "|", "-", "&"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = re.fullmatch(pattern, text) is not None
        assert matches(pattern, text) == expected


def test_a_machine_has_a_bounded_number_of_states():
    with pytest.raises(NotRegular, match="too many"):
        Regular("((a{0,30}){0,30}){0,30}")
    assert len(Regular("a{0,100}")._letters) < MAX_STATES


def test_course_files_may_still_look_ahead():
    assert matches("(?=a)ab", "ab")
    assert not matches("(?=a)ab", "bb")
    assert compiled("(?=a)ab").pattern == "(?=a)ab"
