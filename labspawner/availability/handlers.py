"""What the pages of the hub's own log-in ask: what is free, as it changes; a place for a moment; another variant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from tornado.iostream import StreamClosedError

from labspawner.availability.desk import Viewer
from labspawner.availability.streams import Streams
from labspawner.availability.wording import card_state
from labspawner.courses import options_from_form
from labspawner.errors import BadChoice, LabError, NoRoom, StoreUnavailable, Transient
from labspawner.model import Json
from labspawner.pages import i18n
from labspawner.pages.handlers import request_language, wants_json
from labspawner.sentences import Sentence

MOST_BYTES = 64 * 1024
RETRY_MS = 3_000


class ViewerHandler(BaseHandler):  # type: ignore[misc]
    """A request of whoever is logged in, about themselves alone; 403 for nobody. An open page is nobody's activity."""

    def _record_activity(self, obj: object, timestamp: object = None) -> bool:
        return False

    async def prepare(self) -> None:
        await super().prepare()
        self.set_header("Cache-Control", "no-store")
        if not self._finished and (self.current_user is None or not hasattr(self.current_user, "spawners")):
            self.answer({"user": None}, 403)

    @property
    def runtime(self) -> Any:
        """What this hub process has one of. Raises StoreUnavailable until the hub has started it."""
        found = self.users.settings.get("labspawner")
        if found is None:
            raise StoreUnavailable(Sentence("The hub has only just started. Try again in a moment."))
        return found

    def answer(self, facts: Mapping[str, Json], status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"v": 1, **facts}, ensure_ascii=False))

    def refuse(self, error: LabError, **facts: Json) -> None:
        """The sentence in the reader's language, and a word for scripts."""
        if isinstance(error, Transient):
            self.set_header("Retry-After", str(max(1, round(error.retry_after_s))))
        words = i18n.translate(error.message, request_language(self))
        self.answer({"message": words, "reason": error.reason, **facts}, error.status_code)

    def viewer(self) -> Viewer:
        """Who looks, for the server that the page is about."""
        user, server = self.current_user, self.get_argument("server", "")
        spawner = user.spawners.get(server) or user.spawner
        options = getattr(spawner, "user_options", None) or getattr(spawner.orm_spawner, "user_options", None)
        return Viewer(
            user=user.name,
            groups=frozenset(group.name for group in user.groups),
            admin=bool(user.admin),
            last=options,
            server=server,
        )


class EventsHandler(ViewerHandler):
    """Server-sent events: `availability` (what the cards say now) and `servers` (what the viewer's own ones do).

    At once, and after each change, at most about one in a second. 429 where the viewer has many pages open: they look
    again by themselves.
    """

    async def get(self) -> None:
        try:
            streams: Streams = self.runtime.streams
        except LabError as exc:
            self.refuse(exc)
            return
        stream = self._stream = streams.add(self.viewer(), request_language(self), self)
        if stream is None:
            self.set_header("Retry-After", "30")
            self.answer({"reason": "too_many_pages"}, 429)
            return
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-cache, no-transform")
        self.set_header("X-Accel-Buffering", "no")
        self.write(f"retry: {RETRY_MS}\n\n")
        try:
            await streams.tell(stream, knows=self.request.headers.get("Last-Event-ID", ""))
            await stream.over
        except StreamClosedError:
            pass
        finally:
            streams.drop(stream)

    def send(self, data: bytes) -> asyncio.Future[None]:
        """See `Sink`."""
        self.write(data)
        sent: asyncio.Future[None] = asyncio.ensure_future(self.flush())
        return sent

    def hang_up(self) -> None:
        """See `Sink`. What the page did not read is forgotten."""
        if (connection := self.request.connection) is not None and (stream := getattr(connection, "stream", None)):
            stream.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if (stream := getattr(self, "_stream", None)) is not None:
            self.runtime.streams.drop(stream)


class AvailabilityHandler(ViewerHandler):
    """The same at once, as JSON: `{"v", "user", "profiles": {key: ...}, "servers": [...]}`."""

    async def get(self) -> None:
        try:
            runtime = self.runtime
            viewer, language = self.viewer(), request_language(self)
            streams, picture = runtime.streams, await runtime.availability.look()
            facts = json.loads(await streams.facts(picture, viewer, language))
            servers = json.loads(await streams.servers(picture, viewer.user, language))
        except LabError as exc:
            self.refuse(exc)
            return
        self.answer({"user": viewer.user, **facts, **servers})


class HoldHandler(ViewerHandler):
    """Keeps a place for a moment for what the posted form, or JSON, would start: `{"v", "hold": {"id", "profile",
    "until"}}`; 409 with the card's new state where there is none."""

    async def post(self) -> None:
        viewer = self.viewer()
        try:
            hold = await self.runtime.hold(viewer, self._options())
        except NoRoom as exc:
            await self._full(exc, viewer)
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({"hold": {"id": hold.id, "profile": hold.profile, "until": hold.until.isoformat()}})

    async def _full(self, error: NoRoom, viewer: Viewer) -> None:
        """Say it as the card does, so that page and button are right at once."""
        now, language = datetime.now(timezone.utc), request_language(self)
        answers = await self.runtime.availability.of(viewer)
        states: dict[str, Json] = {key: card_state(one, now).to_json(language) for key, one in answers.items()}
        self.set_status(409)
        self.answer(
            {"message": i18n.translate(error.message, language), "reason": error.reason, "profiles": states}, 409
        )

    def _options(self) -> object:
        """What would be started. Raises BadChoice."""
        if len(self.request.body) > MOST_BYTES:
            raise BadChoice(Sentence("This is too long to be a choice."))
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() == "application/json":
            try:
                return json.loads(self.request.body)
            except (ValueError, RecursionError) as exc:
                raise BadChoice(Sentence("The choice is not JSON.")) from exc
        return options_from_form(self.request.body_arguments)


class ReleaseHandler(ViewerHandler):
    """Gives back what is held for the viewer: `{"v", "released": bool}`. id: only that hold."""

    def post(self) -> None:
        try:
            released = self.runtime.engine.holds.release(
                self.current_user.name, self.get_body_argument("id", "") or None
            )
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({"released": bool(released)})


class VariantHandler(BaseHandler):  # type: ignore[misc]
    """Starts what waits in line as another variant, from a plain form or a script: `variant`, counted from 1."""

    @web.authenticated
    async def post(self, user_name: str, server_name: str | None = None) -> None:
        await self._switch(user_name=user_name, server_name=server_name or "")

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _switch(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            raise web.HTTPError(404)
        try:
            await self._engine().switch(user.name, server_name, self._number() - 1)
        except LabError as exc:
            self._refuse(exc)
            return
        self.log.info("variant taken user=%s server=%r by=%s", user.name, server_name, self.current_user.name)
        if wants_json(self):
            self.finish({"v": 1})
        else:
            place = f"{user.escaped_name}/{server_name}" if server_name else user.escaped_name
            self.redirect(f"{self.hub.base_url}spawn-pending/{place}")

    def _engine(self) -> Any:
        runtime = self.users.settings.get("labspawner")
        if runtime is None:
            raise StoreUnavailable(Sentence("The hub has only just started. Try again in a moment."))
        return runtime.engine

    def _number(self) -> int:
        text = self.get_body_argument("variant", "")
        if not (text.isascii() and text.isdigit() and len(text) < 4):
            raise BadChoice(Sentence("This profile cannot be started in this way. Load the page again."))
        return int(text)

    def _refuse(self, error: LabError) -> None:
        if not wants_json(self):
            refusal: Any = web.HTTPError(error.status_code, "variant not taken: %s", error)
            refusal.jupyterhub_message = error.message
            raise refusal from error
        self.set_status(error.status_code)
        self.finish(json.dumps({"message": i18n.translate(error.message, request_language(self))}))


def extra_handlers() -> list[tuple[str, type, dict[str, Any]]]:
    """For `c.JupyterHub.extra_handlers`."""
    return [
        (r"/labspawner/events", EventsHandler, {}),
        (r"/labspawner/availability", AvailabilityHandler, {}),
        (r"/labspawner/place", HoldHandler, {}),
        (r"/labspawner/place/release", ReleaseHandler, {}),
        (r"/labspawner/variant/([^/]+)(?:/([^/]+))?", VariantHandler, {}),
    ]
