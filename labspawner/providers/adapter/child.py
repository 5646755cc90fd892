"""The child: a Spawner object built from plain data, wired by an allow-list."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from jupyterhub.spawner import LocalProcessSpawner, Spawner
from traitlets.config import Config

from labspawner.model import Json, LaunchRequest
from labspawner.providers.standins import (
    Identity,
    StandInAuthenticator,
    StandInOrmSpawner,
    StandInSession,
    hub_at,
    server_at,
    user_named,
)


def build(cls: type[Spawner], identity: Identity, *, config: Mapping[str, Any], state: Mapping[str, Json]) -> Spawner:
    """A Spawner for the server of `identity`, with `state` loaded. Raises what the class raises."""
    user = user_named(identity)
    client = "-".join(quote(part, safe="") for part in (identity.user, identity.server_name) if part)
    child = cls(
        user=user,
        orm_spawner=StandInOrmSpawner(
            name=identity.server_name, server=server_at(identity.base_url), state=dict(state)
        ),
        hub=hub_at(identity.api_url),
        authenticator=StandInAuthenticator(),
        oauth_client_id=f"jupyterhub-user-{client}",
        proxy_spec=identity.base_url,
        config=Config({cls.__name__: dict(config)}),
        _deprecated_db_session=StandInSession(),
    )
    if state:
        child.load_state(dict(state))
    return child


def equip(
    child: Spawner, request: LaunchRequest, *, traits: Mapping[str, Json], marks: Mapping[str, str], start_timeout: int
) -> None:
    """Tell `child` what to start: command, token, environment, the profile's resources and `traits`."""
    child.cmd = list(request.command)
    child.args = []
    child.api_token = request.environment.get("JUPYTERHUB_API_TOKEN", "")
    child.start_timeout = start_timeout
    child.user_options = {}
    if request.resources.memory_bytes is not None:
        child.mem_limit = child.mem_guarantee = request.resources.memory_bytes
    if request.resources.cpu is not None:
        child.cpu_limit = request.resources.cpu
    for name, value in traits.items():
        setattr(child, name, value)
    # An attribute of the object hides the class's method: whoever calls get_env gets ours, at the port it chose by then.
    child.get_env = _environment_of(child, request, marks)


def _environment_of(child: Spawner, request: LaunchRequest, marks: Mapping[str, str]) -> Callable[[], dict[str, str]]:
    def get_env() -> dict[str, str]:
        account = child.user_env({}) if isinstance(child, LocalProcessSpawner) else {}
        return {**account, **request.environment_at(_listen_url(child)), **marks}

    return get_env


def _listen_url(child: Spawner) -> str:
    ip = child.ip or "0.0.0.0"  # noqa: S104 - JupyterHub's own meaning of an empty address; the child decides
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{child.port}"


def port_was_taken(child: Spawner) -> bool:
    """Whether somebody else has the port on this machine at which `child`, which runs no more, was to listen."""
    with socket.socket(socket.AF_INET6 if ":" in child.ip else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((child.ip, child.port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
    return False


def state_of(child: Spawner) -> dict[str, Json]:
    """What a later hub process needs to find the server again, as JSON."""
    state: dict[str, Json] = json.loads(json.dumps(child.get_state(), default=str))
    return state


def url_of(child: Spawner, started: Any) -> str:
    """Where the server listens: what `start` returned, a URL or an address and a port; else the child's own traits.

    Raises ValueError for anything else.
    """
    if isinstance(started, str):
        scheme, separator, rest = started.partition("://")
        if not separator:
            raise ValueError(f"start returned {started!r}, not a URL")
        return f"{scheme}://{rest.split('/', 1)[0]}"
    ip, port = (child.ip or "127.0.0.1", child.port) if started is None else started
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{int(port)}"
