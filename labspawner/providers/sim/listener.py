"""The one HTTP listener behind all servers of a sim provider: enough for a JupyterHub and its proxy to accept them."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from urllib.parse import quote, unquote

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from labspawner.providers.sim.world import Row

_DEEPEST = 32  # a base URL has a handful of parts; a request may have thousands
Find = Callable[[Sequence[str]], Awaitable["Row | None"]]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Simulated server of {user}</title></head>
<body><h1>Simulated server</h1><p>User: <b id="user">{user}</b></p><p>Profile: <b id="profile">{profile}</b></p>
</body></html>
"""


def normal_url(path: str) -> str:
    """`path` in the one percent-encoding that we compare by: proxies and hubs differ in what they escape."""
    return "/".join(quote(unquote(part), safe="") for part in path.split("/"))


def prefixes(path: str) -> list[str]:
    """Every base URL that `path` may be below, the longest first."""
    parts = normal_url(path).split("/")[:_DEEPEST]
    if parts[-1]:
        parts.append("")
    return ["/".join(parts[:end]) + "/" for end in range(len(parts) - 1, 0, -1)]


class Listener:
    """Answers on one loopback port for every server that `find` says is running, 503 for any other."""

    def __init__(self, find: Find, version: str) -> None:
        arguments = {"find": find, "version": version}
        self._server = HTTPServer(Application([(r".*", _Server, arguments)], log_function=lambda handler: None))

    def open(self, port: int = 0) -> int:
        """Listen, on a free port for 0; the port. Raises OSError if it is taken.

        The port is shared with other listeners of ours (SO_REUSEPORT), which read the same world: a new provider object
        can take over before the old one has let go.
        """
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.setblocking(False)
            listening.bind(("127.0.0.1", port))
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
        self._server.add_socket(listening)
        return int(listening.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        self._server.stop()
        await self._server.close_all_connections()


class _Server(RequestHandler):
    def initialize(self, find: Find, version: str) -> None:
        self._find, self._version = find, version

    async def get(self) -> None:
        row = await self._find(prefixes(self.request.path))
        self.set_header("X-JupyterHub-Version", self._version)
        if row is None:
            self.set_status(503)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish("No simulated server is running here.\n")
        elif normal_url(self.request.path).rstrip("/") == row.base_url + "api":
            self.finish({"version": self._version})
        else:
            self.finish(_PAGE.format(user=escape(row.user), profile=escape(row.profile)))

    head = get
