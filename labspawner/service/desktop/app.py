"""The desktop service as a process: its addresses, its socket, its way out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import signal
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuth
from jupyterhub.utils import make_ssl_context
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from labspawner.config import Settings, open_providers
from labspawner.courses import Catalog
from labspawner.errors import BadConfig
from labspawner.service.desktop import novnc, page
from labspawner.service.desktop.handlers import (
    CallbackHandler,
    ConsentHandler,
    Handler,
    OpenHandler,
    PageHandler,
    ServerHandler,
    StateHandler,
    StaticHandler,
)
from labspawner.service.desktop.house import House
from labspawner.service.desktop.hub import Hub
from labspawner.service.desktop.relay import End
from labspawner.service.desktop.screens import Screens
from labspawner.service.desktop.settings import DesktopSettings
from labspawner.service.desktop.sockets import SocketHandler
from labspawner.service.desktop.upstream import MAX_MESSAGE_BYTES, PING_S
from labspawner.store import Store

log = logging.getLogger(__name__)

_LOOK_AT_HUB_S = 1.0
_BIND_TRIES, _BIND_PAUSE_S = 60, 0.5
_LEAVE_S = 5.0


class NothingHandler(Handler):
    """Any other address: a page, for somebody who is logged in."""

    async def get(self) -> None:
        self.send_error(404)


def make_application(house: House, *, cookie_secret: bytes) -> Application:
    """All addresses of this service. A page ends with a slash, and what its script asks for does not: so a server may be
    called `state`."""
    prefix, base = re.escape(house.prefix), re.escape(house.base_url)
    given: dict[str, Any] = {"house": house}
    place = rf"{prefix}([^/]+)/(?:([^/]+)/)?"
    files = {**page.STATIC_DIRS, **({"novnc": house.novnc} if house.novnc else {})}
    return Application(
        [
            (rf"{prefix}oauth_callback", CallbackHandler, given),
            *((rf"{prefix}-/{name}/(.*)", StaticHandler, {"path": str(folder)}) for name, folder in files.items()),
            (rf"{prefix}?", PageHandler, given),
            (rf"{place}state", StateHandler, given),
            (rf"{place}open", OpenHandler, given),
            (rf"{place}consent", ConsentHandler, given),
            (rf"{place}ws", SocketHandler, given),
            (place, PageHandler, given),
            (rf"{base}user/([^/]+)/?(.*)", ServerHandler, given),
            (r".*", NothingHandler, given),
        ],
        cookie_secret=cookie_secret,
        websocket_max_message_size=MAX_MESSAGE_BYTES,
        websocket_ping_interval=PING_S,
        log_function=_log_request,
    )


def _log_request(handler: Any) -> None:
    """Addresses hold no secrets here; what went well is not worth a line, and 503 is a host's trouble, told elsewhere."""
    if handler.get_status() >= 500 and handler.get_status() != 503:
        log.error("%s %s answered %s", handler.request.method, handler.request.path, handler.get_status())


def open_house(settings: Settings, auth: HubOAuth, *, novnc_dir: str = "", environment: Mapping[str, str]) -> House:
    """Everything that the handlers need, for a service that the hub started. Raises BadConfig. Blocks."""
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX", "/services/desktop/")
    viewer = novnc.find(novnc_dir)
    if viewer is None:
        log.warning("%s", novnc.MISSING)
    screens = Screens(
        store=Store.open(settings.database_url),
        hub_id=settings.hub_id,
        providers=open_providers(settings),
        catalog=Catalog(settings.courses_dir),
    )
    return House(
        screens=screens,
        hub=Hub(auth, ssl_context=_tls(environment, ssl.Purpose.SERVER_AUTH)),
        base_url=environment.get("JUPYTERHUB_BASE_URL", "/"),
        prefix=prefix if prefix.endswith("/") else f"{prefix}/",
        novnc=viewer,
        public_host=urlsplit(environment.get("JUPYTERHUB_PUBLIC_URL", "")).netloc,
    )


def _tls(environment: Mapping[str, str], purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """What JupyterHub's `internal_ssl` gives a managed service; None where it is off."""
    key, certificate = environment.get("JUPYTERHUB_SSL_KEYFILE"), environment.get("JUPYTERHUB_SSL_CERTFILE")
    if not key or not certificate:
        return None
    context: ssl.SSLContext = make_ssl_context(
        key, certificate, cafile=environment.get("JUPYTERHUB_SSL_CLIENT_CA"), purpose=purpose
    )
    return context


def cookie_secret(folder: Path) -> bytes:
    """The secret that signs our cookies, made at the first call; with it a log-in outlives a restart of this service."""
    path = folder / "desktop.cookie-secret"
    try:
        found = path.read_bytes()
        if len(found) >= 32:
            return found
    except FileNotFoundError:
        pass
    new = secrets.token_bytes(32)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, new)
    finally:
        os.close(handle)
    return new


async def serve(house: House, *, url: str, secret: bytes, tls: ssl.SSLContext | None, stopping: asyncio.Event) -> None:
    """Answer at `url` until `stopping`; then every browser is told to come again, and everything is given back."""
    application = make_application(house, cookie_secret=secret)
    server = HTTPServer(application, ssl_options=tls, xheaders=True)
    try:
        server.add_sockets(await _bound(url, stopping))
        log.info("desktops are shown at %s for %s", url, house.prefix)
        await stopping.wait()
    finally:
        server.stop()
        house.relays.end_all(End.AWAY)
        try:
            await asyncio.wait_for(server.close_all_connections(), _LEAVE_S)
        except asyncio.TimeoutError:
            log.warning("a browser did not let go in %.0f s", _LEAVE_S)
        await house.hub.close()
        await house.screens.close()


async def _bound(url: str, stopping: asyncio.Event) -> Any:
    """The socket; the service of a hub that was killed may hold it for a moment yet."""
    parts = urlsplit(url)
    for attempt in range(_BIND_TRIES):
        try:
            return bind_sockets(parts.port or 0, parts.hostname or "127.0.0.1")
        except OSError as exc:
            if attempt == _BIND_TRIES - 1 or stopping.is_set():
                raise
            if attempt == 0:
                log.warning("%s is taken, waiting for it: %s", url, exc)
        await asyncio.sleep(_BIND_PAUSE_S)
    raise AssertionError("unreachable")


async def _hub_gone(parent: int, stopping: asyncio.Event) -> None:
    """Stop when the hub that started us is no more: the next one starts a service of its own."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells when a parent dies
        await asyncio.sleep(_LOOK_AT_HUB_S)
    stopping.set()


async def run(environment: Mapping[str, str]) -> None:
    """The whole life of the process. Raises BadConfig."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    parent = os.getppid()
    wanted = DesktopSettings.from_environment(environment)
    settings = wanted.settings()
    house = open_house(settings, HubOAuth(), novnc_dir=wanted.novnc_dir, environment=environment)
    outliving = asyncio.ensure_future(_hub_gone(parent, stopping)) if _managed(environment) else None
    try:
        await serve(
            house,
            url=environment.get("JUPYTERHUB_SERVICE_URL", ""),
            secret=cookie_secret(settings.data_dir),
            tls=_tls(environment, ssl.Purpose.CLIENT_AUTH),
            stopping=stopping,
        )
    finally:
        if outliving is not None:
            outliving.cancel()


def _managed(environment: Mapping[str, str]) -> bool:
    """Whether a hub is our parent; one that systemd runs sets LABSPAWNER_DESKTOP_EXTERNAL=1."""
    return not environment.get("LABSPAWNER_DESKTOP_EXTERNAL")


def main() -> None:
    """Run until told to stop; exits with 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)1.1s %(asctime)s desktop] %(message)s")
    try:
        asyncio.run(run(os.environ))
    except BadConfig as exc:
        log.critical("The desktop service does not start: %s", exc)
        sys.exit(2)
