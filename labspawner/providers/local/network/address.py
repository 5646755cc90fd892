"""Where a sandboxed server listens, and what it must be told. Pure.

A server can be reached at a unix socket or at a TCP port. At a socket nothing stands in between, and no port of the
machine is used; at a port of the host's loopback the server's keeper moves the bytes into the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from urllib.parse import quote, urlsplit

INSIDE = "/run/labspawner"
"""What a server calls its run folder."""

SOCKET_NAME = "server.sock"
LOOPBACK = "127.0.0.1"
HUB_PORT = 8081
_HUB_URLS = ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL")
_SINGLEUSER = frozenset({"jupyterhub-singleuser", "jupyter-labhub"})
_MODULE = ("-m", "jupyterhub.singleuser")
_OWN_ADDRESS = ("--ip", "--port", "--ServerApp.ip", "--ServerApp.port", "--ServerApp.sock", "--sock")


class Way(str, Enum):
    """How hub and proxy reach a server. SOCKET: it listens on a unix socket. PORT: its keeper listens on TCP."""

    SOCKET = "socket"
    PORT = "port"


def choose_way(argv: Sequence[str], *, unix_urls: bool, own_interpreter: bool) -> Way:
    """SOCKET where all three can: hub and proxy (`unix_urls`), and the server.

    A server can when it is a single-user server of the hub's own environment, which is as new as the hub, and its
    command does not say itself where to listen.
    """
    single_user = PurePath(argv[0]).name in _SINGLEUSER or tuple(argv[1:3]) == _MODULE
    own_address = any(word.split("=", 1)[0] in _OWN_ADDRESS for word in argv[1:])
    return Way.SOCKET if unix_urls and own_interpreter and single_user and not own_address else Way.PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server's address.

    url: for `Ready`, and for whoever asks whether it answers. url_inside: for `LaunchRequest.environment_at`.
    arguments: to be added to its command. port: on the host's loopback and inside; None for a socket.
    """

    url: str
    url_inside: str
    arguments: tuple[str, ...] = ()
    port: int | None = None

    @property
    def way(self) -> Way:
        return Way.SOCKET if self.port is None else Way.PORT


def at_socket(path: str) -> Address:
    """A server whose socket the host sees at `path`. Raises ValueError for a path that some part would garble.

    JupyterHub stores host names in lower case; a socket's path has room for 107 bytes, of which `:80` takes three.
    """
    if path != path.lower() or not path.isascii() or len(path) > 100:
        raise ValueError(f"not a path for a server's socket: {path!r}")
    inside = f"{INSIDE}/{SOCKET_NAME}"
    return Address(url=_unix_url(path), url_inside=_unix_url(inside), arguments=(f"--ServerApp.sock={inside}",))


def at_port(port: int, *, ip: str = LOOPBACK) -> Address:
    """A server that listens on `port` of its own loopback, and whose keeper listens on the same port of `ip`."""
    return Address(url=f"http://{ip}:{port}", url_inside=f"http://{LOOPBACK}:{port}", port=port)


def _unix_url(path: str) -> str:
    return f"http+unix://{quote(path, safe='')}"


def hub_inside(environment: Mapping[str, str], *, avoid: int | None = None) -> tuple[dict[str, str], int]:
    """The environment with the hub's addresses as they are inside, and the port at which the keeper listens there.

    A hub on 127.0.0.1 keeps its address. One on another address, on a unix socket or behind TLS gets 127.0.0.1: what
    listens there speaks plain HTTP with the hub process itself. avoid: the server's own port.
    """
    parts = urlsplit(environment.get("JUPYTERHUB_API_URL", ""))
    port = (parts.port if parts.scheme in {"http", "https"} else None) or HUB_PORT
    if parts.hostname != LOOPBACK and port == avoid:
        port = port + 1 if port < 65535 else HUB_PORT
    moved = {
        name: urlsplit(environment[name])._replace(scheme="http", netloc=f"{LOOPBACK}:{port}").geturl()
        for name in _HUB_URLS
        if environment.get(name)
    }
    return {**environment, **moved}, port
