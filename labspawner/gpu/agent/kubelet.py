"""What we say to the kubelet: that there is a plugin, again whenever the kubelet is a new one; and which pod has what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import grpc

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.inventory import RESOURCE_DOMAIN, RESOURCE_PREFIX
from labspawner.gpu.agent.plugin import PluginServer, identity
from labspawner.gpu.agent.wire import decode, encode

log = getLogger(__name__)

SOCKET = "kubelet.sock"
_REGISTER_S = 10.0
_LIST_S = 10.0
_LONGEST_PAUSE_S = 30.0
_CHANNEL = (("grpc.enable_http_proxy", 0),)


class KubeletSilent(Exception):
    """The kubelet does not answer, or refuses; the text says which."""


class Registration:
    """Keeps one class registered for as long as `keep` runs. registered: whether the kubelet knows it now. count: how
    often it was told."""

    def __init__(self, server: PluginServer, resource: str, folder: Path) -> None:
        self._server, self._resource, self._folder = server, resource, folder
        self._known_to: tuple[int, int, int] | None = None
        self._said = ""
        self.count = 0

    @property
    def registered(self) -> bool:
        """Whether the kubelet that runs now knows the class."""
        return self._known_to is not None and not self._needed()

    async def keep(self, every_s: float = 1.0) -> None:
        """Look at both sockets, and register anew where one of them is not what it was."""
        loop, last, wait_s, not_before = asyncio.get_running_loop(), None, every_s, float("-inf")
        while True:
            seen = identity(self._folder / SOCKET)
            if seen != last:  # another kubelet: what the one before said does not count
                last, wait_s, not_before = seen, every_s, float("-inf")
            if self._needed() and loop.time() >= not_before:
                if await self._try(seen):
                    wait_s = every_s
                else:
                    not_before, wait_s = loop.time() + wait_s, min(wait_s * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(every_s)

    def _needed(self) -> bool:
        return not self._server.is_there or self._known_to != identity(self._folder / SOCKET)

    async def _try(self, seen: tuple[int, int, int] | None) -> bool:
        """Serve first, then register: the kubelet calls before it answers. Whether there is no need to wait longer."""
        if seen is None:
            self._say("there is no kubelet yet", logged=f"waiting for {self._folder / SOCKET}")
            return True
        try:
            if not self._server.is_there:
                await self._server.start()
            await register(self._folder / SOCKET, self._server.socket.name, self._resource)
        except (KubeletSilent, OSError) as exc:
            self._say(str(exc), logged=f"not registered resource={self._resource}: {exc}; trying again")
            return False
        self._known_to, self._said = seen, ""
        self.count += 1
        log.info("registered resource=%s times=%d", self._resource, self.count)
        return True

    def _say(self, what: str, *, logged: str) -> None:
        if what != self._said:
            log.warning("%s", logged)
            self._said = what


async def register(socket: Path, endpoint: str, resource: str) -> None:
    """Tell the kubelet that a plugin listens at `endpoint`. Raises KubeletSilent."""
    request = wire.RegisterRequest(
        wire.API_VERSION, endpoint, resource, wire.Options(get_preferred_allocation_available=True)
    )
    await _call(socket, f"/{wire.REGISTRATION}/Register", wire.Empty, request, _REGISTER_S)


@dataclass(frozen=True, slots=True)
class Owner:
    """A container that has slices of one class."""

    namespace: str
    pod: str
    container: str


async def owners(socket: Path) -> dict[tuple[str, frozenset[str]], Owner]:
    """Which container has which slices, by class and ids. Raises KubeletSilent; then nothing is known."""
    found = await _call(socket, f"/{wire.POD_RESOURCES}/List", wire.PodResourcesList, wire.Empty(), _LIST_S)
    return owners_in(found)


def owners_in(found: wire.PodResourcesList) -> dict[tuple[str, frozenset[str]], Owner]:
    """The same of an answer. Pure. Devices of others are left out; an entry per device or one for all mean the same."""
    prefix = f"{RESOURCE_DOMAIN}/{RESOURCE_PREFIX}"
    owned: dict[tuple[str, frozenset[str]], Owner] = {}
    for pod in found.pods:
        for container in pod.containers:
            ids: dict[str, set[str]] = {}
            for entry in container.devices:
                if entry.resource_name.startswith(prefix):
                    ids.setdefault(entry.resource_name.removeprefix(prefix), set()).update(entry.device_ids)
            for class_name, of_class in ids.items():
                owned[class_name, frozenset(of_class)] = Owner(pod.namespace, pod.name, container.name)
    return owned


def in_use(owned: Mapping[tuple[str, frozenset[str]], Owner]) -> frozenset[str]:
    """All ids that some container has."""
    return frozenset(one for _, ids in owned for one in ids)


async def _call(socket: Path, method: str, kind: Any, message: Any, timeout_s: float) -> Any:
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=_CHANNEL) as channel:
            call = channel.unary_unary(method, encode, partial(decode, kind))
            return await call(message, timeout=timeout_s)
    except grpc.aio.AioRpcError as exc:
        raise KubeletSilent(f"{exc.code().name}: {exc.details()}") from exc
