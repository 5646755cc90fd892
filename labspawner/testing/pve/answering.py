"""From a request to its answer: faults, who asks, which route, rights, the node, parameters; in PVE's order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from labspawner.testing.pve import faults, routes
from labspawner.testing.pve.access import Access
from labspawner.testing.pve.call import NOBODY, Call, Listed, Refused, Who
from labspawner.testing.pve.requests import Request, without_secrets
from labspawner.testing.pve.schema import checked

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

UNAUTHORIZED_S = 3.0
_PREFIX = "/api2/json"
_OPEN = ("POST", "/access/ticket")
Given = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came in. path: with its prefix, still percent-encoded."""

    node: str
    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def below(self) -> str:
        return self.path.removeprefix(_PREFIX)


@dataclass(frozen=True, slots=True)
class Answer:
    """status 0: the connection ends without one."""

    status: int
    reason: str = "OK"
    body: bytes = b""


class Answering:
    """Answers requests with what `Inside` knows."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._routes = routes.table(inside)
        self._workers = {name: asyncio.Semaphore(inside.plan.workers) for name in inside.world.nodes}
        self._segments: dict[int, list[routes.Route]] = {}
        for route in self._routes:
            self._segments.setdefault(len(route.parts), []).append(route)

    def free_workers(self, node: str) -> int:
        """How many requests a node's daemon could take on now."""
        return self._workers[node]._value

    async def answer(self, asked: Asked) -> Answer:
        """The answer to a request; it is in the log when it is given."""
        board, path = self._inside.board, unquote(asked.below)
        log: dict[str, Any] = {"who": NOBODY, "params": {}}
        if (slow := board.take("slow", asked.method, path)) is not None:
            await self._inside.clock.sleep(slow.seconds)
        plan = board.take("fail", asked.method, path) or board.take("hang", asked.method, path)
        answer = (
            await self._planned(plan) if plan is not None and not plan.after_effect else await self._real(asked, log)
        )
        if plan is not None and plan.after_effect:
            answer = await self._planned(plan)
        self._note(asked, path, log, answer.status)
        return answer

    def _note(self, asked: Asked, path: str, log: dict[str, Any], status: int) -> None:
        params = without_secrets(log["params"])
        at = self._inside.clock.now()
        self._inside.requests.add(Request(asked.method, path, log["who"].name, asked.node, status, params, at))

    @staticmethod
    async def _planned(plan: faults.Plan) -> Answer:
        if plan.kind == "hang":
            await asyncio.get_running_loop().create_future()  # until the client goes away
        return _refusal(Refused(plan.status, plan.text, empty=plan.status >= 595)) if plan.status else Answer(0)

    async def _real(self, asked: Asked, log: dict[str, Any]) -> Answer:
        try:
            call, route = self.begin(asked, log)
            await self.arrive(call, route)
            call.params = checked(route.params, call.params, route.extra)
            log["params"] = call.params
            if not route.worker:
                return _given(await route.handler(call))
            async with self._workers[call.node]:
                return _given(await route.handler(call))
        except Refused as refused:
            if refused.status == 401:
                await self._inside.clock.sleep(UNAUTHORIZED_S)
            return _refusal(refused)
        except asyncio.CancelledError:
            raise
        except Exception as broken:  # a fault of the double: told when it closes
            self._inside.broken.append(broken)
            return _refusal(Refused(500, f"the double failed: {broken!r}"))

    def begin(self, asked: Asked, log: dict[str, Any]) -> tuple[Call, routes.Route]:
        """Who asks for what, and whether he may. Raises Refused. The call's params are still raw."""
        given = _parameters(asked)
        log["params"] = {key: values[-1] for key, values in given.items()}
        who = self._who(asked)
        log["who"] = who
        call, route = self._find(asked, who)
        call.params = log["params"]  # rights look at them before they are checked
        route.rights(call)
        call.params = dict(given)
        return call, route

    def _who(self, asked: Asked) -> Who:
        if (asked.method, asked.below) == _OPEN:
            return NOBODY
        access: Access = self._inside.access
        return access.read(asked.method, asked.headers, self._inside.board.revoked)

    def _find(self, asked: Asked, who: Who) -> tuple[Call, routes.Route]:
        segments = asked.below.strip("/").split("/")
        for route in self._segments.get(len(segments), ()):
            names = route.names(asked.method, segments)
            if names is not None and asked.path.startswith(_PREFIX):
                return Call(self._inside, asked.method, asked.below, asked.node, who, names), route
        raise Refused(501, f"Method '{asked.method} {unquote(asked.below)}' not implemented")

    async def arrive(self, call: Call, route: routes.Route) -> None:
        """Go to the node of the path. Raises Refused as pveproxy does."""
        if "node" in call.names and route.sent_on:
            await self._inside.cluster.reach(call.asked, call.node)


def _parameters(asked: Asked) -> Given:
    given: Given = parse_qs(asked.query, keep_blank_values=True)
    if not asked.body:
        return given
    if "json" in asked.headers.get("Content-Type", ""):
        try:
            body = json.loads(asked.body)
        except ValueError:
            raise Refused(400, "unable to parse JSON body", empty=True) from None
        for key, value in body.items():
            given[key] = [_text(one) for one in value] if isinstance(value, list) else [_text(value)]
        return given
    return given | parse_qs(asked.body.decode("utf-8", "replace"), keep_blank_values=True)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _given(data: object) -> Answer:
    whole = {"data": data.data, **data.more} if isinstance(data, Listed) else {"data": data}
    return Answer(200, "OK", json.dumps(whole, separators=(",", ":")).encode())


def _refusal(refused: Refused) -> Answer:
    reason = " ".join(refused.text.split()).encode("ascii", "replace").decode() or "Error"
    if refused.empty:
        return Answer(refused.status, reason)
    body: dict[str, Any] = {"data": None, "message": f"{refused.text}\n"}
    if refused.errors:
        body["errors"] = refused.errors
    return Answer(refused.status, reason, json.dumps(body, separators=(",", ":")).encode())
