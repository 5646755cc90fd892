"""Which nodes take no new VM, because an administrator empties them: kept with the reservations, so that every hub process
on this database sees it without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Protocol

from labspawner.model import Reservation

POOL = "draining"
"""The pool of reservations that holds names of nodes. No lease owns them, so no sweep for lost leases may free them."""

_FRESH_S = 5.0


class Marks(Protocol):
    """Where names are kept; each call is one transaction."""

    async def add(self, name: str) -> None: ...

    async def remove(self, name: str) -> None: ...

    async def all(self) -> frozenset[str]: ...


class Reserving(Protocol):
    """The part of `labspawner.store.reservations.Reservations` that is used here."""

    async def take(self, pool: str, candidates: Iterable[str], owner: str, now: datetime) -> str | None: ...

    async def free(self, owner: str, now: datetime) -> int: ...

    async def held(self, now: datetime, pool: str | None = None) -> list[Reservation]: ...


def _now() -> datetime:
    return datetime.now(timezone.utc)


class ReservedMarks:
    """Names kept as reservations of the pool `draining`, each owned by itself."""

    def __init__(self, reservations: Reserving, *, now: Callable[[], datetime] = _now) -> None:
        self._reservations = reservations
        self._now = now

    async def add(self, name: str) -> None:
        """Keep a name. Safe to repeat."""
        await self._reservations.take(POOL, [name], f"{POOL}:{name}", self._now())

    async def remove(self, name: str) -> None:
        """Forget it. Safe to repeat."""
        await self._reservations.free(f"{POOL}:{name}", self._now())

    async def all(self) -> frozenset[str]:
        """All that are kept."""
        held = await self._reservations.held(self._now(), POOL)
        return frozenset(each.value for each in held if each.owner is not None)


class Draining:
    """The nodes that are being emptied, as far as `marks` know; looked up again when the last look is 5 s old."""

    def __init__(self, marks: Marks, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._marks = marks
        self._clock = clock
        self._seen: frozenset[str] = frozenset()
        self._seen_at = float("-inf")

    async def nodes(self) -> frozenset[str]:
        """The names of the nodes that take no new VM. Raises StoreUnavailable."""
        if self._clock() - self._seen_at >= _FRESH_S:
            self._seen = await self._marks.all()
            self._seen_at = self._clock()
        return self._seen

    async def begin(self, node: str) -> bool:
        """No new VM goes to `node` from now on; whether that is news. Safe to repeat."""
        known = await self._marks.all()
        await self._marks.add(node)
        self._seen_at = float("-inf")
        return node not in known

    async def end(self, node: str) -> bool:
        """New VMs go to `node` again; whether that is news. Safe to repeat."""
        known = await self._marks.all()
        await self._marks.remove(node)
        self._seen_at = float("-inf")
        return node in known


class Move(str, Enum):
    """What happens to one server of a node that is emptied. STAY: nothing can be done without ending or moving what runs.
    MIGRATE: it is off, and moves. ALIVE: it runs, and moves while it runs, as the administrator asked. PINNED: its disks
    or devices are of this node alone."""

    STAY = "stays"
    MIGRATE = "moves"
    ALIVE = "moves while it runs"
    PINNED = "cannot move"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """One VM on the node. running: by its status; None: the node does not say. lock: `suspended` where it is hibernated.
    local: volumes on storage that only this node has. passthrough: its devices, where it has some."""

    vmid: int
    owner: str = ""
    server: str = ""
    running: bool | None = None
    lock: str = ""
    local: Sequence[str] = ()
    passthrough: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with one VM, to which node, and why (not)."""

    resident: Resident
    move: Move
    target: str = ""
    why: str = ""


def plan(residents: Sequence[Resident], targets: Mapping[str, int], *, move_running: bool) -> tuple[Step, ...]:
    """What to do with each VM of a node that is emptied. Pure.

    targets: nodes that can take more, with how many; the one with most room is taken first. move_running: the
    administrator asked for running VMs to be moved too; without that none is touched.
    """
    room = {name: count for name, count in targets.items() if count > 0}
    steps: list[Step] = []
    for resident in sorted(residents, key=lambda each: (each.running is not False, each.vmid)):
        step = _step(resident, room, move_running=move_running)
        steps.append(step)
        if step.target:
            room[step.target] -= 1
    return tuple(steps)


def _step(resident: Resident, room: Mapping[str, int], *, move_running: bool) -> Step:
    pinned = _pinned(resident)
    if pinned:
        return Step(resident, Move.PINNED, why=pinned)
    stays = _stays(resident, move_running=move_running)
    target = max(room, key=lambda name: (room[name], name), default="")
    if not stays and (not target or room[target] < 1):
        stays = "no other node has room for it"
    if stays:
        return Step(resident, Move.STAY, why=stays)
    return Step(resident, Move.ALIVE if resident.running else Move.MIGRATE, target)


def _pinned(resident: Resident) -> str:
    if resident.passthrough:
        return f"it has devices of this node: {', '.join(resident.passthrough)}"
    if resident.local:
        return f"its disks are on storage of this node alone: {', '.join(resident.local)}"
    return ""


def _stays(resident: Resident, *, move_running: bool) -> str:
    if resident.running is None:
        return "its node does not say whether it runs"
    if resident.lock and resident.lock != "suspended":
        return f"it is locked ({resident.lock})"
    if resident.running and not move_running:
        return "it runs, and --move was not asked for"
    return ""
