"""Frames both ways between one browser and one host, no faster than the slower of the two, and who looks at what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from labspawner.deadlines import let_go
from labspawner.model import LeaseId
from labspawner.sentences import Sentence
from labspawner.service.desktop.rights import Role

log = logging.getLogger(__name__)

PER_VIEWER = 3
_INPUT = frozenset({4, 5, 6, 255})  # of RFB's client messages: key, pointer, clipboard, and QEMU's own keys
_CLOSE_S = 5.0


class End(Enum):
    """Why a relay ended, as the websocket's close code; the page's script knows them."""

    HOST = 4000  # the host ended it, or is out of reach: try again
    TAKEN_OVER = 4001  # the same person opened it elsewhere
    WITHDRAWN = 4003  # the owner's consent is over
    LOGGED_OUT = 4004
    SERVER = 4009  # the server ended or is being stopped
    AWAY = 1001  # this service stops: try again
    BROWSER = 1000  # the browser left


class Upstream(Protocol):
    """The connection to the host."""

    def read_message(self) -> Awaitable[str | bytes | None]: ...
    def write_message(self, message: str | bytes, binary: bool = False) -> Awaitable[None]: ...
    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


class Browser(Protocol):
    """The connection to the browser. What `write_message` returns is done when the network took the frame."""

    def write_message(self, message: bytes, binary: bool = False) -> Awaitable[None]: ...
    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Who looks at which server, and as what."""

    viewer: str
    role: Role
    lease_id: LeaseId


class Relay:
    """One viewer's connection to one screen. `run` passes on what the host sends, `hear` what the browser sends; each
    waits until the other side's network has taken it, so that at most one frame a direction is held here.

    used: called when the viewer does something: a key, the pointer, the clipboard.
    """

    def __init__(self, seat: Seat, upstream: Upstream, browser: Browser, *, used: Callable[[], None]) -> None:
        self.seat = seat
        self.frames = 0
        self._upstream = upstream
        self._browser = browser
        self._used = used
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> End | None:
        """Why it ended; None while it runs."""
        return self._end.result() if self._end.done() else None

    async def run(self) -> End:
        """Pass frames on until one side ends or `end` is called; why. The host's side is closed then, the browser's not."""
        pumping = asyncio.get_running_loop().create_task(self._pump())
        pumping.add_done_callback(self._pumped)
        try:
            return await asyncio.shield(self._end)  # `_pumped` sets it too
        finally:
            self.end(End.BROWSER)
            self._upstream.close()
            await let_go(pumping, _CLOSE_S)

    def end(self, why: End) -> None:
        """End it; the first reason stands."""
        if not self._end.done():
            self._end.set_result(why)

    async def hear(self, message: str | bytes) -> None:
        """Pass on what the browser sent; returns when the host's network took it."""
        if self._end.done():
            return
        data = message.encode() if isinstance(message, str) else message
        if data and data[0] in _INPUT:
            self._used()
        try:
            await self._upstream.write_message(data, binary=True)
        except (WebSocketClosedError, StreamClosedError):
            self.end(End.HOST)

    async def _pump(self) -> None:
        while (message := await self._upstream.read_message()) is not None:
            self.frames += 1
            data = message.encode() if isinstance(message, str) else message
            try:
                await self._browser.write_message(data, binary=True)
            except (WebSocketClosedError, StreamClosedError):
                self.end(End.BROWSER)
                return

    def _pumped(self, pumping: asyncio.Task[None]) -> None:
        if not pumping.cancelled() and (error := pumping.exception()) is not None:
            log.error("relay broke lease=%s", self.seat.lease_id, exc_info=error)
        self.end(End.HOST)


class Relays:
    """All connections of this process: at most one of the owner and one of somebody else to a server, and `PER_VIEWER` of
    one person. Opening a second one to the same server takes over the first."""

    def __init__(self) -> None:
        self._all: list[Relay] = []

    def refuses(self, seat: Seat) -> Sentence | None:
        """Why this seat is not free; None where it is."""
        others = [relay.seat for relay in self._all if relay.ended is None]
        for other in others:
            if other.lease_id == seat.lease_id and other.role is seat.role and other.viewer != seat.viewer:
                return Sentence("{viewer} looks at this screen already. One person at a time can.", viewer=other.viewer)
        mine = {other.lease_id for other in others if other.viewer == seat.viewer} - {seat.lease_id}
        if len(mine) >= PER_VIEWER:
            return Sentence("You have {count} desktops open already. Close one first.", count=len(mine))
        return None

    def add(self, relay: Relay) -> None:
        """Count it from now on; the same viewer's older one to that server ends."""
        for other in self._all:
            same = other.seat.lease_id == relay.seat.lease_id and other.seat.viewer == relay.seat.viewer
            if same:
                other.end(End.TAKEN_OVER)
        self._all.append(relay)

    def remove(self, relay: Relay) -> None:
        """Count it no more. Safe to repeat."""
        with suppress(ValueError):
            self._all.remove(relay)

    def guests(self, lease_id: LeaseId) -> list[str]:
        """Who, beside its owner, looks at the screen of a server now."""
        return sorted({relay.seat.viewer for relay in self._of(lease_id, Role.GUEST)})

    def end_guests(self, lease_id: LeaseId) -> None:
        """The owner's consent is over."""
        for relay in self._of(lease_id, Role.GUEST):
            relay.end(End.WITHDRAWN)

    def end_all(self, why: End) -> None:
        """This process stops."""
        for relay in self._all:
            relay.end(why)

    def __len__(self) -> int:
        return len(self._all)

    def _of(self, lease_id: LeaseId, role: Role) -> Iterable[Relay]:
        return [
            relay
            for relay in self._all
            if relay.ended is None and relay.seat.lease_id == lease_id and relay.seat.role is role
        ]
