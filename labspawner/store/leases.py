"""Leases in the database, inside the caller's transaction. What may change is decided by `changed`, which is pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from labspawner.errors import LeaseConflict, UnknownLease
from labspawner.model import Ending, Lease, LeaseId, Phase, ReleaseMode
from labspawner.sentences import Sentence
from labspawner.store.rows import lease_from_row, lease_to_row
from labspawner.store.schema import leases

FIXED = frozenset({"id", "hub_id", "created_at"})
# Made once: to build a statement costs more than to run it.
_FETCH = sa.select(leases).where(leases.c.id == sa.bindparam("the_lease"))
_FETCH_LOCKED = _FETCH.with_for_update()
_INSERT = sa.insert(leases)
_UPDATE = sa.update(leases).where(leases.c.id == sa.bindparam("the_lease"))
INTENDABLE = frozenset(Phase) - {Phase.STOPPING, Phase.ENDED}


def conflict(detail: str) -> LeaseConflict:
    return LeaseConflict(
        Sentence("Another start or stop of this server is under way. Wait a moment, then try again."), detail=detail
    )


def unknown(lease_id: str) -> UnknownLease:
    return UnknownLease(Sentence("This server is no longer on record."), detail=f"no such lease lease={lease_id!r}")


def changed(
    lease: Lease, changes: Mapping[str, object], *, expected: Collection[Phase] | None, now: datetime
) -> Lease | None:
    """What `lease` becomes; None: it stays as it is, because it has ended and is only told so again.

    Raises LeaseConflict if its phase is not expected (None: any live phase), and whenever an ended lease would get
    another phase. TypeError for a field that a lease has not, or that never changes.
    """
    if wrong := changes.keys() & FIXED:
        raise TypeError(f"a lease never changes its {', '.join(sorted(wrong))}")
    phase = changes.get("phase", lease.phase)
    told_again = lease.phase is Phase.ENDED and changes.get("phase") is Phase.ENDED
    if expected is None:
        fits = lease.phase is not Phase.ENDED or told_again
    else:
        fits = lease.phase in expected and (lease.phase is not Phase.ENDED or phase is Phase.ENDED)
    if not fits:
        wanted = sorted(p.value for p in expected) if expected is not None else "live"
        raise conflict(f"lease={lease.id} phase={lease.phase.value} expected={wanted} changes={sorted(changes)}")
    if told_again:
        return None
    stamps: dict[str, object] = {}
    if phase is not lease.phase:
        stamps = {"phase_at": now}
        if phase is Phase.READY:
            stamps["ready_at"] = now
        elif phase is Phase.ENDED:
            stamps["ended_at"] = now
    return lease.with_(**{**stamps, **changes})


def insert(conn: Connection, lease: Lease) -> None:
    """Store a new lease. Raises LeaseConflict while the same server has an active one (neither parked nor
    ended), or if the id is taken."""
    try:
        conn.execute(_INSERT, lease_to_row(lease))
    except sa.exc.IntegrityError as exc:
        raise conflict(f"an active lease exists hub={lease.hub_id} lease={lease.id} cause={exc.orig}") from exc


def fetch(conn: Connection, lease_id: LeaseId, *, lock: bool = False) -> Lease | None:
    """One lease. lock: until the transaction ends (on SQLite it holds the whole database already)."""
    row = conn.execute(_FETCH_LOCKED if lock else _FETCH, {"the_lease": lease_id}).mappings().one_or_none()
    return lease_from_row(row) if row else None


def update(
    conn: Connection,
    lease_id: LeaseId,
    changes: Mapping[str, object],
    *,
    expected: Collection[Phase] | None,
    now: datetime,
) -> Lease:
    """Read, decide with `changed`, write: nobody else writes this lease in between."""
    before = fetch(conn, lease_id, lock=True)
    if before is None:
        raise unknown(lease_id)
    after = changed(before, changes, expected=expected, now=now)
    if after is None:
        return before
    row = lease_to_row(after)
    if "release_mode" in changes:
        row["mode_before_intent"] = None
    try:
        conn.execute(_UPDATE, {**row, "the_lease": lease_id})
    except sa.exc.IntegrityError as exc:  # renamed to, or resumed as, a server that has an active lease
        raise conflict(f"lease={lease_id} cause={exc.orig}") from exc
    return after


def live(conn: Connection, hub_id: str, *, user: str | None, server_name: str | None) -> list[Lease]:
    """The leases of a hub that have not ended, oldest first."""
    query = sa.select(leases).where(leases.c.hub_id == hub_id, leases.c.phase != Phase.ENDED.value)
    if user is not None:
        query = query.where(leases.c.username == user)
    if server_name is not None:
        query = query.where(leases.c.server_name == server_name)
    rows = conn.execute(query.order_by(leases.c.created_at, leases.c.id)).mappings()
    return [lease_from_row(row) for row in rows]


def latest_endings(conn: Connection, hub_id: str, *, since: datetime) -> list[Lease]:
    """For each server the last of its leases that ended with an ending, at `since` or later; newest first."""
    rank = sa.func.row_number().over(
        partition_by=leases.c.owner_key, order_by=(leases.c.ended_at.desc(), leases.c.id.desc())
    )
    ranked = (
        sa.select(leases.c.id, rank.label("place"))
        .where(
            leases.c.hub_id == hub_id,
            leases.c.phase == Phase.ENDED.value,
            leases.c.ended_at >= since,
            leases.c.ending.is_not(None),
        )
        .subquery()
    )
    query = (
        sa.select(leases)
        .join(ranked, ranked.c.id == leases.c.id)
        .where(ranked.c.place == 1)
        .order_by(leases.c.ended_at.desc(), leases.c.id)
    )
    return [lease_from_row(row) for row in conn.execute(query).mappings()]


def intend(conn: Connection, lease_id: LeaseId, ending: Ending, release_mode: ReleaseMode) -> Lease:
    """Note why, and how, a server is about to be stopped; a later intention replaces an earlier one.

    Raises LeaseConflict if the server is stopping already or has ended, UnknownLease.
    """
    current = fetch(conn, lease_id, lock=True)
    if current is None:
        raise unknown(lease_id)
    if current.phase not in INTENDABLE:
        raise conflict(f"lease={lease_id} phase={current.phase.value} intend by={ending.by!r}")
    after = current.with_(ending=ending, release_mode=release_mode)
    mode = _mode_before_intent(conn, lease_id) or current.release_mode.value
    row = {**lease_to_row(after), "mode_before_intent": mode}
    conn.execute(sa.update(leases).where(leases.c.id == lease_id).values(**row))
    return after


def withdraw(conn: Connection, lease_id: LeaseId, ending: Ending) -> bool:
    """Take an intention back, if it is still `ending` and nobody acts on it yet; say whether that was so."""
    current = fetch(conn, lease_id, lock=True)
    if current is None or current.phase not in INTENDABLE or current.ending != ending:
        return False
    mode = _mode_before_intent(conn, lease_id) or current.release_mode.value
    row = {"ending": None, "release_mode": mode, "mode_before_intent": None}
    conn.execute(sa.update(leases).where(leases.c.id == lease_id).values(**row))
    return True


def _mode_before_intent(conn: Connection, lease_id: LeaseId) -> str | None:
    mode: str | None = conn.scalar(sa.select(leases.c.mode_before_intent).where(leases.c.id == lease_id))
    return mode
