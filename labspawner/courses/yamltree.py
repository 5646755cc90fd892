"""YAML text as plain data, with the place of each value, and with limits: a course file is not a program.

ruamel.yaml reads the text; we build the data ourselves, so that size, depth and aliases are counted while reading.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.nodes import ScalarNode

from labspawner.courses.fields import shown
from labspawner.sentences import Sentence

MAX_BYTES = 2**20
MAX_DEPTH = 24
MAX_NODES = 10_000
MAX_DIGITS = 18
_MOST_KEPT = 32 * 1024
"""Letters: what has been read of texts up to here is kept for a while. Errors are not."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file, both counted from 1."""

    line: int
    column: int


class Unreadable(Exception):
    """The text is not a course file's YAML: what is wrong, what to write instead, and where."""

    def __init__(self, message: str, mark: Mark = Mark(1, 1)) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


@dataclass(frozen=True, slots=True)
class Tree:
    """Plain data (dict, list, str, int, float, bool, None), and where each key and each value stands."""

    data: Any
    values: Mapping[Path, Mark] = field(repr=False)
    keys: Mapping[Path, Mark] = field(repr=False)


@dataclass(slots=True)
class _Node:
    mark: Mark
    scalar: Any = None
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    merge: bool = False


def read_tree(text: str) -> Tree:
    """Read one YAML document. Raises Unreadable for anything else, and cheaply: a bomb is not unpacked first.

    Refused: a key that is there twice, tags (`!!python/...`), directives, deep nesting, more than 10000 values after
    aliases are followed. A date is read as text.
    """
    tree = _known(text) if len(text) <= _MOST_KEPT else _read(text)
    return Tree(copy.deepcopy(tree.data), tree.values, tree.keys)  # whoever edits has data of their own


def _read(text: str) -> Tree:
    try:
        return _Reader(text).tree()
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise Unreadable(_plain_words(exc), Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)) from exc
    except YAMLError as exc:
        raise Unreadable(Sentence("not readable as YAML: the file has a character that cannot be printed")) from exc


_known = lru_cache(maxsize=32)(_read)  # a page of the console reads the same text several times


class _Reader:
    """One pass over ruamel's events. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: str) -> None:
        self._yaml: Any = YAML(typ="safe", pure=True)
        self._events: Iterator[Any] = self._yaml.parse(text)
        self._anchors: dict[str, _Node] = {}
        self._nodes = 0
        self._values: dict[Path, Mark] = {}
        self._keys: dict[Path, Mark] = {}

    def tree(self) -> Tree:
        next(self._events)
        event = next(self._events)
        if isinstance(event, StreamEndEvent):
            raise Unreadable(Sentence("the file is empty: write course:, title: and profiles:"))
        self._no_directives(event)
        root = self._node(next(self._events), 0)
        next(self._events)
        event = next(self._events)
        if not isinstance(event, StreamEndEvent):
            raise Unreadable(
                Sentence("a second document begins here: write one course per file, without ---"), _mark(event)
            )
        self._nodes = 0
        return Tree(self._data(root, ()), self._values, self._keys)

    @staticmethod
    def _no_directives(event: DocumentStartEvent) -> None:
        if event.version or event.tags:
            raise Unreadable(
                Sentence("lines that begin with % are not used in a course file: remove them"), _mark(event)
            )

    def _count(self, mark: Mark, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Unreadable(
                Sentence("more than {most} values: split the course, or use fewer aliases (*name)", most=MAX_NODES),
                mark,
            )
        if depth > MAX_DEPTH:
            raise Unreadable(
                Sentence("nested more than {most} levels deep: a course file needs fewer", most=MAX_DEPTH),
                mark,
            )

    def _node(self, event: Any, depth: int) -> _Node:
        mark = _mark(event)
        self._count(mark, depth)
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise Unreadable(
                    Sentence("there is no &{anchor} above this *{anchor}: check the spelling", anchor=event.anchor),
                    mark,
                )
            return self._anchors[event.anchor]
        if event.tag is not None:
            raise Unreadable(
                Sentence("tags like {tag} are not used in a course file: remove it, or quote the text", tag=event.tag),
                mark,
            )
        node = _Node(mark)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._fill(node, event, depth)
        return node

    def _fill(self, node: _Node, event: NodeEvent, depth: int) -> None:
        if isinstance(event, ScalarEvent):
            tag = str(self._yaml.resolver.resolve(ScalarNode, event.value, event.implicit)).rpartition(":")[2]
            node.merge = tag == "merge"
            node.scalar = _scalar(event.value, tag, node.mark)
        elif isinstance(event, SequenceStartEvent):
            node.items = []
            while not isinstance(event := next(self._events), SequenceEndEvent):
                node.items.append(self._node(event, depth + 1))
        else:
            node.pairs = []
            while not isinstance(event := next(self._events), MappingEndEvent):
                key = self._node(event, depth + 1)
                node.pairs.append((key, self._node(next(self._events), depth + 1)))

    def _data(self, node: _Node, path: Path) -> Any:
        self._count(node.mark, len(path))
        self._values[path] = node.mark
        if node.items is not None:
            return [self._data(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is None:
            return node.scalar
        result: dict[str, Any] = {}
        for key, value, merged in self._flat(node, len(path)):
            name = _key(key)
            inner: Path = (*path, name)
            if name in result:
                if merged:
                    continue
                first = self._keys[inner].line
                raise Unreadable(
                    Sentence(
                        "the key {name} is there twice, first in line {first}: keep one", name=shown(name), first=first
                    ),
                    key.mark,
                )
            self._keys[inner] = key.mark
            result[name] = self._data(value, inner)
        return result

    def _flat(self, node: _Node, depth: int) -> Iterator[tuple[_Node, _Node, bool]]:
        """The pairs of a mapping, then those that its `<<` brings and that it has not itself."""
        pairs = node.pairs or []
        yield from ((key, value, False) for key, value in pairs if not key.merge)
        for key, value in pairs:
            if not key.merge:
                continue
            self._count(key.mark, depth + 1)
            for source in value.items if value.items is not None else [value]:
                if source.pairs is None:
                    raise Unreadable(Sentence("<< takes the keys of another mapping: write <<: *its-anchor"), key.mark)
                yield from ((inner, other, True) for inner, other, _ in self._flat(source, depth + 1))


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _key(node: _Node) -> str:
    if isinstance(node.scalar, str):
        return node.scalar
    if node.items is not None or node.pairs is not None:
        raise Unreadable(Sentence("a list or mapping cannot be a key: write a name before the ':'"), node.mark)
    raise Unreadable(Sentence("the key {scalar} is not text: put it in quotes", scalar=node.scalar), node.mark)


def _scalar(text: str, tag: str, mark: Mark) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag in {"int", "float"}:
        return _number(text, tag, mark)
    if re.search("[\ud800-\udfff]", text):
        raise Unreadable(Sentence("half of a character (a lone surrogate): write the character itself"), mark)
    return text


def _number(text: str, tag: str, mark: Mark) -> int | float:
    digits = text.replace("_", "").lower()
    if len(digits) > MAX_DIGITS:
        raise Unreadable(
            Sentence("a number with {count} digits: put it in quotes if it is text", count=len(digits)), mark
        )
    if tag == "float":
        number = float(digits) if "inf" not in digits and "nan" not in digits else math.inf
        if not math.isfinite(number):
            raise Unreadable(
                Sentence("{text} is not a number that means something here: write one with digits", text=text), mark
            )
        return number
    for prefix, base in (("0x", 16), ("0o", 8), ("0b", 2)):
        if digits.lstrip("+-").startswith(prefix):
            return int(digits, base)
    return int(digits)


_MISTAKES = (
    ("'\\t'", Sentence("the line is indented with a tab: write spaces")),
    (
        "mapping values are not allowed",
        Sentence("a ':' that is not expected here: quote the text, or check the indentation"),
    ),
    ("could not find expected ':'", Sentence("a ':' is missing in this line or the one above: write key: value")),
    (
        "<document start>",
        Sentence("the indentation does not fit: course:, title: and profiles: begin in the first column"),
    ),
    ("expected <block end>", Sentence("the indentation does not fit: keys of one group begin in the same column")),
    ("',' or '}'", Sentence("a { is not closed, or a ',' is missing: write {key: value, key: value}")),
    ("',' or ']'", Sentence("a [ is not closed, or a ',' is missing: write [one, two]")),
    ("quoted scalar", Sentence("a quote is not closed: end the text with the quote it begins with")),
)


def _plain_words(exc: MarkedYAMLError) -> Sentence:
    """ruamel's words, and for the mistakes that people make, what to write instead."""
    told = f"{exc.problem or ''} {exc.context or ''}"
    for theirs, ours in _MISTAKES:
        if theirs in told:
            return ours
    return Sentence(
        "not readable as YAML ({problem}): check quotes, brackets and indentation",
        problem=str(exc.problem or exc.context),
    )
