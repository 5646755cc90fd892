"""No GPUs are shared: every server is without, and sees no card, also on a node that has some. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labspawner.errors import BadConfig
from labspawner.model import HeldSlice, HostCapacity, Slice
from labspawner.providers.kubernetes.strategies.contract import PodPatch, Waiting
from labspawner.providers.kubernetes.strategies.environment import NO_CARD
from labspawner.providers.kubernetes.strategies.rooms import by_node, need_of, others, room
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView, Pool
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.kubernetes.words.placing import unplaced
from labspawner.providers.kubernetes.words.starting import waiting
from labspawner.sentences import Sentence


@dataclass(frozen=True, slots=True)
class NoGpus:
    """Nobody gets a slice."""

    @property
    def name(self) -> str:
        return "none"

    def patch(self, wanted: Slice | None, wish: GpuWish) -> PodPatch:
        """Hides all cards. Raises BadConfig for a profile that wants one."""
        if wanted is not None:
            raise BadConfig(
                Sentence("This profile needs a GPU, and this cluster shares none. Tell your administrator."),
                detail="gpu.strategy of the provider is `none`: `labspawner doctor` says which the cluster has",
            )
        return PodPatch(environment=dict(NO_CARD))

    def capacity(self, nodes: Sequence[NodeView], pods: Sequence[PodView]) -> tuple[HostCapacity, ...]:
        """What is left of processors, memory and places for pods."""
        on = by_node(pods)
        return tuple(room(node, on.get(node.name, ())) for node in nodes)

    def why_waiting(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView] = ()
    ) -> Waiting | None:
        """See the contract."""
        return waiting(
            pod,
            events,
            unplaced=lambda: unplaced(
                pod,
                events,
                need=need_of(pod, None, counted=()),
                hosts=self.capacity(Pool.of(pod).nodes(nodes), others(pods, pod)),
                nodes=nodes,
            ),
        )

    def granted(self, pod: PodView, nodes: Sequence[NodeView] = ()) -> tuple[HeldSlice, ...] | None:
        """Nothing, ever."""
        return None

    def untouched(self, pod: PodView) -> Sentence | None:
        """Nobody but the scheduler has to look at a pod."""
        return None
