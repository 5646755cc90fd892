"""What the handlers share: screens, consents, connections, tickets on their way, and what was said last."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from labspawner.model import LeaseId
from labspawner.providers.contract import ConsoleTicket
from labspawner.sentences import Sentence
from labspawner.service.desktop.hub import Hub
from labspawner.service.desktop.relay import Relays, Seat
from labspawner.service.desktop.rights import Consents, Refused, Role, Viewer, role_of
from labspawner.service.desktop.screens import Screen, Screens

TICKET_S = 9.0
"""For so long a ticket is kept for its browser; the host waits 10 s."""


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A ticket that was asked for, and whose browser has not come yet."""

    ticket: ConsoleTicket = field(repr=False)
    seat: Seat
    until: float


class Tickets:
    """Tickets between the two requests of a browser: the answer that names the password, and the websocket."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._waiting: dict[str, Waiting] = {}

    def put(self, ticket: ConsoleTicket, seat: Seat) -> str:
        """Keep it for `TICKET_S`; the key that takes it, once."""
        now = self._monotonic()
        self._waiting = {key: one for key, one in self._waiting.items() if one.until > now}
        key = secrets.token_hex(16)
        self._waiting[key] = Waiting(ticket, seat, now + TICKET_S)
        return key

    def take(self, key: str, seat: Seat) -> ConsoleTicket | None:
        """The ticket of this key, if it is this seat's and not too old; it is gone then, whoever asked."""
        found = self._waiting.pop(key, None)
        if found is None or found.seat != seat or found.until <= self._monotonic():
            return None
        return found.ticket


class House:
    """Everything of one process of this service. base_url: of the whole hub (`/`); prefix: of this service, ends with a
    slash. novnc: the folder of the viewer, None where it is not installed. public_host: how browsers know the hub (`host` or
    `host:port`), where a proxy in front of it sends another Host."""

    def __init__(
        self,
        *,
        screens: Screens,
        hub: Hub,
        base_url: str,
        prefix: str,
        novnc: Path | None,
        public_host: str = "",
        now: Callable[[], datetime] = utcnow,
        watch_s: float = 60.0,
    ) -> None:
        self.screens = screens
        self.hub = hub
        self.base_url = base_url
        self.prefix = prefix
        self.novnc = novnc
        self.public_host = public_host.lower()
        self.now = now
        self.watch_s = watch_s
        self.consents = Consents()
        self.relays = Relays()
        self.tickets = Tickets()
        self._said: dict[tuple[str, LeaseId], Sentence] = {}

    async def role(self, viewer: Viewer, screen: Screen) -> Role | Refused:
        """As what `viewer` may look at this screen now."""
        lease = screen.lease
        now = self.now()
        return role_of(
            viewer,
            owner=screen.owner,
            staff=viewer.name != screen.owner and await self.screens.is_staff(viewer, screen),
            consent_until=self.consents.until(lease.id, now) if lease else None,
            now=now,
        )

    def say(self, seat: Seat, words: Sentence | None) -> None:
        """Why the last picture of this seat was lost; None: it is not, or nobody knows."""
        if words is None:
            self._said.pop((seat.viewer, seat.lease_id), None)
            return
        if len(self._said) > 1000:
            self._said.clear()
        self._said[seat.viewer, seat.lease_id] = words

    def said(self, viewer: str, lease_id: LeaseId) -> Sentence | None:
        """What `say` was told last."""
        return self._said.get((viewer, lease_id))
