"""JupyterHub's own way of starting, without what a start does: the upstream side of `labspawner bench storm` and `poll`."""

from __future__ import annotations

import asyncio
import random
from importlib import metadata
from typing import Any

from jupyterhub.spawner import Spawner
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

START_S = (2.0, 3.0)


class _Answer(RequestHandler):
    def get(self) -> None:
        version = metadata.version("jupyterhub")
        self.set_header("X-JupyterHub-Version", version)
        self.finish({"version": version})


class SimSpawner(Spawner):  # type: ignore[misc]
    """A server is ready after 2 to 3 s, and is one listener that all share."""

    _port: int | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._running = False

    async def start(self) -> str:
        self.get_env()
        await asyncio.sleep(random.uniform(*START_S))  # noqa: S311 - no secret
        self._running = True
        return f"http://127.0.0.1:{self.port_of_all()}"

    async def poll(self) -> int | None:
        return None if self._running else 0

    async def stop(self, now: bool = False) -> None:
        self._running = False

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "running": self._running}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._running = bool(state.get("running"))

    def clear_state(self) -> None:
        super().clear_state()
        self._running = False

    @classmethod
    def port_of_all(cls, port: int = 0) -> int:
        """Where all servers of this process listen, from the first call on."""
        if SimSpawner._port is None:
            sockets = bind_sockets(port, "127.0.0.1", backlog=1024)
            SimSpawner._port = int(sockets[0].getsockname()[1])
            HTTPServer(Application([(r".*", _Answer)], log_function=lambda _handler: None)).add_sockets(sockets)
        return SimSpawner._port
