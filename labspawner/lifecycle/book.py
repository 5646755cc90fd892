"""The live leases of one hub: in memory for questions that must not wait, written through to the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from labspawner import metrics
from labspawner.deadlines import finished
from labspawner.lifecycle.bells import Bell
from labspawner.model import Ending, Lease, LeaseId, Phase
from labspawner.store import Store

NOTICES_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Why a student's last server ended, for the next page that they see. profile: its key."""

    profile_title: Mapping[str, str]
    ending: Ending
    at: datetime
    profile: str = ""


class LeaseBook:
    """Answers without I/O what the store holds of this hub.

    Only this process writes phases, but for an administrator's command beside the hub, which may end leases; the
    culler writes endings. `reload` and `refresh` take over what others wrote, and never undo what was written here
    while they read.
    """

    def __init__(self, store: Store, hub_id: str, clock: Callable[[], datetime]) -> None:
        self._store = store
        self.hub_id = hub_id
        self._clock = clock
        self._leases: dict[LeaseId, Lease] = {}
        self._of_server: dict[tuple[str, str], dict[LeaseId, Lease]] = {}  # polls ask by server, thousands of times
        self._of_user: dict[str, dict[LeaseId, Lease]] = {}
        self._notices: dict[tuple[str, str], Notice] = {}
        self.changed = Bell()
        self._readers: dict[int, set[LeaseId]] = {}

    async def load(self) -> None:
        """Read what an earlier process left."""
        since = self._clock() - NOTICES_FOR
        live = await self._store.live(self.hub_id)
        over = await self._store.latest_endings(self.hub_id, since=since)
        for lease in live:
            self._remember(lease)
        over += [lease for lease in live if lease.phase is Phase.PARKED and lease.phase_at >= since]
        for lease in sorted(over, key=_over_at):
            self._take_notice(lease)

    def all(self) -> list[Lease]:
        return list(self._leases.values())

    def get(self, lease_id: LeaseId) -> Lease | None:
        return self._leases.get(lease_id)

    def active(self, user: str, server_name: str) -> Lease | None:
        """The lease of this server that is neither parked nor ended; there is at most one."""
        return next((lease for lease in self.of(user, server_name) if lease.phase is not Phase.PARKED), None)

    def of(self, user: str, server_name: str) -> list[Lease]:
        """All live leases of this server: the active one, and those that are parked."""
        return list(self._of_server.get((user, server_name), {}).values())

    def of_user(self, user: str) -> list[Lease]:
        """All live leases of a user's servers."""
        return list(self._of_user.get(user, {}).values())

    def notices(self) -> dict[tuple[str, str], Notice]:
        """Why the last servers ended, by user and server name."""
        return dict(self._notices)

    def notice(self, user: str, server_name: str) -> Notice | None:
        """Why the last server of this name ended, unless the student ended it or has started another."""
        return self._notices.get((user, server_name))

    async def reload(self) -> list[Lease]:
        """Take over what other processes wrote; all live leases as they are now."""
        with self._reading() as mine:
            found = {lease.id: lease for lease in await self._store.live(self.hub_id)}
            for lease_id in (found.keys() | self._leases.keys()) - mine:
                self._take_over(lease_id, found.get(lease_id))
        return self.all()

    async def refresh(self, lease_id: LeaseId) -> Lease | None:
        """Take over what other processes wrote about one lease; None where it has ended."""
        with self._reading() as mine:
            found = await self._store.get(lease_id)
            if lease_id not in mine:
                self._take_over(lease_id, found)
        return self.get(lease_id)

    async def add(self, lease: Lease) -> None:
        """Write a new lease. Raises LeaseConflict where the server has an active one.

        A cancellation is passed on when the lease stands in both the store and the book, or in neither.
        """
        await finished(self._add(lease))

    async def write(self, lease_id: LeaseId, *, expected: Collection[Phase] | None = None, **changes: Any) -> Lease:
        """Change a lease in the store, then here, and answer it as it is now; a cancellation waits for both.

        Raises LeaseConflict where its phase is not `expected` (None: any but ENDED), and UnknownLease.
        """
        return await finished(self._write(lease_id, expected, changes))

    async def _add(self, lease: Lease) -> None:
        await self._store.add(lease)
        self._remember(lease)

    async def _write(self, lease_id: LeaseId, expected: Collection[Phase] | None, changes: dict[str, Any]) -> Lease:
        lease = await self._store.update(lease_id, expected=expected, **changes)
        if lease.phase in {Phase.ENDED, Phase.PARKED}:
            self._take_notice(lease)
        self._remember(lease)
        return lease

    @contextmanager
    def _reading(self) -> Iterator[set[LeaseId]]:
        """Collects the leases that are written here meanwhile: what is being read of them may be old."""
        mine: set[LeaseId] = set()
        self._readers[id(mine)] = mine
        try:
            yield mine
        finally:
            del self._readers[id(mine)]

    def _take_over(self, lease_id: LeaseId, found: Lease | None) -> None:
        if found is None or found.phase is Phase.ENDED:
            self._forget(lease_id)
        elif found != self._leases.get(lease_id):
            self._remember(found)

    def _forget(self, lease_id: LeaseId) -> None:
        old = self._leases.pop(lease_id, None)
        if old is not None:
            key = (old.user, old.server_name)
            del self._of_server[key][lease_id]
            if not self._of_server[key]:
                del self._of_server[key]
            del self._of_user[old.user][lease_id]
            if not self._of_user[old.user]:
                del self._of_user[old.user]
            self.changed.ring()
            metrics.LEASES.labels(old.provider, old.profile, old.phase.value).dec()

    def _remember(self, lease: Lease) -> None:
        for mine in self._readers.values():
            mine.add(lease.id)
        self._forget(lease.id)
        if lease.phase is Phase.ENDED:
            return
        self._leases[lease.id] = lease
        self._of_server.setdefault((lease.user, lease.server_name), {})[lease.id] = lease
        self._of_user.setdefault(lease.user, {})[lease.id] = lease
        self.changed.ring()
        metrics.LEASES.labels(lease.provider, lease.profile, lease.phase.value).inc()
        if lease.phase in {Phase.QUEUED, Phase.READY}:
            self._notices.pop((lease.user, lease.server_name), None)

    def _take_notice(self, lease: Lease) -> None:
        key = (lease.user, lease.server_name)
        if self.active(*key) not in (None, self._leases.get(lease.id)):
            return  # the student has another server by now
        if lease.ending is None or lease.ending.by in {"user", "hub"}:
            self._notices.pop(key, None)
            return
        title = lease.pinned.get("title")
        titles = {str(k): str(v) for k, v in title.items()} if isinstance(title, dict) else {"en": lease.profile}
        self._notices[key] = Notice(
            profile_title=titles, ending=lease.ending, at=_over_at(lease), profile=lease.profile
        )


def _over_at(lease: Lease) -> datetime:
    return lease.ended_at or lease.phase_at
