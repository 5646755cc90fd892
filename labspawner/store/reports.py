"""What is read from many rows, and what is written or dropped in bulk: decisions, usage, old rows."""

from __future__ import annotations

import logging
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from labspawner.model import Decision, LeaseId, Phase
from labspawner.store.rows import decision_from_row, decision_to_row
from labspawner.store.schema import decisions, digest, leases

log = logging.getLogger(__name__)

_BATCH = 500  # rows of one statement: SQLite takes 32766 parameters, PostgreSQL 65535
_MEDIAN_OF = 200
_STARTING = (Phase.QUEUED.value, Phase.LAUNCHING.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How long one user held servers of one profile on one provider. seconds: wall time from ready to end."""

    user: str
    profile: str
    provider: str
    seconds: float


def insert_decisions(conn: Connection, new: Sequence[Decision]) -> int:
    """Store decisions; one about a lease that is not on record (pruned meanwhile) is dropped. The number stored."""
    stored = 0
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        wanted = {decision.lease_id for decision in batch}
        query = sa.select(leases.c.id, leases.c.hub_id).where(leases.c.id.in_(wanted))
        hubs = {row.id: row.hub_id for row in conn.execute(query.with_for_update(read=True, key_share=True))}
        rows = [decision_to_row(d, hub_id=hubs[d.lease_id]) for d in batch if d.lease_id in hubs]
        if rows:
            conn.execute(sa.insert(decisions), rows)
        stored += len(rows)
    if stored < len(new):
        log.warning("decisions dropped, their leases are not on record count=%d", len(new) - stored)
    return stored


def fetch_decisions(
    conn: Connection, *, hub_id: str, user: str | None, lease_id: LeaseId | None, limit: int
) -> list[Decision]:
    """Decisions, newest first."""
    query = sa.select(decisions).where(decisions.c.hub_id == hub_id)
    if user is not None:
        query = query.where(decisions.c.user_key == digest(user))
    if lease_id is not None:
        query = query.where(decisions.c.lease_id == lease_id)
    query = query.order_by(decisions.c.at.desc(), decisions.c.id.desc()).limit(limit)
    return [decision_from_row(row) for row in conn.execute(query).mappings()]


def median_session_s(conn: Connection, hub_id: str, profile: str) -> float | None:
    """The median of the last 200 sessions of a profile, from ready to end, in seconds; None before there is one."""
    query = (
        sa.select(leases.c.ready_at, leases.c.ended_at)
        .where(
            leases.c.hub_id == hub_id,
            leases.c.profile == profile,
            leases.c.phase == Phase.ENDED.value,
            leases.c.ready_at.is_not(None),
            leases.c.ended_at.is_not(None),
        )
        .order_by(leases.c.ended_at.desc())
        .limit(_MEDIAN_OF)
    )
    spans = [max(0.0, (row.ended_at - row.ready_at).total_seconds()) for row in conn.execute(query)]
    return statistics.median(spans) if spans else None


def usage(
    conn: Connection, hub_id: str, edges: Sequence[datetime], *, now: datetime, course: str = ""
) -> list[list[Usage]]:
    """Who held what for how long between each of `edges` and the next, all of it in one read; what became never ready does
    not count. edges: at least two, the earliest first. course: of its profiles alone.

    A server that still runs counts up to `now`, a parked one up to when it was parked. A lease that was parked and
    resumed counts from its last ready: the stretch before is not on record.
    """
    since, until = edges[0], edges[-1]
    query = sa.select(
        leases.c.username,
        leases.c.profile,
        leases.c.provider,
        leases.c.phase,
        leases.c.phase_at,
        leases.c.ready_at,
        leases.c.ended_at,
    ).where(
        leases.c.hub_id == hub_id,
        leases.c.ready_at < until,
        sa.or_(leases.c.ended_at.is_(None), leases.c.ended_at > since),
        leases.c.phase.not_in(_STARTING),
    )
    if course:
        query = query.where(leases.c.profile.startswith(f"{course}/", autoescape=True))
    stretches = list(pairwise(edges))
    seconds: list[defaultdict[tuple[str, str, str], float]] = [defaultdict(float) for _ in stretches]
    for row in conn.execute(query):
        end = row.ended_at or (row.phase_at if row.phase == Phase.PARKED.value else now)
        for (begins, ends), held in zip(stretches, seconds, strict=True):
            span = (min(end, ends) - max(row.ready_at, begins)).total_seconds()
            if span > 0:
                held[row.username, row.profile, row.provider] += span
    return [
        [
            Usage(user=user, profile=profile, provider=provider, seconds=total)
            for (user, profile, provider), total in sorted(held.items())
        ]
        for held in seconds
    ]


def prune_some(conn: Connection, before: datetime, *, batch: int) -> int:
    """Drop at most `batch` old decisions, then at most `batch` leases that ended long ago; the number dropped.

    A lease that is live, or ended at `before` or later, stays, however old it is. Decisions go with their lease.
    """
    old = sa.select(decisions.c.id).where(decisions.c.at < before).limit(batch)
    dropped = conn.execute(sa.delete(decisions).where(decisions.c.id.in_(old.scalar_subquery()))).rowcount
    if dropped == batch:
        return dropped
    past = (
        sa.select(leases.c.id)
        .where(leases.c.phase == Phase.ENDED.value, leases.c.ended_at < before)
        .limit(batch - dropped)
    )
    ids = conn.scalars(past).all()
    for start in range(0, len(ids), _BATCH):
        part = ids[start : start + _BATCH]
        conn.execute(sa.delete(decisions).where(decisions.c.lease_id.in_(part)))
        dropped += conn.execute(sa.delete(leases).where(leases.c.id.in_(part))).rowcount
    return dropped
