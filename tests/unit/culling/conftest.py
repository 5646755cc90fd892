"""A hub that answers like JupyterHub's REST API, and a real store."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from builders import NOW, a_lease
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from labspawner.culler.hub import Hub
from labspawner.culler.sweep import Rules, Sweep
from labspawner.model import Lease, Phase
from labspawner.store import Store
from labspawner.testing.waiting import eventually

TOKEN = "f00dface-token-of-the-culler"


def iso(instant: datetime | None) -> str | None:
    """As jupyterhub.utils.isoformat writes it: naive, with a Z."""
    return instant.replace(tzinfo=None).isoformat() + "Z" if instant else None


class FakeHub:
    """JupyterHub 6.1's `/users` endpoints over a dict of users; shapes from apihandlers/base.py and users.py.

    misbehave: called with (method, path) before each answer; may wait, and may return a status to answer with.
    """

    def __init__(self) -> None:
        self.users: dict[str, dict[str, dict[str, Any]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.misbehave: Callable[[str, str], Awaitable[int | bytes | None]] | None = None
        self.slow_to_stop = False
        self.in_flight = 0
        self.most_in_flight = 0
        self.max_page = 50
        sock, self.port = bind_unused_port()
        self._server = HTTPServer(web.Application([(r"/hub/api/(.*)", _Handler, {"hub": self})]))
        self._server.add_socket(sock)
        self.api_url = f"http://127.0.0.1:{self.port}/hub/api"

    def has(self, user: str, name: str = "", *, idle_min: float = 0, up_min: float = 600, **changes: Any) -> None:
        """Let a server run: idle for `idle_min`, started `up_min` ago."""
        self.users.setdefault(user, {})[name] = {
            "name": name,
            "display_name": name,
            "full_name": f"{user}/{name}",
            "last_activity": iso(NOW - timedelta(minutes=idle_min)),
            "started": iso(NOW - timedelta(minutes=up_min)),
            "pending": None,
            "ready": not changes.get("pending"),
            "stopped": False,
            "url": f"/user/{user}/{name}",
            "user_options": {},
            "progress_url": f"/hub/api/users/{user}/server/progress",
            **changes,
        }

    def user_model(self, user: str) -> dict[str, Any]:
        return {"kind": "user", "name": user, "servers": self.users[user]}

    @property
    def deletes(self) -> list[str]:
        return [path for method, path in self.requests if method == "DELETE"]

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


class _Handler(web.RequestHandler):
    def initialize(self, hub: FakeHub) -> None:
        self.hub = hub

    async def _answered(self) -> bool:
        """True if the answer is given already: no token, or the test wants something else."""
        path = self.request.path.removeprefix("/hub/api")
        self.hub.requests.append((self.request.method or "", path))
        if self.request.headers.get("Authorization") != f"token {TOKEN}":
            raise web.HTTPError(403)
        other = await self.hub.misbehave(self.request.method or "", path) if self.hub.misbehave else None
        if isinstance(other, bytes):
            self.write(other)
        elif other is not None:
            self.set_status(other)
            self.write({"status": other, "message": "as the test wants"})
        return other is not None

    async def get(self, rest: str) -> None:
        if await self._answered():
            return
        if not rest:
            self.write({"version": "6.1.1"})
        elif rest != "users":
            name = unquote(rest.removeprefix("users/"))
            if name not in self.hub.users:
                raise web.HTTPError(404)
            self.write(self.hub.user_model(name))
        else:
            assert self.get_argument("state") in {"active", "ready"}
            assert "jupyterhub-pagination" in self.request.headers["Accept"]
            self.write(self._page())

    def _page(self) -> dict[str, Any]:
        offset = int(self.get_argument("offset", "0"))
        limit = min(int(self.get_argument("limit", "50")), self.hub.max_page)
        names = [name for name, servers in self.hub.users.items() if servers]
        follow = None
        if offset + limit < len(names):
            # The hub builds this link from the Host header it was given; behind a proxy that can be anything.
            url = f"http://hub.example.invalid/hub/api/users?state=active&offset={offset + limit}&limit={limit}"
            if self.get_argument("state") == "ready":
                url = url.replace("hub.example.invalid", self.request.host).replace("active", "ready")
            follow = {"offset": offset + limit, "limit": limit, "url": url}
        return {
            "items": [self.hub.user_model(name) for name in names[offset : offset + limit]],
            "_pagination": {"offset": offset, "limit": limit, "total": len(names), "next": follow},
        }

    async def delete(self, rest: str) -> None:
        hub = self.hub
        hub.in_flight += 1
        hub.most_in_flight = max(hub.most_in_flight, hub.in_flight)
        try:
            if await self._answered():
                return
            assert not self.request.body
            _, user, kind, *names = (unquote(part) for part in self.request.path.removeprefix("/hub/api/").split("/"))
            name = names[0] if kind == "servers" else ""
            if user not in hub.users or (name and name not in hub.users[user]):
                raise web.HTTPError(404)
            server = hub.users[user].get(name)
            if server and (hub.slow_to_stop or server["pending"] == "stop"):
                server.update(pending="stop", ready=False)
                self.set_status(202)
            else:
                hub.users[user].pop(name, None)
                self.set_status(204)
        finally:
            hub.in_flight -= 1

    def log_exception(self, *args: Any) -> None:
        pass


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    hub = FakeHub()
    yield hub
    await hub.close()


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/leases.sqlite")
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
def lease(store: Store) -> Callable[..., Awaitable[Lease]]:
    """Put a ready lease into the store; `cull` is what it pins."""

    async def put(user: str = "student1", server_name: str = "", *, cull: Any = None, **changes: Any) -> Lease:
        pinned = {} if cull is None else {"cull": cull}
        values = {"user": user, "server_name": server_name, "pinned": pinned, "phase": Phase.READY, **changes}
        new = a_lease(**values)
        await store.add(new)
        return new

    return put


@pytest.fixture
async def client(hub: FakeHub) -> AsyncIterator[Hub]:
    client = Hub(hub.api_url, TOKEN, connections=20, timeout_s=120)
    yield client
    client.close()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def a_sweep(client: Hub, store: Store, clock: Clock) -> Callable[..., Sweep]:
    def make(**rules: Any) -> Sweep:
        return Sweep(client, store, Rules(hub_id="test-hub", **rules), log=logging.getLogger("culler"), clock=clock)

    return make


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Awaitable[None]]:
    return eventually


@pytest.fixture
def a_page() -> Callable[[list[Any]], bytes]:
    return lambda users: json.dumps({"items": users, "_pagination": {"next": None}}).encode()
