"""One start: what was asked for, what is known of its VM by now, and its line to the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from labspawner.model import Checkpoint, LaunchRequest
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.line import Line
from labspawner.providers.proxmox.options import ProxmoxVariant
from labspawner.providers.proxmox.record import Record

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Job:
    """One start.

    deadline: seconds of the event loop's clock. addresses: the pool of its static address, None for DHCP. record: what its
    handle says. full: a full copy. config: of the VM as it was cloned. parked: it resumes a VM, which a failure leaves as it
    was. making: what leaves a trace and is under way; a cancelled start leaves it to the roll-back, which waits for it.
    worker: what does the start. nonce: of its call home, secret; empty where its VM does not call.
    """

    request: LaunchRequest
    variant: ProxmoxVariant
    provider: str
    deadline: float
    addresses: AddressPool | None = None
    record: Record = field(default_factory=Record)
    parked: bool = False
    was_running: bool = False
    was_hibernated: bool = False
    full: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    line: Line = field(default_factory=Line)
    making: asyncio.Future[None] | None = None
    worker: asyncio.Task[str] | None = None
    released: bool = False
    nonce: str = field(default="", repr=False)

    @property
    def vmid(self) -> int:
        """The id of its VM. Only once there is one."""
        assert self.record.vmid is not None
        return self.record.vmid

    def left_s(self) -> float:
        """Seconds until the start has to be done."""
        return self.deadline - asyncio.get_running_loop().time()

    async def checkpoint(self, **changes: object) -> None:
        """Have the handle stored, with `changes`, before anything else is done."""
        self.record = self.record.with_(**changes)
        await self.line.give(Checkpoint(self.record.handle(self.request.lease_id, self.provider)))

    async def make(self, work: Awaitable[T]) -> T:
        """Do something that leaves a trace which is hard to find, to its end even where the start is cancelled."""
        made = asyncio.ensure_future(_awaited(work))
        self.making = asyncio.ensure_future(_over(made))
        result = await asyncio.shield(made)
        self.making = None
        return result

    def __str__(self) -> str:
        return f"lease={self.request.lease_id} user={self.request.user} vmid={self.record.vmid or '-'}"


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def _over(made: asyncio.Future[T]) -> None:
    await asyncio.wait({made})
    if not made.cancelled():
        made.exception()  # heard: the start was told, or does not listen any more
