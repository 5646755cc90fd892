"""HAMi shares the cards: its resources and annotations for a pod, and what it says of nodes and pods. Pure.

Formats: HAMi's source (`pkg/device/nvidia`, `pkg/scheduler`) and its documentation; what differs between its versions is
said where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labspawner.model import CardCapacity, CardPolicy, HeldSlice, HostCapacity, Slice
from labspawner.providers.kubernetes.strategies.contract import Kind, PodPatch, Waiting
from labspawner.providers.kubernetes.strategies.environment import NO_CARD
from labspawner.providers.kubernetes.strategies.hami_cards import places
from labspawner.providers.kubernetes.strategies.hami_notes import (
    ALLOCATED,
    BIND_PHASE,
    REGISTER,
    SCORES,
    VGPU_NODE,
    HamiUse,
    read_allocation,
    read_register,
    read_scores,
    silent,
    uses_by_node,
)
from labspawner.providers.kubernetes.strategies.options import HamiSettings
from labspawner.providers.kubernetes.strategies.rooms import MIB, by_node, need_of, others, room
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView, Pool
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.kubernetes.words.placing import PLACE_PCT, STUCK_WITHOUT_A_PLACE, unplaced
from labspawner.providers.kubernetes.words.starting import about, waiting
from labspawner.sentences import Sentence

USE_TYPE, NOUSE_TYPE, MODE = "nvidia.com/use-gputype", "nvidia.com/nouse-gputype", "nvidia.com/vgpu-mode"
NODE_POLICY, GPU_POLICY = "hami.io/node-scheduler-policy", "hami.io/gpu-scheduler-policy"
CORE_POLICY = "GPU_CORE_UTILIZATION_POLICY"
_CORE_POLICIES = {"fair": "default", "force": "force", "off": "disable"}
_GPU_POLICIES = {CardPolicy.BINPACK: "binpack", CardPolicy.SPREAD: "spread", CardPolicy.TOPOLOGY: "topology-aware"}
_PRIORITIES = {"high": 0, "low": 1}

_NO_WEBHOOK = Sentence(
    "The GPU sharing of this cluster does not see your server, so it would never get its slice. Tell your administrator: "
    "HAMi's webhook is missing, or leaves out this namespace."
)
_NO_SCHEDULER = Sentence(
    "Your server was placed past the GPU sharing of this cluster, so it has no slice. Tell your administrator: "
    "HAMi's scheduler did not place it."
)
_NOT_GIVEN = Sentence("The GPU that was chosen for your server could not be given to it. Try again.")
_LOCKED = Sentence("Another server is just getting its GPU on that machine; yours is next")


@dataclass(frozen=True, slots=True)
class Hami:
    """Slices by HAMi. settings: as they are in force, HAMi's own device config read into them."""

    settings: HamiSettings = HamiSettings()
    place: CardPolicy | None = None

    @property
    def name(self) -> str:
        return "hami"

    def patch(self, wanted: Slice | None, wish: GpuWish) -> PodPatch:
        """Memory and cores are always both written: HAMi's default of either is the whole card."""
        if wanted is None:
            return PodPatch(environment=dict(NO_CARD))
        names = self.settings
        mib = math.ceil(wanted.memory_bytes / MIB)
        limits = {
            names.count: wish.cards,
            names.memory: math.ceil(mib / names.memory_factor),
            names.cores: wanted.compute_pct,
        }
        if wish.priority is not None:
            limits[names.priority] = _PRIORITIES[wish.priority]
        return PodPatch(
            limits=limits,
            annotations=self._annotations(wish),
            environment={CORE_POLICY: _CORE_POLICIES[wish.policy]} if wish.policy is not None else {},
            scheduler_name=names.scheduler if names.set_scheduler else None,
        )

    def _annotations(self, wish: GpuWish) -> dict[str, str]:
        policy = wish.place or self.place
        said = {
            USE_TYPE: ",".join(wish.type),
            NOUSE_TYPE: ",".join(wish.not_type),
            MODE: self.settings.mode or "",
            NODE_POLICY: self.settings.node_policy or "",
            GPU_POLICY: _GPU_POLICIES[policy] if policy is not None else "",
        }
        return {name: text for name, text in said.items() if text}

    def capacity(self, nodes: Sequence[NodeView], pods: Sequence[PodView]) -> tuple[HostCapacity, ...]:
        """See the contract. A card of a node whose device plugin is gone has its totals, and nothing free."""
        on, used, gone = by_node(pods), uses_by_node(pods), silent(nodes)
        policy = self.place or CardPolicy.SPREAD  # HAMi's own default
        return tuple(
            room(
                node,
                on.get(node.name, ()),
                self._cards(node, used.get(node.name, ()), alive=node.name not in gone),
                policy=policy,
            )
            for node in nodes
        )

    def _cards(self, node: NodeView, used: Sequence[HamiUse], *, alive: bool) -> list[CardCapacity]:
        cards = read_register(node.annotations.get(REGISTER, ""))
        # The kubelet sets this to 0 when the plugin has gone; where it says nothing, HAMi's annotation is believed.
        alive = alive and node.allocatable.get(self.settings.count, 1.0) > 0
        distances = _distances(read_scores(node.annotations.get(SCORES, "")))
        return [
            place
            for card in cards
            for place in places(
                card,
                [use for use in used if use.uuid == card.uuid],
                alive=alive,
                models=self.settings.mig,
                distances=distances.get(card.uuid),
            )
        ]

    def why_waiting(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView] = ()
    ) -> Waiting | None:
        """See the contract."""
        unseen = self.untouched(pod)
        if unseen is not None and not pod.ended:
            return Waiting(
                kind=Kind.FAILED,
                message=unseen,
                detail=f"pod {pod.name}: scheduler {pod.scheduler_name}, node {pod.node or '-'}, no {VGPU_NODE}; "
                f"expected the scheduler {self.settings.scheduler}",
            )
        if pod.annotations.get(BIND_PHASE) == "failed":
            return Waiting(
                kind=Kind.FAILED, message=_NOT_GIVEN, detail=f"pod {pod.name}: {BIND_PHASE}=failed", again=True
            )
        return waiting(pod, events, unplaced=lambda: self._unplaced(pod, events, nodes, others(pods, pod)))

    def _unplaced(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView]
    ) -> Waiting:
        locked = next(
            (event for event in about(pod, events)[-1:] if event.reason == "BindingFailed" and "lock" in event.message),
            None,
        )
        if locked is not None:
            return Waiting(
                kind=Kind.STARTING,
                message=_LOCKED,
                detail=locked.message,
                percent=PLACE_PCT,
                stuck=STUCK_WITHOUT_A_PLACE,
            )
        names = self.settings
        return unplaced(
            pod,
            events,
            need=need_of(pod, self._wanted(pod), counted=(names.count, names.memory, names.cores, names.priority)),
            hosts=self.capacity(Pool.of(pod).nodes(nodes), pods),
            nodes=nodes,
        )

    def _wanted(self, pod: PodView) -> Slice | None:
        """The slice that the pod asks for, on each of its cards."""
        names, asked = self.settings, pod.requests
        if asked.get(names.count, 0) <= 0:
            return None
        mib = int(asked.get(names.memory, 0)) * names.memory_factor
        cores = int(asked.get(names.cores, 0))
        return Slice(memory_bytes=max(1, mib) * MIB, compute_pct=max(1, min(100, cores)))

    def granted(self, pod: PodView, nodes: Sequence[NodeView] = ()) -> tuple[HeldSlice, ...] | None:
        """What HAMi's scheduler wrote onto the pod for the first container that got a card."""
        for container in read_allocation(pod.annotations.get(ALLOCATED, "")):
            if container:
                return tuple(
                    HeldSlice(card=use.device, memory_bytes=use.memory_mib * MIB, compute_pct=use.cores or 100)
                    for use in container
                )
        return None

    def untouched(self, pod: PodView) -> Sentence | None:
        """See the contract. The webhook works before the pod exists, the scheduler before it is bound: there is nothing to
        wait for."""
        if pod.requests.get(self.settings.count, 0) <= 0:
            return None
        if pod.scheduler_name != self.settings.scheduler:
            return _NO_WEBHOOK
        if pod.node and VGPU_NODE not in pod.annotations:
            return _NO_SCHEDULER
        return None


def _distances(scores: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
    """HAMi's scores are higher for nearer cards; ours are distances."""
    highest = max((score for row in scores.values() for score in row.values()), default=0)
    return {uuid: {other: highest - score for other, score in row.items()} for uuid, row in scores.items()}
