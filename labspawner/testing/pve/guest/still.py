"""A guest's server without a process: an address that answers HTTP, and what `labspawner-guest` says of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn
from urllib.parse import urlsplit

from labspawner.testing.pve.clock import Clock

POWER_OFF_AFTER_S = 60.0


class _NotOurs(Exception):
    """The command line is not tinyserver's."""


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _NotOurs(message)


def wishes_of(command: Sequence[str]) -> argparse.Namespace:
    """How a server is to behave, by the words of `labspawner.testing.tinyserver.command`; well, for any other command."""
    parser = _Words(add_help=False, allow_abbrev=False)
    parser.add_argument("--listen-after", type=float, default=0.0)
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--die-when-asked", action="store_true")
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--say", default="")
    parser.add_argument("--never-listen", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    try:
        return parser.parse_known_args(list(command[1:]))[0]
    except _NotOurs:
        return parser.parse_args([])


class _Answerer(asyncio.Protocol):
    """Answers what is asked of one server, on one connection. Bodies of requests are not expected."""

    def __init__(self, server: StillServer) -> None:
        self._server = server
        self._seen = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport
            self._server.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._server.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while b"\r\n\r\n" in self._seen and self._transport is not None:
            head, _, self._seen = self._seen.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("latin-1") if head.count(b" ") > 1 else "/"
            self._transport.write(self._server.answer(path))
            if b"\r\nconnection: close" in head.lower():
                self._transport.close()


class StillServer:
    """One server: starts, listens, dies as its command wishes. All of it is the double's time.

    over: called when it has ended by itself.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, address: str, version: str, clock: Clock
    ) -> None:
        self.wishes = wishes_of(command)
        self.environment, self.address = environment, address
        self.state, self.exit_code, self.log = "active", 0, ""
        self.last_activity: str | None = None
        self.open: set[asyncio.WriteTransport] = set()
        self._clock, self._version = clock, version
        self._listening: asyncio.Server | None = None
        self._wanted = False  # to listen, whenever its CPUs run
        self._frozen = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: Callable[[], None] = lambda: None

    @property
    def port(self) -> int | None:
        try:
            return urlsplit(self.environment.get("JUPYTERHUB_SERVICE_URL", "")).port
        except ValueError:
            return None

    @property
    def listening(self) -> bool:
        return self._listening is not None

    def start(self, after_s: float, over: Callable[[], None]) -> None:
        """Begin; it listens `after_s` seconds later."""
        self._over = over
        if self.wishes.say:
            self.log += self.wishes.say + "\n"
        self._spawn(self._live(after_s))

    async def _live(self, after_s: float) -> None:
        if self.wishes.die_after is not None:
            self._spawn(self._die_after(self.wishes.die_after))
        await self._clock.sleep(after_s + self.wishes.listen_after)
        if not self.wishes.never_listen and self.state == "active":
            self._wanted = True
            await self._listen()

    async def _die_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._ended(self.wishes.exit_code)

    async def _listen(self) -> None:
        if not self._may_listen() or self._listening is not None or self.port is None:
            return
        try:
            listener = _bound(self.address, self.port)
        except OSError as error:
            self.log += f"OSError: {self.address}:{self.port}: {error.strerror}\n"
            self._ended(1)
            return
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Answerer(self), sock=listener, start_serving=False)
        self._listening = server  # before the first turn of the loop, in which it may be stopped
        await server.start_serving()
        if not self._may_listen():  # any more
            self._silence()
            return
        self.log += f"serving at http://{self.address}:{self.port}\n"

    def _may_listen(self) -> bool:
        return self._wanted and not self._frozen and self.state == "active"

    def freeze(self) -> None:
        """Its CPUs stand still: nobody answers, and nothing is forgotten."""
        self._frozen = True
        self._silence()

    async def thaw(self) -> None:
        """Its CPUs run again."""
        self._frozen = False
        await self._listen()

    def _silence(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for transport in [*self.open]:
            transport.abort()

    def stop(self) -> None:
        """It was told to end."""
        self._over = lambda: None
        self._ended(0)

    def _ended(self, code: int) -> None:
        if self.state != "active":
            return
        self.state, self.exit_code = "failed" if code else "inactive", code
        self._wanted = False
        self._silence()
        for task in [*self._tasks]:
            if task is not asyncio.current_task():
                task.cancel()
        self._over()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answer(self, path: str) -> bytes:
        """The whole answer to a GET of `path`."""
        plain = path.partition("?")[0].rstrip("/")
        self.last_activity = datetime.fromtimestamp(self._clock.now(), timezone.utc).isoformat()
        if plain.endswith("/die") and self.wishes.die_when_asked:
            asyncio.get_running_loop().call_soon(self._ended, self.wishes.exit_code)
        if plain.endswith("/api"):
            body, kind = json.dumps({"version": "still"}), "application/json"
        elif plain.endswith("/api/status"):
            said = {"kernels": 0, "connections": 0, "last_activity": self.last_activity, "started": self.last_activity}
            body, kind = json.dumps(said), "application/json"
        else:
            user = self.environment.get("JUPYTERHUB_USER", "")
            body, kind = f"<!doctype html><title>still</title><p>{user}</p>", "text/html; charset=utf-8"
        content = body.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nX-JupyterHub-Version: {self._version}\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _bound(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
