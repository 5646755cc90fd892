"""Searching the audit log, and taking it away as CSV or JSON. Pure, but for the log that is read page by page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Any, Protocol

from labspawner.sentences import Sentence
from labspawner.store import AuditRecord

PAGE = 50
_EXPORT_PAGE = 500
_LAST_ID = 2**53
COLUMNS = ("id", "at", "actor", "actor_ip", "verb", "course", "subject", "object", "result", "detail")
_FORMULA = re.compile(r"[=+\-@\t\r]")

NO_DAY = Sentence("This is no day: write it as 2026-11-02.")


class Log(Protocol):
    """The part of the audit log that is read here."""

    async def search(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        course: str | None = None,
        verb: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = PAGE,
    ) -> list[AuditRecord]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for; None: everything. since <= at < until. before: only what was recorded earlier than that id."""

    actor: str | None = None
    subject: str | None = None
    course: str | None = None
    verb: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For the log's `search`."""
        return {name: getattr(self, name) for name in self.__slots__}


def query_of(given: Mapping[str, str]) -> tuple[Query, dict[str, Sentence]]:
    """What the form asks for, and what is wrong in it by field. Days are whole days by this machine's clock, both counted."""
    wrong: dict[str, Sentence] = {}

    def day(name: str) -> datetime | None:
        text = given.get(name, "").strip()
        if not text:
            return None
        try:
            return datetime.combine(date.fromisoformat(text), time()).astimezone()
        except (ValueError, OverflowError, OSError):
            wrong[name] = NO_DAY
            return None

    def word(name: str) -> str | None:
        return given.get(name, "").strip() or None

    until = day("until")
    try:
        before = int(given.get("before", "") or 0)
    except ValueError:
        before = 0
    query = Query(
        actor=word("actor"),
        subject=word("subject"),
        course=word("course"),
        verb=word("verb"),
        since=day("since"),
        until=_next_day(until) if until else None,
        before=before if 0 < before <= _LAST_ID else None,
    )
    return query, wrong


def _next_day(day: datetime) -> datetime:
    """The midnight after; a day may have 23 or 25 hours."""
    try:
        return datetime.combine(day.date() + timedelta(days=1), time()).astimezone()
    except (OverflowError, ValueError, OSError):
        return day


async def page(log: Log, query: Query, *, limit: int = PAGE) -> tuple[list[AuditRecord], int | None]:
    """The newest entries, and the id before which the next page begins; None where this is the last one."""
    found = await log.search(**query.arguments(), limit=limit + 1)
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def _all(log: Log, query: Query) -> AsyncIterator[list[AuditRecord]]:
    """Everything, newest first, a few hundred at a time; what is recorded meanwhile is left out."""
    following: int | None = None
    while True:
        found, following = await page(
            log, query if following is None else replace(query, before=following), limit=_EXPORT_PAGE
        )
        if found:
            yield found
        if following is None:
            return


async def as_csv(log: Log, query: Query) -> AsyncIterator[str]:
    """The entries as a spreadsheet reads them, piece by piece. What a spreadsheet would compute is kept from it."""
    yield "\ufeff" + _line(COLUMNS)
    async for found in _all(log, query):
        yield "".join(_line([_cell(value) for value in _row(record).values()]) for record in found)


async def as_json(log: Log, query: Query) -> AsyncIterator[str]:
    """The entries as one JSON array, piece by piece."""
    begun = False
    yield "["
    async for found in _all(log, query):
        yield "".join(
            f"{',' if begun or place else ''}\n{json.dumps(_row(record))}" for place, record in enumerate(found)
        )
        begun = True
    yield "\n]\n"


def _row(record: AuditRecord) -> dict[str, Any]:
    entry = record.entry
    return {
        "id": record.id,
        "at": entry.at.isoformat(),
        "actor": entry.actor,
        "actor_ip": entry.actor_ip,
        "verb": entry.verb,
        "course": entry.course,
        "subject": entry.subject,
        "object": entry.object,
        "result": entry.result,
        "detail": dict(entry.detail),
    }


def _cell(value: Any) -> str:
    """A value as text that no spreadsheet takes for a formula."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    text = text.encode(errors="replace").decode()  # half of a character cannot be sent
    return f"'{text}" if _FORMULA.match(text) else text


def _line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
