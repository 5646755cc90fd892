"""Two revisions of a course side by side: line by line, and by meaning. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from labspawner.courses.yamltree import Unreadable, read_tree

CONTEXT = 3
MAX_LINES = 2000
MAX_CHANGES = 200
_NAMED = ("slug", "provider")


@dataclass(frozen=True, slots=True)
class Line:
    """One line. kind: ` ` in both, `-` only before, `+` only after, `…` stands for lines that are in both and left out.
    old, new: its number before and after, from 1."""

    kind: str
    text: str
    old: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is not what it was. where: `profiles · gpu · variants · 1 · memory`. None: there is none."""

    where: tuple[str, ...]
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """lines: what changed, with a few lines around it; empty where nothing did. changes: the same by meaning, at most 200;
    empty too where one of the texts is no YAML, or only comments and order changed."""

    lines: tuple[Line, ...]
    changes: tuple[Change, ...]


def compare(before: str, after: str) -> Difference:
    """What changed from one text to the other. Bounded: of very long texts only the ends that differ are looked at."""
    return Difference(tuple(_lines(before.splitlines(), after.splitlines())), _changes(before, after))


def _lines(old: list[str], new: list[str]) -> Iterator[Line]:
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if head == len(old) == len(new):
        return
    start = max(0, head - CONTEXT)
    stop = max(0, tail - CONTEXT)
    if start:
        yield Line("…", "")
    yield from _middle(old[start : len(old) - stop], new[start : len(new) - stop], start)
    if stop:
        yield Line("…", "")


def _middle(old: list[str], new: list[str], start: int) -> Iterator[Line]:
    """start: how many lines stand before both."""
    if len(old) + len(new) > MAX_LINES:
        yield from (Line("-", text, old=start + number) for number, text in enumerate(old, 1))
        yield from (Line("+", text, new=start + number) for number, text in enumerate(new, 1))
        return
    shown = (0, 0)
    for group in SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        if group[0][1] > shown[0]:
            yield Line("…", "")
        for tag, from_old, to_old, from_new, to_new in group:
            if tag == "equal":
                pairs = zip(range(from_old, to_old), range(from_new, to_new), strict=True)
                yield from (Line(" ", old[one], start + one + 1, start + other + 1) for one, other in pairs)
                continue
            yield from (Line("-", old[one], old=start + one + 1) for one in range(from_old, to_old))
            yield from (Line("+", new[one], new=start + one + 1) for one in range(from_new, to_new))
        shown = (group[-1][2], group[-1][4])


def _changes(before: str, after: str) -> tuple[Change, ...]:
    try:
        found = _differing(read_tree(before).data, read_tree(after).data, ())
    except Unreadable:
        return ()
    changes: list[Change] = []
    for change in found:
        if len(changes) == MAX_CHANGES:
            break
        changes.append(change)
    return tuple(changes)


def _differing(old: Any, new: Any, where: tuple[str, ...]) -> Iterator[Change]:
    if isinstance(old, list) and isinstance(new, list):
        old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key in old and key in new:
                yield from _differing(old[key], new[key], (*where, key))
            elif key in old:
                yield Change((*where, key), shown(old[key]), None)
            else:
                yield Change((*where, key), None, shown(new[key]))
    elif old != new or type(old) is not type(new):
        yield Change(where, shown(old), shown(new))


def _by_name(items: list[Any]) -> dict[str, Any]:
    """A list as a mapping: profiles by their slug, so that one that moved is not another one; the rest by place, from 1."""
    slugs = [item.get("slug") if isinstance(item, Mapping) else None for item in items]
    if items and all(isinstance(slug, str) for slug in slugs) and len(set(slugs)) == len(slugs):
        return dict(zip(slugs, items, strict=True))  # type: ignore[arg-type]
    return {str(number): item for number, item in enumerate(items, 1)}


def shown(value: Any) -> str:
    """A value on one line, much as one would write it in YAML."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = "" if value is None else str(value)
    return text if len(text) <= 500 else text[:499] + "…"
