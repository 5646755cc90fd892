"""The live leases of one hub: in memory for questions that must not wait, written through to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from labspawner import metrics
from labspawner.model import Ending, Lease, LeaseId, Phase
from labspawner.store import Store

NOTICES_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Why a student's last server ended, for the next page that they see."""

    profile_title: Mapping[str, str]
    ending: Ending
    at: datetime


class LeaseBook:
    """Answers without I/O what the store holds of this hub. Only this process writes phases; the culler, another
    process, writes endings: read those with `fresh`."""

    def __init__(self, store: Store, hub_id: str, clock: Callable[[], datetime]) -> None:
        self._store = store
        self.hub_id = hub_id
        self._clock = clock
        self._leases: dict[LeaseId, Lease] = {}
        self._notices: dict[tuple[str, str], Notice] = {}

    async def load(self) -> None:
        """Read what an earlier process left."""
        for lease in await self._store.live(self.hub_id):
            self._remember(lease)
        for lease in await self._store.latest_endings(self.hub_id, since=self._clock() - NOTICES_FOR):
            self._take_notice(lease)

    def all(self) -> list[Lease]:
        return list(self._leases.values())

    def get(self, lease_id: LeaseId) -> Lease | None:
        return self._leases.get(lease_id)

    def active(self, user: str, server_name: str) -> Lease | None:
        """The lease of this server that is neither parked nor ended; there is at most one."""
        return next((lease for lease in self.of(user, server_name) if lease.phase is not Phase.PARKED), None)

    def of(self, user: str, server_name: str) -> list[Lease]:
        """All live leases of this server: the active one, and one for each profile that is parked."""
        return [lease for lease in self._leases.values() if (lease.user, lease.server_name) == (user, server_name)]

    def notice(self, user: str, server_name: str) -> Notice | None:
        """Why the last server of this name ended, unless the student ended it or has started another."""
        return self._notices.get((user, server_name))

    async def fresh(self, lease_id: LeaseId) -> Lease | None:
        """As the store has it now."""
        return await self._store.get(lease_id)

    async def add(self, lease: Lease) -> None:
        """Write a new lease. Raises LeaseConflict where the server has an active one."""
        await self._store.add(lease)
        self._remember(lease)

    async def write(self, lease_id: LeaseId, **changes: Any) -> Lease:
        """Change a lease in the store, then here; answers it as it is now."""
        lease = await self._store.update(lease_id, **changes)
        if lease.phase in {Phase.ENDED, Phase.PARKED}:
            self._take_notice(lease)
        self._remember(lease)
        return lease

    def _remember(self, lease: Lease) -> None:
        old = self._leases.pop(lease.id, None)
        if old is not None:
            metrics.LEASES.labels(old.provider, old.profile, old.phase.value).dec()
        if lease.phase is Phase.ENDED:
            return
        self._leases[lease.id] = lease
        metrics.LEASES.labels(lease.provider, lease.profile, lease.phase.value).inc()
        if lease.phase in {Phase.QUEUED, Phase.READY}:
            self._notices.pop((lease.user, lease.server_name), None)

    def _take_notice(self, lease: Lease) -> None:
        key = (lease.user, lease.server_name)
        if lease.ending is None or lease.ending.by in {"user", "hub"}:
            self._notices.pop(key, None)
        elif self.active(*key) in (None, self._leases.get(lease.id)):
            title = lease.pinned.get("title")
            titles = {str(k): str(v) for k, v in title.items()} if isinstance(title, dict) else {"en": lease.profile}
            at = lease.ended_at or lease.phase_at
            self._notices[key] = Notice(profile_title=titles, ending=lease.ending, at=at)
