"""What the hub's own database says of all servers that run, read in one query and kept for a moment: a page that shows three
hundred of them, and three hundred reports in a second, cost one look."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from jupyterhub import orm

from labspawner.evidence.book import HubFacts
from labspawner.model import Lease

KEPT_S = 1.0


class HubFactsTable:
    """The facts of one hub. db: its database session, None while there is none; it is used in the event loop alone."""

    def __init__(self, db: Callable[[], Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._facts: Mapping[tuple[str, str], HubFacts] = {}
        self._taken_at = float("-inf")

    def of(self, lease: Lease) -> HubFacts:
        """What was true of this server at most `KEPT_S` ago; nothing where the hub does not know it, or it does not run."""
        now = self._clock()
        if now - self._taken_at >= KEPT_S:
            self._facts, self._taken_at = self._look(), now
        return self._facts.get((lease.user, lease.server_name), HubFacts())

    def _look(self) -> dict[tuple[str, str], HubFacts]:
        db = self._db()
        if db is None:
            return {}
        server = orm.Spawner
        rows = (
            db.query(orm.User.name, server.name, server.started, server.last_activity)
            .join(server, server.user_id == orm.User.id)
            .filter(server.started.isnot(None))
        )
        return {(user, name): HubFacts(_aware(started), _aware(last)) for user, name, started, last in rows}


def _aware(moment: datetime | None) -> datetime | None:
    """JupyterHub's database holds UTC without saying so."""
    return moment.replace(tzinfo=timezone.utc) if moment is not None and moment.tzinfo is None else moment
