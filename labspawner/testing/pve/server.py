"""A node's door: HTTPS on a port that stays ours, also while the node is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from tornado import web, websocket
from tornado.httpserver import HTTPServer

from labspawner.testing.pve.answering import Answer, Asked
from labspawner.testing.pve.call import Refused
from labspawner.testing.pve.schema import checked
from labspawner.testing.pve.vnc import Ticket

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

_MOST_BYTES = 512 * 1024  # of a body, as pveproxy has it
_CONSOLE = r"/api2/json/nodes/[^/]+/qemu/\d+/vncwebsocket"


class Door:
    """Listens on 127.0.0.1 for one node."""

    def __init__(self, inside: Inside, node: str, port: int) -> None:
        self.node, self._inside = node, inside
        # Bound and never listening, it keeps the port while nothing listens: connections are refused then.
        self._keeper = _bound(port)
        self.port: int = self._keeper.getsockname()[1]
        self._server: HTTPServer | None = None
        self._deaf: socket.socket | None = None
        self.context: ssl.SSLContext | None = None

    def up(self) -> None:
        """Listen, and answer. Safe to repeat."""
        self._hear_again()
        if self._server is not None:
            return
        options: dict[str, Any] = {"inside": self._inside, "door": self}
        app = web.Application(
            [(_CONSOLE, ConsoleHandler, options), (r".*", ApiHandler, options)], log_function=lambda handler: None
        )
        self._server = HTTPServer(app, ssl_options=self.context, max_body_size=_MOST_BYTES)
        listening = _bound(self.port)
        listening.listen(256)
        self._server.add_sockets([listening])

    async def down(self, *, silent: bool = False) -> None:
        """Refuse connections from now on and end those that are open; silent: accept and say nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            await server.close_all_connections()
        self._hear_again()
        if silent:
            self._deaf = _bound(self.port)
            self._deaf.listen(256)

    def _hear_again(self) -> None:
        if self._deaf is not None:
            self._deaf.close()
            self._deaf = None

    async def renew(self, context: ssl.SSLContext) -> None:
        was_up = self._server is not None
        self.context = context
        await self.down()
        if was_up:
            self.up()

    async def close(self) -> None:
        await self.down()
        self._keeper.close()


class _Handler(web.RequestHandler):
    """What both handlers share: the request as the double reads it."""

    def initialize(self, inside: Inside, door: Door) -> None:
        self.inside, self.door = inside, door
        self.work: asyncio.Task[Any] | None = None

    def asked(self) -> Asked:
        request = self.request
        headers = dict(request.headers.get_all())
        method = request.method or "GET"
        return Asked(self.door.node, method, request.path, request.query, request.body, headers)

    def send(self, answer: Answer) -> None:
        if answer.status == 0:
            self.hang_up()
            return
        self.set_header("Content-Type", "application/json;charset=UTF-8")
        self.set_header("Server", "pve-api-daemon/3.0")
        self._status_code, self._reason = answer.status, answer.reason  # set_status knows no 595
        self.finish(answer.body)

    def hang_up(self) -> None:
        connection = self.request.connection
        if connection is not None:
            connection.stream.close()  # type: ignore[attr-defined]

    async def do(self, work: Awaitable[Answer]) -> Answer | None:
        """The answer, or None when the client has gone before it was there."""
        self.work = asyncio.ensure_future(work)
        try:
            found: Answer = await self.work
            return found
        except asyncio.CancelledError:
            if self.work.cancelled() and self.client_gone:
                return None
            self.work.cancel()
            raise

    client_gone = False

    def on_connection_close(self) -> None:
        self.client_gone = True
        if self.work is not None:
            self.work.cancel()

    def data_received(self, chunk: bytes) -> None:
        raise NotImplementedError


class ApiHandler(_Handler):
    """All but the upgraded console."""

    SUPPORTED_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")

    async def _serve(self) -> None:
        answer = await self.do(self.inside.answering.answer(self.asked()))
        if answer is not None and not self.client_gone:
            self.send(answer)

    get = post = put = delete = patch = head = options = _serve


class ConsoleHandler(websocket.WebSocketHandler, _Handler):
    """GET vncwebsocket: an upgrade with the right ticket, else an answer as from any call."""

    ticket: Ticket | None = None
    serving: asyncio.Task[None] | None = None

    def initialize(self, inside: Inside, door: Door) -> None:
        _Handler.initialize(self, inside, door)

    async def prepare(self) -> None:
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            answer = await self.do(self.inside.answering.answer(self.asked()))
            if answer is not None:
                self.send(answer)
            return
        try:
            self.ticket = self._admitted()
        except Refused as refused:
            if refused.status == 401:
                await self.inside.clock.sleep(3.0)
            self._status_code, self._reason = refused.status, refused.text
            self.finish({"data": None, "message": f"{refused.text}\n"})
            return
        if self.ticket is None:
            await self.inside.clock.sleep(5.0)
            self.hang_up()
            raise web.Finish

    def _admitted(self) -> Ticket | None:
        call, route = self.inside.answering.begin(self.asked(), {})
        call.params = checked(route.params, call.params, route.extra)
        return self.inside.vnc.admit(call)

    def check_origin(self, origin: str) -> bool:
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "binary" if "binary" in subprotocols else None

    def open(self, *args: str, **kwargs: str) -> None:
        self.stream = _Socket(self)
        if self.ticket is not None:
            self.serving = asyncio.get_running_loop().create_task(self._show(self.ticket))

    async def _show(self, ticket: Ticket) -> None:
        with contextlib.suppress(websocket.WebSocketClosedError):
            await self.inside.vnc.serve(ticket, self.stream)

    def on_message(self, message: str | bytes) -> None:
        self.stream.came(message if isinstance(message, bytes) else message.encode())

    def on_close(self) -> None:
        self.stream.came(None)

    def on_connection_close(self) -> None:
        _Handler.on_connection_close(self)
        websocket.WebSocketHandler.on_connection_close(self)

    def data_received(self, chunk: bytes) -> None:
        raise NotImplementedError


class _Socket:
    """The stream of an upgraded console, as `Console.serve` sees it."""

    def __init__(self, handler: ConsoleHandler) -> None:
        self._handler = handler
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._gone = False

    def came(self, data: bytes | None) -> None:
        self._queue.put_nowait(data)

    async def read(self) -> bytes | None:
        if self._gone:
            return None
        data = await self._queue.get()
        self._gone = data is None
        return data

    async def write(self, data: bytes) -> None:
        await self._handler.write_message(data, binary=True)

    async def close(self) -> None:
        with contextlib.suppress(websocket.WebSocketClosedError):
            self._handler.close()


def _bound(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    found.setblocking(False)
    return found
