"""Changes to a course's YAML text that were made in a form: the same text afterwards, but for what was changed. Pure.

Form and text are the same thing. At the end of each change the text is read as the loader reads it: it says what was wanted,
all of it and nothing else, or the change is refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from labspawner.courses.forms import TEXTS, by_language, course_form, form_as_profile, nothing, profile_form, same
from labspawner.courses.roundtrip import TROUBLE, RoundTrip, plain, styled, write
from labspawner.courses.sections import Cut, Section, key_section, profile_sections
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

_THEIRS = frozenset({"display_name", "description", "kubespawner_override", "profile_options"})


_Rest = ParamSpec("_Rest")


class NotEditable(Exception):
    """A form cannot show or change this text: `message` says why, and what to do instead."""

    def __init__(self, message: Sentence) -> None:
        super().__init__(str(message))
        self.message = message


def _keeping_ends(edit: Callable[Concatenate[str, _Rest], str]) -> Callable[Concatenate[str, _Rest], str]:
    """`edit`, for texts whose lines end as a browser sends them, too: the changed ones do then as well."""

    @wraps(edit)
    def kept(text: str, /, *rest: _Rest.args, **named: _Rest.kwargs) -> str:
        if "\r\n" not in text:
            return edit(text, *rest, **named)
        return edit(text.replace("\r\n", "\n"), *rest, **named).replace("\n", "\r\n")

    return kept


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
    return profile_form(_own(_profiles(data)[_index(data, slug)]))


@_keeping_ends
def with_course(text: str, changes: Mapping[str, Any]) -> str:
    """The text with another `title`, `summary` or `timezone`, and the rest as it was; one that is empty is taken out, and one
    that is not named stays. Raises NotEditable."""
    for name in ("title", "summary", "timezone"):
        if name in changes:
            text = _with_key(text, name, changes[name])
    return text


@_keeping_ends
def with_profile(text: str, slug: str, profile: Mapping[str, Any]) -> str:
    """The text with the profile `slug` as given, with all its keys: one that is left out is taken out. Raises NotEditable."""

    def change(data: Any) -> None:
        _merge(_profiles(data)[_index(data, slug)], profile)

    def by_lines(cut: Cut) -> Iterator[str]:
        trip = RoundTrip("profiles:\n" + cut.sections[index].body)
        _merge(trip.data["profiles"][0], profile)
        for written in trip.texts():
            changed = cut.sections[index].with_body(written.removeprefix("profiles:\n"))
            yield cut.joined([*cut.sections[:index], changed, *cut.sections[index + 1 :]])

    data = _read(text).data
    index = _index(data, slug)
    _own(_profiles(data)[index])
    return _changed(text, change, by_lines=by_lines)


@_keeping_ends
def add_profile(text: str, profile: Mapping[str, Any]) -> str:
    """The text with one more profile, the last. Raises NotEditable."""

    def by_lines(cut: Cut) -> Iterator[str]:
        *others, last = cut.sections
        indent = " " * (len(last.body) - len(last.body.lstrip(" ")))
        written = write({"profiles": [dict(profile)]}).removeprefix("profiles:\n")
        lines = [indent + line.removeprefix("  ") for line in written.splitlines(keepends=True)]
        yield cut.joined([*others, last, Section("", "".join(lines))])

    return _changed(text, lambda data: _profiles(data).append(styled(dict(profile))), by_lines=by_lines)


@_keeping_ends
def remove_profile(text: str, slug: str) -> str:
    """The text without a profile, nor the comment above it. Raises NotEditable, also for the only profile."""

    def change(data: Any) -> None:
        if len(_profiles(data)) == 1:
            raise NotEditable(Sentence("A course keeps at least one profile. Archive the course instead."))
        del _profiles(data)[_index(data, slug)]

    def by_lines(cut: Cut) -> Iterator[str]:
        yield cut.joined([*cut.sections[:index], *cut.sections[index + 1 :]])

    index = _index(_read(text).data, slug)
    return _changed(text, change, by_lines=by_lines)


@_keeping_ends
def move_profile(text: str, slug: str, step: int) -> str:
    """The text with a profile, and the comment above it, `step` places further down, or up where `step` is negative; at most
    to either end. Raises NotEditable."""

    def moved(items: Any) -> Any:
        item = items.pop(index)
        items.insert(max(0, min(len(items), index + step)), item)
        return items

    def by_lines(cut: Cut) -> Iterator[str]:
        gaps = [section.below for section in cut.sections]  # they stay where they are
        after = zip(moved(list(cut.sections)), gaps, strict=True)
        yield cut.joined([replace(section, below=gap) for section, gap in after])

    index = _index(_read(text).data, slug)
    return _changed(text, lambda data: moved(_profiles(data)), by_lines=by_lines)


@_keeping_ends
def duplicate_profile(text: str, slug: str, new_slug: str) -> str:
    """The text with a copy of a profile right below it, under another short name; it is not the preselected one. Raises
    NotEditable."""

    def change(data: Any) -> None:
        profiles = _profiles(data)
        twin = {**plain(profiles[index]), "slug": new_slug}
        twin.pop("default", None)
        profiles.insert(index + 1, styled(twin))

    def by_lines(cut: Cut) -> Iterator[str]:
        first = cut.sections[index]
        default = re.compile(rf"(?m)^ {{{first.column}}}default:[^\n]*\n(?: *#[^\n]*\n)*")
        named = re.compile(rf"(\bslug:\s*)(['\"]?){re.escape(slug)}\2(?=[\s,}}]|$)")
        body = named.sub(rf"\g<1>{new_slug}", default.sub("", first.body), count=1)
        twin = Section("", body, first.below or "\n" * bool(cut.sections[0].below), first.column)
        yield cut.joined([*cut.sections[: index + 1], twin, *cut.sections[index + 1 :]])

    index = _index(_read(text).data, slug)
    return _changed(text, change, by_lines=by_lines)


@_keeping_ends
def as_course(text: str, slug: str) -> str:
    """The text as that of another course: under its short name, and with its own groups. Raises NotEditable."""
    return _with_key(_with_key(text, "course", slug), "access", None)


def _with_key(text: str, name: str, value: Any) -> str:
    """The text with another value of a top-level key; without it where the value is empty."""
    if name in TEXTS:
        value = {language: said for language, said in by_language(value).items() if said.strip()}
    gone = nothing(name, value)

    def change(data: Any) -> None:
        if gone:
            data.pop(name, None)
        else:
            _put(data, name, value)

    def candidates(tree: Tree) -> Iterator[str]:
        cut = key_section(text, tree, name)
        if cut is not None and gone:
            yield cut.joined([])
        elif cut is not None:
            trip = RoundTrip(cut.sections[0].body)
            change(trip.data)
            yield from (cut.joined([Section("", written)]) for written in trip.texts())
        elif name not in tree.data:
            after = [key_section(text, tree, key) for key in ("summary", "title", "course") if key in tree.data]
            yield from (cut.joined([*cut.sections, Section("", write({name: value}))]) for cut in after[:1] if cut)

    return _changed(text, change, candidates=candidates)


def _changed(
    text: str,
    change: Callable[[Any], None],
    *,
    by_lines: Callable[[Cut], Iterator[str]] | None = None,
    candidates: Callable[[Tree], Iterator[str]] | None = None,
) -> str:
    """`text` after `change` was made to its data, and nothing else in it means anything new. Raises NotEditable.

    by_lines, candidates: what the text may become where its profiles, or keys, have lines of their own.
    """
    if "\r" in text:
        raise _beyond_forms()
    before = _read(text)
    data = copy.deepcopy(before.data)
    change(data)
    wanted = plain(data)
    if wanted == before.data:
        return text
    cut = profile_sections(text, before) if by_lines is not None else None
    ways: list[Callable[[], Iterator[str]]] = []
    if candidates is not None:
        ways.append(lambda: candidates(before))
    if by_lines is not None and cut is not None:
        ways.append(lambda: by_lines(cut))
    ways += [lambda: _as_a_whole(text, change), lambda: _as_a_whole(text, lambda tree: _replace(tree, wanted))]
    for way in ways:
        try:
            for candidate in way():
                if _says(candidate, wanted):
                    return candidate
        except TROUBLE:
            continue
    raise _beyond_forms()


def _as_a_whole(text: str, change: Callable[[Any], None]) -> Iterator[str]:
    trip = RoundTrip(text)
    change(trip.data)
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
    if "profile_list" in tree.data:
        raise NotEditable(Sentence("This course is written in KubeSpawner's words. Change it in YAML."))
    return tree


def _own(profile: Any) -> Any:
    """A profile that is written in our words. Raises NotEditable for another one, which no form can show."""
    if not _THEIRS.isdisjoint(profile):
        raise NotEditable(Sentence("This profile is written in KubeSpawner's words. Change it in YAML."))
    return profile


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
    profiles = _profiles(data)
    for index, profile in enumerate(profiles):
        if isinstance(profile, Mapping) and profile.get("slug") == slug:
            return index
    for profile in profiles:
        if isinstance(profile, Mapping) and "slug" not in profile:
            _own(profile)  # its short name is made from its name there
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
