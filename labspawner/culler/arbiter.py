"""The same decisions for a site that runs jupyterhub-idle-culler 2 instead of our culler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from labspawner.culler.hub import HubServer
from labspawner.culler.sweep import BY, Leases, evidence_in, policy_of, utcnow
from labspawner.culling import Cull, CullPolicy, ServerView, decide, evidence
from labspawner.errors import LabError
from labspawner.model import Decision, Ending, Json, Lease, Phase
from labspawner.store import Standing

log = logging.getLogger(__name__)

# The hook is called once per server of a pass; one look at the leases serves them all.
_LEASES_FOR_S = 10.0


class CullArbiterHook(Protocol):
    """What `c.IdleCuller.cull_arbiter_hook` takes (jupyterhub_idle_culler 2.0, `cull_idle`); it awaits the answer."""

    def __call__(
        self, *, inactive: timedelta | None, inactive_limit: float, server: dict[str, Any], **later: Any
    ) -> Awaitable[bool]: ...


def cull_arbiter(
    *,
    store: Callable[[], Leases] | None = None,
    hub_id: str = "",
    policies: Mapping[str, Mapping[str, Json]] | None = None,
    clock: Callable[[], datetime] = utcnow,
) -> CullArbiterHook:
    """A hook that culls by the policy of each server's profile, and tells its lease why.

    store: opens the store, at the first call, on the idle culler's event loop: `lambda: Store.open(url)`.
    policies: by profile (`<course>/<slug>`), each like `pinned["cull"]`; for servers without a lease, or no store.
    A server of neither kind is culled by the idle culler's own `timeout`. Pending servers never reach a hook, so
    stuck ones stay. Raises ValueError for a policy that cannot be read.
    """
    read = {profile: CullPolicy.from_pinned({"cull": dict(cull)}) for profile, cull in (policies or {}).items()}
    return _Arbiter(_LeaseBook(store, hub_id) if store else None, read, clock)


@dataclass(frozen=True, slots=True)
class _Arbiter:
    book: _LeaseBook | None
    policies: Mapping[str, CullPolicy | None]
    clock: Callable[[], datetime]

    async def __call__(
        self, *, inactive: timedelta | None, inactive_limit: float, server: dict[str, Any], **later: Any
    ) -> bool:
        try:
            return await self._arbitrate(server, inactive_limit)
        except (LabError, ValueError) as exc:
            log.warning(
                "server kept, its policy or lease could not be read server=%r: %s", server.get("full_name"), exc
            )
            return False

    async def _arbitrate(self, model: dict[str, Any], inactive_limit: float) -> bool:
        server_name = model["name"]
        user = model["full_name"].removesuffix(f"/{server_name}")
        lease, standing = await self.book.find(user, server_name) if self.book else (None, None)
        server = HubServer.from_model(user, server_name, model)
        view = ServerView(
            user=user,
            server_name=server_name,
            ready=server.ready,
            pending=server.pending,
            started=server.started,
            last_activity=server.last_activity,
            lease_id=lease.id if lease else None,
            known=evidence_in(standing),
        )
        options = model.get("user_options") or {}
        profile = options.get("profile") if isinstance(options, dict) else None
        fallback = CullPolicy(after_s=inactive_limit or None)
        by_profile = self.policies.get(profile) if isinstance(profile, str) else None
        verdict = decide(view, policy_of(lease, by_profile or fallback), self.clock())
        if self.book and lease:
            if isinstance(verdict, Cull):
                await self.book.intend(lease, view, verdict, self.clock())
            else:
                await self.book.withdraw(lease)
        return isinstance(verdict, Cull)


class _LeaseBook:
    """The hub's live leases, read at most every few seconds, and what the hook writes into them."""

    def __init__(self, opened: Callable[[], Leases], hub_id: str) -> None:
        self._open = opened
        self._hub_id = hub_id
        self._store: Leases | None = None
        self._lock = asyncio.Lock()
        self._leases: dict[tuple[str, str], tuple[Lease, Standing | None]] = {}
        self._read_at = -_LEASES_FOR_S

    async def find(self, user: str, server_name: str) -> tuple[Lease | None, Standing | None]:
        async with self._lock:
            if time.monotonic() - self._read_at >= _LEASES_FOR_S:
                self._store = self._store or self._open()
                leases = await self._store.live_with_standings(self._hub_id)
                active = [pair for pair in leases if pair[0].phase is not Phase.PARKED]
                self._leases = {(pair[0].user, pair[0].server_name): pair for pair in active}
                self._read_at = time.monotonic()
        return self._leases.get((user, server_name), (None, None))

    async def intend(self, lease: Lease, view: ServerView, verdict: Cull, now: datetime) -> None:
        assert self._store is not None  # a lease comes from `find` only
        await self._store.intend(lease.id, Ending(by=BY, reason=verdict.reason), verdict.action)
        facts: dict[str, Json] = {**evidence(view), "cause": verdict.cause, "action": verdict.action.value}
        decision = Decision(
            lease_id=lease.id,
            user=lease.user,
            server_name=lease.server_name,
            verdict="cull",
            reason=verdict.reason,
            evidence=facts,
            at=now,
        )
        await self._store.add_decisions([decision])

    async def withdraw(self, lease: Lease) -> None:
        """Take back the intent of an earlier call whose stop did not happen."""
        assert self._store is not None  # a lease comes from `find` only
        if lease.ending and lease.ending.by == BY and lease.phase is Phase.READY:
            await self._store.withdraw(lease.id, lease.ending)
