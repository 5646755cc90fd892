"""What course staff say to whoever uses a server: on the home page, and once as a toast in JupyterLab.

In memory: after a restart of the hub nobody reads what was said before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.model import Json, LeaseId

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

    def __init__(self, ids: Callable[[], int] = time.time_ns) -> None:
        self._ids = ids
        self._of: dict[LeaseId, tuple[Message, ...]] = {}

    def say(self, lease_id: LeaseId, text: str, *, by: str, now: datetime) -> Message:
        """Keep a message for whoever uses this server."""
        message = Message(id=self._ids() // 1_000_000, text=text, by=by, at=now)
        self._of = {lease: kept for lease, said in self._of.items() if (kept := _fresh(said, now))}
        self._of[lease_id] = (*self._of.get(lease_id, ()), message)[-MOST:]
        return message

    def of(self, lease_id: LeaseId, now: datetime) -> Sequence[Message]:
        """What was said to this server's user, oldest first."""
        return _fresh(self._of.get(lease_id, ()), now)

    def newest(self, lease_id: LeaseId, now: datetime) -> dict[str, Json] | None:
        """The newest, for the extension; None where nothing was said."""
        found = self.of(lease_id, now)
        return found[-1].to_json() if found else None


def _fresh(said: Sequence[Message], now: datetime) -> tuple[Message, ...]:
    return tuple(message for message in said if now - message.at < KEPT_FOR)
