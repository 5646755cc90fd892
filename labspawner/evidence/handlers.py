"""Where servers report and ask for time: `POST /hub/labspawner/report | extend | hold`, with their own token alone."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from jupyterhub import scopes
from jupyterhub.handlers import BaseHandler

from labspawner.errors import LabError, NotAllowed, StoreUnavailable, UnknownLease
from labspawner.evidence.answers import leaving, refusal
from labspawner.evidence.book import EvidenceBook
from labspawner.evidence.report import parse_hold, parse_object
from labspawner.model import Json, Lease
from labspawner.providers.departures import departure_of
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

REMEMBERED_S = 300.0
"""How long a token is known without asking the hub's database; its lease has to be live all the same."""
_MOST = 10_000


class Tokens:
    """Whose server a token is, remembered for a while: the hub's database is asked once for many reports."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, tuple[float, tuple[str, str]]] = {}

    def server_of(self, token: str, look: Callable[[], tuple[str, str] | None]) -> tuple[str, str] | None:
        """(user, server name), from memory or from `look`; None, which is never remembered, for any other token."""
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        until, found = self._known.get(key, (0.0, None))
        if found is not None and self._clock() < until:
            return found
        self._known.pop(key, None)
        if (found := look()) is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = (self._clock() + REMEMBERED_S, found)
        return found


def server_of_token(orm_token: Any) -> tuple[str, str] | None:
    """(user, server name) of the server that JupyterHub made this token for; None for any other token.

    That is one that the hub itself issued to a user (no service, no OAuth client such as a browser's), and that may
    access exactly one server: that user's own.
    """
    if orm_token is None or orm_token.user is None or orm_token.client_id != "jupyterhub":
        return None
    prefix = "access:servers!server="
    servers = [
        scope.removeprefix(prefix) for scope in scopes.get_scopes_for(orm_token) if scope.startswith("access:servers")
    ]
    owner = f"{orm_token.user.name}/"
    if len(servers) != 1 or not servers[0].startswith(owner):
        return None
    return orm_token.user.name, servers[0].removeprefix(owner)


class ServerHandler(BaseHandler):  # type: ignore[misc]
    """A request of a running server. Cookies say nothing here, so that no page can ask in a student's name."""

    _accept_token_auth = True
    _accept_cookie_auth = False

    def check_xsrf_cookie(self) -> None:
        """Not needed: only the Authorization header counts."""

    async def prepare(self) -> None:
        """Nobody is logged in here. JupyterHub's own way would write to its database with each request."""
        self._jupyterhub_user = None
        self.expanded_scopes: set[str] = set()
        self.parsed_scopes: dict[str, object] = {}

    async def post(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        try:
            runtime = self.users.settings.get("labspawner")
            if runtime is None:
                raise StoreUnavailable(Sentence("The hub has only just started. Try again in a moment."))
            answer = await self.answer(runtime.evidence, self._lease(runtime), datetime.now(timezone.utc))
        except LabError as exc:
            self.set_status(exc.status_code)
            log.log(
                logging.DEBUG if exc.status_code in {403, 404, 409} else logging.WARNING,
                "server's request refused path=%s status=%s: %s",
                self.request.path,
                exc.status_code,
                exc,
            )
            self.finish(json.dumps(refusal(exc.message)))
        else:
            self.finish(json.dumps(answer))

    async def answer(self, book: EvidenceBook, lease: Lease, now: datetime) -> dict[str, Json]:
        """What this address does. Raises LabError."""
        raise NotImplementedError

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """JSON also where something broke; the log has the rest."""
        self.finish(json.dumps(refusal(Sentence("Something went wrong on our side"))))

    def _log(self) -> None:
        """A line for what went wrong only: hundreds of servers report each minute."""
        if self.get_status() >= 400:
            super()._log()

    def _lease(self, runtime: Any) -> Lease:
        """The lease of the server that asks. Raises NotAllowed or UnknownLease."""
        token = self.get_auth_token()
        tokens = self.settings.setdefault("labspawner_tokens", Tokens())
        found = tokens.server_of(token, lambda: server_of_token(self.get_token())) if token else None
        if found is None:
            raise NotAllowed(Sentence("Only a running server may ask this, with its own token."))
        lease: Lease | None = runtime.engine.book.active(*found)
        if lease is None:
            raise UnknownLease(Sentence("This server does not run any more."), detail=f"no active lease server={found}")
        return lease


class ReportHandler(ServerHandler):
    """Takes a report, and says in its answer what is announced for the host of its server."""

    async def answer(self, book: EvidenceBook, lease: Lease, now: datetime) -> dict[str, Json]:
        said = await book.report(lease, self.request.body, now)
        providers = getattr(self.users.settings.get("labspawner"), "providers", None) or {}
        return {**said, "leaving": leaving(await departure_of(providers.get(lease.provider), lease))}


class ExtendHandler(ServerHandler):
    """Puts off the end of the server that asks."""

    async def answer(self, book: EvidenceBook, lease: Lease, now: datetime) -> dict[str, Json]:
        parse_object(self.request.body or b"{}")
        return await book.extend(lease, now)


class HoldHandler(ServerHandler):
    """Holds the server that asks, idle or not."""

    async def answer(self, book: EvidenceBook, lease: Lease, now: datetime) -> dict[str, Json]:
        return await book.hold(lease, parse_hold(self.request.body), now)


def extra_handlers() -> list[tuple[str, type, dict[str, Any]]]:
    """For `c.JupyterHub.extra_handlers`."""
    return [
        (r"/labspawner/report", ReportHandler, {}),
        (r"/labspawner/extend", ExtendHandler, {}),
        (r"/labspawner/hold", HoldHandler, {}),
    ]
