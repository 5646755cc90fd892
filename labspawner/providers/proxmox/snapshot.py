"""One listing of the cluster, shared by all who ask: polls, capacity, placement, and who is gone."""

from __future__ import annotations

import asyncio
from collections import deque
from logging import getLogger

from labspawner.deadlines import let_go
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace
from labspawner.providers.proxmox.views import NodeView, StorageView, View, VmView

__all__ = ["NodeView", "Snapshots", "StorageView", "View", "VmView"]

log = getLogger(__name__)

_LIST_S = 25.0
_FORBIDDEN_S = 600.0  # until it is tried again whether we may ask for the quorum


class Snapshots:
    """Listings of one cluster. gone_after_s: how far apart two listings are that both lack a VM that is gone."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, gone_after_s: float = 10.0) -> None:
        self._client = client
        self._pace = pace
        self._gone_after_s = gone_after_s
        self._last: View | None = None
        self._under_way: asyncio.Task[View] | None = None
        self._began = float("-inf")
        self._worked: bool | None = None
        self._failed: tuple[float, PveRefused | PveSilent] | None = None
        self._believed: deque[View] = deque()
        self._forbidden_at = float("-inf")
        self._quorum: tuple[float, bool] | None = None
        self.listings = 0
        """How often the cluster was listed."""

    @property
    def last(self) -> View | None:
        """What was seen last, however old."""
        return self._last

    @property
    def current(self) -> bool | None:
        """Whether the last listing worked; None: there was none."""
        return self._worked

    async def now(self, max_age_s: float = 5.0) -> View:
        """A listing that was asked for at most `max_age_s` ago; 0: after this call began. One is under way at a time, and
        all who ask share it. Raises PveRefused or PveSilent when there is none, or there was none within that time: nothing
        is known then."""
        wanted = self._pace.now() - max_age_s
        while self._last is None or self._last.taken_at < wanted:
            if self._failed is not None and self._failed[0] > wanted:
                raise self._failed[1]  # moments ago: who polls a hundred servers need not wait a hundred times
            if self._under_way is None:
                self._began = self._pace.now()
                self._under_way = asyncio.get_running_loop().create_task(self._list(), name="list the cluster")
                self._under_way.add_done_callback(self._done)
            listing, began = self._under_way, self._began
            await asyncio.wait({listing})
            if began >= wanted:
                if listing.cancelled():
                    raise PveSilent("GET /cluster/resources", False, "closed")
                return listing.result()
        return self._last

    async def quorate(self, max_age_s: float = 5.0) -> bool | None:
        """Whether the cluster is quorate, as it says itself where this account may ask, and else from how many nodes are
        online. Raises PveRefused and PveSilent."""
        now = self._pace.now()
        if self._quorum is not None and self._quorum[0] >= now - max_age_s:
            return self._quorum[1]
        said = await self._ask_quorum()
        return said if said is not None else (await self.now(max_age_s)).quorate

    def gone(self, vmid: int) -> bool:
        """Whether this VM is gone: absent from two listings or more, at least 10 s apart and none between with it, in which
        the cluster was quorate and this account saw anything at all. A clone is absent until its task ends."""
        newest = self._believed[-1] if self._believed else None
        for view in reversed(self._believed):
            if vmid in view.ids:
                return False
            if newest is not None and newest.taken_at - view.taken_at >= self._gone_after_s:
                return True
        return False

    async def close(self) -> None:
        """End a listing that is under way."""
        if self._under_way is not None:
            await let_go(self._under_way)

    def _done(self, listing: asyncio.Task[View]) -> None:
        self._under_way = None
        if not listing.cancelled():
            listing.exception()  # whoever asked hears of it, if anybody still does

    async def _list(self) -> View:
        try:
            view = await self._look(self._began)
            if view.quorate is False and self._client.shun("its cluster is not quorate there"):
                # The node that we ask may be the one that is cut off: its peers know better.
                view = await self._look(self._began)
            if view.quorate is False and await self._ask_quorum():
                view = view.believed_quorate()
        except (PveRefused, PveSilent) as exc:
            if self._worked is not False:
                log.warning("the cluster cannot be listed, so nothing is known of its VMs: %s", exc)
            self._worked, self._failed = False, (self._pace.now(), exc)
            raise
        if self._worked is False:
            log.info("the cluster can be listed again")
        self._worked, self._failed, self._last = True, None, view
        self._believe(view)
        return view

    async def _look(self, began: float) -> View:
        self.listings += 1
        return View.of(await self._client.get("/cluster/resources", within_s=_LIST_S) or (), taken_at=began)

    def _believe(self, view: View) -> None:
        """Keep what `gone` needs: the newest listings, and the oldest of them just old enough."""
        if not view.quorate or view.blind:
            self._believed.clear()
            return
        self._believed.append(view)
        while len(self._believed) > 2 and view.taken_at - self._believed[1].taken_at >= self._gone_after_s:
            self._believed.popleft()

    async def _ask_quorum(self) -> bool | None:
        """What the cluster itself says; None where this account may not ask. Raises PveRefused and PveSilent."""
        now = self._pace.now()
        if now - self._forbidden_at < _FORBIDDEN_S:
            return None
        try:
            entries = await self._client.get("/cluster/status")
        except PveRefused as exc:
            if exc.status != 403:
                raise
            self._forbidden_at = now
            return None
        # A machine on its own has no entry of type cluster, and nobody to lose.
        said = all(bool(int(each.get("quorate") or 0)) for each in entries or () if each.get("type") == "cluster")
        self._quorum = (now, said)
        return said
