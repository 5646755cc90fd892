"""Courses that are written in the console: the text in force, and all that it ever was."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from labspawner.errors import Conflict, CourseExists, UnknownCourse
from labspawner.model import CourseState
from labspawner.sentences import Sentence
from labspawner.store import audit as audit_rows
from labspawner.store.audit import AuditEntry
from labspawner.store.engine import make_engine, parse_url, sqlite_file, transaction
from labspawner.store.schema import course_revisions, courses
from labspawner.store.transactions import Transact

MAX_SLUG = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A course as it is written now.

    text: YAML, to the letter as it was saved. etag: another one after each change of text or state, never the same again.
    revision: counts saves, from 1. everyone_by: the administrator who let it be open to everyone, if any did.
    """

    slug: str
    text: str
    state: CourseState
    revision: int
    etag: str
    everyone_by: str | None
    created_by: str
    created_at: datetime
    changed_by: str
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseRevision:
    """One text that a course had, who wrote it, when, and what they said of it."""

    slug: str
    revision: int
    text: str
    comment: str
    by: str
    at: datetime


class Coursebook:
    """The written courses of one hub. Of several changes at once one is made, and the others hear of it: no text is lost.

    Every change is one transaction: the course, its revision and the `audit` entry are written together or not at all.
    `if_match` is the etag that the course had when whoever changes it read it. All raise UnknownCourse for a course that is
    not there, and Conflict where it has another etag by now.
    """

    def __init__(self, read: Transact, write: Transact, *, hub_id: str) -> None:
        self._read = read
        self._write = write
        self._hub_id = hub_id

    async def create(
        self,
        slug: str,
        text: str,
        *,
        by: str,
        now: datetime,
        comment: str = "",
        state: CourseState = CourseState.DRAFT,
        everyone_by: str | None = None,
        audit: AuditEntry | None = None,
    ) -> Written:
        """Write a new course. Raises CourseExists if there is one of this name, archived ones too. ValueError for a name
        that no course can have."""
        if not 0 < len(slug) <= MAX_SLUG or not slug.isascii():
            raise ValueError(f"not the short name of a course: {slug!r}")
        row = {"slug": slug, "text": text, "state": state.value, "revision": 1, "everyone_by": everyone_by}
        stamps = {"created_by": by, "created_at": now, "changed_by": by, "changed_at": now}
        return await self._write(lambda conn: self._create(conn, {**row, **stamps}, comment, audit))

    async def save(
        self,
        slug: str,
        text: str,
        *,
        if_match: str | None,
        by: str,
        now: datetime,
        comment: str = "",
        everyone_by: str | None = None,
        audit: AuditEntry | None = None,
    ) -> Written:
        """Write a course's new text, as a new revision; its state stays. if_match None: there must be no such course yet
        (`create`). everyone_by: an administrator who lets it be open to everyone from now on; None changes nothing."""
        if if_match is None:
            return await self.create(slug, text, by=by, now=now, comment=comment, everyone_by=everyone_by, audit=audit)
        changes: dict[str, object] = {"text": text}
        if everyone_by is not None:
            changes["everyone_by"] = everyone_by
        return await self._write(lambda conn: self._change(conn, slug, if_match, changes, by, now, comment, audit))

    async def set_state(
        self,
        slug: str,
        state: CourseState,
        *,
        if_match: str,
        by: str,
        now: datetime,
        audit: AuditEntry | None = None,
    ) -> Written:
        """Publish a course, take it back to a draft, or archive it. Its text and revision stay; its etag changes."""
        changes: dict[str, object] = {"state": state.value}
        return await self._write(lambda conn: self._change(conn, slug, if_match, changes, by, now, None, audit))

    async def rollback(
        self,
        slug: str,
        revision: int,
        *,
        if_match: str,
        by: str,
        now: datetime,
        comment: str = "",
        audit: AuditEntry | None = None,
    ) -> Written:
        """Give a course the text that it had as `revision`, as a new revision. UnknownCourse if it never had that one."""

        def work(conn: Connection) -> Written:
            changes: dict[str, object] = {"text": self._revision(conn, slug, revision).text}
            return self._change(conn, slug, if_match, changes, by, now, comment, audit)

        return await self._write(work)

    async def get(self, slug: str) -> Written | None:
        """The course of this name, whatever its state; None if none is written."""
        return await self._read(lambda conn: self._fetch(conn, slug))

    async def all(self, states: Collection[CourseState] | None = None) -> list[Written]:
        """All written courses, or those in one of `states`, by name."""
        query = sa.select(courses).where(courses.c.hub_id == self._hub_id).order_by(courses.c.slug)
        if states is not None:
            query = query.where(courses.c.state.in_([state.value for state in states]))
        return await self._read(lambda conn: [_written(row) for row in conn.execute(query).mappings()])

    async def etags(self) -> dict[str, str]:
        """The etag of every written course, by name: what has changed is what has another one."""
        query = sa.select(courses.c.slug, courses.c.etag).where(courses.c.hub_id == self._hub_id)
        return await self._read(lambda conn: {row.slug: row.etag for row in conn.execute(query)})

    async def some(self, slugs: Collection[str]) -> list[Written]:
        """The courses of these names, by name; what is not there is left out."""
        query = sa.select(courses).where(courses.c.hub_id == self._hub_id, courses.c.slug.in_(list(slugs)))
        query = query.order_by(courses.c.slug)
        return await self._read(lambda conn: [_written(row) for row in conn.execute(query).mappings()])

    async def revisions(self, slug: str, *, before: int | None = None, limit: int = 50) -> list[CourseRevision]:
        """What a course was, newest first; before: only revisions with a smaller number, which is how to read on."""
        query = sa.select(course_revisions).where(self._revisions_of(slug))
        if before is not None:
            query = query.where(course_revisions.c.revision < before)
        query = query.order_by(course_revisions.c.revision.desc()).limit(limit)
        return await self._read(lambda conn: [_old(row) for row in conn.execute(query).mappings()])

    async def revision(self, slug: str, revision: int) -> CourseRevision:
        """One text that a course had. Raises UnknownCourse if it never had that one."""
        return await self._read(lambda conn: self._revision(conn, slug, revision))

    def _create(self, conn: Connection, row: dict[str, object], comment: str, audit: AuditEntry | None) -> Written:
        try:
            conn.execute(sa.insert(courses).values(**row, hub_id=self._hub_id, etag=_etag(1)))
        except sa.exc.IntegrityError as exc:
            raise CourseExists(
                Sentence("There is a course {course} already. Pick another short name.", course=str(row["slug"])),
                detail=f"course exists course={row['slug']!r} hub={self._hub_id}",
            ) from exc
        written = self._require(conn, str(row["slug"]))
        self._remember(conn, written, comment, audit)
        return written

    def _change(
        self,
        conn: Connection,
        slug: str,
        if_match: str,
        changes: dict[str, object],
        by: str,
        now: datetime,
        comment: str | None,
        audit: AuditEntry | None,
    ) -> Written:
        """Change the course if it still has the etag `if_match`. comment: of the new revision; None: there is none."""
        this = sa.and_(courses.c.hub_id == self._hub_id, courses.c.slug == slug)
        before = conn.execute(sa.select(courses).where(this).with_for_update()).mappings().one_or_none()
        if before is None:
            raise _unknown(slug)
        if not secrets.compare_digest(before["etag"].encode(), if_match.encode("utf-8", "surrogatepass")):
            raise Conflict(before["etag"], before["changed_by"], before["changed_at"])
        stamps: dict[str, object] = {"changed_by": by, "changed_at": now}
        number = before["revision"] + (comment is not None)
        conn.execute(sa.update(courses).where(this).values(**changes, **stamps, revision=number, etag=_etag(number)))
        written = self._require(conn, slug)
        if comment is not None:
            self._remember(conn, written, comment, audit)
        elif audit is not None:
            audit_rows.insert(conn, self._hub_id, audit)
        return written

    def _remember(self, conn: Connection, written: Written, comment: str, audit: AuditEntry | None) -> None:
        conn.execute(
            sa.insert(course_revisions).values(
                hub_id=self._hub_id,
                slug=written.slug,
                revision=written.revision,
                text=written.text,
                comment=comment,
                by=written.changed_by,
                at=written.changed_at,
            )
        )
        if audit is not None:
            audit_rows.insert(conn, self._hub_id, audit)

    def _fetch(self, conn: Connection, slug: str) -> Written | None:
        query = sa.select(courses).where(courses.c.hub_id == self._hub_id, courses.c.slug == slug)
        row = conn.execute(query).mappings().one_or_none()
        return _written(row) if row else None

    def _require(self, conn: Connection, slug: str) -> Written:
        found = self._fetch(conn, slug)
        if found is None:
            raise _unknown(slug)
        return found

    def _revisions_of(self, slug: str) -> sa.ColumnElement[bool]:
        return sa.and_(course_revisions.c.hub_id == self._hub_id, course_revisions.c.slug == slug)

    def _revision(self, conn: Connection, slug: str, revision: int) -> CourseRevision:
        query = sa.select(course_revisions).where(self._revisions_of(slug), course_revisions.c.revision == revision)
        row = conn.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownCourse(
                Sentence("The course {course} has no revision {revision}.", course=slug, revision=revision),
                detail=f"no such revision course={slug!r} revision={revision}",
            )
        return _old(row)


def written_now(url: str, *, hub_id: str) -> list[Written]:
    """The written courses of a hub, read without changing anything: none in a database that is not set up yet. Blocks.
    Raises BadConfig for a URL that cannot be read, StoreUnavailable."""
    file = sqlite_file(parse_url(url))
    if file is not None and not file.exists():
        return []
    engine = make_engine(url)
    try:
        with transaction(engine, writes=False) as conn:
            if not sa.inspect(conn).has_table(courses.name):
                return []
            query = sa.select(courses).where(courses.c.hub_id == hub_id).order_by(courses.c.slug)
            return [_written(row) for row in conn.execute(query).mappings()]
    finally:
        engine.dispose()


def _etag(revision: int) -> str:
    """The revision for whoever reads logs, and 64 random bits, so that a change of state has one of its own too."""
    return f"{revision}-{secrets.token_hex(8)}"


def _unknown(slug: str) -> UnknownCourse:
    return UnknownCourse(
        Sentence("There is no course {course}.", course=slug), detail=f"no such written course course={slug!r}"
    )


def _written(row: RowMapping) -> Written:
    return Written(
        slug=row["slug"],
        text=row["text"],
        state=CourseState(row["state"]),
        revision=row["revision"],
        etag=row["etag"],
        everyone_by=row["everyone_by"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )


def _old(row: RowMapping) -> CourseRevision:
    return CourseRevision(
        slug=row["slug"],
        revision=row["revision"],
        text=row["text"],
        comment=row["comment"],
        by=row["by"],
        at=row["at"],
    )
