"""What the lab asks this server. Authenticated and guarded against forged requests as all of jupyter_server's are.

None of these counts as use of the server: an open tab asks on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from labspawner.extension.browsers import NotAHeartbeat
from labspawner.extension.evidence import Evidence, iso
from labspawner.extension.hub import AWAY, Hub, Reply
from labspawner.extension.reporter import Reporter

_LONGEST_HOLD_S = 366 * 86400
_AWAY = {
    "en": "The hub does not answer at the moment. Try again in a minute.",
    "zh-CN": "服务中心暂时没有响应，请稍后再试。",
}
_REFUSED = {"en": "The hub did not agree.", "zh-CN": "服务中心没有同意。"}


class Handler(APIHandler):
    """The common part. now_s: seconds, monotonic, as the reporter counts them."""

    auth_resource = "server"
    _track_activity = False

    def initialize(self, reporter: Reporter, evidence: Evidence, hub: Hub, now_s: Any) -> None:
        self.reporter, self.evidence, self.hub, self.now_s = reporter, evidence, hub, now_s

    def body(self) -> Mapping[str, Any]:
        """The request's JSON object; {} where it has none. Raises 400 for anything else."""
        found = self.get_json_body() or {}
        if not isinstance(found, dict):
            raise web.HTTPError(400, "a JSON object is wanted")
        return found

    def answer(self, reply: Reply) -> None:
        """Pass the hub's answer on; where it has none, say so in a sentence."""
        if reply.ok:
            self.reporter.take(reply)
            self.reporter.soon()
            self.finish(dict(reply.body))
            return
        message = reply.body.get("message")
        if not isinstance(message, Mapping) or "en" not in message:
            message = _AWAY if reply.status == AWAY or reply.status >= 500 else _REFUSED
        self.set_status(reply.status if reply.status in {409, 429} else 503)
        self.finish({"message": dict(message)})


class StatusHandler(Handler):
    """The hub's last answer, how old it is, and whether the hub answers now."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        age_s = self.now_s() - self.reporter.answered_at
        known = self.reporter.answer is not None
        self.finish(
            {
                "v": 1,
                "now": iso(datetime.now(timezone.utc)),
                "answer": dict(self.reporter.answer) if self.reporter.answer is not None else None,
                "age_s": round(age_s, 3) if known else None,
                "hub": {200: "ok", None: "unknown", AWAY: "away"}.get(self.reporter.status, "refuses"),
            }
        )


class ClientHandler(Handler):
    """The heartbeat of a tab."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        try:
            self.evidence.browsers.heard(self.body(), datetime.now(timezone.utc))
        except NotAHeartbeat as exc:
            raise web.HTTPError(400, str(exc)) from exc
        self.set_status(204)
        self.finish()


class ExtendHandler(Handler):
    """Ask for more time."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        self.answer(await self.hub.post("extend", {}))


class HoldHandler(Handler):
    """Keep the server although nothing seems to happen: `{"seconds": n}`, 0 to let go."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        seconds = self.body().get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= _LONGEST_HOLD_S:
            raise web.HTTPError(400, "seconds is a whole number, 0 to release")
        self.answer(await self.hub.post("hold", {"seconds": seconds}))


ROUTES: Mapping[str, type[Handler]] = {
    "status": StatusHandler,
    "client": ClientHandler,
    "extend": ExtendHandler,
    "hold": HoldHandler,
}
