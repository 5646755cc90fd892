"""The websocket between a browser and this service: who may, the way to the host, and how both end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from tornado.websocket import WebSocketHandler

from labspawner.deadlines import let_go
from labspawner.errors import LabError
from labspawner.model import Lease, Phase
from labspawner.service.desktop import words
from labspawner.service.desktop.handlers import Handler, NotNow, same_site
from labspawner.service.desktop.relay import End, Relay
from labspawner.service.desktop.rights import Refused
from labspawner.service.desktop.screens import Screen
from labspawner.service.desktop.upstream import connect

log = logging.getLogger(__name__)

SUBPROTOCOL = "binary"
_LATE_S = 0.1
KEY_PREFIX = "labspawner."
"""The key of `OpenHandler` comes as a second subprotocol: an address would be written into logs."""


class SocketHandler(Handler, WebSocketHandler):
    """Raw RFB. Asks for the same rights as the page, for a page of this site, and for a key that only our page gets."""

    wants_json = True
    relay: Relay | None = None

    async def prepare(self) -> None:
        if "token" in self.request.query_arguments:
            raise NotNow(403, words.TOKEN_IN_URL)
        if "Authorization" not in self.request.headers and not same_site(self):
            raise NotNow(403, words.NOT_SAME_SITE)
        await super().prepare()

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` asked more than tornado does

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    async def get(self, owner: str, server_name: str | None = None) -> None:
        found, role = await self.screen(owner, server_name)
        lease = found.lease
        if lease is None or lease.handle is None or found.console is None:
            raise NotNow(409, words.TOO_LATE, "off")
        seat = self.seat(lease, role)
        ticket = self.house.tickets.take(self._key(), seat)
        if ticket is None:
            raise NotNow(410, words.TOO_LATE, "late")
        if (why := self.house.relays.refuses(seat)) is not None:
            raise NotNow(409, why, "busy")
        try:
            upstream = await connect(ticket)
        except LabError as exc:
            self.house.say(seat, await found.console.console_ended(lease.handle, ticket.reference) or exc.message)
            raise
        self.relay = Relay(seat, upstream, self, used=lambda: self._used(found))
        self._screen, self._reference = found, ticket.reference
        self.house.relays.add(self.relay)
        self._work: list[asyncio.Task[Any]] = []
        try:
            await super().get(owner, server_name)  # the whole session
        finally:
            self.relay.end(End.BROWSER)
            self.house.relays.remove(self.relay)
            upstream.close()
            for task in self._work:
                await let_go(task)

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        start = asyncio.get_running_loop().create_task
        self._work = [start(self._relay()), start(self._watch())]

    async def on_message(self, message: str | bytes) -> None:
        if self.relay is not None:
            await self.relay.hear(message)

    def on_close(self) -> None:
        if self.relay is not None:
            self.relay.end(End.BROWSER)

    async def _relay(self) -> None:
        """Until one side ends; then find out why, and tell the browser."""
        relay, found = self.relay, self._screen
        if relay is None or found.console is None or found.lease is None or found.lease.handle is None:
            return
        log.info("desktop opened owner=%s server=%s viewer=%s", found.owner, found.server_name, relay.seat.viewer)
        self.house.say(relay.seat, None)
        end = await relay.run()
        self.house.relays.remove(relay)
        log.info(
            "desktop closed owner=%s server=%s viewer=%s frames=%s why=%s",
            found.owner, found.server_name, relay.seat.viewer, relay.frames, end.name.lower(),
        )  # fmt: skip
        if end is End.HOST:
            with contextlib.suppress(LabError):
                self.house.say(relay.seat, await found.console.console_ended(found.lease.handle, self._reference))
        self.close(end.value, end.name.lower())

    async def _watch(self) -> None:
        """What was true at the beginning must stay true: the log-in, the consent, the server. Who cannot be asked ends
        nothing."""
        relay, found = self.relay, self._screen
        if relay is None or found.lease is None:
            return
        token = self.hub_auth.get_token(self)
        while relay.ended is None:
            await asyncio.sleep(self._pause(found.lease))
            try:
                end = await self._over(found.lease, str(token or ""))
            except LabError as exc:
                log.warning("a desktop was not looked after lease=%s: %s", found.lease.id, exc)
                continue
            if end is not None:
                relay.end(end)

    def _pause(self, lease: Lease) -> float:
        """Until the next look: not past the end of a guest's consent."""
        until = self.house.consents.until(lease.id, self.house.now())
        if until is None or self.viewer.name == self._screen.owner:
            return self.house.watch_s
        return min(self.house.watch_s, max(0.0, (until - self.house.now()).total_seconds()) + _LATE_S)

    async def _over(self, lease: Lease, token: str) -> End | None:
        if not await self.house.hub.still(token, self.hub_auth.get_session_id(self)):
            return End.LOGGED_OUT
        now = await self.house.screens.find(self._screen.owner, self._screen.server_name)
        if now.lease is None or now.lease.id != lease.id or now.lease.phase in {Phase.STOPPING, Phase.PARKED}:
            return End.SERVER
        return End.WITHDRAWN if isinstance(await self.house.role(self.viewer, now), Refused) else None

    def _used(self, found: Screen) -> None:
        """The owner's, not a guest's, work keeps a server from being idle."""
        if self.viewer.name == found.owner:
            self.house.hub.note_use(found.owner, found.server_name)

    def _key(self) -> str:
        for word in self.request.headers.get("Sec-WebSocket-Protocol", "").split(","):
            if word.strip().startswith(KEY_PREFIX):
                return word.strip().removeprefix(KEY_PREFIX)
        return ""
