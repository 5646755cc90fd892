"""Tasks: what a POST starts and what its UPID tells, with a log on the node that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.world import World

Json = dict[str, Any]


_MOMENT_S = 0.2  # what a held task still may do: allocate a volume, before the long part
_CURRENT: ContextVar[Task | None] = ContextVar("task", default=None)


class TaskFailed(Exception):
    """Ends a task: its text becomes the `exitstatus`."""


@dataclass(slots=True)
class Task:
    """A worker. exitstatus: "" while it runs; "unexpected status" when it was killed without a last line in its log.

    user, token: who started it (`labs@pve`, `hub`). ident: what it is about, most often a vmid. waits: "held" by a test, or
    for a "lock".
    """

    upid: str
    node: str
    kind: str
    ident: str
    user: str
    token: str
    pid: int
    pstart: int
    started_at: float
    log: list[str] = field(default_factory=list)
    exitstatus: str = ""
    ended_at: float = 0.0
    cancelled: bool = False
    work: asyncio.Task[None] | None = None
    waits: str = ""

    @contextmanager
    def waiting(self, why: str) -> Iterator[None]:
        """Say meanwhile what the task waits for."""
        before, self.waits = self.waits, why
        try:
            yield
        finally:
            self.waits = before

    @property
    def running(self) -> bool:
        return not self.exitstatus

    def say(self, line: str) -> None:
        self.log.append(line)


Work = Callable[[Task], Awaitable[None]]
Fail = Callable[[Task], str | None]


class Tasks:
    """All tasks of the cluster. `planned`: asked for each before it begins; a text makes it fail with that."""

    def __init__(self, world: World, clock: Clock) -> None:
        self._world, self._clock = world, clock
        self.all: dict[str, Task] = {}
        self.planned: Fail = lambda task: None
        self.broken: list[BaseException] = []
        self._held: dict[tuple[str, str], asyncio.Event] = {}
        clock.before = self._stand_still

    def hold(self, kind: str, ident: str) -> None:
        """Let tasks of this kind ("" for all) stand still before they take any time; held ones stay so."""
        self._held.setdefault((kind, ident), asyncio.Event())

    def release(self, kind: str, ident: str) -> None:
        for key in [one for one in self._held if kind in ("", one[0]) and ident in ("", one[1])]:
            self._held.pop(key).set()

    async def _stand_still(self, seconds: float) -> None:
        task = _CURRENT.get()
        while task is not None and task.running and seconds > _MOMENT_S:
            found = (one for key, one in self._held.items() if key[0] in ("", task.kind) and key[1] in ("", task.ident))
            gate = next(found, None)
            if gate is None:
                return
            with task.waiting("held"):
                await gate.wait()

    def start(self, node: str, kind: str, ident: object, user: str, work: Work, token: str = "") -> Task:
        """Run `work` as a task and return at once; TaskFailed ends it with that text, else it ends `OK`."""
        at = self._clock.now()
        pid, pstart = self._world.rng.randrange(1000, 1 << 22), int((at - self._world.nodes[node].booted_at) * 100)
        who = f"{user}!{token}" if token else user
        while (
            upid := f"UPID:{node}:{pid:08X}:{pstart & 0xFFFFFFFF:08X}:{int(at):08X}:{kind}:{ident}:{who}:"
        ) in self.all:
            pid += 1
        task = Task(upid, node, kind, str(ident), user, token, pid, pstart & 0xFFFFFFFF, at)
        self.all[upid] = task
        task.work = asyncio.get_running_loop().create_task(self._run(task, work))
        return task

    async def _run(self, task: Task, work: Work) -> None:
        status = "OK"
        _CURRENT.set(task)
        try:
            if (planned := self.planned(task)) is not None and not planned.startswith(("WARNINGS", "after:")):
                raise TaskFailed(planned)
            await work(task)
            if planned is not None:
                status = planned.removeprefix("after:")
        except TaskFailed as failed:
            status = str(failed)
        except asyncio.CancelledError:
            status = "interrupted by signal" if task.cancelled else "unexpected status"
        except Exception as broken:  # a fault of the double: told when it closes
            self.broken.append(broken)
            status = f"the double failed: {broken!r}"
        if status != "unexpected status":  # a killed worker wrote no last line
            task.log.append(_last_line(status))
        task.exitstatus, task.ended_at = status, self._clock.now()

    def matching(self, kind: str = "", ident: str = "", node: str = "") -> Sequence[Task]:
        """Oldest first."""
        return [
            task
            for task in self.all.values()
            if kind in ("", task.kind) and ident in ("", task.ident) and node in ("", task.node)
        ]

    async def close(self) -> None:
        rest = [task.work for task in self.all.values() if task.work is not None and not task.work.done()]
        for work in rest:
            work.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _last_line(status: str) -> str:
    if status == "OK":
        return "TASK OK"
    return f"TASK {status}" if status.startswith("WARNINGS") else f"TASK ERROR: {status}"
