"""YAML changed and written again with its comments and order, by ruamel's round trip. Pure.

What ruamel would write in another way though nothing changed there is put back, line by line. Whoever calls reads the result
again before it is believed: these are candidates.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

_ONE_LINE = 84
_MERGED_LINES = 2500
_LIKE_A_NUMBER = re.compile(r"[0-9:._+-]+|yes|no|on|off|y|n", re.IGNORECASE | re.ASCII)
_FIRST_DASH = re.compile(r"^profiles:[^\n]*\n(?:[ ]*(?:#[^\n]*)?\n)*(?P<indent>[ ]*)- ", re.MULTILINE)
TROUBLE = (YAMLError, AttributeError, TypeError, ValueError, LookupError, RecursionError, AssertionError)
"""What ruamel's round trip raises for texts that its own parser reads."""


class RoundTrip:
    """A text, its data to be changed in place, and the text that comes of it."""

    def __init__(self, text: str) -> None:
        """Raises one of TROUBLE."""
        self._text = text
        self._yaml = YAML(typ="rt", pure=True)
        self._yaml.preserve_quotes = True
        self._yaml.width = 4096
        dashes = _FIRST_DASH.search(text)
        offset = len(dashes["indent"]) if dashes else 2
        self._yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of anchors that are there twice
            self.data: Any = self._yaml.load(text)
        self._unchanged = self._dump()

    def texts(self) -> tuple[str, ...]:
        """What the changed data may be written as, the one nearest to the old text first. Raises one of TROUBLE."""
        changed = self._dump()
        if self._unchanged == self._text:
            return (changed,)
        lines, theirs, new = (text.splitlines(keepends=True) for text in (self._text, self._unchanged, changed))
        if len(lines) + len(new) > _MERGED_LINES:
            return (changed,)
        return (_merged(lines, theirs, new), changed)

    def _dump(self) -> str:
        out = io.StringIO()
        self._yaml.dump(self.data, out)
        return out.getvalue()


def write(data: Mapping[str, Any]) -> str:
    """New data as a text."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    yaml.dump(styled(data, top=True), out)
    return out.getvalue()


def styled(value: Any, *, top: bool = False) -> Any:
    """Plain data as one would write it by hand: short groups and lists on one line, text that looks like a number quoted."""
    if isinstance(value, Mapping):
        made = CommentedMap((_quoted(str(key)), styled(item)) for key, item in value.items())
        if not top and _short(value):
            made.fa.set_flow_style()
        return made
    if isinstance(value, (list, tuple)):
        listed = CommentedSeq(styled(item) for item in value)
        if _short(value):
            listed.fa.set_flow_style()
        return listed
    return _quoted(value) if isinstance(value, str) else value


def _quoted(text: str) -> str:
    """The text in quotes where it looks like a number, or where ruamel forgets them."""
    odd = _LIKE_A_NUMBER.fullmatch(text) or "{" in text or text.startswith((":", "?"))
    return DoubleQuotedScalarString(text) if odd else str(text)


def plain(value: Any) -> Any:
    """ruamel's values, or ours, as plain data."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def _short(value: Any) -> bool:
    """Whether a group or list goes on one line: profiles never do."""
    items: Sequence[Any] = list(value.values()) if isinstance(value, Mapping) else list(value)
    if isinstance(value, Mapping) and {"slug", "variants"} <= value.keys():
        return False
    flat = all(not isinstance(item, (Mapping, list, tuple)) or _short(item) for item in items)
    return flat and len(repr(plain(value))) <= _ONE_LINE


def _merged(lines: list[str], theirs: list[str], new: list[str]) -> str:
    """`lines` with what differs between `theirs` and `new`, both as ruamel writes them."""
    place = _places(lines, theirs)
    merged: list[str] = []
    done = 0
    for tag, start, end, first, last in SequenceMatcher(None, theirs, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        merged.extend(lines[done : place[start]])
        merged.extend(new[first:last])
        done = max(done, place[end])
    merged.extend(lines[done:])
    return "".join(merged)


def _places(lines: list[str], theirs: list[str]) -> list[int]:
    """For each line as ruamel writes it, and for the end, the line of the text where it begins. Never decreasing."""
    place = [0] * (len(theirs) + 1)
    old, new = _squeezed(lines), _squeezed(theirs)
    for _, start, end, first, last in SequenceMatcher(None, new, old, autojunk=False).get_opcodes():
        for index in range(start, end):
            place[index] = first + min(index - start, last - first)
    place[len(theirs)] = len(lines)
    return place


def _squeezed(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]
