"""What a provider is asked for, what it tells meanwhile, and what it finds on its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from urllib.parse import urlsplit

from labspawner.model.names import Handle, Json, LeaseId
from labspawner.model.resources import Resources
from labspawner.sentences import Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Everything a provider needs to start one server.

    user, server_name: as JupyterHub has them, any text; derive host names with `labspawner.naming`.
    settings: the variant's keys that only this provider reads (image, template, network, ...).
    environment: for the server process, secrets included; the provider adds `JUPYTERHUB_SERVICE_URL` through
      `environment_at` once it knows where the server listens.
    base_url: URL prefix of the server, starts and ends with a slash, percent-encoded.
    ready_timeout_s: seconds from the call of `launch` until `Ready`; the provider raises `StartFailed` after that.
    parked: what an earlier launch left when it was parked; resume it.
    """

    lease_id: LeaseId
    hub_id: str
    user: str
    server_name: str
    profile: str
    base_url: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    resources: Resources = Resources()
    settings: Mapping[str, Json] = field(default_factory=dict)
    ready_timeout_s: float = 120.0
    parked: Handle | None = None

    def environment_at(self, url: str) -> dict[str, str]:
        """The environment of a server that listens at `url` (`http://127.0.0.1:4711`, without the base URL)."""
        return {**self.environment, "JUPYTERHUB_SERVICE_URL": url.rstrip("/") + self.base_url}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Yielded before the provider makes the thing that `handle` can find; stored before the provider goes on."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage in words. percent: 0 to 100 of this launch, never decreasing."""

    percent: int
    message: Sentence


@dataclass(frozen=True, slots=True)
class Ready:
    """The server answers HTTP at `url` (scheme, host and port only). Nothing follows."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https", "http+unix"} or not parts.netloc:
            raise ValueError(f"not a server URL: {self.url!r}")


Event: TypeAlias = Checkpoint | Progress | Ready


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedResource:
    """Something on a host that carries a lease id and this hub's id, seen in a listing."""

    lease_id: LeaseId
    handle: Handle
    user: str = ""
    created_at: datetime | None = None
