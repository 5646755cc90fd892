"""One listing per provider and interval answers every poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from labspawner.lifecycle.book import LeaseBook
from labspawner.model import Lease, LeaseId, Phase, ServerState
from labspawner.providers.contract import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    taken_at: float
    states: Mapping[LeaseId, ServerState]


class Observer:
    """Turns listings into one answer per server, RUNNING or GONE.

    "I cannot tell" is RUNNING for `unknown_grace_s` after the server was last seen. No poll waits longer than
    `patience_s` for a listing.
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
    ) -> None:
        self._providers = providers
        self._book = book
        self._clock = clock
        self._interval_s = interval_s
        self._unknown_grace_s = unknown_grace_s
        self._patience_s = patience_s
        self._snapshots: dict[str, _Snapshot] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._last_seen: dict[LeaseId, datetime] = {}

    def saw(self, lease_id: LeaseId) -> None:
        """The server was seen running just now."""
        self._last_seen[lease_id] = self._clock()

    def forget(self, lease_id: LeaseId) -> None:
        self._last_seen.pop(lease_id, None)

    async def state(self, lease: Lease) -> ServerState:
        """What to tell the hub of a ready server. Never raises for a host's sake."""
        self._last_seen.setdefault(lease.id, self._clock())
        snapshot = self._snapshots.get(lease.provider)
        now = asyncio.get_running_loop().time()
        if snapshot is None or now - snapshot.taken_at >= self._interval_s:
            await self._look(lease.provider)
            snapshot = self._snapshots.get(lease.provider)
        state = snapshot.states.get(lease.id, ServerState.UNKNOWN) if snapshot else ServerState.UNKNOWN
        if state is ServerState.RUNNING:
            self.saw(lease.id)
        elif state is ServerState.UNKNOWN:
            unseen_s = (self._clock() - self._last_seen.get(lease.id, self._clock())).total_seconds()
            if unseen_s <= self._unknown_grace_s:
                return ServerState.RUNNING
            log.warning("cannot tell for %.0f s whether lease=%s runs; the hub is told it does not", unseen_s, lease.id)
        return state

    async def _look(self, provider: str) -> None:
        task = self._looking.get(provider)
        if task is None or task.done():
            task = self._looking[provider] = asyncio.get_running_loop().create_task(self._take(provider))
        await asyncio.wait({task}, timeout=self._patience_s)

    async def _take(self, name: str) -> None:
        provider = self._providers.get(name)
        handles = [
            lease.handle
            for lease in self._book.all()
            if lease.provider == name and lease.phase is Phase.READY and lease.handle is not None
        ]
        states: Mapping[LeaseId, ServerState] = {}
        if provider is not None:
            try:
                states = await provider.observe(handles)
            except Exception:
                log.exception("provider=%s broke its contract: observe raised; its servers count as unknown", name)
        self._snapshots[name] = _Snapshot(asyncio.get_running_loop().time(), states)

    async def close(self) -> None:
        """End the listings under way."""
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)
