"""A hub that answers the reports of a server as a labspawner hub does, and says what tests tell it to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

TOKEN = "0123456789abcdef-not-a-secret"
NO_MORE = {"en": "No more extensions today.", "zh-CN": "今天不能再延长了。"}


class HubDouble:
    """What the hub heard and what it says. url: as JUPYTERHUB_API_URL has it.

    ends_in_s: seconds from now until the server stops; None for no end. marks_s: seconds before the end at which it
    warns. status: answer with this one instead of 200, without a body. refuse: extend and hold are refused.
    """

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.tokens: set[str] = set()
        self.cause = "idle"
        self.reason = {
            "en": "idle for 18 min; this profile's limit is 20 min",
            "zh-CN": "已闲置 18 分钟；此配置的上限为 20 分钟",
        }
        self.report_every_s: float = 1
        self.left_today = 3
        self.refuse = False
        self.status = 200
        self.held_until: datetime | None = None
        self.ends_at: datetime | None = None
        self.marks_s: tuple[float, ...] = ()

    def end_in(self, seconds: float | None, marks_s: tuple[float, ...] = ()) -> None:
        """Say that the server stops in `seconds`, and at which marks before that it warns."""
        self.ends_at = None if seconds is None else _now() + timedelta(seconds=seconds)
        self.marks_s = marks_s

    def reports(self) -> list[dict[str, Any]]:
        return self.all("report")

    def all(self, what: str) -> list[dict[str, Any]]:
        """Every body posted to `report`, `extend` or `hold`."""
        return [body for name, body in self.heard if name == what]

    def answer(self) -> dict[str, Any]:
        now = _now()
        marks = [self.ends_at - timedelta(seconds=s) for s in self.marks_s] if self.ends_at else []
        verdict = "keep"
        if self.ends_at is not None:
            verdict = "cull" if now >= self.ends_at else "warn" if any(mark <= now for mark in marks) else "keep"
        return {
            "v": 1,
            "now": now.isoformat(),
            "verdict": verdict,
            "reason": self.reason if verdict != "keep" else {"en": "in use", "zh-CN": "正在使用"},
            "ends_at": self.ends_at.isoformat() if self.ends_at else None,
            "cause": self.cause if self.ends_at else None,
            "warn_at": [mark.isoformat() for mark in marks],
            "extend": {"step_s": 1800, "left_today": self.left_today},
            "hold": {
                "until": self.held_until.isoformat() if self.held_until else None,
                "left_s": 4 * 3600 if self.held_until else 6 * 3600,
            },
            "report_every_s": self.report_every_s,
        }

    def hear(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take a request, as the hub's handlers do; it is heard when what it changes has changed."""
        answer = self._take(what, body)
        self.heard.append((what, body))
        return answer

    def _take(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.status != 200:
            return self.status, {}
        if what in {"extend", "hold"} and self.refuse:
            return 409, {"message": NO_MORE}
        if what == "extend":
            self.left_today -= 1
            self.ends_at = (self.ends_at or _now()) + timedelta(seconds=1800)
        if what == "hold":
            self.held_until = _now() + timedelta(seconds=body["seconds"]) if body["seconds"] else None
        return 200, self.answer()


class _Handler(RequestHandler):
    def initialize(self, double: HubDouble) -> None:
        self.double = double

    def post(self, what: str) -> None:
        self.double.tokens.add(self.request.headers.get("Authorization", ""))
        status, body = self.double.hear(what, json.loads(self.request.body))
        self.set_status(status)
        self.finish(body if body else b"<html>not for machines</html>")


@contextmanager
def a_hub() -> Iterator[HubDouble]:
    """A hub double that listens on loopback, in a thread of its own."""
    double, loop, ready = HubDouble(), asyncio.new_event_loop(), threading.Event()
    servers: list[HTTPServer] = []

    async def serve() -> None:
        application = Application(
            [(r"/hub/labspawner/(report|extend|hold)", _Handler, {"double": double})], log_function=lambda _: None
        )
        [socket] = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(application)
        server.add_socket(socket)
        servers.append(server)
        double.url = f"http://127.0.0.1:{socket.getsockname()[1]}/hub/api"
        ready.set()

    async def end() -> None:
        servers[0].stop()
        await servers[0].close_all_connections()
        loop.stop()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=run, name="hub-double")
    thread.start()
    ready.wait()
    try:
        yield double
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join()


def _now() -> datetime:
    return datetime.now(timezone.utc)
