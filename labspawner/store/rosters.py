"""Who was put into a course in the console. JupyterHub's groups say who is in it; this says who wanted it so, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from labspawner.model import CourseRole
from labspawner.store import audit as audit_rows
from labspawner.store.audit import AuditEntry
from labspawner.store.schema import digest
from labspawner.store.schema import rosters as table
from labspawner.store.transactions import Transact

_BATCH = 500


class Source(str, Enum):
    """How somebody came onto a roster: by hand, from a file, or because a group of the log-in says so."""

    HAND = "hand"
    CSV = "csv"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One person on a course's roster, with one role; there may be no such user of the hub yet."""

    course: str
    user: str
    role: CourseRole = CourseRole.MEMBER
    source: Source = Source.HAND
    added_by: str = ""
    added_at: datetime


class Rosters:
    """The rosters of one hub, for courses in files as well. Everybody is on a course's roster once, with one role."""

    def __init__(self, read: Transact, write: Transact, *, hub_id: str) -> None:
        self._read = read
        self._write = write
        self._hub_id = hub_id

    async def of(self, course: str) -> list[Seat]:
        """Everybody on a course's roster, by name."""
        query = sa.select(table).where(self._here(course))
        found = await self._read(lambda conn: [_seat(row) for row in conn.execute(query).mappings()])
        return sorted(found, key=lambda seat: seat.user)

    async def courses_of(self, user: str) -> list[Seat]:
        """Every roster that a user is on, by course."""
        query = sa.select(table).where(table.c.hub_id == self._hub_id, table.c.user_key == digest(user))
        query = query.order_by(table.c.course)
        return await self._read(lambda conn: [_seat(row) for row in conn.execute(query).mappings()])

    async def courses(self) -> list[str]:
        """Every course that has somebody on its roster, by name."""
        query = sa.select(table.c.course).where(table.c.hub_id == self._hub_id).distinct().order_by(table.c.course)
        return await self._read(lambda conn: list(conn.scalars(query)))

    async def put(self, course: str, seats: Collection[Seat], *, audit: Sequence[AuditEntry] = ()) -> None:
        """Add people to a course's roster; who is on it already gets the new role and source."""
        await self._write(lambda conn: self._put(conn, course, seats, audit))

    async def remove(self, course: str, users: Collection[str], *, audit: Sequence[AuditEntry] = ()) -> int:
        """Take people off a course's roster, and say how many were on it."""
        return await self._write(lambda conn: self._remove(conn, course, users, audit))

    async def replace(
        self,
        course: str,
        seats: Collection[Seat],
        *,
        sources: Collection[Source] | None = None,
        audit: Sequence[AuditEntry] = (),
    ) -> None:
        """Make a course's roster this one; sources: only those that came so before are taken off, others stay."""

        def work(conn: Connection) -> None:
            gone = sa.delete(table).where(self._here(course))
            if sources is not None:
                gone = gone.where(table.c.source.in_([source.value for source in sources]))
            conn.execute(gone)
            self._put(conn, course, seats, audit)

        await self._write(work)

    def _here(self, course: str) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.hub_id == self._hub_id, table.c.course == course)

    def _put(self, conn: Connection, course: str, seats: Collection[Seat], audit: Sequence[AuditEntry]) -> None:
        rows = {digest(seat.user): self._row(course, seat) for seat in seats}
        new = [rows[key] for key in sorted(rows)]  # in one order, so that two who write at once wait for each other
        for start in range(0, len(new), _BATCH):
            conn.execute(_upsert(conn), new[start : start + _BATCH])
        if audit:
            audit_rows.insert(conn, self._hub_id, *audit)

    def _remove(self, conn: Connection, course: str, users: Collection[str], audit: Sequence[AuditEntry]) -> int:
        removed = self._delete(conn, course, [digest(user) for user in users])
        if audit:
            audit_rows.insert(conn, self._hub_id, *audit)
        return removed

    def _delete(self, conn: Connection, course: str, keys: list[str]) -> int:
        removed = 0
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            removed += conn.execute(sa.delete(table).where(self._here(course), table.c.user_key.in_(part))).rowcount
        return removed

    def _row(self, course: str, seat: Seat) -> dict[str, object]:
        if seat.course != course:
            raise ValueError(f"a seat of {seat.course!r} is not one of {course!r}")
        return {
            "hub_id": self._hub_id,
            "course": course,
            "user_key": digest(seat.user),
            "username": seat.user,
            "role": seat.role.value,
            "source": seat.source.value,
            "added_by": seat.added_by,
            "added_at": seat.added_at,
        }


def _upsert(conn: Connection) -> Any:
    insert = postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)
    changed = {name: insert.excluded[name] for name in ("role", "source", "added_by", "added_at")}
    return insert.on_conflict_do_update(index_elements=["hub_id", "course", "user_key"], set_=changed)


def _seat(row: RowMapping) -> Seat:
    return Seat(
        course=row["course"],
        user=row["username"],
        role=CourseRole(row["role"]),
        source=Source(row["source"]),
        added_by=row["added_by"],
        added_at=row["added_at"],
    )
