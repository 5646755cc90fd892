"""Providers for tests on a cluster, and what a launch of theirs says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from labspawner.model import Checkpoint, Handle, LaunchRequest, Progress, Ready
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.kubernetes.provider import KubernetesProvider
from labspawner.sentences import Sentence
from labspawner.testing.waiting import PATIENCE

from .pods import pod_request

QUICK = {
    "patience_s": 2.0,
    "pending_s": 0.5,
    "stop_s": 60.0,
    "relist_s": 0.2,
    "watch_s": 30.0,
    "request_timeout_s": 60.0,
}
LONG_S = 10.0 * PATIENCE
OpenProvider = Callable[..., KubernetesProvider]


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
    def pod(self) -> str:
        return str(self.handle.data["pod"])

    @property
    def words(self) -> list[Sentence]:
        return [progress.message for progress in self.said]


def provider_on(cluster: Any, folder: Path, hub_id: str, **settings: Any) -> KubernetesProvider:
    """A provider with short waits, of a hub in this namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"kubeconfig": str(cluster.kubeconfig(folder)), "namespace": cluster.namespace, **QUICK, **settings}
    return KubernetesProvider(ProviderContext(name="kubernetes", hub_id=hub_id, data_dir=folder), given)


def a_request(cluster: Any, **changes: Any) -> LaunchRequest:
    return pod_request(cluster.image, **{"ready_timeout_s": LONG_S, "lease_id": new_lease_id(), **changes})


async def follow(provider: KubernetesProvider, request: LaunchRequest, started: Started | None = None) -> Started:
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


async def never_raises(work: Awaitable[Any]) -> BaseException | None:
    """The error that `work` ended with, None without one."""
    try:
        await work
    except Exception as exc:
        return exc
    return None
