"""Fresh data for the home page, and its buttons Extend and Delete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, ClassVar

from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from labspawner.errors import LabError, UnknownLease
from labspawner.model import Lease, Phase
from labspawner.pages import i18n
from labspawner.pages.handlers import request_language, wants_json
from labspawner.pages.home.facts import MOVING, Outlook
from labspawner.pages.home.gather import Desk, cards_of, desk_of
from labspawner.pages.home.words import ServerCard, ends_at
from labspawner.sentences import Sentence


class HomeHandler(BaseHandler):  # type: ignore[misc]
    """The servers of whoever is logged in, as JSON: `{"v", "user", "servers": [...], "html"}`; 403 for nobody.

    html: what stands between the tags of `#lab-servers`, rendered as for the page itself. servers: `name`, `key`,
    `state`, `ends_at` and `spoken`, for scripts. `?only=running`: those that run, start or stop.
    """

    def _record_activity(self, obj: object, timestamp: object = None) -> bool:
        """An open page that looks again is nobody's activity."""
        return False

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        user = self.current_user
        if user is None or not hasattr(user, "spawners"):
            self.set_status(403)
            self.finish({"v": 1, "user": None})
            return
        await self._notice_deaths(user)
        language, now = request_language(self), datetime.now(timezone.utc)
        cards = await cards_of(user, desk_of(user), language=language, now=now)
        if self.get_argument("only", "") == "running":
            cards = [card for card in cards if card.facts.status in MOVING]
        html = await self.render_template("labspawner/servers.html", cards=cards)
        servers = [_server(card, language) for card in cards]
        self.finish({"v": 1, "user": user.name, "language": language, "servers": servers, "html": html})

    async def _notice_deaths(self, user: Any) -> None:
        """What JupyterHub's own home page does before it is shown. A poll is answered from a shared listing."""
        for spawner in list(user.spawners.values()):
            if spawner.ready and not spawner.pending:
                await spawner.poll_and_notify()


class ButtonHandler(BaseHandler):  # type: ignore[misc]
    """Does something to a server, from a plain form or a script; then shows the home page.

    done: what it did, for the log.
    """

    done: ClassVar[str]

    @web.authenticated
    async def post(self, user_name: str, server_name: str | None = None) -> None:
        await self._post(user_name=user_name, server_name=server_name or "")

    async def act(self, desk: Desk, leases: Sequence[Lease]) -> None:
        """Do it. leases: all live ones of the server. Raises LabError."""
        raise NotImplementedError

    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def _post(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            raise web.HTTPError(404)
        desk = desk_of(user)
        try:
            await self.act(desk, desk.leases(user.name, server_name))
        except LabError as exc:
            self._refuse(exc)
            return
        self.log.info("server %s user=%s server=%r by=%s", self.done, user.name, server_name, self.current_user.name)
        if wants_json(self):
            self.finish({"v": 1})
        else:
            self.redirect(f"{self.hub.base_url}home")

    def _refuse(self, error: LabError) -> None:
        if not wants_json(self):
            refusal: Any = web.HTTPError(error.status_code, "not %s: %s", self.done, error)
            refusal.jupyterhub_message = error.message
            raise refusal from error
        self.set_status(error.status_code)
        self.finish(json.dumps({"message": i18n.translate(error.message, request_language(self))}))


class ExtendHandler(ButtonHandler):
    """Puts off the stop of a server."""

    done = "extended"

    async def act(self, desk: Desk, leases: Sequence[Lease]) -> None:
        ready = [lease for lease in leases if lease.phase is Phase.READY]
        if not ready:
            raise UnknownLease(Sentence("This server does not run any more, so there is nothing to extend."))
        await desk.extend(ready[0], datetime.now(timezone.utc))


class DiscardHandler(ButtonHandler):
    """Deletes what is parked of a server: the lease that the form names in `lease`."""

    done = "deleted"

    async def act(self, desk: Desk, leases: Sequence[Lease]) -> None:
        wanted = self.get_body_argument("lease", "")
        found = [lease.id for lease in leases if lease.id == wanted and lease.phase is Phase.PARKED]
        if not found:
            raise UnknownLease(Sentence("This server is not parked any more. Load the page again."))
        await desk.discard(found[0])


def _server(card: ServerCard, language: str) -> dict[str, Any]:
    end = ends_at(card.facts.outlook or Outlook())
    return {
        "name": card.facts.name,
        "key": card.facts.key,
        "state": card.facts.status.value,
        "ends_at": end.isoformat() if end else None,
        "spoken": i18n.translate(card.spoken, language),
    }
