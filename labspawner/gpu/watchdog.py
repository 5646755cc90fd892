"""The node's watchdog: what goes around the library still holds memory of a card, and NVML sees it.

A static program, or one that speaks to the kernel itself, is not seen by the library; its memory is. So each look compares
what NVML says that the processes of a slice hold with the slice's limit. The first time too much is found it is reported;
at the next look, the process that holds most of it is killed. Processes on a card that are in no slice are reported.
Decisions are pure; `Watchdog` only asks, remembers and sends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from logging import getLogger
from typing import TypeAlias

from labspawner.gpu.cards import CardEvent, Inventory, events
from labspawner.gpu.nvml import NoDriver
from labspawner.units import human_bytes

log = getLogger(__name__)

TOLERANCE_BYTES = 64 * 2**20
"""What NVML may count more than we do (it rounds, and contexts come and go) before somebody has done something."""

TOLERANCE_SHARE = 0.02

Identity: TypeAlias = tuple[int, float]
"""A pid and the instant that it was created: survives the reuse of the pid."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A slice, as the watchdog knows it. limits: bytes by UUID of the device. tolerance_bytes: see `tolerated`."""

    name: str
    limits: Mapping[str, int]
    tolerance_bytes: int = TOLERANCE_BYTES


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device. slice_name: None: it is in no slice that we know."""

    identity: Identity
    uuid: str
    memory_bytes: int
    slice_name: str | None


@dataclass(frozen=True, slots=True)
class Excess:
    """A slice that holds more of a device than it may: the sum over its processes, the largest of them first."""

    slice_name: str
    uuid: str
    held_bytes: int
    limit_bytes: int
    holders: tuple[Holder, ...]

    @property
    def key(self) -> tuple[str, str]:
        return self.slice_name, self.uuid

    def __str__(self) -> str:
        return (
            f"slice={self.slice_name} gpu={self.uuid} holds {human_bytes(self.held_bytes)} of "
            f"{human_bytes(self.limit_bytes)}; most: pid={self.holders[0].identity[0]}"
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What one look came to. reported: new excesses. killed: those that were there before, and whom to kill for each.
    strangers: holders that are in no slice and were not there before."""

    reported: tuple[Excess, ...] = ()
    killed: tuple[tuple[Excess, Holder], ...] = ()
    strangers: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """What the look before found."""

    excesses: frozenset[tuple[str, str]] = frozenset()
    strangers: frozenset[tuple[Identity, str]] = frozenset()


def decide(holders: Iterable[Holder], slices: Iterable[Watched], before: Memory) -> tuple[Decision, Memory]:
    """What to do about who holds what, after `before`; and what to remember for the next time. Pure."""
    found, known = list(holders), {one.name: one for one in slices}
    over = {excess.key: excess for one in known.values() for excess in _excesses(one, found)}
    strangers = [holder for holder in found if holder.slice_name not in known]  # a made-up mark hides nobody
    decision = Decision(
        reported=tuple(excess for key, excess in over.items() if key not in before.excesses),
        killed=tuple((excess, excess.holders[0]) for key, excess in over.items() if key in before.excesses),
        strangers=tuple(one for one in strangers if (one.identity, one.uuid) not in before.strangers),
    )
    return decision, Memory(frozenset(over), frozenset((one.identity, one.uuid) for one in strangers))


def tolerated(limit_bytes: int, tolerance_bytes: int = TOLERANCE_BYTES) -> int:
    """How much a slice of `limit_bytes` may be seen to hold before anything is done: 2 % more, or `tolerance_bytes`,
    whichever is more."""
    return limit_bytes + max(tolerance_bytes, round(limit_bytes * TOLERANCE_SHARE))


def _excesses(one: Watched, holders: Iterable[Holder]) -> Iterable[Excess]:
    """A device that is not the slice's own has a limit of nothing."""
    of_slice = [holder for holder in holders if holder.slice_name == one.name]
    for uuid in sorted({holder.uuid for holder in of_slice}):
        here = sorted((h for h in of_slice if h.uuid == uuid), key=lambda h: (-h.memory_bytes, h.identity))
        held, limit = sum(holder.memory_bytes for holder in here), one.limits.get(uuid, 0)
        if held > tolerated(limit, one.tolerance_bytes):
            yield Excess(one.name, uuid, held, limit, tuple(here))


def holders_of(
    inventory: Inventory,
    identify: Callable[[int], Identity | None],
    slice_of: Callable[[int], str | None],
) -> tuple[Holder, ...]:
    """Each process that holds memory of a device. identify: None for a pid that is gone; slice_of: the name of its slice."""
    found = []
    for device in inventory.devices():
        for process in device.processes or ():
            identity = identify(process.pid)
            if identity is not None and process.memory_bytes is not None:
                found.append(Holder(identity, device.uuid, process.memory_bytes, slice_of(process.pid)))
    return tuple(found)


@dataclass
class Watchdog:
    """Looks when it is told to, from a thread: `look` blocks for as long as NVML does.

    inventory: asks for all cards. identify: the process behind a pid, or None. slice_of: the name of the slice that a pid
      is in, by its control group or the mark in its environment; None: in none. slices: those that there are.
    kill: whether offenders are killed, or only reported.
    """

    inventory: Callable[[], Inventory]
    identify: Callable[[int], Identity | None]
    slice_of: Callable[[int], str | None]
    slices: Callable[[], Iterable[Watched]]
    kill: bool = True
    _memory: Memory = field(default_factory=Memory)
    _dying: frozenset[Identity] = frozenset()
    _last: Inventory | None = None
    _silent: bool = False

    def look(self) -> Look:
        """Look once, and act. Never raises for a card's, a driver's or a process's sake."""
        try:
            inventory = self.inventory()
        except NoDriver as exc:
            if not self._silent:
                log.warning("the GPU watchdog sees nothing: %s", exc)
            self._silent = True
            return Look()
        self._silent = False
        changes = events(self._last, inventory) if self._last is not None else ()
        self._last = inventory
        holders = holders_of(inventory, self.identify, self.slice_of)
        decision, self._memory = decide(holders, self.slices(), self._memory)
        self._say(changes, decision)
        self._dying &= {holder.identity for holder in holders}
        ended = [pair for pair in decision.killed if self.kill and self._end(pair[1])]
        return Look(decision=decision, changes=changes, ended=tuple(ended))

    def _say(self, changes: Iterable[CardEvent], decision: Decision) -> None:
        for change in changes:
            if change.present:
                log.info("GPU is there gpu=%s", change.uuid)
            else:
                log.error("GPU is gone gpu=%s: %s", change.uuid, change.why or "it is not listed any more")
        for excess in decision.reported:
            log.warning("over its GPU limit: %s; killed if it is still so at the next look", excess)
        for stranger in decision.strangers:
            log.warning(
                "GPU used outside all slices gpu=%s pid=%s holds %s",
                stranger.uuid,
                stranger.identity[0],
                human_bytes(stranger.memory_bytes),
            )

    def _end(self, holder: Holder) -> bool:
        """Kill exactly this process; whether it was there to be killed, and is not dying already: that may take a while,
        in which it still holds its memory."""
        pid = holder.identity[0]
        if pid in {0, 1, os.getpid()} or holder.identity in self._dying or self.identify(pid) != holder.identity:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        except PermissionError:
            log.error("over its GPU limit, and we may not kill it: pid=%s slice=%s", pid, holder.slice_name)
            return False
        self._dying |= {holder.identity}
        log.warning("killed: pid=%s slice=%s went around its GPU limit", pid, holder.slice_name)
        return True


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found and did. ended: who was killed, and for what."""

    decision: Decision = Decision()
    changes: tuple[CardEvent, ...] = ()
    ended: tuple[tuple[Excess, Holder], ...] = ()
