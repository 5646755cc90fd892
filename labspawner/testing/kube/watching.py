"""Watches: who follows a resource, which lines each gets, and how a test silences, cuts or expires them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from labspawner.testing.kube.resources import Json, Resource
from labspawner.testing.kube.routes import Call
from labspawner.testing.kube.selectors import Matches, matcher
from labspawner.testing.kube.statuses import Refused, bad_request, watch_too_old
from labspawner.testing.kube.store import Change, encode, line
from labspawner.testing.kube.world import World


@dataclass(slots=True, eq=False)
class Watcher:
    """One open watch. Lines wait in `lines` until its connection takes them, all in one write."""

    resource: Resource
    namespace: str
    matches: Matches | None
    lines: list[bytes] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    silent: bool = False
    ended: bool = False
    cut: bool = False
    request: web.Request | None = None

    def offer(self, text: bytes, times: int = 1) -> None:
        if text and not self.silent:
            self.lines += [text] * times
            self.wake.set()

    def end(self, *, cut: bool = False) -> None:
        """End the stream, properly or, when `cut`, by resetting its connection."""
        self.ended, self.cut = True, cut
        self.wake.set()


class Watches:
    """All open watches; listens to the store."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[str, set[Watcher]] = {}
        world.store.listeners.append(self._tell)

    def _tell(self, change: Change) -> None:
        times = 2 if self._world.faults.duplicate_events else 1
        for watcher in self._open.get(change.resource.plural, ()):
            watcher.offer(change.line(watcher.matches, watcher.namespace), times)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def each(self, resource: str = "*") -> list[Watcher]:
        return [watcher for plural, found in self._open.items() if resource in ("*", plural) for watcher in found]

    def expire(self) -> None:
        """Forget the history: open watches get the 410 line and end, later ones get it when they come with an old version."""
        asked = self._world.store.version
        self._world.store.forget()
        for watcher in self.each():
            watcher.offer(line("ERROR", encode(watch_too_old(asked, self._world.store.floor).body())))
            watcher.end()

    def open(self, call: Call) -> Watcher:
        """A watch with the lines that it missed; from a version that is too old only the ERROR line. Raises Refused."""
        query, resource = call.query, call.resource
        matches = matcher(resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        watcher = Watcher(resource, call.namespace, matches)
        version = _version(query)
        store = self._world.store
        if query.get("sendInitialEvents") == "true" or version == 0:
            self._now(watcher)
            if query.get("sendInitialEvents") == "true":
                watcher.offer(bookmark(resource, store.version, initial=True))
        elif version < store.oldest(resource):
            watcher.offer(line("ERROR", encode(watch_too_old(version, store.oldest(resource)).body())))
            watcher.end()
            return watcher
        else:
            for change in store.since(resource, version):
                watcher.offer(change.line(watcher.matches, watcher.namespace))
        watcher.silent = self._world.faults.silent_watches or version > store.version
        self._open.setdefault(resource.plural, set()).add(watcher)
        return watcher

    def _now(self, watcher: Watcher) -> None:
        for entry in self._world.store.entries(watcher.resource, watcher.namespace):
            if watcher.matches is None or watcher.matches(entry.obj):
                watcher.offer(line("ADDED", entry.whole()))

    def close(self, watcher: Watcher) -> None:
        self._open.get(watcher.resource.plural, set()).discard(watcher)

    async def serve(self, request: web.Request, watcher: Watcher, query: Mapping[str, str]) -> web.StreamResponse:
        """Send lines until the watch ends, its time is over, or nobody listens any more."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        watcher.request = request
        try:
            await response.prepare(request)
            await self._send(response, watcher, query)
            if watcher.cut and request.transport is not None:
                reset(request.transport)
            else:
                await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            if not watcher.cut:
                raise
        finally:
            self.close(watcher)
        return response

    async def _send(self, response: web.StreamResponse, watcher: Watcher, query: Mapping[str, str]) -> None:
        loop, seconds = asyncio.get_running_loop(), float(query.get("timeoutSeconds") or 0) or 3600.0
        until = loop.time() + seconds
        marks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        next_mark = loop.time() + self._world.pace.bookmark_s
        while True:
            watcher.wake.clear()
            if watcher.lines and not watcher.cut:
                lines, watcher.lines = watcher.lines, []
                await response.write(b"".join(lines))
            if watcher.ended or loop.time() >= until:
                return
            wait_until = min(until, next_mark) if marks else until
            timer = loop.call_at(wait_until, watcher.wake.set)
            try:
                await watcher.wake.wait()
            finally:
                timer.cancel()
            if marks and loop.time() >= next_mark:
                watcher.offer(bookmark(watcher.resource, self._world.store.version))
                next_mark = loop.time() + self._world.pace.bookmark_s


def reset(transport: asyncio.BaseTransport) -> None:
    """Lose this connection so that the other side sees a reset rather than an end."""
    found = transport.get_extra_info("socket")
    if found is not None and isinstance(transport, asyncio.WriteTransport):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def _version(query: Mapping[str, str]) -> int:
    text = query.get("resourceVersion") or "0"
    if not text.isdigit():
        why = f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise Refused(500, "", f"resourceVersion: {why}")
    if not (query.get("timeoutSeconds") or "0").isdigit():
        raise bad_request("timeoutSeconds is no number")
    return int(text)


def bookmark(resource: Resource, version: int, *, initial: bool = False) -> bytes:
    """A BOOKMARK line: where a watch may go on; `initial` ends the first lines of `sendInitialEvents`."""
    metadata: Json = {"resourceVersion": str(version)}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    body: Json = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    if resource.plural == "pods":
        body |= {"spec": {"containers": None}, "status": {}}
    return line("BOOKMARK", encode(body))
