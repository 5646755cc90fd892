"""As whom we come: a token, or a ticket that is renewed before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from labspawner.providers.proxmox.access import Access
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.pace import Pace

RENEW_S = 3600.0
"""A ticket lives for two hours."""


class Credentials(NamedTuple):
    """What goes with one request. The representation tells nothing."""

    headers: Mapping[str, str]
    cookies: Mapping[str, str]

    def __repr__(self) -> str:
        return "Credentials(...)"


class Ticket(NamedTuple):
    """As the cluster gave it. made_at: by `Pace.now`."""

    ticket: str
    csrf: str
    made_at: float

    def __repr__(self) -> str:
        return "Ticket(...)"


Login = Callable[[str, str], Awaitable[Mapping[str, Any]]]


class Keyring:
    """The credentials of one client. login: asks for a ticket with a user's name and password, or a ticket in its place."""

    def __init__(self, access: Access, login: Login, pace: Pace) -> None:
        self._access = access
        self._login = login
        self._pace = pace
        self._token = ""
        self._ticket: Ticket | None = None
        self._lock = asyncio.Lock()
        self._failed: tuple[float, PveRefused | PveSilent] | None = None
        self.asks = not (access.token or access.token_file)
        """Whether credentials are themselves asked for."""

    async def get(self, method: str) -> Credentials:
        """What goes with a request of this method. Raises PveRefused and PveSilent for a ticket, BadConfig for a file."""
        if not self.asks:
            self._token = self._token or self._access.secret()
            return Credentials({"Authorization": f"PVEAPIToken={self._token}"}, {})
        ticket = await self._current()
        # Only what changes something needs the second half: it shows that no foreign page made the browser ask.
        headers = {} if method == "GET" else {"CSRFPreventionToken": ticket.csrf}
        return Credentials(headers, {"PVEAuthCookie": ticket.ticket})

    def renew(self, used: Credentials) -> bool:
        """These were refused: whether there may be better ones."""
        if not self.asks:
            if self._access.token or f"PVEAPIToken={self._token}" != used.headers["Authorization"]:
                return not self._access.token
            refused, self._token = self._token, self._access.secret()
            return self._token != refused
        if self._ticket is not None and self._ticket.ticket == used.cookies["PVEAuthCookie"]:
            self._ticket = None
        return True

    async def _current(self) -> Ticket:
        came_at = self._pace.now()
        async with self._lock:
            ticket = self._ticket
            if ticket is not None and self._pace.now() - ticket.made_at < RENEW_S:
                return ticket
            if self._failed is not None and self._failed[0] >= came_at:
                raise self._failed[1]  # of whom we waited for: the same would be said to us
            try:
                self._ticket = await self._renewed(ticket)
            except (PveRefused, PveSilent) as exc:
                self._failed = (self._pace.now(), exc)
                raise
            return self._ticket

    async def _renewed(self, old: Ticket | None) -> Ticket:
        username, made_at = self._access.username, self._pace.now()
        if old is not None:
            try:
                return self._read(await self._login(username, old.ticket), made_at)
            except PveRefused:
                pass  # too old: the password is still there
        return self._read(await self._login(username, self._access.password), made_at)

    def _read(self, data: Mapping[str, Any], made_at: float) -> Ticket:
        ticket, csrf = data.get("ticket"), data.get("CSRFPreventionToken")
        if data.get("NeedTFA") or not ticket or not csrf:
            raise PveRefused(401, "this account needs a second factor: use an API token", None, "POST /access/ticket")
        return Ticket(str(ticket), str(csrf), made_at)
