"""What looks after running slices: who holds more of a card than its slice allows, and files that somebody made grow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime, timezone
from logging import getLogger
from typing import TYPE_CHECKING

import psutil

from labspawner.errors import ProviderUnavailable
from labspawner.gpu import region
from labspawner.gpu.folder import NODE_MOST_BYTES, cut_off
from labspawner.gpu.verdict import MAX_BYTES
from labspawner.gpu.watchdog import Excess, Holder, Identity, Watchdog, Watched
from labspawner.model import GpuRefusal, HeldSlice, LeaseId
from labspawner.providers.processes import HostProcesses
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

if TYPE_CHECKING:
    from labspawner.providers.local.slices.slices import Slices

log = getLogger(__name__)

EVERY_S = 10.0


class Watch:
    """Looks every few seconds from `start` on, while there are slices. killed: by lease, what its student is told."""

    def __init__(self, slices: Slices, host: HostProcesses, *, hub_id: str, every_s: float = EVERY_S) -> None:
        self._slices, self._host, self._hub_id, self._every_s = slices, host, hub_id, every_s
        self._task: asyncio.Task[None] | None = None
        self._owners: Mapping[int, LeaseId] = {}
        self._held: Mapping[LeaseId, HeldSlice] = {}
        self._watchdog = Watchdog(
            inventory=lambda: slices.cards.look(0.0),
            identify=_identify,
            slice_of=lambda pid: self._owners.get(pid),  # noqa: PLW0108 - a new one after each look
            slices=lambda: [
                Watched(lease_id, {one.card: one.memory_bytes}, slices.settings.tolerance)
                for lease_id, one in self._held.items()
            ],
            kill=slices.settings.watchdog == "kill",
        )
        self.killed: dict[LeaseId, GpuRefusal] = {}

    def start(self) -> None:
        """Begin to look; safe to repeat."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop looking; safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except ProviderUnavailable as exc:
                log.warning("the GPU watchdog cannot look: %s", exc)
            except Exception:
                log.exception("the GPU watchdog cannot look; trying again")

    async def look(self) -> None:
        """One look at all slices of this hub."""
        self._held = await self._host.in_thread(self._slices.on_disk)
        self.killed = {lease_id: said for lease_id, said in self.killed.items() if lease_id in self._held}
        if not self._held:
            return
        await self._host.in_thread(self._hold_to_size)
        if self._slices.settings.watchdog == "off" or self._slices.cards.pretended is not None:
            return  # pretended cards know processes by the pids of their sandboxes, which are others' here
        listing = await self._host.listing(max_age_s=2.0)
        self._owners = {process.pid: process.lease_id for process in listing.marked if process.hub_id == self._hub_id}
        for excess, holder in (await self._host.in_thread(self._watchdog.look)).ended:
            self._tell(excess, holder)

    def _tell(self, excess: Excess, holder: Holder) -> None:
        lease_id = LeaseId(excess.slice_name)
        before = self.killed.get(lease_id)
        self.killed[lease_id] = GpuRefusal(
            at=datetime.now(timezone.utc),
            count=(before.count if before else 0) + 1,
            words=Sentence(
                "A program of yours was ended: your server held {held} of the GPU, and its slice is {limit}.",
                held=human_bytes(excess.held_bytes),
                limit=human_bytes(excess.limit_bytes),
            ),
        )

    def _hold_to_size(self) -> None:
        """Cut off what a program wrote behind the end of a shared file: that would be memory of the host."""
        for lease_id in self._held:
            folder, said, node = self._slices.shared_files(lease_id)
            for path, most in ((folder.region, region.SIZE), (said, MAX_BYTES), (node, NODE_MOST_BYTES)):
                if cut_off(path, most):
                    log.warning("somebody made a file of a slice grow, cut off lease=%s file=%s", lease_id, path.name)


def _identify(pid: int) -> Identity | None:
    try:
        return pid, float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
