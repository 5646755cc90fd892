"""What is known of the use of servers, and what their students were granted on a day, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from labspawner.model import Activity, Evidence, HostLook, Lease, LeaseId, Phase, Work, WorkKind
from labspawner.sentences import Sentence
from labspawner.store.rows import dump, dump_sentence, lease_from_row
from labspawner.store.schema import allowances, evidence, leases

_BATCH = 500
_GRANTED = frozenset({"extended_until", "held_until"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a server stands: what is known of its use, and what the hub last said of it.

    verdict: `keep`, `warn` or `cull`; None where nothing was said yet. ends_at, cause: as `culling.Forecast` has them.
    """

    evidence: Evidence
    verdict: str | None = None
    reason: Sentence | None = None
    ends_at: datetime | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a student was granted for one server on one day: clicks on Extend, and seconds of hold."""

    extensions: int = 0
    held_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a wish became. until: None where it was refused, or where a hold was given up. used: all of that day."""

    until: datetime | None
    used: Allowance


def put(conn: Connection, standings: Mapping[LeaseId, Standing]) -> int:
    """Store what is known now, all but extensions and holds; the number stored. A lease that is not on record is left
    out: it was pruned meanwhile."""
    stored, ids = 0, list(standings)
    for start in range(0, len(ids), _BATCH):
        query = sa.select(leases.c.id).where(leases.c.id.in_(ids[start : start + _BATCH]))
        known = conn.scalars(query.with_for_update(read=True, key_share=True)).all()
        if known:
            conn.execute(_upsert(conn), [_row(LeaseId(id_), standings[LeaseId(id_)]) for id_ in known])
        stored += len(known)
    return stored


def live(conn: Connection, hub_id: str) -> list[tuple[Lease, Standing | None]]:
    """The leases of a hub that have not ended, oldest first, each with how it stands; one query."""
    columns = [column.label(f"e_{column.name}") for column in evidence.c]
    query = (
        sa.select(leases, *columns)
        .join(evidence, evidence.c.lease_id == leases.c.id, isouter=True)
        .where(leases.c.hub_id == hub_id, leases.c.phase != Phase.ENDED.value)
        .order_by(leases.c.created_at, leases.c.id)
    )
    return [
        (lease_from_row(row), None if row["e_lease_id"] is None else _standing(row, "e_"))
        for row in conn.execute(query).mappings()
    ]


def fetch(conn: Connection, lease_ids: Collection[LeaseId]) -> dict[LeaseId, Standing]:
    """How some leases stand; one of which nothing is known is left out."""
    found: dict[LeaseId, Standing] = {}
    ids = list(lease_ids)
    for start in range(0, len(ids), _BATCH):
        query = sa.select(evidence).where(evidence.c.lease_id.in_(ids[start : start + _BATCH]))
        for row in conn.execute(query).mappings():
            found[LeaseId(row["lease_id"])] = _standing(row, "")
    return found


def granted(conn: Connection, hub_id: str, day: str) -> dict[LeaseId, Allowance]:
    """What was granted on a day, for the live leases of a hub."""
    query = (
        sa.select(allowances)
        .join(leases, leases.c.id == allowances.c.lease_id)
        .where(leases.c.hub_id == hub_id, leases.c.phase != Phase.ENDED.value, allowances.c.day == day)
    )
    return {
        LeaseId(row.lease_id): Allowance(extensions=row.extensions, held_s=row.held_s) for row in conn.execute(query)
    }


def extend(
    conn: Connection, lease_id: LeaseId, *, day: str, per_day: int, step: timedelta, base: datetime
) -> Grant | None:
    """Push the end from `base`, or from where it was pushed already, by `step`; `Grant.until` None beyond `per_day`.

    None where the lease is not on record. The row of the lease is locked, so clicks at once are counted one by one.
    """
    if not _lock(conn, lease_id):
        return None
    used, before = _allowance(conn, lease_id, day), _until(conn, lease_id, "extended_until")
    if used.extensions >= per_day:
        return Grant(until=None, used=used)
    until = max(base, before or base) + step
    used = Allowance(extensions=used.extensions + 1, held_s=used.held_s)
    _write(conn, lease_id, day, used, "extended_until", until)
    return Grant(until=until, used=used)


def hold(
    conn: Connection, lease_id: LeaseId, *, day: str, budget_s: float, seconds: float, now: datetime
) -> Grant | None:
    """Hold for `seconds` from `now`, in place of a hold that is under way: what that did not use is given back first.

    0 seconds gives it up. `Grant.until` None and nothing changed where the day's budget is too small. None where the
    lease is not on record.
    """
    if not _lock(conn, lease_id):
        return None
    used, before = _allowance(conn, lease_id, day), _until(conn, lease_id, "held_until")
    unused_s = max(0.0, (before - now).total_seconds()) if before else 0.0
    held_s = max(0.0, used.held_s - unused_s)
    if held_s + seconds > budget_s:
        return Grant(until=None, used=used)
    until = now + timedelta(seconds=seconds) if seconds > 0 else None
    used = Allowance(extensions=used.extensions, held_s=held_s + seconds)
    _write(conn, lease_id, day, used, "held_until", until)
    return Grant(until=until, used=used)


def _lock(conn: Connection, lease_id: LeaseId) -> bool:
    query = sa.select(leases.c.id).where(leases.c.id == lease_id).with_for_update()
    return conn.scalar(query) is not None


def _allowance(conn: Connection, lease_id: LeaseId, day: str) -> Allowance:
    query = sa.select(allowances).where(allowances.c.lease_id == lease_id, allowances.c.day == day)
    row = conn.execute(query).one_or_none()
    return Allowance(extensions=row.extensions, held_s=row.held_s) if row else Allowance()


def _until(conn: Connection, lease_id: LeaseId, name: str) -> datetime | None:
    until: datetime | None = conn.scalar(sa.select(evidence.c[name]).where(evidence.c.lease_id == lease_id))
    return until


def _write(conn: Connection, lease_id: LeaseId, day: str, used: Allowance, name: str, until: datetime | None) -> None:
    spent = {"extensions": used.extensions, "held_s": used.held_s}
    into = _insert(conn, allowances)
    conn.execute(
        into.on_conflict_do_update(index_elements=["lease_id", "day"], set_=spent),
        {"lease_id": lease_id, "day": day, **spent},
    )
    into = _insert(conn, evidence)
    conn.execute(
        into.on_conflict_do_update(index_elements=["lease_id"], set_={name: until}),
        {**_row(lease_id, Standing(evidence=Evidence())), name: until},
    )


def _insert(conn: Connection, table: sa.Table) -> Any:
    return sqlite.insert(table) if conn.dialect.name == "sqlite" else postgresql.insert(table)


def _upsert(conn: Connection) -> Any:
    into = _insert(conn, evidence)
    names = [column.name for column in evidence.c if column.name != "lease_id" and column.name not in _GRANTED]
    return into.on_conflict_do_update(index_elements=["lease_id"], set_={name: into.excluded[name] for name in names})


def _row(lease_id: LeaseId, standing: Standing) -> dict[str, Any]:
    known = standing.evidence
    report, host = known.report or Activity(), known.host
    work = [[item.kind.value, item.what, item.since.isoformat() if item.since else None] for item in report.work]
    return {
        "lease_id": lease_id,
        "expected": known.expected,
        "taken_at": report.taken_at,
        "valid_until": report.valid_until,
        "last_activity": report.last_activity,
        "busy": report.busy,
        "work": dump(work) if work else None,
        "work_count": report.work_count,
        "waiting": report.waiting,
        "clients": report.clients,
        "unsaved": report.unsaved,
        "gpu_last_busy": report.gpu_last_busy,
        "host_since": host.since if host else None,
        "host_looked_at": host.looked_at if host else None,
        "host_last_busy": host.last_busy if host else None,
        "warned_at": known.warned_at,
        "verdict": standing.verdict,
        "reason": dump_sentence(standing.reason) if standing.reason else None,
        "ends_at": standing.ends_at,
        "cause": standing.cause,
    }


def _standing(row: RowMapping, prefix: str) -> Standing:
    value = {name: row[prefix + name] for name in evidence.c.keys()}  # noqa: SIM118 - a collection of columns, no dict
    report = host = None
    if value["taken_at"] is not None:
        report = Activity(
            **{name: value[name] for name in ("taken_at", "valid_until", "last_activity", "busy", "gpu_last_busy")},
            **{name: value[name] for name in ("work_count", "waiting", "clients", "unsaved")},
            work=_work(value["work"]),
        )
    if value["host_since"] is not None:
        host = HostLook(since=value["host_since"], looked_at=value["host_looked_at"], last_busy=value["host_last_busy"])
    known = Evidence(
        expected=value["expected"],
        report=report,
        host=host,
        **{name: value[name] for name in ("extended_until", "held_until", "warned_at")},
    )
    reason = Sentence.from_json(json.loads(value["reason"])) if value["reason"] else None
    return Standing(
        evidence=known, verdict=value["verdict"], reason=reason, ends_at=value["ends_at"], cause=value["cause"]
    )


def _work(text: str | None) -> tuple[Work, ...]:
    return tuple(
        Work(kind=WorkKind(kind), what=what, since=datetime.fromisoformat(since) if since else None)
        for kind, what, since in (json.loads(text) if text else ())
    )
