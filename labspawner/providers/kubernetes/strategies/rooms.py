"""What a node has for pods, and what its pods left of it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from labspawner.model import CardCapacity, CardPolicy, HostCapacity, Resources, Slice
from labspawner.providers.kubernetes.views import NodeView, PodView
from labspawner.providers.kubernetes.words.placing import Need

CPU, MEMORY, PODS = "cpu", "memory", "pods"
MIB = 2**20
_CLOSED = ("node.kubernetes.io/", "node-role.kubernetes.io/")


def takes_pods(node: NodeView) -> bool:
    """Whether a new pod may go to `node` now: it is ready, not cordoned, under no pressure, and not kept for the cluster's
    own work. Other taints are borne by some profile, or nobody would have set them."""
    closed = any(taint.key.startswith(_CLOSED) and taint.effect in {"NoSchedule", "NoExecute"} for taint in node.taints)
    return node.ready and not node.cordoned and not closed


def by_node(pods: Iterable[PodView]) -> Mapping[str, Sequence[PodView]]:
    """The pods that hold something of a node, by its name."""
    found: dict[str, list[PodView]] = defaultdict(list)
    for pod in pods:
        if pod.node and not pod.ended:
            found[pod.node].append(pod)
    return found


def asked(pods: Iterable[PodView], resource: str) -> float:
    """How much of `resource` these pods ask for together."""
    return sum(pod.requests.get(resource, 0.0) for pod in pods)


def room(
    node: NodeView,
    pods: Sequence[PodView],
    cards: Sequence[CardCapacity] = (),
    *,
    policy: CardPolicy = CardPolicy.BINPACK,
) -> HostCapacity:
    """The node with what `pods`, which are on it, left of it; cards: with what is left of them.

    One that takes no pods now has its totals, and nothing free: what fits it may wait, and does not fail for ever.
    """
    total = node.allocatable
    opened = takes_pods(node)
    servers, cpu, memory = total.get(PODS), total.get(CPU), total.get(MEMORY)
    return HostCapacity(
        name=node.name,
        servers_total=None if servers is None else int(servers),
        servers_free=(None if servers is None else max(0, int(servers) - len(pods))) if opened else 0,
        cpu_total=cpu,
        cpu_free=None if cpu is None else max(0.0, cpu - asked(pods, CPU)) if opened else 0.0,
        memory_total_bytes=None if memory is None else int(memory),
        memory_free_bytes=None if memory is None else max(0, int(memory - asked(pods, MEMORY))) if opened else 0,
        cards=tuple(cards),
        card_policy=policy,
    )


def need_of(pod: PodView, gpu: Slice | None, *, counted: Collection[str]) -> Need:
    """What the pod asks for. counted: the extended resources that `gpu` stands for; others are the scheduler's alone."""
    known = {CPU, MEMORY, PODS, "ephemeral-storage", *counted}
    return Need(
        resources=Resources(
            cpu=pod.requests.get(CPU) or None,
            memory_bytes=int(pod.requests.get(MEMORY, 0)) or None,
            gpu=gpu,
        ),
        others={name: amount for name, amount in pod.requests.items() if name not in known and amount > 0},
    )


def others(pods: Iterable[PodView], pod: PodView) -> tuple[PodView, ...]:
    """All of `pods` but `pod` itself."""
    return tuple(each for each in pods if (each.namespace, each.name) != (pod.namespace, pod.name))
