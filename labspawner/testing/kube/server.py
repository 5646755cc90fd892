"""The API server's door: HTTP or HTTPS on a port that stays ours, also while it is down."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import replace

from aiohttp import web

from labspawner.testing.kube import discovery, logs, reviews, routes
from labspawner.testing.kube.api import Answer, Api, answered
from labspawner.testing.kube.faults import Request
from labspawner.testing.kube.rights import User
from labspawner.testing.kube.statuses import Refused, broken, denied, path_denied
from labspawner.testing.kube.watching import Watches, reset
from labspawner.testing.kube.world import World

_VERBS = {"GET": "get", "POST": "post", "PUT": "put", "PATCH": "patch", "DELETE": "delete", "HEAD": "head"}


class Server:
    """Listens, reads requests, and answers by `Api` and `Watches`."""

    def __init__(
        self, world: World, api: Api, watches: Watches, log_of: logs.LogOf, tls: ssl.SSLContext | None
    ) -> None:
        self._world, self._api, self._watches, self._log_of, self._tls = world, api, watches, log_of, tls
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1
        )
        self._keeper: socket.socket | None = None
        self._site: web.SockSite | None = None
        self.port = 0

    async def start(self) -> None:
        """Take a port of the kernel's choice on 127.0.0.1 and answer there."""
        # A socket that is bound and never listens keeps the port while the server is down: connections are refused
        # then, and the kernel gives the port to nobody else.
        self._keeper = _bound(0)
        self.port = self._keeper.getsockname()[1]
        await self._runner.setup()
        await self.up()

    async def up(self) -> None:
        if self._site is None:
            self._site = web.SockSite(self._runner, _bound(self.port), ssl_context=self._tls, backlog=512)
            await self._site.start()

    async def down(self) -> None:
        """Refuse connections from now on and reset all that are open."""
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        self.reset()

    def reset(self) -> None:
        """Reset all open connections."""
        for watcher in self._watches.each():
            watcher.end(cut=True)
        server = self._runner.server
        for connection in list(server.connections) if server is not None else ():
            if connection.transport is not None:
                reset(connection.transport)

    async def close(self) -> None:
        await self.down()
        await self._runner.cleanup()
        if self._keeper is not None:
            self._keeper.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            user = self._world.rights.owner(request.headers.get("Authorization", ""))
            if not routes.is_known_group(request.path) or request.path in reviews.PATHS or _is_root(request.path):
                return await self._page(request, user)
            return await self._resource(request, user)
        except Refused as refused:
            return _response(Answer(refused.code, answered(0, refused.body()).body, headers=dict(refused.headers)))

    async def _page(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path
        if request.method == "POST" and path in reviews.PATHS:
            body = routes.read_json(await request.read(), "")
            return _response(answered(201, reviews.review(self._world, path, user, body)))
        if path not in discovery.PUBLIC and not user.groups[-1] == "system:authenticated":
            raise path_denied(user.name, _VERBS.get(request.method, "get"), path)
        if path in discovery.HEALTH:
            return web.Response(text="ok")
        document = discovery.document(path, f"127.0.0.1:{self.port}")
        if document is None:
            return web.Response(status=404, text="404 page not found\n")
        return _response(answered(200, document))

    async def _resource(self, request: web.Request, user: User) -> web.StreamResponse:
        call = routes.read(request.method, request.path, request.query)
        call = replace(call, user=user, content_type=request.headers.get("Content-Type", ""))
        if request.can_read_body:
            call = replace(call, raw=await request.read())
        try:
            await self._allow(call)
            if call.verb == "watch":
                watcher = self._watches.open(call)
                self._note(call, 200)
                return await self._watches.serve(request, watcher, call.query)
            if call.sub == "log" and call.verb == "get":
                response = await logs.serve(request, call, self._world, self._log_of)
                self._note(call, response.status)
                return response
            answer = self._api.answer(call)
        except Refused as refused:
            self._note(call, refused.code)
            if refused.code == 504 and self._world.pace.future_list_s:
                await asyncio.sleep(self._world.pace.future_list_s)
            raise
        self._note(call, answer.status)
        return _response(answer)

    async def _allow(self, call: routes.Call) -> None:
        faults = self._world.faults
        if (delay_s := faults.delay_s(call.verb)) > 0:
            await asyncio.sleep(delay_s)
        if (refusal := faults.refusal(call.verb, call.what)) is not None:
            if refusal.status == 403:
                raise self._denied(call)
            raise broken(refusal.status, refusal.message)
        if faults.forbids(call.verb, call.what) or not self._world.rights.allows(call.user, call.attempt):
            raise self._denied(call)

    @staticmethod
    def _denied(call: routes.Call) -> Refused:
        return denied(call.user.name, call.verb, call.resource, call.sub, call.namespace, call.name)

    def _note(self, call: routes.Call, status: int) -> None:
        user = call.user.name
        self._world.requests.add(Request(call.verb, call.what, call.namespace, call.name, call.path, user, status))


def _is_root(path: str) -> bool:
    """Whether this is the document of a group and version rather than one of its resources."""
    parts = path.strip("/").split("/")
    return parts == ["api", "v1"] or (len(parts) == 3 and parts[0] == "apis")


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _bound(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    found.setblocking(False)
    return found
