"""What runs in a container: a local process, or nothing but an address that answers (`runs="still"`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labspawner.testing.kube.images import Image
from labspawner.testing.kube.resources import Json


class StartFailed(Exception):
    """The container's command cannot be started; the text is what StartError says."""


@dataclass(frozen=True, slots=True)
class Start:
    """All that it takes to start one container."""

    pod: Json
    container: Json
    image: Image
    address: str
    environment: Mapping[str, str]
    attempt: int  # 0 for the first


class Running(Protocol):
    """One container that was started."""

    log: Path | None

    async def wait(self) -> int:
        """Its exit code, 128 + the signal where one ended it."""
        ...

    def end(self) -> None:
        """Ask it to end, as SIGTERM does."""
        ...

    def kill(self) -> None:
        """End it and all that it started."""
        ...

    def memory_bytes(self) -> int:
        """How much memory it and its children have now."""
        ...


class Runner(Protocol):
    """Starts containers; `close` leaves nothing of them."""

    def start(self, start: Start) -> Running:
        """Raises StartFailed."""
        ...

    def address(self) -> str:
        """An address for a new pod."""
        ...

    def give_back(self, address: str) -> None: ...

    def forget(self, uid: str) -> None:
        """The pod is gone: its folder may go too."""
        ...

    async def close(self) -> None: ...


class NotAdmitted(Exception):
    """A device manager has no device for a pod: it becomes Failed with reason UnexpectedAdmissionError and this text."""


class Devices(Protocol):
    """A device manager: who hands out extended resources when a pod comes to a node."""

    def allocate(self, node: str, pod: Json, container: Json) -> Mapping[str, str]:
        """The environment that the container's devices bring. Raises NotAdmitted."""
        ...

    def free(self, node: str, pod: Json) -> None: ...


class StillContainer:
    """Nothing: it is running until it is asked to end, and takes `stop_s` for that."""

    log: Path | None = None

    def __init__(self, stop_s: float) -> None:
        self._stop_s = stop_s
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def end(self) -> None:
        if self._stop_s > 0:
            asyncio.get_running_loop().call_later(self._stop_s, self._finish, 0)
        else:
            self._finish(0)

    def kill(self) -> None:
        self._finish(137)

    def memory_bytes(self) -> int:
        return 0

    def _finish(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)
