"""Text that a database cannot hold, and names that an index cannot."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from labspawner.store.schema import digest, escape, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included


@given(ANY_TEXT)
@example("\x00\\u0000\\\\\ud800")
def test_any_text_can_be_stored_and_comes_back(text: str):
    stored = escape(text)

    assert unescape(stored) == text
    assert "\x00" not in stored
    stored.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\\")))
def test_ordinary_text_is_stored_as_it_is(text: str):
    assert escape(text) == text


@given(ANY_TEXT, ANY_TEXT)
def test_every_pair_of_names_fits_an_index(user: str, server_name: str):
    assert re.fullmatch("[0-9a-f]{64}", digest(user, server_name))


def test_different_parts_have_different_digests():
    parts = [("a", "b"), ("ab", ""), ("", "ab"), ("ab",), ("a\x00", "b"), ("a", "\x00b"), ("A", "b"), ("", "")]

    assert all(digest(*one) != digest(*other) for one, other in combinations(parts, 2))
