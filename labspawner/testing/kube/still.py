"""`runs="still"`: pods without processes, and one tiny HTTP answerer for all of them."""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import PackageNotFoundError, version

from labspawner.testing.addresses import Addresses
from labspawner.testing.kube.running import Start, StillContainer
from labspawner.testing.kube.world import World


def _answer() -> bytes:
    try:
        hub = version("jupyterhub")
    except PackageNotFoundError:  # pragma: no cover - jupyterhub is a dependency of ours
        hub = "0"
    body = b'{"version":"still"}'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-JupyterHub-Version: {hub}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Answerer(asyncio.Protocol):
    """Answers every request of a connection alike. Bodies of requests are not expected.

    open_now: the connections that are open, kept up to date.
    """

    answer = b""

    def __init__(self, open_now: set[asyncio.WriteTransport]) -> None:
        self._open = open_now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._seen = b""
        if isinstance(transport, asyncio.WriteTransport):
            self._open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(self._transport, asyncio.WriteTransport):
            self._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while b"\r\n\r\n" in self._seen:
            _, _, self._seen = self._seen.partition(b"\r\n\r\n")
            if isinstance(self._transport, asyncio.WriteTransport):
                self._transport.write(self.answer)


class StillRunner:
    """Starts nothing. All pods have one address, where every path of every port answers with 200."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._addresses = Addresses()
        self._address = ""
        self._servers: dict[int, asyncio.Server | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.WriteTransport] = set()
        self._closed = False
        _Answerer.answer = _answer()

    def address(self) -> str:
        self._address = self._address or self._addresses.take()
        return self._address

    def give_back(self, address: str) -> None:
        """Others have the same."""

    def start(self, start: Start) -> StillContainer:
        ports = [port["containerPort"] for port in start.container.get("ports") or []] or [8888]
        for port in ports:
            if port not in self._servers:
                self._servers[port] = None
                task = asyncio.ensure_future(self._serve(port, _listening(start.address, port)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return StillContainer(self._world.pace.stop_s)

    async def _serve(self, port: int, listener: socket.socket) -> None:
        if self._closed:
            listener.close()
            return
        server = await asyncio.get_running_loop().create_server(
            lambda: _Answerer(self._open), sock=listener, backlog=512, start_serving=False
        )
        self._servers[port] = server  # before the first turn of the loop, in which all may be closed
        await server.start_serving()

    def forget(self, uid: str) -> None:
        """Nothing was kept."""

    async def close(self) -> None:
        self._closed = True
        for server in self._servers.values():
            if server is not None:
                server.close()
        for transport in [*self._open]:
            transport.abort()  # a client may keep its connection open, and our end of it would be left behind
        await asyncio.sleep(0)  # which the loop does in its next turn
        self._addresses.close()


def _listening(address: str, port: int) -> socket.socket:
    """A socket to which one can connect from now on, before anybody answers."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(512)
    return listener
