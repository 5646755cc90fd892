"""Plain stand-ins for the hub's objects that a Spawner holds: what it may read, and nothing else.

An allow-list: a Spawner that wants more of the hub fails with an AttributeError that names it, instead of reaching the
hub's database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from jupyterhub import orm
from jupyterhub.objects import Hub

from labspawner.model import Handle, Json, LaunchRequest

_NOWHERE = "http://127.0.0.1:8081/hub/api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose server it is, and under which addresses: enough to build the same child again. No secrets."""

    user: str
    server_name: str
    base_url: str
    api_url: str

    @classmethod
    def of_request(cls, request: LaunchRequest) -> Identity:
        """What a launch says."""
        return cls(
            user=request.user,
            server_name=request.server_name,
            base_url=request.base_url,
            api_url=request.environment.get("JUPYTERHUB_API_URL", _NOWHERE),
        )

    @classmethod
    def of_handle(cls, handle: Handle) -> Identity | None:
        """What `to_json` put into a handle; None where it is not there."""
        values = {name: handle.data.get(name) for name in ("user", "server_name", "base_url", "api_url")}
        if not all(isinstance(value, str) for value in values.values()):
            return None
        return cls(**{name: str(value) for name, value in values.items()})

    def to_json(self) -> dict[str, Json]:
        """For a handle."""
        return {
            "user": self.user,
            "server_name": self.server_name,
            "base_url": self.base_url,
            "api_url": self.api_url,
        }


@dataclass(eq=False, slots=True, kw_only=True)
class StandInOrmSpawner:
    """The row of a spawner."""

    name: str
    server: orm.Server
    display_name: str = ""
    state: dict[str, Json] = field(default_factory=dict)
    user_options: dict[str, Json] = field(default_factory=dict)
    started: datetime | None = None
    last_activity: datetime | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class StandInUser:
    """A user. id: made from the name, the same on every start; it is not the hub's."""

    name: str
    url: str
    id: int
    escaped_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[Any, ...] = ()
    admin: bool = False

    @property
    def base_url(self) -> str:
        return self.url

    @property
    def proxy_spec(self) -> str:
        return self.url

    def progress_url(self, server_name: str = "") -> str:
        return ""

    def server_url(self, server_name: str = "") -> str:
        return self.url + (quote(server_name, safe="@~") + "/" if server_name else "")

    async def get_auth_state(self) -> None:
        """Nothing: what the login knows does not cross to a provider."""


@dataclass(eq=False, slots=True, kw_only=True)
class StandInAuthenticator:
    """An authenticator that knows nobody."""

    enable_auth_state: bool = False
    admin_users: frozenset[str] = frozenset()
    allowed_users: frozenset[str] = frozenset()


class StandInSession:
    """For Spawners that still commit the hub's session: there is nothing to commit."""

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""


def server_at(base_url: str) -> orm.Server:
    """The row of a server that listens nowhere yet; `Spawner.server` insists on the hub's own class. It belongs to no
    session, so it never reaches a database."""
    return orm.Server(proto="http", ip="", port=0, base_url=base_url, cookie_name="")


def hub_at(api_url: str) -> Hub:
    """The hub, as far as its API's address tells."""
    url = api_url.rstrip("/").removesuffix("/api") + "/"
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return Hub(proto=parts.scheme, bind_url=url, base_url=parts.path, connect_url=url)
    return Hub(bind_url=url, base_url=parts.path)


def user_named(identity: Identity) -> StandInUser:
    """The user that a server belongs to."""
    own = quote(identity.server_name, safe="@~") + "/" if identity.server_name else ""
    digest = hashlib.sha256(identity.user.encode("utf-8", "surrogatepass")).digest()
    return StandInUser(
        name=identity.user,
        url=identity.base_url.removesuffix(own),
        id=int.from_bytes(digest[:4], "big") >> 1,
        escaped_name=quote(identity.user, safe="@~"),
    )
