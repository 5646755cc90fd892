"""Where a sandboxed server listens, and what it must be told. Pure.

A server listens on its own loopback, inside. Its keeper moves the bytes there from a unix socket of the host, or from a
port of the host's loopback. A socket that the server itself listens on would need no keeper, but npm's proxy answers 503
to requests at one that the server has already carried out: it still writes to the connection when the server, which it
told not to keep it, has closed it, and at a socket that fails at once (EPIPE; 66 of 1,200 POSTs when tried).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

SOCKET_NAME = "server.sock"
LOOPBACK = "127.0.0.1"
HUB_PORT = 8081
SERVER_PORT = 8888
_HUB_URLS = ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server's address.

    url: for `Ready`, and for whoever asks whether it answers. url_inside: for `LaunchRequest.environment_at`. socket: where
    the keeper listens on the host; None: at a port. port_inside: of the server's own loopback. port: of the host's, the
    same; None for a socket.
    """

    url: str
    url_inside: str
    port_inside: int
    socket: str | None = None

    @property
    def port(self) -> int | None:
        return self.port_inside if self.socket is None else None


def at_socket(path: str, *, hub_port: int = HUB_PORT) -> Address:
    """A server that the host sees at the unix socket `path`. Raises ValueError for a path that some part would garble.

    JupyterHub stores host names in lower case; a socket's path has room for 107 bytes, of which `:80` takes three.
    hub_port: where the hub is inside.
    """
    if path != path.lower() or not path.isascii() or len(path) > 100:
        raise ValueError(f"not a path for a server's socket: {path!r}")
    port = SERVER_PORT if hub_port != SERVER_PORT else SERVER_PORT + 1
    url = f"http+unix://{quote(path, safe='')}"
    return Address(url=url, url_inside=f"http://{LOOPBACK}:{port}", port_inside=port, socket=path)


def at_port(port: int, *, ip: str = LOOPBACK) -> Address:
    """A server that listens on `port` of its own loopback, and whose keeper listens on the same port of `ip`."""
    return Address(url=f"http://{ip}:{port}", url_inside=f"http://{LOOPBACK}:{port}", port_inside=port)


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
