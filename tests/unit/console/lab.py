"""A console in this process with a hub beside it that has groups, users, tokens and servers, for tests of what it does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, create_signed_value
from traitlets.config import Config

from labspawner.config import Labspawner
from labspawner.courses import Catalog
from labspawner.courses.staff import Actor, course_of, why_not
from labspawner.sentences import Sentence
from labspawner.service.console.app import MAX_REQUEST_BYTES
from labspawner.service.console.beside import Beside
from labspawner.service.console.house import House
from labspawner.service.console.hub import Hub
from labspawner.service.console.rights import ADMIN_UI, SELF
from labspawner.service.console.routes import make_application
from labspawner.store import Store

HUB_ID = "t-console"
PREFIX = "/services/labspawner/"
API = "api/v1/"
ACCESS = "access:services!service=labspawner"
SECRET = b"0" * 32
FILE_COURSE = """
course: py101
title: {en: Python Basics, zh-CN: Python 程序设计基础}
profiles:
  - slug: base
    title: Base
    variants: [{provider: sim, cpu: 1, memory: 1GiB}]
"""
TEXT = """# our course
course: {slug}
title: Deep Learning
profiles:
  - slug: gpu
    title: GPU
    variants: [{{provider: sim, memory: 1GiB, gpu: {{memory: 6GiB, cores: 25}}}}]
"""


def text_of(slug: str = "dl") -> str:
    """A course that may be written."""
    return TEXT.format(slug=slug)


@dataclass
class HubDouble:
    """Answers as JupyterHub and the hub's inner API do, as far as the console asks.

    scopes: of a person's tokens, beside that of opening the console. away: nobody answers. hurried: so many acts are answered
    429 first. acts: what was done. hold: an event that acts wait for.
    """

    users: set[str] = field(default_factory=set)
    groups: dict[str, set[str]] = field(default_factory=dict)
    scopes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    services: dict[str, tuple[str, ...]] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    capacity: list[dict[str, Any]] = field(default_factory=list)
    given: list[dict[str, str]] = field(default_factory=list)
    away: bool = False
    manages_groups: bool = False
    notes: dict[str, bool] = field(default_factory=dict)
    hurried: int = 0
    acts: list[dict[str, Any]] = field(default_factory=list)
    refreshed: int = 0
    asked: list[str] = field(default_factory=list)
    act: Callable[[dict[str, Any]], None] | None = None
    hold: asyncio.Event | None = None
    at_once: int = 0
    most_at_once: int = 0

    def person(self, name: str, *groups: str, scopes: tuple[str, ...] = (SELF,)) -> str:
        """Somebody whom the hub knows, in these groups; their token."""
        self.users.add(name)
        self.scopes[name] = scopes
        for group in groups:
            self.groups.setdefault(group, set()).add(name)
        return f"token-of-{name}"

    def who(self, token: str) -> dict[str, Any] | None:
        name = unquote(token.removeprefix("token-of-"))
        if name in self.services:
            return {"kind": "service", "name": name, "scopes": [ACCESS, *self.services[name]]}
        if name not in self.scopes:
            return None
        mine = sorted(group for group, users in self.groups.items() if name in users)
        return {"kind": "user", "name": name, "groups": mine, "scopes": [ACCESS, *self.scopes[name]]}

    def application(self) -> Application:
        routes: list[Any] = [
            (r"/hub/api/user", _Who),
            (r"/hub/api/users", _Users),
            (r"/hub/api/groups", _Groups),
            (r"/hub/api/groups/([^/]+)", _Group),
            (r"/hub/api/groups/([^/]+)/users", _Members),
            (r"/hub/api/labspawner/v1/act", _Act),
            (r"/hub/api/labspawner/v1/(.+)", _Inner),
            (r".*", _Nothing),
        ]
        given = [(pattern, handler, {"hub": self}) for pattern, handler in routes]
        return Application(given, log_function=lambda handler: None)


class _Handler(RequestHandler):
    def initialize(self, hub: HubDouble) -> None:
        self.hub = hub

    def prepare(self) -> None:
        self.hub.asked.append(f"{self.request.method} {self.request.uri}")
        if self.hub.away:
            self.refuse(503, "away")
        elif self.token != "token-of-the-console" and not self.request.path.endswith("/api/user"):
            self.refuse(403, "only the console")

    @property
    def token(self) -> str:
        return self.request.headers.get("Authorization", "").removeprefix("token ")

    def refuse(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish({"status": status, "message": message})

    @property
    def sent(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request.body)
        return found

    def page(self, items: list[Any]) -> None:
        offset, limit = int(self.get_argument("offset", "0")), int(self.get_argument("limit", "50"))
        more = offset + limit < len(items)
        follow = {"offset": offset + limit, "limit": limit} if more else None
        if "pagination" in self.request.headers.get("Accept", ""):
            self.finish({"items": items[offset : offset + limit], "_pagination": {"next": follow}})
        else:
            self.finish(json.dumps(items[offset : offset + limit]))


class _Nothing(_Handler):
    def get(self) -> None:
        self.refuse(404, "nothing")


class _Who(_Handler):
    def get(self) -> None:
        found = self.hub.who(self.token)
        if found is None:
            self.refuse(403, "no")
        else:
            self.finish(found)


class _Users(_Handler):
    def get(self) -> None:
        self.page([{"name": name} for name in sorted(self.hub.users)])

    def post(self) -> None:
        self.hub.users.update(self.sent["usernames"])
        self.set_status(201)
        self.finish(json.dumps([]))


class _Groups(_Handler):
    def get(self) -> None:
        self.page([{"name": name} for name in sorted(self.hub.groups)])


class _Group(_Handler):
    def get(self, name: str) -> None:
        if unquote(name) not in self.hub.groups:
            self.refuse(404, "No such group")
        else:
            self.finish({"name": unquote(name), "users": sorted(self.hub.groups[unquote(name)])})

    def post(self, name: str) -> None:
        self.hub.groups.setdefault(unquote(name), set())
        self.set_status(201)
        self.finish({})


class _Members(_Handler):
    def post(self, name: str) -> None:
        self._change(unquote(name), set.update)

    def delete(self, name: str) -> None:
        self._change(unquote(name), set.difference_update)

    def _change(self, name: str, change: Callable[[set[str], list[str]], None]) -> None:
        users = self.sent["users"]
        if name not in self.hub.groups:
            self.refuse(404, "No such group")
        elif unknown := [user for user in users if user not in self.hub.users]:
            self.refuse(400, f"No such user: {unknown[0]}")
        else:
            change(self.hub.groups[name], users)
            self.finish({})


class _Inner(_Handler):
    def get(self, path: str) -> None:
        now = datetime.now(timezone.utc).isoformat()
        if path == "about":
            hub = self.hub
            about = {"jupyterhub": "6", "manages_groups": hub.manages_groups, "providers": ["sim"], "notes": hub.notes}
            self.finish(about)
        elif path == "state":
            course = self.get_argument("course", "")
            rows = [
                {
                    "user": user,
                    "server": "",
                    "lease": f"l-{user}",
                    "course": course_of(profile),
                    "profile": profile,
                    "phase": "ready",
                }
                for user, profile in self.hub.servers.items()
                if course in {"", course_of(profile)}
            ]
            self.finish({"version": "1", "taken_at": now, "servers": rows, "notices": [], "lines": [], "holds": []})
        elif path == "capacity":
            self.finish({"taken_at": now, "providers": self.hub.capacity})
        elif path == "availability":
            self.finish({"version": "1", "taken_at": now, "profiles": {}})
        elif path == "courses/given":
            self.finish({"courses": self.hub.given})
        elif path == "decisions":
            self.finish({"decisions": []})
        else:
            self.refuse(404, "nothing")

    def post(self, path: str) -> None:
        self.hub.refreshed += path == "courses/refresh"
        self.finish({})


class _Act(_Handler):
    async def post(self) -> None:
        hub, wish = self.hub, self.sent
        if hub.hurried:
            hub.hurried -= 1
            self.set_header("Retry-After", "0")
            self.refuse(429, "too much")
            return
        hub.at_once += 1
        hub.most_at_once = max(hub.most_at_once, hub.at_once)
        try:
            if hub.hold is not None:
                await hub.hold.wait()
            await asyncio.sleep(0)
            self._answer(wish)
        finally:
            hub.at_once -= 1

    def _answer(self, wish: dict[str, Any]) -> None:
        hub = self.hub
        own = f"course-{wish['course']}"
        groups = frozenset(group for group, users in hub.groups.items() if wish["actor"] in users)
        scopes = frozenset((hub.services if wish["service"] else hub.scopes).get(wish["actor"], ()))
        actor = Actor(name=wish["actor"], groups=groups, scopes=scopes, admin=ADMIN_UI in scopes)
        why = why_not(actor, wish["verb"], own=own, staff=(f"{own}-instructors",), assistants=(f"{own}-assistants",))
        if why is not None:
            self.set_status(403)
            self.finish({"status": 403, "message": str(why), "sentence": why.to_json()})
            return
        if hub.act is not None:
            hub.act(wish)
        hub.acts.append(wish)
        running = hub.servers.get(wish["user"])
        said = "It was not running."
        if wish["verb"] == "start":
            hub.servers[wish["user"]] = wish["args"]["profile"]
            said = "It is starting." if running is None else "It runs already."
        elif running is not None:
            said = "It was stopped." if wish["verb"] == "stop" else "Done."
            if wish["verb"] == "stop":
                del hub.servers[wish["user"]]
        more: dict[str, Any] = {}
        if wish["verb"] == "visit":
            more = {"visit": {"state": "asked", "until": None, "path": None}}
        self.finish({"sentence": Sentence(said).to_json(), **more})


@dataclass
class Lab:
    """The console behind an address, and what a test asks of it."""

    base: str
    house: House
    hub: HubDouble
    client: AsyncHTTPClient
    beside: Beside

    async def ask(
        self,
        method: str,
        path: str,
        who: str | None = "teacher",
        body: object = None,
        *,
        match: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> HTTPResponse:
        """One request to the API, by somebody's token. body: bytes and text as they are, anything else as JSON."""
        given = {"Accept-Language": "en"}
        if who is not None:
            given["Authorization"] = f"token token-of-{who}"
        if body is not None:
            given["Content-Type"] = "application/json"
        if match:
            given["If-Match"] = f'"{match}"'
        return await self.fetch(method, f"{API}{path}", body, headers={**given, **(headers or {})})

    async def fetch(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        """One request as it is; no redirect is followed."""
        content = body if isinstance(body, bytes | str) or body is None else json.dumps(body)
        request = HTTPRequest(
            self.base + path,
            method=method,
            headers=dict(headers or {}),
            body=content,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=240,
            connect_timeout=240,
        )
        return await self.client.fetch(request, raise_error=False)

    async def watch(self, path: str, take: Callable[[bytes], None], who: str = "teacher") -> None:
        """Read a stream until it ends."""
        headers = {"Authorization": f"token token-of-{who}"}
        request = HTTPRequest(self.base + API + path, headers=headers, streaming_callback=take, request_timeout=240)
        await self.client.fetch(request, raise_error=False)

    def cookie_of(self, who: str) -> str:
        """The cookie of a browser in which somebody has logged in."""
        value = create_signed_value(SECRET, "service-labspawner", f"token-of-{who}").decode()
        return f"service-labspawner={value}"

    async def a_course(self, slug: str = "dl", who: str = "teacher") -> str:
        """A course that was made; its etag."""
        made = await self.ask("POST", "courses", who, {"slug": slug, "text": text_of(slug)})
        assert made.code == 201, made.body
        return str(json.loads(made.body)["etag"])

    def forget_who(self) -> None:
        """The seconds for which the console does not ask again are over."""
        self.house.hub.auth.cache.clear()


def said(answer: HTTPResponse) -> dict[str, Any]:
    """The JSON of an answer."""
    found: dict[str, Any] = json.loads(answer.body)
    return found


@contextmanager
def serving(folder: Path) -> Iterator[Lab]:
    """A console with a course `dl`, in a thread of its own, for whoever asks without an event loop."""
    ready, over = threading.Event(), threading.Event()
    found: list[Lab] = []

    async def serve() -> None:
        async with a_lab(folder) as lab:
            await lab.a_course()
            found.append(lab)
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(240)
        yield found[0]
    finally:
        over.set()
        thread.join(240)


@asynccontextmanager
async def a_lab(
    folder: Path, *, prefix: str = PREFIX, creates_users: bool = False, store_url: str = "", working: bool = False
) -> AsyncIterator[Lab]:
    """A console with a database of its own, and the people of two courses; nothing of it is left.

    There are `teacher` and `rival`, who may make courses and teach `py101` (a file) and nothing; `helper`, an assistant of
    py101; `student1` to `student3`, its members; `boss`, an administrator. working: what runs beside requests runs.
    """
    courses = folder / "courses"
    courses.mkdir(exist_ok=True)
    (courses / "py101.yaml").write_text(FILE_COURSE, encoding="utf-8")
    hub = HubDouble()
    hub.person("teacher", "instructors", "course-py101-instructors")
    hub.person("rival", "instructors")
    hub.person("helper", "course-py101-assistants")
    for number in (1, 2, 3):
        hub.person(f"student{number}", "course-py101")
    hub.person("boss", scopes=(SELF, ADMIN_UI))
    given = {
        "hub_id": HUB_ID,
        "data_dir": str(folder / "data"),
        "courses_dir": str(courses),
        "courses_refresh_s": 0.1,
        "providers": {"sim": {}},
        **({"database_url": store_url} if store_url else {}),
    }
    settings = Labspawner(config=Config({"Labspawner": given})).settings()
    servers: list[HTTPServer] = []

    def serve(application: Application, **options: Any) -> int:
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application, **options)
        server.add_sockets(sockets)
        servers.append(server)
        return int(sockets[0].getsockname()[1])

    base_url = prefix.removesuffix("services/labspawner/")
    auth = HubOAuth(
        api_url=f"http://127.0.0.1:{serve(hub.application())}/hub/api",
        api_token="token-of-the-console",
        oauth_client_id="service-labspawner",
        base_url=prefix,
        hub_prefix=f"{base_url}hub/",
        access_scopes={ACCESS},
        cache_max_age=5,
    )
    house = House(
        store=Store.open(settings.database_url, hub_id=HUB_ID),
        hub=Hub(auth),
        settings=settings,
        catalog=Catalog(settings.courses_dir),
        base_url=base_url,
        prefix=prefix,
        creates_users=creates_users,
    )
    beside = Beside(house, newcomers_s=0.05)
    await house.open()
    application = make_application(house, cookie_secret=SECRET, log_function=lambda handler: None)
    port = serve(application, max_body_size=MAX_REQUEST_BYTES)
    client = AsyncHTTPClient(force_instance=True, max_clients=100)
    if working:
        beside.open()
    try:
        yield Lab(f"http://127.0.0.1:{port}{prefix}", house, hub, client, beside)
    finally:
        await beside.close()
        client.close()
        for server in servers:
            server.stop()
            await asyncio.wait_for(server.close_all_connections(), 60)
        await house.close()
