"""The gRPC server of one slice class: what the kubelet calls. It holds no truth of its own; it asks an `Offer`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol

import grpc

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.wire import decode, encode

log = getLogger(__name__)

_END_S = 1.0
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.so_reuseport", 0))


class Refused(Exception):
    """These devices cannot be given now: the pod will not start, and the kubelet says why."""


class Offer(Protocol):
    """What stands behind the server of one class. All of it must be quick: a slow Allocate holds up every pod of the node."""

    def devices(self) -> tuple[wire.Device, ...]:
        """All slices of the class, with their health."""

    def prefer(self, wish: wire.ContainerPreference) -> tuple[str, ...]:
        """The best of those that are available."""

    async def allocate(self, ids: tuple[str, ...]) -> wire.ContainerAnswer:
        """What a container with these slices gets. Raises Refused."""


class PluginServer:
    """Serves one class at `socket`; may be started again after it was stopped, or after somebody removed the socket."""

    def __init__(self, socket: Path, offer: Offer) -> None:
        self.socket, self._offer = socket, offer
        self._server: Any = None
        self._made: tuple[int, int, int] | None = None
        self._listeners: set[asyncio.Event] = set()
        self._ending = False

    async def start(self) -> None:
        """Listen. Raises OSError where the socket cannot be made."""
        await self.stop()
        self._ending = False
        self.socket.unlink(missing_ok=True)  # of an agent that was killed
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            server.add_insecure_port(f"unix:{self.socket}")
        except RuntimeError as exc:
            raise OSError(f"{self.socket} cannot be made: {exc}") from exc
        await server.start()
        self._server, self._made = server, identity(self.socket)

    async def stop(self) -> None:
        """End, and remove the socket; safe to repeat."""
        server, self._server = self._server, None
        if server is not None:
            self._ending = True
            self.changed()  # who listens for ever would be waited for
            ours = self._made is not None and identity(self.socket) == self._made
            await server.stop(_END_S)
            if ours:
                self.socket.unlink(missing_ok=True)

    @property
    def is_there(self) -> bool:
        """Whether the kubelet can reach it: it listens, and the socket is the one that was made."""
        return self._server is not None and identity(self.socket) == self._made

    def changed(self) -> None:
        """Tell every listener the devices anew."""
        for one in self._listeners:
            one.set()

    def _handlers(self) -> Any:
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            wire.DEVICE_PLUGIN,
            {
                "GetDevicePluginOptions": unary(self._options, partial(decode, wire.Empty), encode),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list, partial(decode, wire.Empty), encode),
                "GetPreferredAllocation": unary(self._prefer, partial(decode, wire.PreferenceRequest), encode),
                "Allocate": unary(self._allocate, partial(decode, wire.AllocateRequest), encode),
            },
        )

    async def _options(self, _request: wire.Empty, _context: Any) -> wire.Options:
        return wire.Options(get_preferred_allocation_available=True)

    async def _list(self, _request: wire.Empty, _context: Any) -> AsyncIterator[wire.DeviceList]:
        """The list now, and again whenever it changed, for as long as the kubelet listens."""
        news, sent = asyncio.Event(), None
        self._listeners.add(news)
        try:
            while not self._ending:
                news.clear()
                if (devices := self._offer.devices()) != sent:
                    sent = devices
                    yield wire.DeviceList(devices)
                await news.wait()
        finally:
            self._listeners.discard(news)

    async def _prefer(self, request: wire.PreferenceRequest, _context: Any) -> wire.PreferenceResponse:
        return wire.PreferenceResponse(tuple(wire.DeviceIds(self._offer.prefer(wish)) for wish in request.containers))

    async def _allocate(self, request: wire.AllocateRequest, context: Any) -> wire.AllocateResponse:
        answers = []
        for container in request.containers:
            try:
                answers.append(await self._offer.allocate(container.ids))
            except Refused as exc:
                log.error("slices refused devices=%s: %s", " ".join(container.ids), exc)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(exc))
            except OSError as exc:
                log.error("slices could not be made devices=%s: %s", " ".join(container.ids), exc)
                await context.abort(grpc.StatusCode.INTERNAL, f"the files of the slice cannot be made: {exc.strerror}")
        return wire.AllocateResponse(tuple(answers))


def identity(socket: Path) -> tuple[int, int, int] | None:
    """What tells a socket from the one before it at the same path, whose inode number it may have; None: there is none."""
    try:
        found = socket.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
