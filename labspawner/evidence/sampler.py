"""What the hosts measure, a look a minute: whether the processes of a server use the processor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from labspawner.evidence.book import EvidenceBook
from labspawner.model import HostLook, Lease, LeaseId, Phase, Usage

log = logging.getLogger(__name__)

BUSY_CORES = 0.05
"""An idle JupyterLab with a few kernels stays below a hundredth of a core; work that is worth a minute does not."""
MAX_GAP = timedelta(minutes=3)
REWRITE_AFTER = timedelta(minutes=5)


class Use(Protocol):
    @property
    def usage(self) -> Usage: ...


class Sampler:
    """Asks what the ready servers use, and tells the book whether that was work.

    uses: as `lifecycle.usages.Usages.of`. reporting: the providers whose servers carry our extension.
    """

    def __init__(
        self,
        book: EvidenceBook,
        *,
        leases: Callable[[], Sequence[Lease]],
        uses: Callable[[Sequence[Lease]], Awaitable[Mapping[LeaseId, Use]]],
        reporting: Collection[str] = (),
        interval_s: float = 60.0,
    ) -> None:
        self._book = book
        self._leases = leases
        self._uses = uses
        self._reporting = frozenset(reporting)
        self._interval_s = interval_s
        self._last: dict[LeaseId, Usage] = {}
        self._looks: dict[LeaseId, HostLook] = {}

    async def run(self) -> None:
        """Look for ever; a look that fails is logged, and the next one comes."""
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("cannot look at what servers use; trying again")
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """One look at all ready servers."""
        ready = [lease for lease in self._leases() if lease.phase is Phase.READY]
        uses = await self._uses(ready)
        alive = {lease.id for lease in ready}
        self._last = {lease_id: usage for lease_id, usage in self._last.items() if lease_id in alive}
        self._looks = {lease_id: look for lease_id, look in self._looks.items() if lease_id in alive}
        for lease in ready:
            known = await self._book.known(lease.id)
            look, use = self._looks.get(lease.id, known.host), uses.get(lease.id)
            if use is not None:
                look = looked(look, self._last.get(lease.id), use.usage)
                self._last[lease.id] = use.usage
            if look is not None:
                self._looks[lease.id] = look
            told = look if look is None or _is_news(known.host, look) else known.host
            await self._book.looked(lease.id, told, expected=known.expected or lease.provider in self._reporting)


def looked(before: HostLook | None, last: Usage | None, usage: Usage) -> HostLook | None:
    """What is known after one more look. The first one after a gap only begins: it has nothing to compare with."""
    if last is None or last.cpu_s is None or usage.cpu_s is None:
        return before
    span_s = (usage.taken_at - last.taken_at).total_seconds()
    if span_s <= 0:
        return before
    busy = usage.cpu_s < last.cpu_s or (usage.cpu_s - last.cpu_s) / span_s >= BUSY_CORES
    gap = before is None or last.taken_at - before.looked_at > MAX_GAP or usage.taken_at - last.taken_at > MAX_GAP
    if before is None or gap:
        since = usage.taken_at if usage.taken_at - last.taken_at > MAX_GAP else last.taken_at
        last_busy = before.last_busy if before else None
        return HostLook(since=since, looked_at=usage.taken_at, last_busy=usage.taken_at if busy else last_busy)
    return HostLook(
        since=before.since, looked_at=usage.taken_at, last_busy=usage.taken_at if busy else before.last_busy
    )


def _is_news(before: HostLook | None, now: HostLook) -> bool:
    """Whether a look is worth a write: that nothing happened is, once in a while."""
    if before is None or (before.since, before.last_busy) != (now.since, now.last_busy):
        return True
    return now.looked_at - before.looked_at >= REWRITE_AFTER
