"""Which nodes are there, who can reach whom, and whether the cluster may write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from labspawner.testing.pve.call import Refused
from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.world import Node, World

SEEN_OFFLINE_S = 8.0
SEEN_ONLINE_S = 3.0
CUT_OFF_S = 30.2  # the first requests for a node that was just cut off
NO_ROUTE_S = 3.1
NAME_LOOKUP_S = 10.3


class Cluster:
    """Who is there, as the nodes that still have a network see it."""

    def __init__(self, world: World, clock: Clock, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._world, self._clock, self._spawn = world, clock, spawn
        self._forced: bool | None = None
        self.seen_offline_s = SEEN_OFFLINE_S
        self._changed = asyncio.Event()

    @property
    def quorate(self) -> bool:
        """As the nodes that are left see it."""
        if self._forced is not None:
            return self._forced
        online = sum(not node.seen_offline for node in self._world.nodes.values())
        return online * 2 > len(self._world.nodes)

    def _really_quorate(self) -> bool:
        connected = sum(not node.cut for node in self._world.nodes.values())
        return self._forced is not False and connected * 2 > len(self._world.nodes)

    def force_quorum(self, there: bool | None) -> None:
        self._forced = there
        self._tell()

    def offline(self, node: Node, asked: str) -> bool:
        """Whether a node is offline for the one that is asked."""
        return node.seen_offline or (self._forced is False and node.name != asked)

    def cut(self, name: str, *, power: bool = False) -> None:
        node = self._world.nodes[name]
        node.cut, node.dead = True, power
        self._spawn(self._see(node, self.seen_offline_s))

    def reconnect(self, name: str) -> None:
        node = self._world.nodes[name]
        node.cut = node.dead = False
        self._spawn(self._see(node, SEEN_ONLINE_S))

    async def _see(self, node: Node, after_s: float) -> None:
        cut = node.cut
        await self._clock.sleep(after_s)
        if node.cut == cut:
            self.notice(node.name)

    def notice(self, name: str) -> None:
        """The peers of a node see whether it is there."""
        node = self._world.nodes[name]
        node.seen_offline = node.cut
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def reach(self, asked: str, name: str) -> None:
        """Go from one node to another. Raises Refused as pveproxy does when that one cannot be reached."""
        node = self._world.nodes.get(name)
        if node is None:
            await self._clock.sleep(NAME_LOOKUP_S)
            why = "Temporary failure in name resolution"
            raise Refused(500, f"hostname lookup '{name}' failed - failed to get address info for: {name}: {why}")
        if not node.cut or name == asked:
            return
        if node.seen_offline:
            await self._clock.sleep(NO_ROUTE_S)
            raise Refused(595, "No route to host", empty=True)
        await self._clock.sleep(CUT_OFF_S)
        raise Refused(595, "Connection timed out", empty=True)

    def need_quorum(self) -> None:
        """Raises as what asks for a quorum first: clone, create, start."""
        if not self.quorate:
            raise Refused(500, "cluster not ready - no quorum?")

    async def settled(self) -> bool:
        """Whether a write goes through; a loss that nobody has seen yet is waited for."""
        while self.quorate and not self._really_quorate():
            await self._changed.wait()
        return self.quorate

    def unwritable(self, node: str, vmid: int) -> str:
        """The text of a config that could not be written."""
        number = self._world.rng.randrange(1000, 30000)
        return f"unable to open file '/etc/pve/nodes/{node}/qemu-server/{vmid}.conf.tmp.{number}' - Permission denied"
