"""Changes to a course's YAML text that were made in a form: the same text afterwards, but for what was changed. Pure.

Form and text are the same thing. At the end of each change the text is read as the loader reads it: it says what was wanted,
all of it and nothing else, or the change is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from labspawner.courses.forms import by_language, course_form, form_as_profile, nothing, profile_form, same
from labspawner.courses.roundtrip import TROUBLE, RoundTrip, plain, styled, write
from labspawner.courses.yamltree import Tree, Unreadable, read_tree
from labspawner.sentences import Sentence

__all__ = [
    "NotEditable",
    "add_profile",
    "as_course",
    "course_as_form",
    "duplicate_profile",
    "form_as_profile",
    "move_profile",
    "new_course",
    "profile_as_form",
    "remove_profile",
    "with_course",
    "with_profile",
]

_OF_COURSE = frozenset({"title", "summary", "timezone"})
_OTHER_LINES = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|\r(?!\n)")  # ends of lines for Python, or for YAML
_THEIRS = frozenset({"display_name", "description", "kubespawner_override", "profile_options"})


class NotEditable(Exception):
    """A form cannot show or change this text: `message` says why, and what to do instead."""

    def __init__(self, message: Sentence) -> None:
        super().__init__(str(message))
        self.message = message


def new_course(slug: str, title: Mapping[str, str], timezone: str = "", *, provider: str = "local") -> str:
    """The text of a new course, with one small profile to begin with."""
    data: dict[str, Any] = {"course": slug, "title": dict(title)}
    if timezone:
        data["timezone"] = timezone
    data["profiles"] = [
        {
            "slug": "notebook",
            "title": {"en": "Notebook", "zh-CN": "笔记本"},
            "variants": [{"provider": provider, "cpu": 1, "memory": "1GiB"}],
            "idle": {"after": "45m", "warn": ["10m", "2m"], "extend": {"step": "30m", "per_day": 4}},
            "limits": {"max_age": "8h", "per_user": 1},
        }
    ]
    return write(data)


def course_as_form(text: str) -> dict[str, Any]:
    """`course`, `title` and `summary` by language, `timezone`. Raises NotEditable."""
    return course_form(_read(text).data)


def profile_as_form(text: str, slug: str) -> dict[str, Any]:
    """The profile `slug` as plain values, as written. Raises NotEditable."""
    data = _read(text).data
    return profile_form(_profiles(data)[_index(data, slug)])


def with_course(text: str, changes: Mapping[str, Any]) -> str:
    """The text with another `title`, `summary` or `timezone`, and the rest as it was; one that is empty is taken out, and one
    that is not named stays. Raises NotEditable."""
    named = {name: value for name, value in changes.items() if name in _OF_COURSE}

    def change(data: Any) -> None:
        for name, value in named.items():
            if nothing(name, value) or not (name == "timezone" or any(map(str.strip, by_language(value).values()))):
                data.pop(name, None)
            else:
                _put(data, name, value)

    return _changed(text, change)


def with_profile(text: str, slug: str, profile: Mapping[str, Any]) -> str:
    """The text with the profile `slug` as given, with all its keys: one that is left out is taken out. Raises NotEditable."""
    return _changed(text, lambda data: _merge(_profiles(data)[_index(data, slug)], profile))


def add_profile(text: str, profile: Mapping[str, Any]) -> str:
    """The text with one more profile, the last. Raises NotEditable."""
    return _changed(text, lambda data: _profiles(data).append(styled(dict(profile))))


def remove_profile(text: str, slug: str) -> str:
    """The text without a profile, nor the comment above it. Raises NotEditable, also for the only profile."""

    def change(data: Any) -> None:
        if len(_profiles(data)) == 1:
            raise NotEditable(Sentence("A course keeps at least one profile. Archive the course instead."))
        del _profiles(data)[_index(data, slug)]

    def cut(blocks: list[str]) -> list[str]:
        return [block for place, block in enumerate(blocks) if place != index]

    index = _index(_read(text).data, slug)
    return _changed(text, change, by_lines=cut)


def move_profile(text: str, slug: str, step: int) -> str:
    """The text with a profile, and the comment above it, `step` places further down, or up where `step` is negative; at most
    to either end. Raises NotEditable."""

    def moved(items: Any) -> Any:
        item = items.pop(index)
        items.insert(max(0, min(len(items), index + step)), item)
        return items

    index = _index(_read(text).data, slug)
    return _changed(text, lambda data: moved(_profiles(data)), by_lines=lambda blocks: list(moved(list(blocks))))


def duplicate_profile(text: str, slug: str, new_slug: str) -> str:
    """The text with a copy of a profile right below it, under another short name; it is not the preselected one. Raises
    NotEditable."""
    index = _index(_read(text).data, slug)

    def change(data: Any) -> None:
        profiles = _profiles(data)
        twin = {**plain(profiles[index]), "slug": new_slug}
        twin.pop("default", None)
        profiles.insert(index + 1, styled(twin))

    def twice(blocks: list[str]) -> list[str]:
        lines = blocks[index].splitlines(keepends=True)
        while lines and not lines[0].lstrip().startswith("- "):
            lines.pop(0)  # a comment above it says what the first one is
        kept = "".join(line for line in lines if not re.fullmatch(r"\s*default:\s*true\s*(#.*)?", line.rstrip("\r\n")))
        twin = re.sub(rf"(\bslug:\s*)(['\"]?){re.escape(slug)}\2(?=[\s,}}]|$)", rf"\g<1>{new_slug}", kept, count=1)
        ends = blocks[index].endswith("\n") or not blocks[index]
        first = blocks[index] if ends else blocks[index] + "\n"
        return [*blocks[:index], first, twin, *blocks[index + 1 :]]

    return _changed(text, change, by_lines=twice)


def as_course(text: str, slug: str) -> str:
    """The text as that of another course: under its short name, and with its own groups. Raises NotEditable."""

    def change(data: Any) -> None:
        data["course"] = slug
        data.pop("access", None)

    return _changed(text, change)


def _changed(
    text: str, change: Callable[[Any], None], *, by_lines: Callable[[list[str]], list[str]] | None = None
) -> str:
    """`text` after `change` was made to its data, and nothing else in it means anything new. Raises NotEditable.

    by_lines: the same change to the lines of the profiles, where each of them has lines of its own.
    """
    if "\r\n" in text:  # as a browser sends it
        return _changed(text.replace("\r\n", "\n"), change, by_lines=by_lines).replace("\n", "\r\n")
    before = _read(text)
    data = copy.deepcopy(before.data)
    change(data)
    wanted = plain(data)
    if wanted == before.data:
        return text
    try:
        for candidate in _candidates(text, before, change, wanted, by_lines):
            if _says(candidate, wanted):
                return candidate
    except TROUBLE as exc:
        raise _beyond_forms() from exc
    raise _beyond_forms()


def _candidates(
    text: str,
    before: Tree,
    change: Callable[[Any], None],
    wanted: Mapping[str, Any],
    by_lines: Callable[[list[str]], list[str]] | None,
) -> Iterator[str]:
    if by_lines is not None and (split := _blocks(text, before)) is not None:
        head, blocks, tail = split
        yield "".join((head, *by_lines(blocks), tail))
    trip = RoundTrip(text)
    change(trip.data)
    yield from trip.texts()
    trip = RoundTrip(text)  # an anchor that something else refers to, most likely: write what changed without it
    _replace(trip.data, wanted)
    yield from trip.texts()


def _says(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return bool(read_tree(text).data == wanted)
    except Unreadable:
        return False


def _read(text: str) -> Tree:
    try:
        tree = read_tree(text)
    except Unreadable as exc:
        raise NotEditable(
            Sentence("The text cannot be read (line {line}). Mend it in YAML first.", line=exc.mark.line)
        ) from exc
    if not isinstance(tree.data, dict):
        raise NotEditable(Sentence("The text is no course. Mend it in YAML first."))
    profiles = tree.data.get("profiles")
    their_words = (not _THEIRS.isdisjoint(each) for each in profiles or () if isinstance(each, dict))
    if "profile_list" in tree.data or (isinstance(profiles, list) and any(their_words)):
        raise NotEditable(Sentence("This course is written in KubeSpawner's words. Change it in YAML."))
    return tree


def _beyond_forms() -> NotEditable:
    return NotEditable(
        Sentence("The form cannot make this change without changing something else. Change it in YAML instead.")
    )


def _profiles(data: Any) -> Any:
    profiles = data.get("profiles")
    if not isinstance(profiles, list):
        raise NotEditable(Sentence("The text has no list of profiles. Mend it in YAML first."))
    return profiles


def _index(data: Any, slug: str) -> int:
    for index, profile in enumerate(_profiles(data)):
        if isinstance(profile, Mapping) and profile.get("slug") == slug:
            return index
    raise NotEditable(Sentence("The course has no profile {profile}.", profile=slug))


def _merge(old: Any, new: Mapping[str, Any], *, exactly: bool = False) -> None:
    """Make the mapping `old` say what `new` says, and touch nothing that says so already. exactly: other ways to write the
    same are changes too: the keys are not ours, so nobody knows what they mean."""
    for name in [name for name in old if name not in new and (exactly or not nothing(name, plain(old[name])))]:
        del old[name]
    for name, value in new.items():
        if exactly or not nothing(name, value):
            _put(old, name, value, exactly=exactly)
        elif name in old and not nothing(name, plain(old[name])):
            del old[name]


def _put(holder: Any, name: Any, value: Any, *, key: str = "", exactly: bool = False) -> None:
    """Let `holder[name]` say `value`. key: what kind of value it is, where `name` is a place in a list."""
    key = key or str(name)
    before = holder.get(name) if isinstance(holder, Mapping) else holder[name]
    if before is None or (plain(before) != plain(value) and (exactly or not same(key, before, value))):
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            _merge(before, value, exactly=exactly or key == "settings")
        elif isinstance(before, list) and isinstance(value, list):
            _merge_list(key, before, value, exactly=exactly)
        elif isinstance(before, str) and isinstance(value, Mapping) and list(value) == ["en"]:
            holder[name] = styled(value["en"])
        else:
            holder[name] = styled(value)


def _merge_list(key: str, before: Any, after: list[Any], *, exactly: bool) -> None:
    """Entry by entry, matched by what they say, so that one that is taken out of the middle takes nothing else along."""
    matcher = SequenceMatcher(None, [repr(plain(item)) for item in before], [repr(plain(item)) for item in after])
    for tag, start, end, first, last in reversed(matcher.get_opcodes()):
        if tag == "equal":
            continue
        both = min(end - start, last - first)
        for offset in range(both):
            _put(before, start + offset, after[first + offset], key=key, exactly=exactly)
        for index in reversed(range(start + both, end)):
            del before[index]
        for item in reversed(after[first + both : last]):
            before.insert(start + both, styled(item))


def _replace(tree: Any, wanted: Mapping[str, Any]) -> None:
    """Make the round trip's data `wanted`: a profile, or another key of the course, that differs is written anew."""
    for name, value in wanted.items():
        if name == "profiles" and isinstance(tree.get(name), list) and isinstance(value, list):
            profiles = tree[name]
            del profiles[len(value) :]
            for index, profile in enumerate(value):
                if index >= len(profiles):
                    profiles.append(styled(profile))
                elif plain(profiles[index]) != profile:
                    profiles[index] = styled(profile)
        elif name not in tree or plain(tree[name]) != value:
            tree[name] = styled(value)
    for name in [name for name in tree if name not in wanted]:
        del tree[name]


def _blocks(text: str, tree: Tree) -> tuple[str, list[str], str] | None:
    """What stands before the profiles, the lines of each with the comment above it, and what stands behind them; None where
    they have no lines of their own."""
    if _OTHER_LINES.search(text):
        return None
    lines = text.splitlines(keepends=True)
    marks = [tree.values["profiles", index] for index in range(len(tree.data["profiles"]))]
    starts = [mark.line - 1 for mark in marks]
    dashed = all(lines[mark.line - 1][: mark.column - 1].strip() == "-" for mark in marks)
    if not dashed or len(set(starts)) < len(starts) or starts[0] <= tree.keys["profiles",].line - 1:
        return None
    if lines[-1].strip() and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    column = len(lines[starts[0]]) - len(lines[starts[0]].lstrip(" "))
    following = [mark.line - 1 for path, mark in tree.keys.items() if len(path) == 1 and mark.line - 1 > starts[-1]]
    end = min(following, default=len(lines))
    edges = [_above(lines, start, tree.keys["profiles",].line, column) for start in starts]
    edges.append(_above(lines, end, starts[-1] + 1, column) if following else end)
    blocks = ["".join(lines[start:stop]) for start, stop in pairwise(edges)]
    return "".join(lines[: edges[0]]), blocks, "".join(lines[edges[-1] :])


def _above(lines: list[str], start: int, least: int, column: int) -> int:
    """Where the comment directly above line `start` begins, if it is indented as that line is or less."""
    first = start
    while first > least and (line := lines[first - 1]).lstrip(" ").startswith("#"):
        if len(line) - len(line.lstrip(" ")) > column:
            break
        first -= 1
    return first
