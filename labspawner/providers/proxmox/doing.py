"""Things done to one VM, each to its end: asked for, its task waited for, asked for again where that helps.

PVE answers a change with the number of a task, or with nothing where it lost its voice. What may have been done is looked
for before it is asked for again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from logging import getLogger
from typing import Any, TypeVar

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, PveUntrusted, TaskEnd
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.tasks import Heard, Tasks

log = getLogger(__name__)
T = TypeVar("T")

_BACKOFF_S = (2.0, 5.0, 10.0, 20.0)
_CLOCKS_DIFFER_S = 30.0
_PASSING_LOCKS = frozenset({"backup", "migrate", "snapshot", "snapshot-delete", "create", "clone"})
"""What is done to a VM and ends by itself. `suspending` and `rollback` that stay need an administrator."""
STUCK_LOCKS = frozenset({"suspending", "rollback"})


class TaskFailed(Exception):
    """A task ended, and not with success."""

    def __init__(self, end: TaskEnd, what: str) -> None:
        self.end = end
        self.what = what
        super().__init__(f"{what}: {end.exitstatus}")

    @property
    def fault(self) -> Fault:
        """What was wrong."""
        return self.end.fault or Fault.OTHER

    @property
    def lock(self) -> str | None:
        """By what the VM is locked, where that is the fault."""
        return self.end.lock


class Vanished(Exception):
    """The VM that something was to be done to is not there any more."""

    def __init__(self, vmid: int) -> None:
        self.vmid = vmid
        super().__init__(f"vm {vmid} is not there any more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """For how long what passes is waited for, in seconds by the provider's pace. locks: of VMs, ids and storages. cluster:
    a quorum, or a node that does not answer."""

    locks_s: float = 120.0
    cluster_s: float = 60.0

    def of(self, fault: Fault, lock: str | None) -> float:
        """How long this may be waited for; 0 for what waiting does not mend. Pure."""
        if fault in {Fault.LOCK_TIMEOUT, Fault.STORAGE_LOCK}:
            return self.locks_s
        if fault is Fault.VM_LOCKED:
            return self.locks_s if lock in _PASSING_LOCKS else 0.0
        return self.cluster_s if fault in {Fault.NO_QUORUM, Fault.NODE_AWAY} else 0.0


class Doing:
    """Does things to VMs of one cluster."""

    def __init__(self, client: Client, tasks: Tasks, snapshots: Snapshots, *, pace: Pace, patience: Patience) -> None:
        self._client = client
        self._tasks = tasks
        self._snapshots = snapshots
        self._pace = pace
        self._patience = patience
        self._chance = random.Random()  # noqa: S311 - spreads tries, keeps no secret

    async def node_of(self, vmid: int, *, max_age_s: float = 5.0) -> str:
        """Where the VM is now. Raises Vanished, PveRefused, PveSilent."""
        for age_s in (max_age_s, 0.0):
            vm = (await self._snapshots.now(age_s)).vms.get(vmid)
            if vm is not None:
                return vm.node
        raise Vanished(vmid)

    async def get(self, vmid: int, what: str, **params: Any) -> object:
        """Read `/nodes/{its node}/qemu/{vmid}/{what}`. Raises Vanished, PveRefused, PveSilent."""

        async def ask(node: str) -> object:
            return await self._client.get(f"/nodes/{node}/qemu/{vmid}/{what}", **params)

        return await self._where_it_is(vmid, ask)

    async def put(self, vmid: int, what: str, **params: Any) -> None:
        """Change something that PVE does at once; asked for again where it may pass, since the same once more is the same.
        Raises Vanished, PveRefused, PveSilent."""

        async def ask(node: str) -> None:
            await self._client.put(f"/nodes/{node}/qemu/{vmid}/{what}", **params)

        await self.patiently(lambda: self._where_it_is(vmid, ask), again_if_sent=True)

    async def order(self, vmid: int, method: str, what: str, **params: Any) -> object:
        """Ask for something once, and no more. Raises Vanished, PveRefused, PveSilent."""
        return await self._where_it_is(
            vmid, lambda node: self._order(method, f"/nodes/{node}/qemu/{vmid}/{what}", params)
        )

    async def task(
        self,
        vmid: int,
        method: str,
        what: str,
        *,
        kind: str,
        within_s: float,
        heard: Heard | None = None,
        **params: Any,
    ) -> TaskEnd:
        """Do something that PVE makes a task of, and return its end, which is success. kind: of that task.

        Raises TaskFailed, Vanished, PveRefused, and PveSilent where the outcome is not known.
        """
        path = f"qemu/{vmid}/{what}".rstrip("/")

        async def once() -> TaskEnd:
            upid = await self._where_it_is(vmid, lambda node: self._order(method, f"/nodes/{node}/{path}", params))
            return await self.end_of(upid, f"{method} {path}", within_s=within_s, heard=heard)

        async def ask() -> TaskEnd:
            since = time.time() - _CLOCKS_DIFFER_S
            try:
                return await once()
            except PveSilent as exc:
                if not exc.sent or isinstance(exc, PveUntrusted):
                    raise
                return await self._perhaps_done(vmid, kind, since, exc, within_s=within_s) or await once()

        return await self.patiently(ask)

    async def end_of(self, upid: object, what: str, *, within_s: float, heard: Heard | None = None) -> TaskEnd:
        """The end of a task, which is success; null where there was no task. Raises TaskFailed, PveRefused, PveSilent."""
        if not isinstance(upid, str) or not upid.startswith("UPID:"):
            return TaskEnd.of("", "OK")
        end = await self._tasks.end(upid, within_s=within_s, heard=heard)
        if not end.ok:
            raise TaskFailed(end, what)
        if end.warnings:
            log.warning("%s ended with %d warnings: %s", what, end.warnings, " | ".join(end.log[-5:]))
        return end

    async def patiently(self, work: Callable[[], Awaitable[T]], *, again_if_sent: bool = False) -> T:
        """What `work` gives; done again while what stood in the way may pass."""
        begun, tries = self._pace.now(), 0
        while True:
            try:
                return await work()
            except (PveRefused, TaskFailed) as exc:
                may_wait_s = self._patience.of(exc.fault, exc.lock)
                error: Exception = exc
            except PveUntrusted:
                raise
            except PveSilent as exc:
                may_wait_s = self._patience.cluster_s if again_if_sent or not exc.sent else 0.0
                error = exc
            pause_s = _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)] * self._chance.uniform(1.0, 1.25)
            if self._pace.now() - begun + pause_s > may_wait_s:
                raise error
            log.info("trying again in %.0f s: %s", pause_s, error)
            await self._pace.sleep(pause_s)
            tries += 1

    async def _order(self, method: str, path: str, params: dict[str, Any]) -> object:
        calls = {"DELETE": self._client.delete, "POST": self._client.post, "PUT": self._client.put}
        return await calls[method](path, **params)

    async def _perhaps_done(
        self, vmid: int, kind: str, since: float, silent: PveSilent, *, within_s: float
    ) -> TaskEnd | None:
        """The end of the task that an order without an answer has become; None: it has become none. Raises `silent` where
        that cannot be told."""
        try:
            node = await self.node_of(vmid, max_age_s=0.0)
            found = await self._tasks.recent(node, vmid, kind, since)
        except (PveRefused, PveSilent) as exc:
            raise silent from exc
        if not found:
            return None
        return await self.end_of(found[0].upid, f"{kind} of vm {vmid}", within_s=within_s)

    async def _where_it_is(self, vmid: int, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask its node; once more elsewhere, where it has moved. Raises Vanished where it is nowhere."""
        node = await self.node_of(vmid)
        try:
            return await ask(node)
        except PveRefused as exc:
            if exc.fault not in {Fault.MOVED, Fault.GONE_OR_FORBIDDEN}:
                raise
            now = await self.node_of(vmid, max_age_s=0.0)
            if now == node and exc.fault is Fault.GONE_OR_FORBIDDEN:
                raise
            return await ask(now)
