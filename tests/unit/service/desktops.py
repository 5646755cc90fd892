"""A desktop service in this process, for tests: a hub that knows who has which token, and a host with screens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import unittest.mock
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from builders import a_lease
from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from labspawner.courses import Catalog
from labspawner.errors import LabError
from labspawner.model import Handle, Lease, Phase, ServerState
from labspawner.providers.contract import ConsoleTicket
from labspawner.sentences import Sentence
from labspawner.service.desktop.app import make_application
from labspawner.service.desktop.house import House, Tickets
from labspawner.service.desktop.hub import Hub
from labspawner.service.desktop.screens import Screens
from labspawner.service.desktop.upstream import connect
from labspawner.store import Store
from labspawner.testing.kube.tls import Authority
from labspawner.testing.waiting import eventually

HUB_ID = "test-hub"
PREFIX = "/services/desktop/"
COURSE = """
course: vm101
title: {en: Machines, zh-CN: 虚拟机}
access: {staff: [vm101-helpers]}
profiles:
  - slug: linux
    title: {en: Linux desktop, zh-CN: Linux 桌面}
    variants: [{provider: vms}]
"""
ADMIN_SCOPES = ["access:services!service=desktop", "admin-ui"]


class HubDouble:
    """Answers who has a token, and remembers what activity it was told. away: it does not answer."""

    def __init__(self) -> None:
        self.people: dict[str, dict[str, Any]] = {}
        self.noted: list[tuple[str, dict[str, Any]]] = []
        self.away = False
        self.token("alice")
        self.token("bob")
        self.token("teacher", groups=["vm101-helpers"])
        self.token("other-teacher", groups=["course-py101-instructors"])
        self.token("boss", scopes=ADMIN_SCOPES)
        self.token("stranger", scopes=["read:users:name!user=stranger"])

    def token(self, name: str, *, groups: list[str] | None = None, scopes: list[str] | None = None) -> None:
        self.people[f"token-of-{name}"] = {
            "kind": "user",
            "name": name,
            "groups": groups or [],
            "scopes": scopes or ["access:services!service=desktop"],
        }

    def application(self) -> Application:
        double = self

        class Who(RequestHandler):
            def get(self) -> None:
                if double.away:
                    self.send_error(503)
                    return
                token = self.request.headers.get("Authorization", "").partition(" ")[2]
                if token not in double.people:
                    self.set_status(403)
                    self.finish({"message": "no"})
                    return
                self.finish(double.people[token])

        class Activity(RequestHandler):
            def post(self, user: str) -> None:
                double.noted.append((user, json.loads(self.request.body)))
                self.finish({})

        quiet = {"log_function": lambda handler: None}
        return Application([(r"/hub/api/user", Who), (r"/hub/api/users/([^/]+)/activity", Activity)], **quiet)


class ScreenHost:
    """A host of screens: a websocket behind TLS and a token, which sends what a test says and keeps what it is sent."""

    token = "PVEAPIToken=labs@pve!hub=s3cret"

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.connections: list[Any] = []
        self.heard: list[bytes] = []
        self.seen: list[tuple[str, str | None]] = []
        self.greeting: list[bytes] = [b"RFB 003.008\n"]
        self.url = ""
        certificate = ssl.PEM_cert_to_DER_cert(_last_certificate((folder / "server.pem").read_text()))
        self.fingerprint = hashlib.sha256(certificate).hexdigest()

    def application(self) -> Application:
        host = self

        class Screen(WebSocketHandler):
            def prepare(self) -> None:
                host.seen.append((self.request.uri or "", self.request.headers.get("Authorization")))
                if self.request.headers.get("Authorization") != host.token:
                    self.send_error(401)

            def select_subprotocol(self, subprotocols: list[str]) -> str | None:
                return "binary" if "binary" in subprotocols else None

            async def open(self, *args: str) -> None:
                host.connections.append(self)
                for frame in host.greeting:
                    await self.write_message(frame, binary=True)

            def on_message(self, message: str | bytes) -> None:
                host.heard.append(message if isinstance(message, bytes) else message.encode())

            def on_close(self) -> None:
                host.connections.remove(self)

        return Application([(r"/screen", Screen)], log_function=lambda handler: None, websocket_max_message_size=2**26)

    def ticket(self, **changes: Any) -> ConsoleTicket:
        values: dict[str, Any] = {
            "url": f"{self.url}/screen?vncticket=se%2Bcret",
            "headers": {"Authorization": self.token},
            "password": "pass-word",
            "fingerprint": self.fingerprint,
            "reference": "UPID:pve1:1",
        }
        return ConsoleTicket(**{**values, **changes})


def _last_certificate(pem: str) -> str:
    return "-----BEGIN CERTIFICATE-----" + pem.rpartition("-----BEGIN CERTIFICATE-----")[2]


class Vms:
    """A provider with screens, as far as this service looks. refuses: what `console` raises. why: what ended a console."""

    name = "vms"
    features = frozenset()

    def __init__(self, host: ScreenHost) -> None:
        self.host = host
        self.refuses: LabError | None = None
        self.why: Sentence | None = None
        self.asked = 0
        self.changes: dict[str, Any] = {}

    async def console(self, handle: Handle) -> ConsoleTicket:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        return self.host.ticket(**self.changes)

    async def console_ended(self, handle: Handle, reference: str) -> Sentence | None:
        return self.why

    def ssh(self, handle: Handle) -> str | None:
        return str(handle.data["ssh"]) if "ssh" in handle.data else None

    async def observe(self, handles: Any) -> dict[Any, ServerState]:
        return {handle.lease_id: ServerState.RUNNING for handle in handles}

    async def close(self) -> None:
        pass


class Clock:
    """The present, for consents; moves when a test says so."""

    def __init__(self) -> None:
        self.at = datetime.now(timezone.utc)

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, **span: float) -> None:
        self.at += timedelta(**span)


@dataclass
class Desktop:
    """The service, and what is around it."""

    house: House
    hub: HubDouble
    host: ScreenHost
    vms: Vms
    store: Store
    clock: Clock
    url: str
    lease: Lease
    sockets: list[WebSocketClientConnection] = field(default_factory=list)

    async def ask(
        self, who: str | None, path: str, *, method: str = "GET", body: Any = None, **headers: str
    ) -> HTTPResponse:
        given = {"Authorization": f"token token-of-{who}"} if who else {}
        request = HTTPRequest(
            self.url + path,
            method=method,
            headers={**given, **headers},
            body=json.dumps(body) if body is not None else ("" if method == "POST" else None),
            follow_redirects=False,
            request_timeout=120,
        )
        return await AsyncHTTPClient().fetch(request, raise_error=False)

    async def open(self, who: str, place: str = "alice/") -> HTTPResponse:
        return await self.ask(who, f"{PREFIX}{place}open", method="POST", body={})

    async def look(
        self, who: str, place: str = "alice/", *, key: str | None = None, **headers: str
    ) -> WebSocketClientConnection:
        """Look at a screen as the page does: ask for a key, then open the websocket with it."""
        if key is None:
            answer = await self.open(who, place)
            assert answer.code == 200, answer.body
            key = json.loads(answer.body)["key"]
        request = HTTPRequest(
            f"{self.url}{PREFIX}{place}ws".replace("http:", "ws:"),
            headers={"Authorization": f"token token-of-{who}", **headers},
            request_timeout=120,
        )
        socket = await websocket_connect(request, subprotocols=["binary", f"labspawner.{key}"], max_message_size=2**26)
        self.sockets.append(socket)
        return socket

    async def state(self, who: str, place: str = "alice/", **headers: str) -> dict[str, Any]:
        answer = await self.ask(who, f"{PREFIX}{place}state", **headers)
        assert answer.code == 200, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def agree(self, who: str = "alice", *, look: bool = True) -> HTTPResponse:
        return await self.ask(who, f"{PREFIX}alice/consent", method="POST", body={"look": look})


@contextlib.asynccontextmanager
async def a_desktop(
    folder: Path, *, novnc: bool = True, watch_s: float = 60.0, provider: Any = None, handle: Handle | None = None
) -> AsyncIterator[Desktop]:
    """The service on a port of its own; alice has a virtual machine that is on. provider, handle: where that is; left out:
    a host of this module."""
    (folder / "courses").mkdir()
    (folder / "courses" / "vm101.yaml").write_text(COURSE, encoding="utf-8")
    viewer = folder / "novnc"
    (viewer / "core").mkdir(parents=True)
    (viewer / "core" / "rfb.js").write_text("export default class RFB {}\n")
    (viewer / "vendor" / "pako").mkdir(parents=True)
    hub, host, clock = HubDouble(), ScreenHost(folder), Clock()
    servers: list[HTTPServer] = []

    def serve(application: Application, **options: Any) -> int:
        sockets = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application, **options)
        server.add_sockets(sockets)
        servers.append(server)
        return int(sockets[0].getsockname()[1])

    host.url = f"wss://127.0.0.1:{serve(host.application(), ssl_options=host.authority.server_context())}"
    hub_port = serve(hub.application())
    store = Store.open(f"sqlite:///{folder / 'leases.sqlite'}")
    await store.migrate()
    lease = a_lease(
        user="alice", provider="vms", profile="vm101/linux", hub_id=HUB_ID, phase=Phase.READY,
        pinned={"title": {"en": "Linux desktop", "zh-CN": "Linux 桌面"}, "variant": {"settings": {"desktop": True}}},
    )  # fmt: skip
    if handle is None:
        handle = Handle(lease_id=lease.id, provider="vms", data={"vmid": 20017, "ssh": "student@10.0.0.7"})
    lease = lease.with_(id=handle.lease_id, handle=handle)
    await store.add(lease)
    vms = Vms(host)
    auth = HubOAuth(
        api_url=f"http://127.0.0.1:{hub_port}/hub/api",
        api_token="token-of-the-service",
        oauth_client_id="service-desktop",
        base_url=PREFIX,
        hub_prefix="/hub/",
        access_scopes={"access:services!service=desktop"},
    )
    house = House(
        screens=Screens(
            store=store, hub_id=HUB_ID, providers={"vms": provider or vms}, catalog=Catalog(folder / "courses")  # type: ignore[dict-item]
        ),
        hub=Hub(auth),
        base_url="/",
        prefix=PREFIX,
        novnc=viewer if novnc else None,
        now=clock,
        watch_s=watch_s,
    )  # fmt: skip
    house.tickets = Tickets(lambda: 0.0)  # none grows old: on a busy machine a browser may come late
    port = serve(make_application(house, cookie_secret=b"0" * 32))
    desktop = Desktop(house, hub, host, vms, store, clock, f"http://127.0.0.1:{port}", lease)
    patient = unittest.mock.patch.dict(connect.__kwdefaults__, within_s=120.0)  # a host may be as busy
    try:
        with patient:
            yield desktop
    finally:
        for socket in desktop.sockets:
            socket.close()
        for connection in list(host.connections):
            connection.close()
        await eventually(lambda: len(house.relays) == 0 and not host.connections, what="all connections are closed")
        for server in servers:
            server.stop()
            await asyncio.wait_for(server.close_all_connections(), 60)
        await house.hub.close()
        await house.screens.close()
