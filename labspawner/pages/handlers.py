"""The addresses of our own below `/hub/labspawner/`: static files, the language switch, progress and Stop."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from labspawner.pages import i18n

COOKIE = "labspawner-lang"
STATIC_DIR = Path(__file__).parent / "static"
_CANCEL_WAIT_S = 10.0
_REPLAY_WAIT_S = 0.1
_HUBS_OWN_WORDS = frozenset({"Server requested", "Spawning server..."})


class StaticHandler(CacheControlStaticFilesHandler):  # type: ignore[misc]
    """Our style sheet and scripts, open to everyone; cached for as long as `?v=` stays the same."""


class LanguageHandler(BaseHandler):  # type: ignore[misc]
    """Remembers a language in a cookie and goes back to the page it was chosen on. Needs no log-in."""

    async def get(self) -> None:
        language = self.get_argument("to", "")
        if language in i18n.LANGUAGES:
            self.set_cookie(COOKIE, language, path=self.base_url, expires_days=365, samesite="Lax")
        target = self.get_argument("next", "")
        home = f"{self.hub.base_url}home"
        self.redirect(target if is_local_path(target, self.base_url) else home)


class ProgressHandler(BaseHandler):  # type: ignore[misc]
    """What a start has done so far, as JSON at once: `{"events": [{"progress", "message"}], "over": bool}`.

    JupyterHub streams the same as server-sent events, but a proxy may hold a stream back until it ends: PyPI's
    pure-Python configurable-http-proxy does. over: the start has ended, well or badly, so the page leads elsewhere.
    """

    @web.authenticated
    async def get(self, user_name: str, server_name: str | None = None) -> None:
        await self._get(user_name=user_name, server_name=server_name or "")

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def _get(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            raise web.HTTPError(404)
        spawner = user.spawners[server_name]
        events = await progress_so_far(spawner, request_language(self))
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps({"events": events, "over": spawner.pending != "spawn"}))


class StopHandler(BaseHandler):  # type: ignore[misc]
    """Stops a server, or cancels its start, from a plain form: what `DELETE` does in JupyterHub's API.

    Then shows the home page; a script that asks for JSON gets `{"v": 1}`. A server that is already stopping or stopped
    is no error.
    """

    @web.authenticated
    async def post(self, user_name: str, server_name: str | None = None) -> None:
        await self._stop(user_name=user_name, server_name=server_name or "")

    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def _stop(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None or server_name not in user.spawners:
            raise web.HTTPError(404)
        spawner = user.spawners[server_name]
        if spawner.pending == "spawn":
            self.log.info("start cancelled server=%s by=%s", spawner._log_name, self.current_user.name)
            await self._cancel(spawner)
        if spawner.active and not spawner.pending:
            await self.stop_single_user(user, server_name)
        if wants_json(self):
            self.finish({"v": 1})
        else:
            self.redirect(f"{self.hub.base_url}home")

    async def _cancel(self, spawner: Any) -> None:
        """Interrupt a start and wait, for a bounded time, until it has rolled back."""
        future = spawner._spawn_future
        if future and not future.done():
            future.cancel()
            await asyncio.wait([future], timeout=_CANCEL_WAIT_S)


def wants_json(handler: Any) -> bool:
    """Whether a script of ours asks, and not a plain form."""
    return "application/json" in handler.request.headers.get("Accept", "")


def is_local_path(target: str, base_url: str) -> bool:
    """Whether a redirect to `target` stays on this hub: a path below `base_url`, no other host in disguise."""
    parts = urlsplit(target)
    disguised = "\\" in target or target.startswith("//") or any(ord(character) < 33 for character in target)
    return not (parts.scheme or parts.netloc or disguised) and parts.path.startswith(base_url)


def request_language(handler: Any) -> str:
    """The language that `handler`'s request asks for: `?lang=`, our cookie, Accept-Language; English without one.

    `?lang=` is remembered in the cookie. Never raises: an error page asks too.
    """
    request = getattr(handler, "request", None)
    if request is None:
        return i18n.ENGLISH
    query = next(iter(request.query_arguments.get("lang", ())), b"").decode("utf-8", "replace")
    chosen = i18n.negotiate(query=query) if query in i18n.LANGUAGES else None
    if chosen and handler.get_cookie(COOKIE) != chosen:
        handler.set_cookie(COOKIE, chosen, path=handler.base_url, expires_days=365, samesite="Lax")
    accept = request.headers.get("Accept-Language", "")
    return i18n.negotiate(accept, handler.get_cookie(COOKIE), chosen)


async def progress_so_far(spawner: Any, language: str) -> list[dict[str, Any]]:
    """The stages that the start of `spawner` reported until now, in `language`; waits for no new one.

    A spawner's `progress()` is made to be watched: it tells what was, then waits. We stop at the first wait.
    """
    events: list[dict[str, Any]] = []
    if spawner.pending != "spawn":
        return events

    async def replay() -> None:
        async with aclosing(spawner._generate_progress()) as stages:
            async for event in stages:
                message = event.get("message")
                if isinstance(message, str) and message and message not in _HUBS_OWN_WORDS:
                    text = i18n.translate(i18n.recognise(message), language)
                    events.append({"progress": int(event.get("progress") or 0), "message": text})

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(replay(), timeout=_REPLAY_WAIT_S)
    return events
