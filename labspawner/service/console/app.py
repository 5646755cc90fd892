"""The console as a process: its addresses, its socket, its way out."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from collections.abc import Mapping

from jupyterhub.services.auth import HubOAuth
from tornado.httpserver import HTTPServer

from labspawner.config import Settings
from labspawner.courses import Catalog
from labspawner.errors import BadConfig
from labspawner.service import serving
from labspawner.service.console.beside import Beside
from labspawner.service.console.house import House
from labspawner.service.console.hub import KNOWN_FOR_S, Hub
from labspawner.service.console.rights import Rules
from labspawner.service.console.routes import make_application
from labspawner.service.console.settings import ConsoleSettings
from labspawner.store import Store

log = logging.getLogger(__name__)

COOKIE_SECRET = "console.cookie-secret"  # noqa: S105 - the file's name
"""In the hub's data folder."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""Far above what any address takes (see `base`): what is larger than that is answered in words, and not kept."""


def open_house(wanted: ConsoleSettings, auth: HubOAuth, *, environment: Mapping[str, str]) -> House:
    """Everything that the handlers need, for a service that the hub started. Raises BadConfig."""
    settings = wanted.settings()
    return House(
        store=Store.open(settings.database_url, hub_id=settings.hub_id),
        hub=Hub(auth, ssl_context=serving.tls(environment, ssl.Purpose.SERVER_AUTH)),
        settings=settings,
        catalog=Catalog(settings.courses_dir),
        base_url=environment.get("JUPYTERHUB_BASE_URL", "/"),
        prefix=serving.prefix_of(environment, "/services/labspawner/"),
        rules=_rules(settings),
        creates_users=wanted.creates_users,
        public_host=serving.public_host_of(environment),
    )


def _rules(settings: Settings) -> Rules:
    creators = getattr(settings, "console_creators", None)
    return Rules() if creators is None else Rules(creators=frozenset(creators))


async def serve(
    house: House, *, url: str, secret: bytes, secure: ssl.SSLContext | None, stopping: asyncio.Event
) -> None:
    """Answer at `url` until `stopping`; then everything is given back."""
    application = make_application(house, cookie_secret=secret, log_function=serving.log_request)
    beside = Beside(house)
    server = HTTPServer(application, ssl_options=secure, xheaders=True, max_body_size=MAX_REQUEST_BYTES)
    try:
        sockets = await serving.bound(url, stopping)  # whoever comes from now on waits
        await house.open()
        server.add_sockets(sockets)
        beside.open()
        log.info("the console answers at %s for %s", url, house.prefix)
        await stopping.wait()
    finally:
        server.stop()
        await beside.close()
        await serving.end_connections(server)
        await house.close()


async def run(environment: Mapping[str, str]) -> None:
    """The whole life of the process; LABSPAWNER_CONSOLE_EXTERNAL=1 says that no hub is its parent. Raises BadConfig."""
    wanted = ConsoleSettings.from_environment(environment)

    async def life(stopping: asyncio.Event) -> None:
        house = open_house(wanted, HubOAuth(cache_max_age=KNOWN_FOR_S), environment=environment)
        await serve(
            house,
            url=wanted.listen or environment.get("JUPYTERHUB_SERVICE_URL", ""),
            secret=serving.cookie_secret(house.settings.data_dir / COOKIE_SECRET),
            secure=serving.tls(environment, ssl.Purpose.CLIENT_AUTH),
            stopping=stopping,
        )

    managed = not environment.get("LABSPAWNER_CONSOLE_EXTERNAL")
    await serving.live(life, managed=managed, environment=environment)


def main() -> None:
    """Run until told to stop; exits with 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format=serving.FORMAT.format(name="console"))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(run(os.environ))
    except BadConfig as exc:
        log.critical("The console does not start: %s", exc)
        sys.exit(2)
