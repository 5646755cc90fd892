"""Where machines call home: `POST /hub/labspawner/guest/call-home`, with a nonce that is good once.

A machine that nothing reaches into asks for its environment here (`labspawner.guest` has the shape). Which one may have what
its provider alone knows. Everybody else gets one short refusal, the same for whatever reason, and no line in a log.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from logging import getLogger
from typing import Any

from tornado import web

from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.providers.contract import HomeAnswer, HomeCall, Welcoming

log = getLogger(__name__)

PROTOCOL = 1
MOST_BYTES = 8192
MOST_NONCE = 256
REFUSED = 403
_REFUSAL = json.dumps({"protocol": PROTOCOL, "ok": False, "message": "refused"})
_AT_ONCE, _EVERY_S = 20.0, 1.0
_MOST_ADDRESSES = 4096
_PATIENCE_S = 60.0


class Rate:
    """How often one address may ask: `at_once` times, and once more each `every_s` seconds.

    Only so many addresses are remembered; the one that was not heard of for longest is forgotten first.
    """

    def __init__(
        self, at_once: float = _AT_ONCE, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._every_s, self._clock = at_once, every_s, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Whether it may ask now; that counts."""
        now = self._clock()
        left, at = self._left.pop(address, (self._at_once, now))
        left = min(self._at_once, left + (now - at) / self._every_s)
        self._left[address] = (left - 1.0 if left >= 1.0 else left, now)
        while len(self._left) > _MOST_ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1.0


class CallHomeHandler(web.RequestHandler):
    """Answers a machine that calls. rate: one for all requests.

    Not JupyterHub's own kind of handler: nobody is logged in here, and its database is not asked.
    """

    def initialize(self, rate: Rate) -> None:
        self._rate = rate

    def check_xsrf_cookie(self) -> None:
        """Not needed: cookies say nothing here."""

    def _log(self) -> None:
        """No line: it would be others' to fill the log with."""

    async def post(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        address = peer_of(self)
        call = call_of(self.request.body, address) if address and self._rate.allows(address) else None
        answer = await self._ask(call) if call is not None else None
        if answer is None:
            self._refuse()
        elif answer.body is None:
            self.set_status(202)
            self.set_header("Retry-After", f"{max(1, round(answer.retry_after_s))}")
            self.finish()
        else:
            self.finish(answer.body)

    async def _ask(self, call: HomeCall) -> HomeAnswer | None:
        """What the first provider says that knows the call."""
        for provider in welcoming(self.settings):
            try:
                answer = await within(_PATIENCE_S, provider.call_home(call))
            except (LabError, asyncio.TimeoutError) as exc:
                log.warning("a call home could not be answered: %s", type(exc).__name__)
                continue
            if answer is not None:
                return answer
        return None

    def _refuse(self) -> None:
        self.set_status(REFUSED)
        self.finish(_REFUSAL)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The same refusal for another method, and where something broke; the log has the rest of that."""
        self.set_header("Content-Type", "application/json")
        self._refuse()


def welcoming(settings: Mapping[str, Any]) -> Iterable[Welcoming]:
    """The hub's providers whose machines may call; none before the hub is ready. settings: of its tornado application."""
    runtime = getattr(settings.get("users"), "settings", settings).get("labspawner")  # a handler's own are a copy
    providers: Mapping[str, object] = getattr(runtime, "providers", None) or {}
    return [provider for provider in providers.values() if isinstance(provider, Welcoming)]


def peer_of(handler: web.RequestHandler) -> str:
    """The address at the other end of the connection; empty where it cannot be told. Not `remote_ip`, which takes the word
    of any header: who comes through a proxy has the proxy's address here, and so no VM's."""
    stream = getattr(handler.request.connection, "stream", None)
    try:
        peer = stream.socket.getpeername()  # type: ignore[union-attr]  # None has none either
    except (AttributeError, OSError):
        return ""
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def call_of(body: bytes, address: str) -> HomeCall | None:
    """The call in a request; None for anything else. Pure."""
    if len(body) > MOST_BYTES:
        return None
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("protocol") != PROTOCOL or said["protocol"] is True:
        return None
    nonce, uuid, versions = said.get("nonce"), said.get("uuid"), said.get("versions")
    if not isinstance(nonce, str) or not 0 < len(nonce) <= MOST_NONCE:
        return None
    found = {str(name)[:64]: str(value)[:64] for name, value in versions.items() if value} if (
        isinstance(versions, dict)
    ) else {}  # fmt: skip
    return HomeCall(nonce=nonce, address=address, uuid=uuid if isinstance(uuid, str) else "", versions=found)


def extra_handlers() -> list[tuple[str, type, dict[str, Any]]]:
    """For `c.JupyterHub.extra_handlers`."""
    return [(r"/labspawner/guest/call-home", CallHomeHandler, {"rate": Rate()})]
