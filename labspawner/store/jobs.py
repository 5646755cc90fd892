"""Actions on many servers of a course, kept so that they survive a closed page and a restart: one step per server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from labspawner.model import Json
from labspawner.sentences import Sentence
from labspawner.store import audit as audit_rows
from labspawner.store.audit import AuditEntry
from labspawner.store.rows import dump, dump_sentence
from labspawner.store.schema import job_steps, jobs
from labspawner.store.transactions import Transact

_BATCH = 500
_PRUNE_BATCH = 500


class JobState(str, Enum):
    """Where a job is. RUNNING is left once, and nothing leaves DONE or CANCELLED."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class StepState(str, Enum):
    """Where one step is. What is STARTED may be done again after a restart; OK, FAILED and SKIPPED are final."""

    WAITING = "waiting"
    STARTED = "started"
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


FINAL = frozenset({StepState.OK, StepState.FAILED, StepState.SKIPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An action on many servers. args: JSON, what the verb needs. counts: how many steps are in each state (zeros are left
    out). cancelled_by: who asked it to stop; it is over when `state` says so."""

    id: str
    course: str
    verb: str
    actor: str
    args: Mapping[str, Json] = field(default_factory=dict)
    state: JobState = JobState.RUNNING
    total: int
    created_at: datetime
    ended_at: datetime | None = None
    cancelled_by: str | None = None
    counts: Mapping[StepState, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a job does to one server, or did. place: from 0, in the order in which they are done."""

    place: int
    user: str
    server: str = ""
    state: StepState = StepState.WAITING
    sentence: Sentence | None = None
    changed_at: datetime


class Jobs:
    """The jobs of one hub. A step that is final, and a job that is over, never change again."""

    def __init__(self, read: Transact, write: Transact, *, hub_id: str) -> None:
        self._read = read
        self._write = write
        self._hub_id = hub_id

    async def begin(
        self,
        *,
        course: str,
        verb: str,
        actor: str,
        servers: Sequence[tuple[str, str]],
        now: datetime,
        args: Mapping[str, Json] | None = None,
        audit: AuditEntry | None = None,
    ) -> Job:
        """Store a new job with a step for each of `servers` (user, server name), all waiting."""
        job = Job(
            id=f"j{secrets.token_hex(8)}",
            course=course,
            verb=verb,
            actor=actor,
            args=dict(args or {}),
            total=len(servers),
            created_at=now,
            counts={StepState.WAITING: len(servers)} if servers else {},
        )
        await self._write(lambda conn: self._insert(conn, job, servers, audit))
        return job

    async def get(self, job_id: str) -> Job | None:
        """The job with this id, with the counts of its steps."""
        found = await self._jobs(sa.select(jobs).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def of(self, course: str | None = None, *, limit: int = 20) -> list[Job]:
        """The last jobs of a course, or of all, newest first."""
        query = sa.select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(limit)
        return await self._jobs(query.where(jobs.c.course == course) if course is not None else query)

    async def unfinished(self) -> list[Job]:
        """The jobs that are not over, oldest first: what to go on with after a restart."""
        query = sa.select(jobs).where(jobs.c.state == JobState.RUNNING.value)
        return await self._jobs(query.order_by(jobs.c.created_at, jobs.c.id))

    async def steps(self, job_id: str, *, states: Collection[StepState] | None = None) -> list[Step]:
        """The steps of a job, or those in one of `states`, in order; none for a job that is not on record."""
        query = sa.select(job_steps).join(jobs, jobs.c.id == job_steps.c.job_id)
        query = query.where(jobs.c.hub_id == self._hub_id, job_steps.c.job_id == job_id).order_by(job_steps.c.place)
        if states is not None:
            query = query.where(job_steps.c.state.in_([state.value for state in states]))
        return await self._read(lambda conn: [_step(row) for row in conn.execute(query).mappings()])

    async def step(
        self,
        job_id: str,
        place: int,
        state: StepState,
        *,
        now: datetime,
        sentence: Sentence | None = None,
        audit: AuditEntry | None = None,
    ) -> bool:
        """Note what became of a step, and say whether that was news: a final step, or one of a job that is over, stays as
        it is, and `audit` is not recorded then."""
        return await self._write(lambda conn: self._note(conn, job_id, place, state, now, sentence, audit))

    async def cancel(self, job_id: str, *, by: str, audit: AuditEntry | None = None) -> bool:
        """Ask a job to stop, and say whether it was still running. Whoever runs it ends it (`finish`)."""

        def work(conn: Connection) -> bool:
            this = sa.and_(self._running(job_id), jobs.c.cancelled_by.is_(None))
            changed = conn.execute(sa.update(jobs).where(this).values(cancelled_by=by)).rowcount == 1
            if changed and audit is not None:
                audit_rows.insert(conn, self._hub_id, audit)
            return changed

        return await self._write(work)

    async def finish(self, job_id: str, state: JobState, *, now: datetime, sentence: Sentence | None = None) -> bool:
        """End a job as DONE or CANCELLED, and say whether it was running; steps that are not final become SKIPPED, with
        `sentence`. ValueError for another state."""
        if state is JobState.RUNNING:
            raise ValueError("a job does not end as running")

        def work(conn: Connection) -> bool:
            ended = sa.update(jobs).where(self._running(job_id)).values(state=state.value, ended_at=now)
            if conn.execute(ended).rowcount != 1:
                return False
            rest = sa.and_(job_steps.c.job_id == job_id, job_steps.c.state.not_in(_FINAL))
            said = dump_sentence(sentence) if sentence is not None else None
            skipped = {"state": StepState.SKIPPED.value, "sentence": said, "changed_at": now}
            conn.execute(sa.update(job_steps).where(rest).values(**skipped))
            return True

        return await self._write(work)

    async def prune(self, before: datetime) -> int:
        """Drop jobs that ended before an instant, with their steps; how many."""
        old = sa.select(jobs.c.id).where(jobs.c.hub_id == self._hub_id, jobs.c.ended_at < before).limit(_PRUNE_BATCH)
        dropped = 0
        while True:
            batch = await self._write(lambda conn: _drop(conn, conn.scalars(old).all()))
            dropped += batch
            if batch < _PRUNE_BATCH:
                return dropped

    def _running(self, job_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(jobs.c.hub_id == self._hub_id, jobs.c.id == job_id, jobs.c.state == JobState.RUNNING.value)

    def _insert(self, conn: Connection, job: Job, servers: Sequence[tuple[str, str]], audit: AuditEntry | None) -> None:
        conn.execute(
            sa.insert(jobs).values(
                id=job.id,
                hub_id=self._hub_id,
                course=job.course,
                verb=job.verb,
                actor=job.actor,
                args=dump(dict(job.args)),
                state=job.state.value,
                total=job.total,
                created_at=job.created_at,
            )
        )
        rows = [
            {
                "job_id": job.id,
                "place": place,
                "username": user,
                "server_name": server,
                "state": StepState.WAITING.value,
                "changed_at": job.created_at,
            }
            for place, (user, server) in enumerate(servers)
        ]
        for start in range(0, len(rows), _BATCH):
            conn.execute(sa.insert(job_steps), rows[start : start + _BATCH])
        if audit is not None:
            audit_rows.insert(conn, self._hub_id, audit)

    async def _jobs(self, query: sa.Select[tuple[object, ...]]) -> list[Job]:
        mine = query.where(jobs.c.hub_id == self._hub_id)

        def work(conn: Connection) -> list[Job]:
            rows = conn.execute(mine).mappings().all()
            counts = _counts(conn, [row["id"] for row in rows])
            return [_job(row, counts.get(row["id"], {})) for row in rows]

        return await self._read(work)

    def _note(
        self,
        conn: Connection,
        job_id: str,
        place: int,
        state: StepState,
        now: datetime,
        sentence: Sentence | None,
        audit: AuditEntry | None,
    ) -> bool:
        if conn.execute(sa.select(jobs.c.id).where(self._running(job_id)).with_for_update()).first() is None:
            return False
        this = sa.and_(job_steps.c.job_id == job_id, job_steps.c.place == place, job_steps.c.state.not_in(_FINAL))
        said = dump_sentence(sentence) if sentence is not None else None
        values = {"state": state.value, "sentence": said, "changed_at": now}
        changed = conn.execute(sa.update(job_steps).where(this).values(**values)).rowcount == 1
        if changed and audit is not None:
            audit_rows.insert(conn, self._hub_id, audit)
        return changed


_FINAL = [state.value for state in FINAL]


def _counts(conn: Connection, job_ids: Sequence[str]) -> dict[str, dict[StepState, int]]:
    found: dict[str, dict[StepState, int]] = {}
    for start in range(0, len(job_ids), _BATCH):
        part = job_ids[start : start + _BATCH]
        query = sa.select(job_steps.c.job_id, job_steps.c.state, sa.func.count()).where(job_steps.c.job_id.in_(part))
        for job_id, state, count in conn.execute(query.group_by(job_steps.c.job_id, job_steps.c.state)):
            found.setdefault(job_id, {})[StepState(state)] = count
    return found


def _drop(conn: Connection, job_ids: Sequence[str]) -> int:
    conn.execute(sa.delete(job_steps).where(job_steps.c.job_id.in_(job_ids)))
    return conn.execute(sa.delete(jobs).where(jobs.c.id.in_(job_ids))).rowcount


def _job(row: RowMapping, counts: Mapping[StepState, int]) -> Job:
    return Job(
        id=row["id"],
        course=row["course"],
        verb=row["verb"],
        actor=row["actor"],
        args=json.loads(row["args"]),
        state=JobState(row["state"]),
        total=row["total"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        cancelled_by=row["cancelled_by"],
        counts=dict(counts),
    )


def _step(row: RowMapping) -> Step:
    return Step(
        place=row["place"],
        user=row["username"],
        server=row["server_name"],
        state=StepState(row["state"]),
        sentence=Sentence.from_json(json.loads(row["sentence"])) if row["sentence"] else None,
        changed_at=row["changed_at"],
    )
