"""What course staff said to whoever uses a server, inside the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from labspawner.model import LeaseId, Phase
from labspawner.store.schema import leases
from labspawner.store.schema import messages as table


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidMessage:
    """Plain text, as it was typed. id: grows with time; another one for each message to a server."""

    lease_id: LeaseId
    id: int
    text: str
    by: str
    at: datetime


def insert(conn: Connection, said: SaidMessage, *, most: int, before: datetime) -> bool:
    """Keep a message; False where its lease is not on record. What is too old goes: of this hub what was said before
    `before`, and of this server all but the newest `most`."""
    locked = sa.select(leases.c.hub_id).where(leases.c.id == said.lease_id).with_for_update(read=True, key_share=True)
    hub_id = conn.scalar(locked)
    if hub_id is None:
        return False
    of_hub = sa.select(leases.c.id).where(leases.c.hub_id == hub_id)
    conn.execute(sa.delete(table).where(table.c.at < before, table.c.lease_id.in_(of_hub.scalar_subquery())))
    row = {"lease_id": said.lease_id, "id": said.id, "text": said.text, "by": said.by, "at": said.at}
    conn.execute(sa.insert(table).values(row))
    of_server = table.c.lease_id == said.lease_id
    kept = sa.select(table.c.id).where(of_server).order_by(table.c.id.desc()).limit(most)
    ids = conn.scalars(kept).all()
    conn.execute(sa.delete(table).where(of_server, table.c.id < min(ids)))
    return True


def live(conn: Connection, hub_id: str, *, since: datetime) -> list[SaidMessage]:
    """What was said since then to the servers of a hub that have not ended, oldest first."""
    query = (
        sa.select(table)
        .join(leases, leases.c.id == table.c.lease_id)
        .where(leases.c.hub_id == hub_id, leases.c.phase != Phase.ENDED.value, table.c.at >= since)
        .order_by(table.c.id)
    )
    return [
        SaidMessage(lease_id=LeaseId(row.lease_id), id=row.id, text=row.text, by=row.by, at=row.at)
        for row in conn.execute(query)
    ]
