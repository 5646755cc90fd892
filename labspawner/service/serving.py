"""What the processes beside the hub do alike: their secret, their socket, their life and their way out."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from jupyterhub.utils import make_ssl_context
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

log = logging.getLogger(__name__)

_LOOK_AT_HUB_S = 1.0
_BIND_TRIES, _BIND_PAUSE_S = 60, 0.5
_LEAVE_S = 5.0
_SECRET_BYTES = 32

HUB_PID = "LABSPAWNER_HUB_PID"
"""The variable that tells a service the process id of its hub, which may be gone before the service has begun to look."""

FORMAT = "[%(levelname)1.1s %(asctime)s {name}] %(message)s"
"""How these processes write their log; `name`: of the process."""


def prefix_of(environment: Mapping[str, str], usual: str) -> str:
    """The path below which the hub shows the service; it ends with a slash."""
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX", usual)
    return prefix if prefix.endswith("/") else f"{prefix}/"


def public_host_of(environment: Mapping[str, str]) -> str:
    """How browsers know the hub (`host` or `host:port`); empty where the hub does not say."""
    return urlsplit(environment.get("JUPYTERHUB_PUBLIC_URL", "")).netloc


def tls(environment: Mapping[str, str], purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """What JupyterHub's `internal_ssl` gives a managed service; None where it is off."""
    key, certificate = environment.get("JUPYTERHUB_SSL_KEYFILE"), environment.get("JUPYTERHUB_SSL_CERTFILE")
    if not key or not certificate:
        return None
    context: ssl.SSLContext = make_ssl_context(
        key, certificate, cafile=environment.get("JUPYTERHUB_SSL_CLIENT_CA"), purpose=purpose
    )
    return context


def cookie_secret(file: Path) -> bytes:
    """The secret that signs cookies, made at the first call; with it a log-in outlives a restart of the service."""
    try:
        found = file.read_bytes()
        if len(found) >= _SECRET_BYTES:
            return found
    except FileNotFoundError:
        pass
    new = secrets.token_bytes(_SECRET_BYTES)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, new)
    finally:
        os.close(handle)
    return new


def log_request(handler: Any) -> None:
    """The path alone: what stands behind it may be a token. What went well is not worth a line, and 503 is told elsewhere."""
    if handler.get_status() >= 500 and handler.get_status() != 503:
        log.error("%s %s answered %s", handler.request.method, handler.request.path, handler.get_status())


async def bound(url: str, stopping: asyncio.Event) -> list[socket.socket]:
    """The sockets of `url`; the service of a hub that was killed may hold them for a moment yet. Raises OSError."""
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


async def end_connections(server: HTTPServer) -> None:
    """Let the browsers of a server that has been stopped go; who does not within seconds is left behind."""
    try:
        await asyncio.wait_for(server.close_all_connections(), _LEAVE_S)
    except asyncio.TimeoutError:
        log.warning("a browser did not let go in %.0f s", _LEAVE_S)


async def live(
    life: Callable[[asyncio.Event], Awaitable[None]], *, managed: bool, environment: Mapping[str, str]
) -> None:
    """Run `life` with the event that ends it: set by SIGTERM and SIGINT and, where a hub is our parent (`managed`), when that
    hub is no more, or was none any more before we looked: the next one starts a service of its own."""
    parent = _hub_of(environment)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    outliving = asyncio.ensure_future(_hub_gone(parent, stopping)) if managed else None
    try:
        await life(stopping)
    finally:
        if outliving is not None:
            outliving.cancel()


def _hub_of(environment: Mapping[str, str]) -> int:
    """Whose going ends us. A hub that went first is named as it was told, so that it is found not to be our parent."""
    told = environment.get(HUB_PID, "")
    return int(told) if told.isdigit() and _is_gone(int(told)) else os.getppid()


def _is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def _hub_gone(parent: int, stopping: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells when a parent dies
        await asyncio.sleep(_LOOK_AT_HUB_S)
    stopping.set()
