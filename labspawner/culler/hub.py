"""What the culler asks of JupyterHub's REST API: list servers, look at one, stop one."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any
from urllib.parse import quote, urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from labspawner.errors import Transient
from labspawner.sentences import plain

_PAGE = 100


class HubUnavailable(Transient):
    """The hub did not give a whole, readable answer. What was read of it is not used."""

    reason = "hub_unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__(plain("The hub does not answer the culler."), detail=detail)


class Outcome(Enum):
    """What the hub said to a stop. UNSURE: nothing, so it may or may not be under way."""

    STOPPED = "stopped"
    STOPPING = "stopping"
    GONE = "gone"
    REFUSED = "refused"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Stop:
    """outcome, and in `detail` what a log needs to explain it."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubServer:
    """A running or pending server, as JupyterHub's API shows it."""

    user: str
    name: str
    ready: bool
    pending: str | None
    started: datetime | None
    last_activity: datetime | None

    @classmethod
    def from_model(cls, user: str, name: str, model: dict[str, Any]) -> HubServer:
        """Read one entry of a user model's `servers`. Raises HubUnavailable where it is not of the known shape."""
        try:
            return cls(
                user=user,
                name=name,
                ready=bool(model["ready"]),
                pending=model["pending"] or None,
                started=parse_instant(model["started"]),
                last_activity=parse_instant(model["last_activity"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise HubUnavailable(f"unreadable server in the listing: user={user!r} server={name!r}: {exc!r}") from exc


class Hub:
    """JupyterHub's REST API with one token. Raises HubUnavailable, nothing else, when the hub cannot be read.

    api_url: `JUPYTERHUB_API_URL`, without a slash at the end. timeout_s: of one request; above the hub's
    `slow_stop_timeout` (10 s), which is how long the hub itself waits for a stop before it says 202.
    connections: requests in flight at most; more of them wait in line inside the client and use up their timeout.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        connections: int = 10,
        timeout_s: float = 60.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._headers = {"Authorization": f"token {token}"}
        self._timeout_s = timeout_s
        self._ssl_context = ssl_context
        # An own instance: tornado's shared one allows 10 connections, whatever our concurrency is.
        self._client = AsyncHTTPClient(force_instance=True, max_clients=connections)

    def close(self) -> None:
        self._client.close()

    async def active_servers(self) -> list[HubServer]:
        """All servers that run or are pending, from all pages; raises rather than returning a part of them.

        Users who come or go between two pages can hide others from this one listing; they are in the next.
        """
        servers: dict[tuple[str, str], HubServer] = {}
        offset: int | None = 0
        while offset is not None:
            # `state=active` includes pending servers; `ready` would hide those that are stuck.
            query = urlencode({"state": "active", "offset": offset, "limit": _PAGE})
            page = await self._get(f"/users?{query}", Accept="application/jupyterhub-pagination+json")
            try:
                users, follow = page["items"], page["_pagination"]["next"]
                # Only the offset is taken from the hub's link: its host is whatever the hub believes to be called,
                # and our token goes nowhere but to the configured URL.
                next_offset = None if follow is None else int(follow["offset"])
                for user in users:
                    for server in _servers_of(user):
                        servers[server.user, server.name] = server
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise HubUnavailable(f"unreadable page of users at offset {offset}: {exc!r}") from exc
            if next_offset is not None and next_offset <= offset:
                raise HubUnavailable(f"the list of users does not go on: offset {next_offset} after {offset}")
            offset = next_offset
        return list(servers.values())

    async def server(self, user: str, server_name: str) -> HubServer | None:
        """One server as it is now; None if it is gone."""
        model = await self._get(f"/users/{_quoted(user)}", missing={})
        for server in _servers_of(model) if model else ():
            if server.name == server_name:
                return server
        return None

    async def stop(self, user: str, server_name: str) -> Stop:
        """Ask for a stop. Never removes the record of a named server; never raises for an answer of the hub."""
        path = f"/users/{_quoted(user)}/server"
        if server_name:
            path = f"/users/{_quoted(user)}/servers/{_quoted(server_name)}"
        try:
            response = await self._fetch(path, method="DELETE")
        except HTTPClientError as exc:
            if exc.code == 404:
                return Stop(Outcome.GONE)
            # 599 is tornado's own: no answer in time, or a connection that broke.
            return Stop(Outcome.UNSURE if exc.code == 599 else Outcome.REFUSED, f"HTTP {exc.code} {exc.message}")
        except ConnectionRefusedError as exc:
            return Stop(Outcome.REFUSED, str(exc))
        except OSError as exc:
            return Stop(Outcome.UNSURE, str(exc) or type(exc).__name__)
        return Stop(Outcome.STOPPING if response.code == 202 else Outcome.STOPPED)

    async def _get(self, path: str, *, missing: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        try:
            response = await self._fetch(path, **headers)
            answer = json.loads(response.body)
        except HTTPClientError as exc:
            if exc.code == 404 and missing is not None:
                return missing
            raise HubUnavailable(f"GET {path}: HTTP {exc.code} {exc.message}{_advice(exc.code)}") from exc
        except (OSError, ValueError) as exc:
            raise HubUnavailable(f"GET {path}: {exc}") from exc
        if not isinstance(answer, dict):
            raise HubUnavailable(f"GET {path}: the answer is not a JSON object")
        return answer

    async def _fetch(self, path: str, *, method: str = "GET", **headers: str) -> HTTPResponse:
        request = HTTPRequest(
            self._api_url + path,
            method=method,
            headers={**self._headers, **headers},
            request_timeout=self._timeout_s,
            connect_timeout=min(self._timeout_s, 10.0),
            follow_redirects=False,
            ssl_options=self._ssl_context,
        )
        return await self._client.fetch(request)


def parse_instant(text: str | None) -> datetime | None:
    """A timestamp of the hub; without a zone it is UTC. Raises ValueError, or TypeError for what is no text."""
    if text is None:
        return None
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not know `Z`
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)


def _servers_of(user: dict[str, Any]) -> list[HubServer]:
    if "servers" not in user:
        raise HubUnavailable("users are listed without their servers: the culler's token lacks the scope read:servers")
    return [HubServer.from_model(user["name"], name, model) for name, model in user["servers"].items()]


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _advice(code: int) -> str:
    if code in {401, 403}:
        return " (does the culler's token have its role? see labspawner.culler.role)"
    return ""
