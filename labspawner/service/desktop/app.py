"""The desktop service as a process: its addresses, its socket, its way out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import sys
from collections.abc import Mapping
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado.httpserver import HTTPServer
from tornado.web import Application

from labspawner.config import Settings, open_providers
from labspawner.courses import Catalog
from labspawner.errors import BadConfig
from labspawner.service import serving
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

COOKIE_SECRET = "desktop.cookie-secret"  # noqa: S105 - the file's name
"""In the hub's data folder."""


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
        log_function=serving.log_request,
    )


def open_house(settings: Settings, auth: HubOAuth, *, novnc_dir: str = "", environment: Mapping[str, str]) -> House:
    """Everything that the handlers need, for a service that the hub started. Raises BadConfig. Blocks."""
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
        hub=Hub(auth, ssl_context=serving.tls(environment, ssl.Purpose.SERVER_AUTH)),
        base_url=environment.get("JUPYTERHUB_BASE_URL", "/"),
        prefix=serving.prefix_of(environment, "/services/desktop/"),
        novnc=viewer,
        public_host=serving.public_host_of(environment),
    )


async def serve(house: House, *, url: str, secret: bytes, tls: ssl.SSLContext | None, stopping: asyncio.Event) -> None:
    """Answer at `url` until `stopping`; then every browser is told to come again, and everything is given back."""
    application = make_application(house, cookie_secret=secret)
    server = HTTPServer(application, ssl_options=tls, xheaders=True)
    try:
        server.add_sockets(await serving.bound(url, stopping))
        log.info("desktops are shown at %s for %s", url, house.prefix)
        await stopping.wait()
    finally:
        server.stop()
        house.relays.end_all(End.AWAY)
        await serving.end_connections(server)
        await house.hub.close()
        await house.screens.close()


async def run(environment: Mapping[str, str]) -> None:
    """The whole life of the process; LABSPAWNER_DESKTOP_EXTERNAL=1 says that no hub is its parent. Raises BadConfig."""
    wanted = DesktopSettings.from_environment(environment)
    settings = wanted.settings()

    async def life(stopping: asyncio.Event) -> None:
        await serve(
            open_house(settings, HubOAuth(), novnc_dir=wanted.novnc_dir, environment=environment),
            url=environment.get("JUPYTERHUB_SERVICE_URL", ""),
            secret=serving.cookie_secret(settings.data_dir / COOKIE_SECRET),
            tls=serving.tls(environment, ssl.Purpose.CLIENT_AUTH),
            stopping=stopping,
        )

    managed = not environment.get("LABSPAWNER_DESKTOP_EXTERNAL")
    await serving.live(life, managed=managed, environment=environment)


def main() -> None:
    """Run until told to stop; exits with 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format=serving.FORMAT.format(name="desktop"))
    try:
        asyncio.run(run(os.environ))
    except BadConfig as exc:
        log.critical("The desktop service does not start: %s", exc)
        sys.exit(2)
