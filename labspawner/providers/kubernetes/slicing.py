"""The strategy in force: as it is set, and for HAMi with the names that the cluster itself says, once they could be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from logging import getLogger
from typing import Any, Protocol

from labspawner.errors import BadConfig
from labspawner.model import HeldSlice, HostCapacity, Slice
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.strategies.choosing import strategy
from labspawner.providers.kubernetes.strategies.contract import PodPatch, Strategy, Waiting
from labspawner.providers.kubernetes.strategies.hami_config import FILE
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.sentences import Sentence

log = getLogger(__name__)

_AGAIN_S = 60.0


class Get(Protocol):
    """One call to the API server, as `api.Api.call`."""

    def __call__(self, method: str, path: str) -> Awaitable[dict[str, Any]]: ...


class Slicing:
    """A `Strategy` that learns HAMi's names from its ConfigMap, where `hami.config_map` says which that is.

    Until then, and where it cannot be read, the names that are set are in force. Raises BadConfig as `strategy` does.
    """

    def __init__(self, settings: SlicingSettings) -> None:
        self._settings = settings
        self._inner: Strategy = strategy(settings)
        self._source = settings.hami.config_map if settings.strategy == "hami" else None
        self._not_before = float("-inf")

    @property
    def name(self) -> str:
        return self._inner.name

    async def settle(self, get: Get) -> None:
        """Read the ConfigMap, if it was not yet; after a failure again in a minute. Never raises for the cluster's sake."""
        now = asyncio.get_running_loop().time()
        if self._source is None or now < self._not_before:
            return
        self._not_before = now + _AGAIN_S
        namespace, _, name = self._source.partition("/")
        try:
            found = await get("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
            self._inner = strategy(self._settings, device_config=_text(found))
        except (ApiRefused, ApiSilent, BadConfig) as exc:
            log.warning(
                "HAMi's device config %s cannot be used, so its names are as they are set: %s", self._source, exc
            )
            return
        log.info("HAMi's resource names are read from %s", self._source)
        self._source = None

    def patch(self, wanted: Slice | None, wish: GpuWish) -> PodPatch:
        """See the contract."""
        return self._inner.patch(wanted, wish)

    def capacity(self, nodes: Sequence[NodeView], pods: Sequence[PodView]) -> tuple[HostCapacity, ...]:
        """See the contract."""
        return self._inner.capacity(nodes, pods)

    def why_waiting(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView] = ()
    ) -> Waiting | None:
        """See the contract."""
        return self._inner.why_waiting(pod, events, nodes, pods)

    def granted(self, pod: PodView, nodes: Sequence[NodeView] = ()) -> tuple[HeldSlice, ...] | None:
        """See the contract."""
        return self._inner.granted(pod, nodes)

    def untouched(self, pod: PodView) -> Sentence | None:
        """See the contract."""
        return self._inner.untouched(pod)


def _text(config_map: Mapping[str, Any]) -> str:
    """The device config in a ConfigMap. Raises BadConfig where there is none."""
    data = config_map.get("data")
    text = data.get(FILE) if isinstance(data, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise BadConfig(
            Sentence("HAMi's device config on this cluster cannot be read. Tell your administrator."),
            detail=f"the ConfigMap has no {FILE}",
        )
    return text
