"""labspawner's node agent shares the cards in slices of fixed classes, which the kubelet counts. Pure.

A class has places: so many per card, each of one size. A wanted slice goes to the smallest class that holds it, never to
a larger one, so that small wishes do not use up the large places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from labspawner.errors import BadConfig, NeverFits
from labspawner.gpu.agent.inventory import ANNOTATION, BadInventory, NodeInventory, SliceUse, parse, resource_of
from labspawner.model import CardCapacity, HeldSlice, HostCapacity, Slice, SliceTest
from labspawner.placement import holds
from labspawner.providers.kubernetes.strategies.contract import PodPatch, Waiting
from labspawner.providers.kubernetes.strategies.environment import NO_CARD
from labspawner.providers.kubernetes.strategies.options import ClassSettings
from labspawner.providers.kubernetes.strategies.rooms import MIB, asked, by_node, need_of, others, room
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView, Pool
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.providers.kubernetes.words.placing import unplaced
from labspawner.providers.kubernetes.words.starting import waiting
from labspawner.sentences import Sentence, plain
from labspawner.units import human_bytes

_TESTED = {"passed": SliceTest.PASSED, "failed": SliceTest.FAILED, "untested": SliceTest.UNTESTED, "off": SliceTest.OFF}
_SAID_NOT = (
    Sentence("`type` and `not_type` of gpu need HAMi; here, a node_selector picks the machines."),
    Sentence("`cards` of gpu is at most 1 here: slices of several cards need HAMi."),
    Sentence("`place` and `priority` of gpu need HAMi; here, the node agent decides."),
)


@dataclass(frozen=True, slots=True)
class DevicePlugin:
    """Slices by the node agent. classes: as the agents are set up, by name."""

    classes: Mapping[str, ClassSettings] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "device-plugin"

    def patch(self, wanted: Slice | None, wish: GpuWish) -> PodPatch:
        """One place of the smallest class that holds `wanted`. Raises NeverFits with the classes there are, and BadConfig
        for what fixed classes cannot grant."""
        if wanted is None:
            return PodPatch(environment=dict(NO_CARD))
        self._check(wish)
        chosen = self.class_of(wanted)
        if chosen is None:
            raise self._too_large(wanted)
        policy = self.classes[chosen].policy
        if wish.policy is not None and wish.policy != policy:
            raise BadConfig(
                Sentence(
                    "This profile wants a GPU slice with the policy {wanted}, and slices of this cluster have the policy "
                    "{policy}. Tell your instructor.",
                    wanted=wish.policy,
                    policy=policy,
                )
            )
        return PodPatch(limits={resource_of(chosen): 1})

    def class_of(self, wanted: Slice) -> str | None:
        """The smallest class that holds `wanted`; None: no class does."""
        return next((name for name, size in self._sizes() if holds(size, wanted)), None)

    def _sizes(self) -> list[tuple[str, Slice]]:
        """The classes, the smallest first."""
        sizes = [(name, Slice(memory_bytes=each.memory, compute_pct=each.cores)) for name, each in self.classes.items()]
        return sorted(sizes, key=lambda pair: (pair[1].memory_bytes, pair[1].compute_pct, pair[0]))

    def _check(self, wish: GpuWish) -> None:
        wrong = (
            _SAID_NOT[0]
            if wish.type or wish.not_type
            else _SAID_NOT[1]
            if wish.cards != 1
            else _SAID_NOT[2]
            if wish.place is not None or wish.priority is not None
            else None
        )
        if wrong is not None:
            raise BadConfig(
                Sentence("This profile asks for more than this cluster's GPU slices can do: {what}", what=wrong)
            )

    def _too_large(self, wanted: Slice) -> NeverFits:
        classes = ", ".join(
            f"{name}: {human_bytes(size.memory_bytes)} / {size.compute_pct} %" for name, size in self._sizes()
        )
        largest = max((size.memory_bytes for _, size in self._sizes()), default=0)
        return NeverFits(
            wanted.memory_bytes,
            largest,
            message=Sentence(
                "This can never fit: no slice class of this cluster holds {wanted} with {cores} % of compute time. "
                "There are: {classes}. Pick a smaller profile, or tell your instructor.",
                wanted=human_bytes(wanted.memory_bytes),
                cores=wanted.compute_pct,
                classes=classes or "-",
            ),
        )

    def capacity(self, nodes: Sequence[NodeView], pods: Sequence[PodView]) -> tuple[HostCapacity, ...]:
        """See the contract. Each place of a class is a card of its own: it shares nothing with the others."""
        on = by_node(pods)
        return tuple(room(node, on.get(node.name, ()), self._places(node, on.get(node.name, ()))) for node in nodes)

    def _places(self, node: NodeView, pods: Sequence[PodView]) -> list[CardCapacity]:
        """What the kubelet offers less what pods ask for: the scheduler's own count. The agent's annotation names the
        cards, and the places of a card that is not healthy now."""
        inventory = inventory_of(node)
        found: list[CardCapacity] = []
        smaller: list[Slice] = []
        for name, size in self._sizes():
            resource = resource_of(name)
            free = max(0, int(node.allocatable.get(resource, 0)) - int(asked(pods, resource)))
            for index, place in enumerate(_order(node, name, inventory)):
                found.append(_place(place, size, free=index < free, leaves=tuple(smaller)))
            smaller.append(size)
        return found

    def why_waiting(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView] = ()
    ) -> Waiting | None:
        """See the contract."""
        return waiting(pod, events, unplaced=lambda: self._unplaced(pod, events, nodes, others(pods, pod)))

    def _unplaced(
        self, pod: PodView, events: Sequence[EventView], nodes: Sequence[NodeView], pods: Sequence[PodView]
    ) -> Waiting:
        wanted = next((size for name, size in self._sizes() if pod.requests.get(resource_of(name), 0) > 0), None)
        return unplaced(
            pod,
            events,
            need=need_of(pod, wanted, counted=[resource_of(name) for name in self.classes]),
            hosts=self.capacity(Pool.of(pod).nodes(nodes), pods),
            nodes=nodes,
        )

    def granted(self, pod: PodView, nodes: Sequence[NodeView] = ()) -> tuple[HeldSlice, ...] | None:
        """What the agent of the pod's node says; nodes: those that are known."""
        node = next((node for node in nodes if node.name == pod.node), None)
        inventory = inventory_of(node) if node is not None else None
        found = inventory.of_pod(pod.namespace, pod.name) if inventory is not None else ()
        first = found[0].container if found else ""
        return (
            tuple(_held(one, inventory) for one in found if one.container == first)
            if inventory is not None and found
            else None
        )

    def untouched(self, pod: PodView) -> Sentence | None:
        """Nobody but scheduler and kubelet has to look at a pod."""
        return None


def inventory_of(node: NodeView) -> NodeInventory | None:
    """What the agent of a node says; None where it says nothing that can be read."""
    text = node.annotations.get(ANNOTATION)
    if not text:
        return None
    try:
        return parse(text)
    except (BadInventory, RecursionError):
        return None


def _order(node: NodeView, name: str, inventory: NodeInventory | None) -> Iterable[str]:
    """The places of class `name` on a node: first those that are free for all that its agent knows, last those of cards
    that do not answer. An agent speaks later than the API server, so its word is for the order alone."""
    if inventory is None:
        return [f"{node.name}/{name}-{place}" for place in range(int(node.allocatable.get(resource_of(name), 0)))]
    places = [
        (not card.healthy, place < use.used, f"{card.uuid}/{name}-{place}")
        for card in inventory.cards
        if (use := card.classes.get(name)) is not None
        for place in range(use.count)
    ]
    return [uuid for _, _, uuid in sorted(places, key=lambda place: place[:2])]


def _place(uuid: str, size: Slice, *, free: bool, leaves: tuple[Slice, ...]) -> CardCapacity:
    return CardCapacity(
        uuid=uuid,
        memory_total_bytes=size.memory_bytes,
        memory_free_bytes=size.memory_bytes if free else 0,
        compute_total_pct=size.compute_pct,
        compute_free_pct=size.compute_pct if free else 0,
        slots_free=1 if free else 0,
        slots_total=1,
        leaves=leaves,
    )


def _held(one: SliceUse, inventory: NodeInventory) -> HeldSlice:
    uuid, share = next(iter(one.cards.items()))
    return HeldSlice(
        card=uuid,
        memory_bytes=share.memory_mib * MIB,
        compute_pct=share.cores_pct,
        tested=_TESTED.get(one.tested),
        why=plain(one.why) if one.why else None,
        pretended=inventory.pretended,
    )
