"""What this service asks of JupyterHub: who somebody is, and to note that a server is used."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.web import HTTPError

from labspawner.service.desktop.rights import Viewer

log = logging.getLogger(__name__)

ADMIN_SCOPE = "admin-ui"
"""What the hub's own pages ask for where they show something to administrators; it permits nothing by itself."""
_NOTE_EVERY_S = 60.0
_REQUEST_S = 20.0


class NotLetIn(Exception):
    """Somebody is logged in, and the hub does not let them use this service at all."""


class HubAway(Exception):
    """The hub does not say who somebody is. Nobody is let in, and nobody who is in is put out."""


class Hub:
    """One hub, by this service's own token."""

    def __init__(
        self,
        auth: HubOAuth,
        *,
        ssl_context: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.auth = auth
        self._ssl = ssl_context
        self._monotonic = monotonic
        self._client = AsyncHTTPClient(force_instance=True)
        self._noted: dict[tuple[str, str], float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def who(self, handler: Any) -> Viewer | None:
        """Who sent this request; None where nobody is logged in. Raises HubAway and NotLetIn."""
        try:
            model = await self.auth.get_user(handler, sync=False)
        except HTTPError as exc:
            if exc.status_code < 500:
                raise
            raise HubAway from exc
        return self._viewer(model)

    async def still(self, token: str, session_id: str) -> bool:
        """Whether a token of a moment ago still is somebody's who may use this service; True while the hub is away."""
        try:
            model = await self.auth.user_for_token(token, use_cache=False, session_id=session_id, sync=False)
            return self._viewer(model) is not None
        except NotLetIn:
            return False
        except HTTPError as exc:
            return exc.status_code >= 500

    def _viewer(self, model: Any) -> Viewer | None:
        if not isinstance(model, dict) or model.get("kind", "user") != "user" or not model.get("name"):
            return None
        if not self.auth.check_scopes(self.auth.access_scopes, model):
            raise NotLetIn
        return Viewer(
            name=str(model["name"]),
            groups=frozenset(str(group) for group in model.get("groups") or ()),
            admin=ADMIN_SCOPE in model.get("scopes", ()),
        )

    def note_use(self, user: str, server_name: str) -> None:
        """Somebody worked on the screen of this server: tell the hub, at most once a minute and server. Returns at once;
        a hub that does not answer hears of the next minute."""
        now = self._monotonic()
        if now - self._noted.get((user, server_name), float("-inf")) < _NOTE_EVERY_S:
            return
        self._noted = {key: at for key, at in self._noted.items() if now - at < _NOTE_EVERY_S}
        self._noted[user, server_name] = now
        task = asyncio.get_running_loop().create_task(self._note(user, server_name))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _note(self, user: str, server_name: str) -> None:
        at = datetime.now(timezone.utc).isoformat()
        request = HTTPRequest(
            f"{self.auth.api_url.rstrip('/')}/users/{quote(user, safe='')}/activity",
            method="POST",
            headers={"Authorization": f"token {self.auth.api_token}", "Content-Type": "application/json"},
            body=json.dumps({"last_activity": at, "servers": {server_name: {"last_activity": at}}}),
            request_timeout=_REQUEST_S,
            connect_timeout=_REQUEST_S,
            follow_redirects=False,
            ssl_options=self._ssl,
        )
        try:
            await self._client.fetch(request)
        except (HTTPClientError, OSError) as exc:
            log.warning("use of a desktop not noted user=%s: %s", user, exc)

    async def close(self) -> None:
        """Give back the connections; what is being noted gets no longer than a moment."""
        for task in list(self._notes):
            task.cancel()
        await asyncio.gather(*self._notes, return_exceptions=True)
        self._client.close()
