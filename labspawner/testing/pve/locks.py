"""Lock files and cluster locks: who waits too long fails, with the text of a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.tasks import Task, TaskFailed
from labspawner.testing.pve.world import Storage

VM_S = 10.0
STORAGE_S = 10.0


@dataclass(slots=True)
class _Lock:
    """First come, first served; several may share it."""

    shared: int = 0
    exclusive: bool = False
    stuck: bool = False
    waiting: deque[tuple[asyncio.Event, bool]] = field(default_factory=deque)

    def free_for(self, *, shared: bool) -> bool:
        return not (self.stuck or self.exclusive or (self.shared and not shared))

    def take(self, *, shared: bool) -> None:
        if shared:
            self.shared += 1
        else:
            self.exclusive = True

    def give(self, *, shared: bool) -> None:
        if shared:
            self.shared -= 1
        else:
            self.exclusive = False
        self.wake()

    def wake(self) -> None:
        while self.waiting and self.free_for(shared=self.waiting[0][1]):
            turn, shared = self.waiting.popleft()
            self.take(shared=shared)
            turn.set()


class Locks:
    """All locks. `quorate` is asked before a cluster lock: without a quorum nobody gets one."""

    def __init__(self, clock: Clock, quorate: Callable[[], bool]) -> None:
        self._clock, self._quorate = clock, quorate
        self._locks: dict[str, _Lock] = {}
        self._kept_storages: set[str] = set()

    def _of(self, name: str) -> _Lock:
        return self._locks.setdefault(name, _Lock())

    @contextlib.asynccontextmanager
    async def vm(
        self, vmid: int, *, task: Task | None = None, shared: bool = False, wait_s: float = VM_S
    ) -> AsyncIterator[None]:
        """The VM's lock file. Raises TaskFailed after `wait_s`."""
        path = f"/var/lock/qemu-server/lock-{vmid}.conf"
        async with self._held(path, shared, wait_s, task, f"can't lock file '{path}' - got timeout"):
            yield

    @contextlib.asynccontextmanager
    async def storage(self, storage: Storage, node: str, *, task: Task | None = None) -> AsyncIterator[None]:
        """The storage's lock: of the cluster for a shared one, a file of the node for others."""
        kept = storage.name in self._kept_storages
        if not storage.shared:
            path = f"/var/lock/pve-manager/pve-storage-{storage.name}"
            key = f"{node}:{path}"
            self._of(key).stuck = kept
            async with self._held(key, False, STORAGE_S, task, f"can't lock file '{path}' - got timeout"):
                yield
            return
        name = f"storage-{storage.name}"
        if not self._quorate():
            for _ in range(9):
                if task is not None:
                    task.say(f"trying to acquire cfs lock '{name}' ...")
                await self._clock.sleep(1.0)
            if not self._quorate():
                raise TaskFailed(f"cfs-lock '{name}' error: no quorum!")
        self._of(name).stuck = kept
        async with self._held(name, False, STORAGE_S, None, f"cfs-lock '{name}' error: got lock request timeout"):
            yield

    @contextlib.asynccontextmanager
    async def _held(self, key: str, shared: bool, wait_s: float, task: Task | None, late: str) -> AsyncIterator[None]:
        lock = self._of(key)
        if lock.waiting or not lock.free_for(shared=shared):
            await self._wait(lock, shared, wait_s, task, late)
        else:
            lock.take(shared=shared)
        try:
            yield
        finally:
            lock.give(shared=shared)

    async def _wait(self, lock: _Lock, shared: bool, wait_s: float, task: Task | None, late: str) -> None:
        turn = asyncio.Event()
        lock.waiting.append((turn, shared))
        if task is not None:
            task.say("trying to acquire lock...")
        came = False
        try:
            with task.waiting("lock") if task is not None else contextlib.nullcontext():
                came = await self._clock.wait(turn, wait_s)
        finally:
            if not came:
                self._leave(lock, turn, shared)
        if not came:
            raise TaskFailed(late)
        if task is not None:
            task.say(" OK")

    @staticmethod
    def _leave(lock: _Lock, turn: asyncio.Event, shared: bool) -> None:
        if turn.is_set():  # it was our turn, in the moment in which we gave up
            lock.give(shared=shared)
            return
        lock.waiting.remove((turn, shared))
        lock.wake()

    def hold_storage(self, name: str, *, on: bool) -> None:
        """Somebody outside holds all locks of this storage."""
        (self._kept_storages.add if on else self._kept_storages.discard)(name)
        for key in [one for one in self._locks if one.endswith(f"storage-{name}")]:
            self._stick(key, on=on)

    def hold_vm(self, vmid: int, *, on: bool) -> None:
        self._stick(f"/var/lock/qemu-server/lock-{vmid}.conf", on=on)

    def _stick(self, key: str, *, on: bool) -> None:
        lock = self._of(key)
        lock.stuck = on
        lock.wake()
