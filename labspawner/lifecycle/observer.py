"""One listing per provider and interval answers every poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from labspawner.deadlines import let_go, within
from labspawner.lifecycle.book import LeaseBook
from labspawner.model import Lease, LeaseId, Phase, ServerState
from labspawner.providers.contract import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What a listing said. began_at, taken_at: seconds of the event loop's clock."""

    began_at: float
    taken_at: float
    states: Mapping[LeaseId, ServerState]


NOTHING_SEEN = _Snapshot(float("-inf"), float("-inf"), {})


class Observer:
    """Turns listings into one answer per server, RUNNING or GONE.

    "I cannot tell" is RUNNING for `unknown_grace_s` after the server was last seen, and UNKNOWN then. No poll waits
    longer than `patience_s` for a listing; one that takes longer than `listing_s` is given up.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        book: LeaseBook,
        clock: Callable[[], datetime],
        *,
        interval_s: float,
        unknown_grace_s: float,
        patience_s: float = 5.0,
        listing_s: float = 60.0,
    ) -> None:
        self._providers = providers
        self._book = book
        self._clock = clock
        self._interval_s = interval_s
        self._unknown_grace_s = unknown_grace_s
        self._patience_s = patience_s
        self._listing_s = listing_s
        self._snapshots: dict[str, _Snapshot] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._last_seen: dict[LeaseId, datetime] = {}
        self._ready_since: dict[LeaseId, float] = {}

    def ready(self, lease_id: LeaseId) -> None:
        """The server became ready just now; listings that began earlier say nothing about it."""
        self._ready_since[lease_id] = asyncio.get_running_loop().time()
        self._last_seen[lease_id] = self._clock()

    def forget(self, lease_id: LeaseId) -> None:
        self._last_seen.pop(lease_id, None)
        self._ready_since.pop(lease_id, None)

    async def state(self, lease: Lease) -> ServerState:
        """What to tell the hub of a ready server. Never raises for a host's sake."""
        last_seen = self._last_seen.setdefault(lease.id, self._clock())
        snapshot = await self._snapshot(lease.provider)
        state = snapshot.states.get(lease.id, ServerState.UNKNOWN)
        if snapshot.began_at < self._ready_since.get(lease.id, float("-inf")):
            state = ServerState.UNKNOWN
        if state is ServerState.RUNNING and lease.id in self._last_seen:
            self._last_seen[lease.id] = self._clock()
        elif state is ServerState.UNKNOWN:
            unseen_s = (self._clock() - last_seen).total_seconds()
            if unseen_s <= self._unknown_grace_s:
                return ServerState.RUNNING
            log.warning("cannot tell for %.0f s whether lease=%s runs; the hub is told it does not", unseen_s, lease.id)
        return state

    async def look(self, provider: str) -> None:
        """Take a new listing, where the last one is older than the interval."""
        await self._snapshot(provider)

    def sees(self, lease: Lease) -> bool:
        """Whether a listing, no older than the interval, shows that it runs; False says nothing."""
        snapshot = self._snapshots.get(lease.provider, NOTHING_SEEN)
        if asyncio.get_running_loop().time() - snapshot.taken_at >= self._interval_s:
            return False
        if snapshot.states.get(lease.id) is not ServerState.RUNNING:
            return False
        if snapshot.began_at < self._ready_since.get(lease.id, float("-inf")):
            return False
        self._last_seen[lease.id] = self._clock()
        return True

    async def _snapshot(self, provider: str) -> _Snapshot:
        """A listing that is no older than the interval, or `NOTHING_SEEN`."""
        now = asyncio.get_running_loop().time()
        snapshot = self._snapshots.get(provider, NOTHING_SEEN)
        if now - snapshot.taken_at < self._interval_s:
            return snapshot
        task = self._looking.get(provider)
        if task is None or task.done():
            task = self._looking[provider] = asyncio.get_running_loop().create_task(self._take(provider))
        await asyncio.wait({task}, timeout=self._patience_s)
        snapshot = self._snapshots.get(provider, NOTHING_SEEN)
        return snapshot if snapshot.taken_at >= now - self._interval_s else NOTHING_SEEN

    async def _take(self, name: str) -> None:
        began_at = asyncio.get_running_loop().time()
        provider = self._providers.get(name)
        handles = [
            lease.handle
            for lease in self._book.all()
            if lease.provider == name and lease.phase is Phase.READY and lease.handle is not None
        ]
        states: Mapping[LeaseId, ServerState] = {}
        if provider is not None and handles:
            try:
                states = await within(self._listing_s, provider.observe(handles))
            except asyncio.TimeoutError:
                log.warning("provider=%s gave no listing in %.0f s; its servers are unknown", name, self._listing_s)
            except Exception:
                log.exception("provider=%s broke its contract: observe raised; its servers count as unknown", name)
        self._snapshots[name] = _Snapshot(began_at, asyncio.get_running_loop().time(), states)

    async def close(self) -> None:
        """End the listings under way."""
        await asyncio.gather(*(let_go(task) for task in self._looking.values() if not task.done()))
