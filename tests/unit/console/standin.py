"""The console in this process, for tests: its real addresses, a real database, and a hub that answers from a table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, create_signed_value
from traitlets.config import Config

from labspawner.config import Labspawner
from labspawner.courses import Catalog
from labspawner.service.console.house import House
from labspawner.service.console.hub import Hub
from labspawner.service.console.rights import ADMIN_UI, SELF
from labspawner.service.console.routes import make_application
from labspawner.store import Store

HUB_ID = "t-console"
SECRET = b"0" * 32
PREFIX = "/services/labspawner/"
ACCESS = "access:services!service=labspawner"
PEOPLE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "admin": ((), (SELF, ADMIN_UI)),
    "teacher": (("instructors", "course-py101-instructors"), (SELF,)),
    "helper": (("course-py101-assistants",), (SELF,)),
    "student1": (("course-py101",), (SELF,)),
    "forger": ((), ()),
}
"""Who there is: name -> groups, and scopes beside that of opening the console."""


@dataclass
class HubTable:
    """What the hub answers: to GET by the part of the path behind `v1/`; a path that is not there is 404. told: what was
    POSTed there. away: it does not answer."""

    answers: dict[str, Any] = field(default_factory=dict)
    told: list[tuple[str, Any]] = field(default_factory=list)
    away: bool = False

    def application(self) -> Application:
        table = self

        class Who(RequestHandler):
            def get(self) -> None:
                if table.away:
                    self.send_error(503)
                    return
                name = self.request.headers.get("Authorization", "").removeprefix("token token-of-")
                if name not in PEOPLE:
                    self.set_status(403)
                    self.finish({"message": "no"})
                    return
                groups, scopes = PEOPLE[name]
                self.finish({"kind": "user", "name": name, "groups": list(groups), "scopes": [ACCESS, *scopes]})

        class Inner(RequestHandler):
            def get(self, path: str) -> None:
                if table.away or path not in table.answers:
                    self.send_error(503 if table.away else 404)
                    return
                self.finish(table.answers[path])

            def post(self, path: str) -> None:
                table.told.append((path, json.loads(self.request.body)))
                self.finish(table.answers.get(f"POST {path}", {"sentence": {"template": "Done.", "params": {}}}))

        routes = [(r"/hub/api/user", Who), (r"/hub/api/labspawner/v1/(.*)", Inner)]
        return Application(routes, log_function=lambda handler: None)


@dataclass
class Console:
    """The console behind an address, and what a test asks of it."""

    base: str
    house: House
    hub: HubTable
    client: AsyncHTTPClient

    async def get(self, path: str, user: str | None = "admin", **headers: str) -> HTTPResponse:
        return await self.ask("GET", path, user, headers)

    async def post(self, path: str, user: str | None = "admin", **fields: str) -> HTTPResponse:
        """A form, by a token: a page's cookie would need a log-in at a real hub."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.ask("POST", path, user, kind, urlencode(fields))

    def cookie_of(self, user: str) -> str:
        """The cookie of a browser in which somebody has logged in."""
        value = create_signed_value(SECRET, "service-labspawner", f"token-of-{user}").decode()
        return f"service-labspawner={value}"

    async def ask(
        self, method: str, path: str, user: str | None, headers: Mapping[str, str], body: str | None = None
    ) -> HTTPResponse:
        token = {"Authorization": f"token token-of-{user}"} if user else {}
        request = HTTPRequest(
            self.base + path,
            method=method,
            headers={"Accept-Language": "en", **token, **headers},
            body=body,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=120,
        )
        return await self.client.fetch(request, raise_error=False)


@asynccontextmanager
async def a_console(
    folder: Path, answers: Mapping[str, Any] | None = None, *, store_url: str = "", prefix: str = PREFIX
) -> AsyncIterator[Console]:
    """A console on a port of its own, with a database of its own; nothing of it is left. prefix: behind a base URL."""
    (folder / "courses").mkdir(exist_ok=True)
    given = {
        "hub_id": HUB_ID,
        "data_dir": str(folder / "data"),
        "courses_dir": str(folder / "courses"),
        "providers": {"sim": {}},
        **({"database_url": store_url} if store_url else {}),
    }
    settings = Labspawner(config=Config({"Labspawner": given})).settings()
    store = Store.open(settings.database_url, hub_id=HUB_ID)
    await store.migrate()
    table = HubTable(answers=dict(answers or {}))
    servers: list[HTTPServer] = []

    def serve(application: Application) -> int:
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application, xheaders=True)
        server.add_sockets(sockets)
        servers.append(server)
        return int(sockets[0].getsockname()[1])

    base_url = prefix.removesuffix("services/labspawner/")
    auth = HubOAuth(
        api_url=f"http://127.0.0.1:{serve(table.application())}/hub/api",
        api_token="token-of-the-service",
        oauth_client_id="service-labspawner",
        base_url=prefix,
        hub_prefix=f"{base_url}hub/",
        access_scopes={ACCESS},
    )
    house = House(
        store=store,
        hub=Hub(auth),
        settings=settings,
        catalog=Catalog(settings.courses_dir),
        base_url=base_url,
        prefix=prefix,
    )
    port = serve(make_application(house, cookie_secret=SECRET, log_function=lambda handler: None))
    client = AsyncHTTPClient(force_instance=True)
    try:
        yield Console(f"http://127.0.0.1:{port}{prefix}", house, table, client)
    finally:
        client.close()
        for server in servers:
            server.stop()
            await asyncio.wait_for(server.close_all_connections(), 60)
        await house.close()
