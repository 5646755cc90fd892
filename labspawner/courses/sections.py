"""A course's text cut into the lines of each top-level key and of each profile, so that a change stays inside them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from labspawner.courses.yamltree import Tree

_OTHER_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|\r(?!\n)")
"""Ends of lines for Python or for YAML, but not for both."""


@dataclass(frozen=True, slots=True)
class Section:
    """Some lines: a comment right above, what is meant, and blank lines below. column: where its keys begin, from 0."""

    above: str
    body: str
    below: str = ""
    column: int = 0

    def __str__(self) -> str:
        return self.above + self.body + self.below

    def with_body(self, body: str) -> Section:
        return replace(self, body=body)


@dataclass(frozen=True, slots=True)
class Cut:
    """A text in three parts, of which the middle one is sections."""

    head: str
    sections: tuple[Section, ...]
    tail: str

    def joined(self, sections: Iterable[Section]) -> str:
        """The text with other sections."""
        return self.head + "".join(str(section) for section in sections) + self.tail


def key_section(text: str, tree: Tree, key: str) -> Cut | None:
    """The text around the lines of a top-level key, which is the only section; None where they cannot be told."""
    if (lines := _lines(text)) is None or (key,) not in tree.keys or tree.keys[key,].column != 1:
        return None
    start = tree.keys[key,].line - 1
    end = _end(lines, tree, start)
    if end is None:
        return None
    while end > start + 1 and _empty(lines[end - 1], column=0):
        end -= 1
    return Cut("".join(lines[:start]), (Section("", "".join(lines[start:end])),), "".join(lines[end:]))


def profile_sections(text: str, tree: Tree) -> Cut | None:
    """The text with a section for each profile; None where they have no lines of their own."""
    lines = _lines(text)
    profiles = tree.data.get("profiles")
    if lines is None or not isinstance(profiles, list) or not profiles:
        return None
    marks = [tree.values["profiles", index] for index in range(len(profiles))]
    starts = [mark.line - 1 for mark in marks]
    dashed = all(lines[mark.line - 1][: mark.column - 1].strip() == "-" for mark in marks)
    opened = tree.keys["profiles",].line
    end = _end(lines, tree, opened - 1)
    if not dashed or end is None or len(set(starts)) < len(starts) or starts[0] < opened:
        return None
    indent = len(lines[starts[0]]) - len(lines[starts[0]].lstrip(" "))
    edges = [_above(lines, start, opened, indent) for start in starts]
    edges.append(_above(lines, end, starts[-1] + 1, indent) if end < len(lines) else end)
    found: list[Section] = []
    for start, stop, mark in zip(starts, edges[1:], marks, strict=True):
        last = stop
        while last > start + 1 and not lines[last - 1].strip():
            last -= 1
        first = edges[len(found)]
        body = "".join(lines[start:last])
        found.append(Section("".join(lines[first:start]), body, "".join(lines[last:stop]), mark.column - 1))
    return Cut("".join(lines[: edges[0]]), tuple(found), "".join(lines[edges[-1] :]))


def _lines(text: str) -> list[str] | None:
    """The lines of the text, each with its end; None where Python and YAML do not agree on them."""
    if _OTHER_ENDS.search(text) or not text:
        return None
    lines = text.splitlines(keepends=True)
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


def _end(lines: list[str], tree: Tree, start: int) -> int | None:
    """Where the top-level key after the one in line `start` begins, or the end; None where keys share lines."""
    tops = sorted(mark.line - 1 for path, mark in tree.keys.items() if len(path) == 1)
    if len(set(tops)) < len(tops) or any(line.startswith(("---", "...")) for line in lines):
        return None
    return next((line for line in tops if line > start), len(lines))


def _above(lines: list[str], start: int, least: int, indent: int) -> int:
    """Where the comment right above line `start` begins, if it is indented as that line is or less."""
    first = start
    while first > least and lines[first - 1].lstrip(" ").startswith("#") and _empty(lines[first - 1], column=indent):
        first -= 1
    return first


def _empty(line: str, *, column: int) -> bool:
    """Whether a line says nothing: it is blank, or a comment that begins at `column` or before."""
    bare = line.lstrip(" ")
    return not bare.strip() or (bare.startswith("#") and len(line) - len(bare) <= column)
