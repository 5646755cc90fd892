"""The slices of this node as the kubelet sees them: which there are, whether they can be given, and giving them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from logging import getLogger
from pathlib import Path

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.answers import answer, limits_of, slice_name
from labspawner.gpu.agent.choosing import prefer
from labspawner.gpu.agent.folders import Folders
from labspawner.gpu.agent.layout import Layout, Unit
from labspawner.gpu.agent.metrics import AgentMetrics
from labspawner.gpu.agent.plugin import Refused
from labspawner.gpu.agent.settings import Pool
from labspawner.gpu.limits import SliceLimits
from labspawner.gpu.pretend import Pretended

log = getLogger(__name__)

_FRESH_S = 60.0
"""How long what was given counts as in use though the kubelet does not list it yet."""


class Shelf:
    """What there is to give. lost: why a card does not answer, by UUID. listed: ids that containers have, as the kubelet
    listed them last.

    thread: where files are made. given: called after each Allocate.
    """

    def __init__(
        self, pool: Pool, folders: Folders, thread: Executor, metrics: AgentMetrics, *, given: Callable[[], None]
    ) -> None:
        self.pool, self._folders, self._thread, self._metrics, self._given = pool, folders, thread, metrics, given
        self.layout = Layout()
        self.lost: Mapping[str, str] = {}
        self.listed: frozenset[str] = frozenset()
        self.pretended: Pretended | None = None
        self._held_back: frozenset[str] = frozenset()
        self._recent: dict[str, float] = {}

    def limits(self, class_name: str, ids: frozenset[str]) -> SliceLimits | None:
        """What a container with these slices may use; None where one of them is not of this layout."""
        if not ids <= self.layout.units.keys():
            return None
        units = [self.layout.units[one] for one in sorted(ids)]
        return limits_of(slice_name(class_name, ids), units, self.layout, self.pool)

    def all_limits(self) -> tuple[SliceLimits, ...]:
        """What a container with one slice may use, for each that there is."""
        found = (self.limits(unit.class_name, frozenset({unit.id})) for unit in self.layout.units.values())
        return tuple(one for one in found if one is not None)

    def hold_back(self, ids: frozenset[str]) -> None:
        """Do not give these for now: pods have slices of an earlier layout in their place."""
        if ids and not self._held_back:
            log.warning("%d slices are held back until pods with slices of an earlier layout end", len(ids))
        elif self._held_back and not ids:
            log.info("no slices are held back any more")
        self._held_back = ids

    def devices(self, class_name: str) -> tuple[wire.Device, ...]:
        """All slices of a class, with their health."""
        return tuple(self._device(unit) for unit in self.layout.of_class(class_name))

    def _device(self, unit: Unit) -> wire.Device:
        numa = self.layout.cards[unit.card].numa
        return wire.Device(
            unit.id,
            wire.UNHEALTHY if unit.card in self.lost or unit.id in self._held_back else wire.HEALTHY,
            None if numa is None else wire.Topology((wire.NumaNode(numa),)),
        )

    def prefer(self, wish: wire.ContainerPreference) -> tuple[str, ...]:
        """The best of those that are available."""
        now = time.monotonic()
        self._recent = {one: at for one, at in self._recent.items() if now - at < _FRESH_S}
        in_use = (self.listed | self._recent.keys()) - set(wish.available)
        return prefer(wish.available, wish.must_include, wish.size, layout=self.layout, pool=self.pool, in_use=in_use)

    async def allocate(self, class_name: str, ids: tuple[str, ...]) -> wire.ContainerAnswer:
        """What a container with these slices gets; only files in memory are made meanwhile. Raises Refused and OSError."""
        began = time.monotonic()
        try:
            found = await self._allocate(class_name, frozenset(ids))
        except (Refused, OSError):
            self._metrics.refused.labels(class_name).inc()
            raise
        took_s = time.monotonic() - began
        self._metrics.allocate_seconds.labels(class_name).observe(took_s)
        log.info("slices given class=%s slices=%s took_ms=%.1f", class_name, " ".join(ids), took_s * 1000)
        self._given()
        return found

    async def _allocate(self, class_name: str, ids: frozenset[str]) -> wire.ContainerAnswer:
        limits = self.limits(class_name, ids) if ids else None
        if limits is None:
            raise Refused("this node has no such slice any more")
        dead = [device.uuid for device in limits.devices if device.uuid in self.lost]
        if dead:
            raise Refused(f"the GPU {dead[0]} does not answer")
        if ids & self._held_back:
            raise Refused("pods have slices of an earlier layout in its place")
        self._recent |= dict.fromkeys(ids, time.monotonic())
        files = await asyncio.get_running_loop().run_in_executor(self._thread, self._folders.give, limits, ids)
        return answer(limits, files, layout=self.layout, pool=self.pool, pretended=self.pretended, there=_is_there)


class ClassOffer:
    """One class of a shelf, as its server needs it."""

    def __init__(self, shelf: Shelf, class_name: str) -> None:
        self.devices = partial(shelf.devices, class_name)
        self.prefer = shelf.prefer
        self.allocate = partial(shelf.allocate, class_name)


def _is_there(path: str) -> bool:
    return Path(path).exists()
