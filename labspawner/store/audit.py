"""Who did what to whom, when and from where. Rows are added and grow old; nothing changes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from labspawner.model import Json
from labspawner.store.rows import dump
from labspawner.store.schema import audit as table
from labspawner.store.schema import digest
from labspawner.store.transactions import Transact

PAGE = 200
MAX_DETAIL = 4096
_PRUNE_BATCH = 5000
_SHORT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Something that somebody did, or was refused.

    verb: what, in one word (`course.save`, `act.stop`); result: `ok`, or the reason of the error; at most 40 characters each.
    course, subject, object: which course, which user it happened to, which server, job or profile; empty where there is none.
    detail: JSON, a few hundred bytes; no secrets, no course texts. Of more than 4 KiB only the beginning is kept, as text
      under `cut`.
    """

    at: datetime
    actor: str
    verb: str
    actor_ip: str = ""
    course: str = ""
    subject: str = ""
    object: str = ""
    detail: Mapping[str, Json] = field(default_factory=dict)
    result: str = "ok"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry as it is on record. id: larger for what was recorded later."""

    id: int
    entry: AuditEntry


class AuditLog:
    """The audit log of one hub. There is no method that changes a row, and none that removes one but `prune`, by age."""

    def __init__(self, read: Transact, write: Transact, *, hub_id: str) -> None:
        self._read = read
        self._write = write
        self._hub_id = hub_id

    async def add(self, *entries: AuditEntry) -> None:
        """Record what was done; several at once: all or nothing."""
        if entries:
            await self._write(lambda conn: insert(conn, self._hub_id, *entries))

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
    ) -> list[AuditRecord]:
        """The newest entries to which all that is given applies, newest first; `before`: only those with a smaller id, which
        is how to read on. verb: the whole of it, or its beginning where it ends with a dot (`act.`). since <= at < until."""
        query = sa.select(table).where(table.c.hub_id == self._hub_id)
        if actor is not None:
            query = query.where(table.c.actor_key == digest(actor))
        if subject is not None:
            query = query.where(table.c.subject_key == digest(subject))
        if course is not None:
            query = query.where(table.c.course == course)
        if verb is not None:
            fits = table.c.verb.startswith(verb, autoescape=True) if verb.endswith(".") else table.c.verb == verb
            query = query.where(fits)
        if since is not None:
            query = query.where(table.c.at >= since)
        if until is not None:
            query = query.where(table.c.at < until)
        if before is not None:
            query = query.where(table.c.id < before)
        query = query.order_by(table.c.id.desc()).limit(limit)
        return await self._read(lambda conn: [_record(row) for row in conn.execute(query).mappings()])

    async def prune(self, before: datetime) -> int:
        """Drop what was recorded before an instant; how many. Nothing else ever removes a row."""
        dropped = 0
        old = sa.select(table.c.id).where(table.c.hub_id == self._hub_id, table.c.at < before).limit(_PRUNE_BATCH)
        statement = sa.delete(table).where(table.c.id.in_(old.scalar_subquery()))
        while True:
            batch = await self._write(lambda conn: conn.execute(statement).rowcount)
            dropped += batch
            if batch < _PRUNE_BATCH:
                return dropped


def insert(conn: Connection, hub_id: str, *entries: AuditEntry) -> None:
    """Record entries inside the caller's transaction. ValueError for a verb or result that is too long or empty."""
    conn.execute(sa.insert(table), [_row(hub_id, entry) for entry in entries])


def _row(hub_id: str, entry: AuditEntry) -> dict[str, object]:
    for word in (entry.verb, entry.result):
        if not 0 < len(word) <= _SHORT or not word.isascii() or not word.isprintable():
            raise ValueError(f"not one word of at most {_SHORT} characters: {word!r}")
    return {
        "hub_id": hub_id,
        "at": entry.at,
        "actor": entry.actor,
        "actor_key": digest(entry.actor),
        "actor_ip": entry.actor_ip,
        "verb": entry.verb,
        "course": entry.course,
        "subject": entry.subject,
        "subject_key": digest(entry.subject),
        "object": entry.object,
        "detail": _detail(entry.detail),
        "result": entry.result,
    }


def _detail(detail: Mapping[str, Json]) -> str:
    whole = dump(dict(detail))
    return whole if len(whole) <= MAX_DETAIL else dump({"cut": whole[: MAX_DETAIL // 2]})


def _record(row: RowMapping) -> AuditRecord:
    names = ("at", "actor", "verb", "actor_ip", "course", "subject", "object", "result")
    return AuditRecord(row["id"], AuditEntry(**{name: row[name] for name in names}, detail=json.loads(row["detail"])))
