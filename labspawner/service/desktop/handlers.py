"""The addresses of this service: who is asking, the page, what it asks for, and the owner's consent."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote, urlsplit

from jupyterhub import __version__ as jupyterhub_version
from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado import web

from labspawner.errors import LabError
from labspawner.model import Lease
from labspawner.pages import i18n
from labspawner.pages.handlers import request_language
from labspawner.sentences import Sentence
from labspawner.service.desktop import novnc, page, words
from labspawner.service.desktop.house import House
from labspawner.service.desktop.hub import HubAway, NotLetIn
from labspawner.service.desktop.relay import Seat
from labspawner.service.desktop.rights import Refused, Role, Viewer
from labspawner.service.desktop.screens import WORDS, Screen, State

log = logging.getLogger(__name__)

_STATUS_WORDS = {403: words.FORGED, 404: words.NO_PAGE, 405: words.NO_PAGE}


class NotNow(Exception):
    """This request ends here, with a sentence. code: for the page's script."""

    def __init__(self, status: int, message: Sentence, code: str = "") -> None:
        super().__init__(str(message))
        self.status = status
        self.message = message
        self.code = code


class Handler(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]
    """Knows who asks before anything else happens. Errors are pages in the reader's language; JSON for `wants_json`."""

    wants_json = False
    viewer: Viewer

    def initialize(self, house: House) -> None:
        self.house = house
        self.hub_auth = house.hub.auth

    @property
    def base_url(self) -> str:
        """Where the hub is; the language cookie is for all of it."""
        return self.house.base_url

    @property
    def language(self) -> str:
        return request_language(self)

    async def prepare(self) -> None:
        """Let in who is logged in; others go to the hub's log-in, or get 401 where a script asks."""
        self._hub_auth_user_cache: Any = None  # never asked for by a way that blocks
        if self.request.method not in {"GET", "HEAD"} and "Authorization" not in self.request.headers:
            try:
                self.check_xsrf_cookie()
            except web.HTTPError as exc:
                raise NotNow(403, words.FORGED, "forged") from exc
        try:
            viewer = await self.house.hub.who(self)
        except HubAway as exc:
            raise NotNow(503, words.HUB_AWAY, "hub") from exc
        except NotLetIn as exc:
            raise NotNow(403, words.NOT_LET_IN, "refused") from exc
        if viewer is not None:
            self.viewer = viewer
            self._hub_auth_user_cache = {"name": viewer.name}
        elif self.wants_json or self.request.method != "GET":
            raise NotNow(401, words.LOG_IN, "login")
        else:
            self.redirect(self.get_login_url())

    async def screen(self, owner: str, server_name: str | None) -> tuple[Screen, Role]:
        """The screen that is asked for, to somebody who may look at it. Raises NotNow: 403 with the reason."""
        found = await self.house.screens.find(owner, server_name or "")
        role = await self.house.role(self.viewer, found)
        if isinstance(role, Refused):
            raise NotNow(403, role.reason, "ask" if role.askable else "refused")
        return found, role

    def seat(self, lease: Lease, role: Role) -> Seat:
        return Seat(viewer=self.viewer.name, role=role, lease_id=lease.id)

    def say(self, sentence: str) -> str:
        """In the reader's language."""
        return i18n.translate(sentence, self.language)

    def tell(self, status: int = 200, **answer: Any) -> None:
        """Answer JSON that nobody keeps."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(answer))

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", page.policy(self.request.host))

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        if not isinstance(value, NotNow | LabError):
            super().log_exception(kind, value, trace)
        elif isinstance(value, LabError):
            log.warning("%s %s: %s", self.request.method, self.request.path, value)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        cause = (kwargs.get("exc_info") or (None, None, None))[1]
        if isinstance(cause, NotNow | LabError):
            status_code = cause.status if isinstance(cause, NotNow) else cause.status_code
        super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        cause = (kwargs.get("exc_info") or (None, None, None))[1]
        code = cause.code if isinstance(cause, NotNow) else ""
        message = (
            cause.message if isinstance(cause, NotNow | LabError) else _STATUS_WORDS.get(status_code, words.BROKEN)
        )
        if self.wants_json:
            self.tell(status_code, message=self.say(message), code=code)
        else:
            self.finish(page.error(self, message=message, again=code in {"ask", "hub"}))


class PageHandler(Handler):
    """The page of one screen; without a name in the address, of one's own default server."""

    async def get(self, owner: str = "", server_name: str | None = None) -> None:
        if not owner:
            self.redirect(f"{self.house.prefix}{quote(self.viewer.name, safe='@~')}/")
            return
        found, role = await self.screen(owner, server_name)
        self.finish(page.desktop(self, found, role))


class StateHandler(Handler):
    """What the page shows of its screen now, as JSON; it asks every few seconds."""

    wants_json = True

    async def get(self, owner: str, server_name: str | None = None) -> None:
        found, role = await self.screen(owner, server_name)
        lease, now = found.lease, self.house.now()
        until = self.house.consents.until(lease.id, now) if lease else None
        said = self.house.said(self.viewer.name, lease.id) if lease else None
        guests = self.house.relays.guests(lease.id) if lease else []
        self.tell(
            state=found.state.value,
            can_open=found.can_open and self.house.novnc is not None,
            message=self.say(said if said is not None and found.can_open else WORDS[found.state]),
            guests=[guest for guest in guests if guest != self.viewer.name],
            consent_s=max(0, round((until - now).total_seconds())) if until else 0,
            ssh=found.ssh,
            role=role.value,
        )


class OpenHandler(Handler):
    """A new way to the screen: the RFB password, and the key with which the websocket is opened, once and at once."""

    wants_json = True

    async def post(self, owner: str, server_name: str | None = None) -> None:
        found, role = await self.screen(owner, server_name)
        if self.house.novnc is None:
            raise NotNow(503, novnc.MISSING, "viewer")
        lease = found.lease
        if not found.can_open or lease is None or lease.handle is None or found.console is None:
            raise NotNow(409, WORDS[found.state if found.state is not State.ON else State.OFF], "off")
        seat = self.seat(lease, role)
        if (why := self.house.relays.refuses(seat)) is not None:
            raise NotNow(409, why, "busy")
        try:
            ticket = await found.console.console(lease.handle)
        except LabError as exc:
            self.house.say(seat, exc.message)
            log.info("no console owner=%s server=%s viewer=%s: %s", owner, found.server_name, self.viewer.name, exc)
            raise NotNow(exc.status_code, exc.message, "console") from exc
        self.tell(key=self.house.tickets.put(ticket, seat), password=ticket.password)


class ConsentHandler(Handler):
    """The owner lets course staff look for a while (`{"look": true}`), or takes that back at once."""

    wants_json = True

    async def post(self, owner: str, server_name: str | None = None) -> None:
        found, role = await self.screen(owner, server_name)
        if role is not Role.OWNER:
            raise NotNow(403, Sentence("Only {owner} can agree to that.", owner=owner), "refused")
        if found.lease is None:
            raise NotNow(409, words.NO_SERVER, "off")
        try:
            wish = json.loads(self.request.body)["look"]
        except (ValueError, KeyError, TypeError) as exc:
            raise NotNow(400, words.UNREADABLE) from exc
        lease_id, now = found.lease.id, self.house.now()
        if wish is True:
            until = self.house.consents.give(lease_id, now)
            log.info("consent given owner=%s server=%s until=%s", owner, found.server_name, until.isoformat())
            self.tell(consent_s=round((until - now).total_seconds()))
            return
        if self.house.consents.take_back(lease_id):
            log.info("consent taken back owner=%s server=%s", owner, found.server_name)
        self.house.relays.end_guests(lease_id)
        self.tell(consent_s=0)


class ServerHandler(web.RequestHandler):
    """What a server that is a desktop and nothing else answers below `/user/...`: its page is here.

    Says nothing to anybody: who may look is asked by the page.
    """

    def initialize(self, house: House) -> None:
        self.house = house

    async def get(self, owner: str, path: str = "") -> None:
        self.set_header("X-JupyterHub-Version", jupyterhub_version)  # the hub compares it as of any server of its own
        if path.rstrip("/").rpartition("/")[2] == "api":
            self.finish({"labspawner": "desktop"})
            return
        server_name = await self.house.screens.server_of(owner, path)
        self.redirect(page.address(self.house.prefix, owner, server_name))


class StaticHandler(web.StaticFileHandler):
    """Files that everybody may read: ours, JupyterHub's style, and noVNC's modules."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "public, max-age=86400" if "v" in self.request.query_arguments else "no-cache")


class CallbackHandler(HubOAuthCallbackHandler):  # type: ignore[misc]
    """Where the hub's log-in comes back to."""

    def initialize(self, house: House) -> None:
        self.hub_auth = house.hub.auth


def same_site(handler: Handler) -> bool:
    """Whether a browser's request comes from a page of this host. One without an Origin is no browser's websocket."""
    origin = urlsplit(handler.request.headers.get("Origin", "")).netloc.lower()
    return bool(origin) and origin in {handler.request.host.lower(), handler.house.public_host}
