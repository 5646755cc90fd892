"""What servers use, asked of each provider once for everybody who looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from labspawner.deadlines import let_go, within
from labspawner.lifecycle.book import LeaseBook
from labspawner.model import GpuUsage, HeldSlice, Lease, LeaseId, Phase, Usage
from labspawner.providers.contract import Provider

log = logging.getLogger(__name__)

MIN_SPAN_S = 1.0
MAX_SPAN_S = 90.0
"""Two readings nearer or further apart than these say little about how busy a server is now."""


@dataclass(frozen=True, slots=True)
class Use:
    """One server's usage. cores: how many it kept busy between two looks; None while there are not two near each other."""

    usage: Usage
    cores: float | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a provider said. taken_at: seconds of the event loop's clock; uses: by lease."""

    taken_at: float
    uses: Mapping[LeaseId, Use]


_NEVER = _Look(float("-inf"), {})


class Usages:
    """Answers what servers use from one question per provider and `fresh_s`, however many people look.

    Nobody waits longer than `patience_s`: what was known is answered then, while it is not older than `stale_s`. A
    provider that takes longer than `asking_s` is given up.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        book: LeaseBook,
        *,
        fresh_s: float = 3.0,
        patience_s: float = 1.0,
        stale_s: float = 60.0,
        asking_s: float = 20.0,
    ) -> None:
        self._providers = providers
        self._book = book
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._stale_s = stale_s
        self._asking_s = asking_s
        self._looks: dict[str, _Look] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def of(self, leases: Iterable[Lease], *, fresh_s: float | None = None) -> dict[LeaseId, Use]:
        """What these servers use now; one of which nothing can be told is left out. Never raises for a host's sake.

        fresh_s: how old an answer may be, where that is less than usual.
        """
        by_provider: dict[str, list[LeaseId]] = {}
        for lease in leases:
            if lease.phase is Phase.READY and lease.handle is not None and lease.provider in self._providers:
                by_provider.setdefault(lease.provider, []).append(lease.id)
        names = list(by_provider)
        looks = await asyncio.gather(*(self._look(name, fresh_s) for name in names))
        return {
            lease_id: look.uses[lease_id]
            for name, look in zip(names, looks, strict=True)
            for lease_id in by_provider[name]
            if lease_id in look.uses
        }

    async def gpu_of(self, lease: Lease, refusals: int = 0) -> GpuUsage | None:
        """What the slice of a server is used for; None where it has none. refusals: how many at least are known."""
        if HeldSlice.of(lease.handle) is None:
            return None
        found = (await self.of([lease])).get(lease.id)
        gpu = found.usage.gpu if found else None
        if gpu is not None and refusals > (gpu.refused.count if gpu.refused else 0):
            found = (await self.of([lease], fresh_s=0.0)).get(lease.id)
            gpu = found.usage.gpu if found else gpu
        return gpu

    async def _look(self, name: str, fresh_s: float | None) -> _Look:
        now = asyncio.get_running_loop().time()
        if now - self._looks.get(name, _NEVER).taken_at >= (self._fresh_s if fresh_s is None else fresh_s):
            task = self._asking.get(name)
            if task is None or task.done():
                task = self._asking[name] = asyncio.get_running_loop().create_task(self._ask(name))
            await asyncio.wait({task}, timeout=self._patience_s)
        look = self._looks.get(name, _NEVER)
        return look if now - look.taken_at <= self._stale_s else _NEVER

    async def _ask(self, name: str) -> None:
        handles = [
            lease.handle
            for lease in self._book.all()
            if lease.provider == name and lease.phase is Phase.READY and lease.handle is not None
        ]
        try:
            found = await within(self._asking_s, self._providers[name].usage(handles)) if handles else {}
        except asyncio.TimeoutError:
            log.warning("provider=%s did not say in %.0f s what its servers use", name, self._asking_s)
            return
        except Exception:
            log.exception("provider=%s broke its contract: usage raised", name)
            return
        before = self._looks.get(name, _NEVER).uses
        uses = {lease_id: _measured(usage, before.get(lease_id)) for lease_id, usage in found.items()}
        self._looks[name] = _Look(asyncio.get_running_loop().time(), uses)

    async def close(self) -> None:
        """End the questions under way."""
        await asyncio.gather(*(let_go(task) for task in self._asking.values() if not task.done()))


def _measured(usage: Usage, before: Use | None) -> Use:
    """`usage` with how busy the server was since `before`."""
    if before is None or usage.cpu_s is None or before.usage.cpu_s is None:
        return Use(usage)
    span_s = (usage.taken_at - before.usage.taken_at).total_seconds()
    if span_s < MIN_SPAN_S:
        return replace(before, usage=replace(before.usage, gpu=usage.gpu))
    if span_s > MAX_SPAN_S:
        return Use(usage)
    return Use(usage, max(0.0, usage.cpu_s - before.usage.cpu_s) / span_s)
