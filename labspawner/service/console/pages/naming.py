"""Short names out of titles. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping

MOST = 30
_WORDS = re.compile(r"[a-z0-9]+")
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def is_slug(text: str) -> bool:
    """Whether a short name may be one: a letter, then letters and digits, with single dashes between."""
    return len(text) <= 40 and text[:1].isalpha() and _SLUG.fullmatch(text) is not None


def slug_of(titles: Mapping[str, str], taken: Collection[str] = (), otherwise: str = "course") -> str:
    """A short name for something with these titles that is not among `taken`: "Deep Learning Intro" is deep-learning-intro,
    "3D" is course-3d.

    Titles without a Latin letter or digit give `otherwise`, with a number.
    """
    found = ""
    for title in titles.values():
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
        found = "-".join(_WORDS.findall(plain))
        if found:
            break
    if found and not found[0].isalpha():
        found = f"{otherwise}-{found}"
    found = _cut(found)
    base = found or otherwise
    number, name = 1, base
    while name in taken or (not found and number == 1):
        number += 1
        name = f"{base[: MOST - 4]}-{number - (not found)}"
    return name


def _cut(text: str) -> str:
    """Not longer than MOST, and not cut inside a word where that can be helped."""
    if len(text) <= MOST:
        return text
    head = text[: MOST + 1].rpartition("-")[0]
    return (head or text[:MOST]).strip("-")
