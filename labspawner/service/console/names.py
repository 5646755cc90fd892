"""A roster as somebody sends it: a list, a table from a spreadsheet, in the encoding of their spreadsheet. Pure."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from labspawner.sentences import Sentence

MAX_PEOPLE = 2000
MAX_NAME = 255
_HEADERS = frozenset(
    {
        *("user", "username", "user name", "user_name", "login", "login id", "account", "name", "id", "student id"),
        *("sis login id", "sis user id", "netid", "uid"),
        *("用户名", "用户", "账号", "帐号", "学号", "工号", "登录名"),
    }
)
_BEST = ("username", "user name", "user_name", "login", "login id", "sis login id", "account", "netid", "uid", "user")
_SPREADSHEET = "=+-@\t\r"

EMPTY = Sentence("There is no name in this line.")
SLASH = Sentence("A user name has no slash.")
CONTROL = Sentence("A user name has no control characters or line breaks.")
LONG = Sentence("A user name has at most {most} letters.", most=MAX_NAME)
DOTS = Sentence("This is not a user name.")
TWICE = Sentence("{name} stands in line {line} already.")
BROKEN = Sentence("This line cannot be read.")
TOO_MANY = Sentence(
    "This roster has more than {most} people. Split the course, or tell your administrator.", most=MAX_PEOPLE
)
NO_ENCODING = Sentence("This is neither UTF-8 nor GBK text. Save the table as “CSV UTF-8”, then send it again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLine:
    """A line that is left out. number: counted from 1."""

    number: int
    text: str
    reason: Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The user names of a roster, in order, each once. encoding: `utf-8` or `gbk`, as it was recognised."""

    names: tuple[str, ...]
    refused: tuple[RefusedLine, ...] = ()
    encoding: str = "utf-8"
    problem: Sentence | None = None
    header: tuple[str, ...] = field(default=())


def read(content: bytes | str) -> Names:
    """Read a roster: one name in each line, or a table separated by commas, semicolons or tabs, with or without a header.

    Without a header that we know, the first column holds the names.
    """
    if isinstance(content, str):
        text, encoding = content.removeprefix("\ufeff"), "utf-8"
    else:
        decoded = _decoded(content)
        if decoded is None:
            return Names(names=(), problem=NO_ENCODING, encoding="")
        text, encoding = decoded
    rows = list(_rows(text))
    header, column = _header(rows[0][1]) if rows else ((), 0)
    return _names(rows[1:] if header else rows, column, encoding, header)


def why_not(name: str) -> Sentence | None:
    """Why this is no user name that JupyterHub would take; None where it may be one."""
    if not name:
        return EMPTY
    if len(name) > MAX_NAME:
        return LONG
    if "/" in name:
        return SLASH
    if any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in name):
        return CONTROL
    return DOTS if name in {".", ".."} else None


def _names(rows: Sequence[tuple[int, list[str]]], column: int, encoding: str, header: tuple[str, ...]) -> Names:
    seen: dict[str, int] = {}
    refused: list[RefusedLine] = []
    for number, cells in rows:
        name = unicodedata.normalize("NFC", cells[column].strip()) if column < len(cells) else ""
        reason = why_not(name)
        if reason is None and name in seen:
            reason = Sentence(TWICE.template, name=name, line=seen[name])
        if reason is not None:
            refused.append(RefusedLine(number=number, text=" ".join(cells)[:100], reason=reason))
        else:
            seen[name] = number
        if len(seen) > MAX_PEOPLE:
            return Names(names=(), refused=(), encoding=encoding, problem=TOO_MANY)
    return Names(names=tuple(seen), refused=tuple(refused), encoding=encoding, header=header)


def _decoded(content: bytes) -> tuple[str, str] | None:
    for encoding in ("utf-8-sig", "gbk"):
        try:
            return content.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            continue
    return None


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, as cells, with their numbers. A quote that is never closed reads on to its line's end
    alone."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    separator = _separator(lines)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = next(csv.reader(io.StringIO(line), delimiter=separator), [])
        except csv.Error:
            cells = [line]
        yield number, [_bare(cell) for cell in cells]


def _bare(cell: str) -> str:
    """A cell without the quote that keeps a spreadsheet from taking it for a formula."""
    cell = cell.strip()
    return cell[1:] if len(cell) > 1 and cell[0] == "'" and cell[1] in _SPREADSHEET else cell


def _separator(lines: Iterable[str]) -> str:
    """What separates the cells of the first lines: a tab before a semicolon before a comma."""
    some = [line for line in lines if line.strip()][:20]
    for separator in ("\t", ";", ","):
        if some and all(separator in line for line in some):
            return separator
    return max("\t;,", key=lambda one: sum(one in line for line in some)) if some else ","


def _header(cells: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The first line as a header, and the column of the names; () where it is a name itself."""
    known = [cell.strip().lower() for cell in cells]
    if not any(cell in _HEADERS for cell in known):
        return (), 0
    for best in _BEST:
        if best in known:
            return tuple(known), known.index(best)
    return tuple(known), next(place for place, cell in enumerate(known) if cell in _HEADERS)


def as_csv_cell(text: str) -> str:
    """A cell that no spreadsheet runs: what looks like a formula gets a quote in front."""
    return f"'{text}" if text[:1] and text[0] in _SPREADSHEET else text
