"""What course staff say to whoever uses a server: on the home page, and once as a toast in JupyterLab.

In memory for answers at once, and in the store before it is said to be sent: a hub that restarts has lost none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.errors import UnknownLease
from labspawner.model import Json, LeaseId
from labspawner.sentences import Sentence
from labspawner.store import SaidMessage, Store

KEPT_FOR = timedelta(hours=12)
MOST = 5
"""Of one server, newest last; the oldest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Plain text, as it was typed. id: grows, also over a restart of the hub."""

    id: int
    text: str
    by: str
    at: datetime

    def to_json(self) -> dict[str, Json]:
        """What the extension reads, in the shape of its other news. Texts are in the words of who wrote them."""
        said = f"{self.by}: {self.text}"
        return {"id": self.id, "at": self.at.isoformat(), "text": {"en": said, "zh-CN": said}, "hints": []}


class Messages:
    """The messages of all servers that run."""

    def __init__(self, store: Store, hub_id: str, *, ids: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._hub_id = hub_id
        self._ids = ids
        self._last_id = 0
        self._of: dict[LeaseId, tuple[Message, ...]] = {}

    async def open(self, now: datetime) -> None:
        """Read what an earlier process kept. What was said meanwhile stays."""
        for said in await self._store.messages(self._hub_id, since=now - KEPT_FOR):
            message = Message(id=said.id, text=said.text, by=said.by, at=said.at)
            known = {one.id: one for one in (*self._of.get(said.lease_id, ()), message)}
            self._of[said.lease_id] = _newest(known.values())
            self._last_id = max(self._last_id, said.id)

    async def say(self, lease_id: LeaseId, text: str, *, by: str, now: datetime) -> Message:
        """Keep a message for whoever uses this server. Raises StoreUnavailable, and UnknownLease for one that has ended; then
        nobody reads it."""
        self._last_id = max(self._last_id + 1, self._ids() // 1_000_000)
        message = Message(id=self._last_id, text=text, by=by, at=now)
        said = SaidMessage(lease_id=lease_id, id=message.id, text=text, by=by, at=now)
        if not await self._store.keep_message(said, most=MOST, before=now - KEPT_FOR):
            raise UnknownLease(Sentence("This server does not run any more."), detail=f"lease={lease_id} not on record")
        self._of = {lease: kept for lease, said in self._of.items() if (kept := _fresh(said, now))}
        self._of[lease_id] = _newest((*self._of.get(lease_id, ()), message))
        return message

    def of(self, lease_id: LeaseId, now: datetime) -> Sequence[Message]:
        """What was said to this server's user, oldest first."""
        return _fresh(self._of.get(lease_id, ()), now)

    def newest(self, lease_id: LeaseId, now: datetime) -> dict[str, Json] | None:
        """The newest, for the extension; None where nothing was said."""
        found = self.of(lease_id, now)
        return found[-1].to_json() if found else None


def _newest(said: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(sorted(said, key=lambda message: message.id))[-MOST:]


def _fresh(said: Sequence[Message], now: datetime) -> tuple[Message, ...]:
    return tuple(message for message in said if now - message.at < KEPT_FOR)
