"""The console as a process: its addresses, its socket, its way out."""

from __future__ import annotations

import asyncio
import logging
import os
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

from labspawner.config import Settings
from labspawner.courses import Catalog
from labspawner.errors import BadConfig
from labspawner.service.console.beside import Beside
from labspawner.service.console.house import House
from labspawner.service.console.hub import KNOWN_FOR_S, Hub
from labspawner.service.console.rights import Rules
from labspawner.service.console.routes import make_application
from labspawner.service.console.settings import ConsoleSettings
from labspawner.store import Store

log = logging.getLogger(__name__)

_LOOK_AT_HUB_S = 1.0
_BIND_TRIES, _BIND_PAUSE_S = 60, 0.5
_LEAVE_S = 5.0
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""Far above what any address takes (see `base`): what is larger than that is answered in words, and not kept."""


def open_house(wanted: ConsoleSettings, auth: HubOAuth, *, environment: Mapping[str, str]) -> House:
    """Everything that the handlers need, for a service that the hub started. Raises BadConfig."""
    settings = wanted.settings()
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX", "/services/labspawner/")
    return House(
        store=Store.open(settings.database_url, hub_id=settings.hub_id),
        hub=Hub(auth, ssl_context=tls(environment, ssl.Purpose.SERVER_AUTH)),
        settings=settings,
        catalog=Catalog(settings.courses_dir),
        base_url=environment.get("JUPYTERHUB_BASE_URL", "/"),
        prefix=prefix if prefix.endswith("/") else f"{prefix}/",
        rules=_rules(settings),
        creates_users=wanted.creates_users,
        public_host=urlsplit(environment.get("JUPYTERHUB_PUBLIC_URL", "")).netloc,
    )


def _rules(settings: Settings) -> Rules:
    creators = getattr(settings, "console_creators", None)
    return Rules() if creators is None else Rules(creators=frozenset(creators))


def tls(environment: Mapping[str, str], purpose: ssl.Purpose) -> ssl.SSLContext | None:
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
    path = folder / "console.cookie-secret"
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


async def serve(
    house: House, *, url: str, secret: bytes, secure: ssl.SSLContext | None, stopping: asyncio.Event
) -> None:
    """Answer at `url` until `stopping`; then everything is given back."""
    application = make_application(house, cookie_secret=secret, log_function=_log_request)
    beside = Beside(house)
    server = HTTPServer(application, ssl_options=secure, xheaders=True, max_body_size=MAX_REQUEST_BYTES)
    try:
        sockets = await _bound(url, stopping)  # whoever comes from now on waits
        await house.open()
        server.add_sockets(sockets)
        beside.open()
        log.info("the console answers at %s for %s", url, house.prefix)
        await stopping.wait()
    finally:
        server.stop()
        await beside.close()
        try:
            await asyncio.wait_for(server.close_all_connections(), _LEAVE_S)
        except asyncio.TimeoutError:
            log.warning("a browser did not let go in %.0f s", _LEAVE_S)
        await house.close()


def _log_request(handler: Any) -> None:
    """The path alone: what stands behind it may be a token. What went well is not worth a line."""
    if handler.get_status() >= 500 and handler.get_status() != 503:
        log.error("%s %s answered %s", handler.request.method, handler.request.path, handler.get_status())


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
    wanted = ConsoleSettings.from_environment(environment)
    house = open_house(wanted, HubOAuth(cache_max_age=KNOWN_FOR_S), environment=environment)
    outliving = asyncio.ensure_future(_hub_gone(parent, stopping)) if _managed(environment) else None
    try:
        await serve(
            house,
            url=environment.get("JUPYTERHUB_SERVICE_URL", ""),
            secret=cookie_secret(house.settings.data_dir),
            secure=tls(environment, ssl.Purpose.CLIENT_AUTH),
            stopping=stopping,
        )
    finally:
        if outliving is not None:
            outliving.cancel()


def _managed(environment: Mapping[str, str]) -> bool:
    """Whether a hub is our parent; one that systemd runs sets LABSPAWNER_CONSOLE_EXTERNAL=1."""
    return not environment.get("LABSPAWNER_CONSOLE_EXTERNAL")


def main() -> None:
    """Run until told to stop; exits with 2 for a wrong setting."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)1.1s %(asctime)s console] %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(run(os.environ))
    except BadConfig as exc:
        log.critical("The console does not start: %s", exc)
        sys.exit(2)
