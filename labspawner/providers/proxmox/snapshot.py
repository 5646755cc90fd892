"""One listing of the cluster, shared by all who ask: polls, capacity, placement, and who is gone."""

from __future__ import annotations

from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace
from labspawner.providers.proxmox.views import NodeView, StorageView, View, VmView

__all__ = ["NodeView", "Snapshots", "StorageView", "View", "VmView"]


class Snapshots:
    """Listings of one cluster."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, gone_after_s: float = 10.0) -> None:
        self.listings = 0
        """How often the cluster was asked."""

    @property
    def last(self) -> View | None:
        """What was seen last, however old."""
        raise NotImplementedError

    async def now(self, max_age_s: float = 5.0) -> View:
        """A listing that was asked for at most `max_age_s` ago; 0: after this call began. One is under way at a time, and
        all who ask share it. Raises PveRefused or PveSilent when there is none: nothing is known then."""
        raise NotImplementedError

    async def quorate(self, max_age_s: float = 5.0) -> bool | None:
        """Whether the cluster is quorate, asked as directly as this account may. Raises PveRefused and PveSilent."""
        raise NotImplementedError

    def gone(self, vmid: int) -> bool:
        """Whether this VM is gone: absent from two listings or more, at least 10 s apart, in which the cluster was quorate
        and this account saw anything at all. A clone is absent until its task ends: do not ask before."""
        raise NotImplementedError
