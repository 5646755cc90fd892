"""Who clones now, who waits, and what comes after a clone that failed.

A clone holds locks of its template and of the storage that it writes to. PVE waits for these for seconds only, so clones
that nobody holds back fail in a crowd. Here they stand in line: few per template and per storage, first come first served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from labspawner.deadlines import within

BACKOFF_S = (2.0, 5.0, 10.0, 20.0)
MOST_IDS = 5
_JITTER = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many clones go at once. A linked clone copies no data, so more of one template may run than full ones, which are
    counted per storage that they write to. per_storage: of both kinds together."""

    linked_per_template: int = 4
    full_per_storage: int = 1
    per_storage: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One clone that is wanted. storage: the one that it writes to."""

    template: int
    storage: str
    full: bool = False


def admitted(waiting: Sequence[Wish], running: Sequence[Wish], limits: Limits) -> tuple[int, ...]:
    """Which of `waiting`, by position, may begin beside `running`. Pure.

    The first in line goes first. Somebody is overtaken only by clones of other templates on other storages: where one of
    its template or storage has to wait, so do all behind it that want the same.
    """
    going = list(running)
    let_in: list[int] = []
    held: set[tuple[str, object]] = set()
    for position, wish in enumerate(waiting):
        keys: set[tuple[str, object]] = {("template", wish.template), ("storage", wish.storage)}
        if held & keys or not _fits(wish, going, limits):
            held |= keys
            continue
        going.append(wish)
        let_in.append(position)
    return tuple(let_in)


def _fits(wish: Wish, going: Sequence[Wish], limits: Limits) -> bool:
    there = [each for each in going if each.storage == wish.storage]
    if len(there) >= limits.per_storage:
        return False
    if wish.full:
        return sum(each.full for each in there) < limits.full_per_storage
    return sum(not each.full and each.template == wish.template for each in going) < limits.linked_per_template


class Ticket:
    """One place in the line; given back with `leave`, whether its turn came or not."""

    def __init__(self, queue: CloneQueue, wish: Wish) -> None:
        self.wish = wish
        self._queue = queue
        self._turn = asyncio.Event()

    @property
    def ahead(self) -> int:
        """How many stand before this one; 0 once it is its turn."""
        return self._queue.ahead(self)

    @property
    def called(self) -> bool:
        """Whether it is its turn."""
        return self._turn.is_set()

    async def wait(self, timeout_s: float) -> bool:
        """Whether its turn came within `timeout_s`."""
        try:
            await within(timeout_s, self._turn.wait())
        except asyncio.TimeoutError:
            return self._turn.is_set()
        return True

    def call(self) -> None:
        """It is its turn."""
        self._turn.set()

    def leave(self) -> None:
        """Let the next ones in. May be repeated."""
        self._queue.leave(self)


class CloneQueue:
    """The line before the clones of one provider."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []

    def enter(self, wish: Wish) -> Ticket:
        """A place at the end of the line."""
        ticket = Ticket(self, wish)
        self._waiting.append(ticket)
        self._call()
        return ticket

    def ahead(self, ticket: Ticket) -> int:
        """How many stand before `ticket`."""
        return self._waiting.index(ticket) if ticket in self._waiting else 0

    def leave(self, ticket: Ticket) -> None:
        """`ticket` is done, or does not want any more."""
        for line in (self._waiting, self._running):
            if ticket in line:
                line.remove(ticket)
        self._call()

    def _call(self) -> None:
        positions = admitted([each.wish for each in self._waiting], [each.wish for each in self._running], self._limits)
        called = [self._waiting[position] for position in positions]
        for ticket in called:
            self._waiting.remove(ticket)
            self._running.append(ticket)
            ticket.call()


class Next(Enum):
    """What comes after a clone that failed."""

    SAME_ID = "once more, the same id"
    OTHER_ID = "another id"
    GIVE_UP = "give up"


class Trouble(Enum):
    """Why a clone failed, as far as it matters here. LOCKED: somebody holds a lock; TAKEN: the id is somebody's."""

    LOCKED = "locked"
    TAKEN = "taken"
    OTHER = "other"


def after(trouble: Trouble, *, taken_now: bool, tries_of_id: int, ids_tried: int) -> Next:
    """What to do after a failed clone. Pure.

    taken_now: a look at the cluster after the failure shows the id in use. tries_of_id: clones tried with this id, this one
    included; ids_tried: ids tried, this one included.
    """
    if trouble is Trouble.OTHER:
        return Next.GIVE_UP
    if trouble is Trouble.TAKEN or taken_now:
        return Next.OTHER_ID if ids_tried < MOST_IDS else Next.GIVE_UP
    if tries_of_id <= len(BACKOFF_S):
        return Next.SAME_ID
    return Next.OTHER_ID if ids_tried < MOST_IDS else Next.GIVE_UP


def pause_s(tries_of_id: int, chance: float) -> float:
    """How long to wait before the next try of the same id. chance: 0 to 1, so that those who failed together do not come back
    together."""
    return BACKOFF_S[min(tries_of_id, len(BACKOFF_S)) - 1] * (1 + _JITTER * chance)
