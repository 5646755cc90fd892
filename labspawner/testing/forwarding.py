"""A provider that passes everything on to another one: the base of those that interfere with one method or two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from labspawner.model import (
    Activity,
    Capacity,
    Event,
    Feature,
    Handle,
    LaunchRequest,
    LeaseId,
    OwnedResource,
    ReleaseMode,
    ServerState,
    Usage,
)
from labspawner.providers.contract import Provider


class Forwarding:
    """Is `inner`, in every method."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.name = inner.name
        self.features: frozenset[Feature] = inner.features

    def launch(self, request: LaunchRequest) -> AsyncIterator[Event]:
        return self.inner.launch(request)

    async def capacity(self) -> Capacity:
        return await self.inner.capacity()

    async def observe(self, handles: Sequence[Handle]) -> Mapping[LeaseId, ServerState]:
        return await self.inner.observe(handles)

    async def release(self, handle: Handle, mode: ReleaseMode, *, grace_s: float) -> None:
        await self.inner.release(handle, mode, grace_s=grace_s)

    async def owned(self) -> Sequence[OwnedResource]:
        return await self.inner.owned()

    async def activity(self, handle: Handle) -> Activity | None:
        return await self.inner.activity(handle)

    async def usage(self, handles: Sequence[Handle]) -> Mapping[LeaseId, Usage]:
        return await self.inner.usage(handles)

    async def logs(self, handle: Handle, lines: int) -> str:
        return await self.inner.logs(handle, lines)

    async def close(self) -> None:
        await self.inner.close()
