"""A real store, a clock, and the book of evidence over them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from builders import NOW, a_lease

from labspawner.evidence import EvidenceBook, HubFacts
from labspawner.model import Lease, LeaseId, Phase
from labspawner.store import Store

CULL = {
    "after_s": 1200.0,
    "warn_s": [600.0, 120.0],
    "extend": {"step_s": 1800.0, "per_day": 2},
    "hold_s": 3600.0,
    "max_age_s": None,
}


class Desk:
    """What stands around a book: leases, the hub's facts, the time. `book` is made over again by `restart`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOW
        self.leases: dict[LeaseId, Lease] = {}
        self.started = NOW - timedelta(hours=3)
        self.last_activity: datetime | None = NOW
        self.asked = 0
        self.book = self.make()

    def make(self, **changes: Any) -> EvidenceBook:
        values: dict[str, Any] = {
            "ready": self.store.migrate,
            "live": self.leases.get,
            "facts": self._facts,
            "today": lambda now: now.date().isoformat(),
            "flush_s": 3600.0,
        }
        return EvidenceBook(self.store, "test-hub", **{**values, **changes})

    def _facts(self, lease: Lease) -> HubFacts:
        self.asked += 1
        return HubFacts(self.started, self.last_activity)

    async def lease(self, **cull: Any) -> Lease:
        changes = cull.pop("lease", {})
        pinned = {"cull": {**CULL, **cull}}
        new = a_lease(**{"phase": Phase.READY, "pinned": pinned, "user": f"s{len(self.leases)}", **changes})
        await self.store.add(new)
        self.leases[new.id] = new
        return new

    async def report(self, lease: Lease, *, used_min: float = 0.0, **changes: Any) -> dict[str, Any]:
        used = (self.now - timedelta(minutes=used_min)).isoformat()
        body = {"v": 1, "at": self.now.isoformat(), "last_activity": used, **changes}
        return await self.book.report(lease, json.dumps(body).encode(), self.now)

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)

    async def restart(self) -> None:
        await self.book.close()
        self.book = self.make()


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/leases.sqlite")
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    desk = Desk(store)
    yield desk
    await desk.book.close()


@pytest.fixture
def minutes() -> Callable[[str | None], float]:
    """How far from `NOW` an instant of an answer is."""
    return lambda text: (datetime.fromisoformat(text) - NOW).total_seconds() / 60
