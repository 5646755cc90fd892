"""Providers for tests on a cluster, and what a launch of theirs says."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from labspawner.model import Checkpoint, Handle, Json, LaunchRequest, Progress, Ready
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.providers.proxmox.record import record_of
from labspawner.sentences import Sentence
from labspawner.testing.pve import PveDouble
from labspawner.testing.requests import launch_request
from labspawner.testing.waiting import PATIENCE

NODES = ("pve1", "pve2", "pve3")
LONG_S = 20.0 * PATIENCE


class Started:
    """A launch that got to Ready, or as far as it got."""

    def __init__(self, request: LaunchRequest) -> None:
        self.request = request
        self.handles: list[Handle] = []
        self.said: list[Progress] = []
        self.url = ""

    @property
    def handle(self) -> Handle:
        return self.handles[-1]

    @property
    def vmid(self) -> int:
        vmid = record_of(self.handle).vmid
        assert vmid is not None
        return vmid

    @property
    def words(self) -> list[Sentence]:
        return [progress.message for progress in self.said]

    @property
    def api_url(self) -> str:
        return f"{self.url}{self.request.base_url}api"


def settings_of(pve: PveDouble, **changes: Any) -> dict[str, Json]:
    """Settings of a provider on this double: all that is needed, and its pace."""
    return {
        "endpoints": pve.url,
        "token": pve.token,
        "ca_file": str(pve.ca_file),
        "pool": pve.pool,
        "addresses": {"default": pve.address_pool},
        "storage_reserve": "1MiB",
        "node_reserve": "1MiB",
        "nodes": {
            name: {"memory": "256GiB", "cores": 64} for name in NODES
        },  # the token may not read how large they are
        "boot_timeout_s": 3600.0,
        "clone_timeout_s": 14_400.0,
        "pace": pve.pace,
        **changes,
    }


def provider_on(pve: PveDouble, folder: Path, hub_id: str = "test-hub", **changes: Any) -> ProxmoxProvider:
    """A provider of a hub with this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    context = ProviderContext(name="proxmox", hub_id=hub_id, data_dir=folder)
    return ProxmoxProvider(context, settings_of(pve, **changes))


def a_request(pve: PveDouble, *, settings: Mapping[str, Json] | None = None, **changes: Any) -> LaunchRequest:
    """A request for a VM of the double's template, whose server answers as soon as it may."""
    values: dict[str, Any] = {
        "lease_id": new_lease_id(),
        "ready_timeout_s": LONG_S,
        "settings": {"template": str(pve.template), **(settings or {})},
    }
    return launch_request(**{**values, **changes})


async def follow(provider: ProxmoxProvider, request: LaunchRequest, started: Started | None = None) -> Started:
    """Launch to the end; what it said until an error stands in `started`."""
    started = started or Started(request)
    events: Any = provider.launch(request)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Checkpoint):
                started.handles.append(event.handle)
            elif isinstance(event, Progress):
                started.said.append(event)
            elif isinstance(event, Ready):
                started.url = event.url
    return started


async def outcome(work: Awaitable[Any]) -> BaseException | None:
    """The error that `work` ended with, None without one."""
    try:
        await work
    except Exception as exc:
        return exc
    return None
