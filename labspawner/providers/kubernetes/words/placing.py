"""Why a pod has no node: computed from what the nodes have and have left; of the scheduler's text, only what is short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from labspawner.model import Capacity, CardCapacity, HostCapacity, Resources, Slice
from labspawner.placement import Fits, Full, TooLarge, holds, place
from labspawner.providers.kubernetes.strategies.contract import Kind, Waiting
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView, Pool, Toleration
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

PLACE_PCT, DISK_PCT = 10, 15
_INSUFFICIENT = re.compile(r"Insufficient ([A-Za-z0-9._/-]+[A-Za-z0-9])")
_ALL = (Toleration(operator="Exists"),)
_NO_TIME = datetime.fromtimestamp(0, timezone.utc)

WAITING_FOR_A_PLACE = Sentence("Waiting for a place in the cluster")
STUCK_WITHOUT_A_PLACE = Sentence(
    "The cluster found no place for your server in time. Try again in a few minutes; if it happens again, "
    "tell your instructor."
)
_DISK_NOT_READY = Sentence("Waiting for the disk of your home folder")
_DISK_STUCK = Sentence("The disk of your home folder did not become ready in time. Tell your administrator.")
_FULL = Sentence("All machines of the cluster are full now. Try again in a few minutes.")
_NO_PLACE = Sentence("The cluster finds no place for your server now. Try again in a few minutes.")
_NO_GPU = Sentence("No GPU has room now. Try again in a few minutes, or pick a smaller profile.")
_SHORT_OF = {
    "memory": Sentence("No machine of the cluster has enough memory free now. Try again in a few minutes."),
    "cpu": Sentence("No machine of the cluster has enough processors free now. Try again in a few minutes."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a pod asks for, as its strategy understands it. others: extended resources that nobody but the scheduler
    counts, by name."""

    resources: Resources
    others: Mapping[str, float] = field(default_factory=dict)


def unplaced(
    pod: PodView,
    events: Sequence[EventView],
    *,
    need: Need,
    hosts: Sequence[HostCapacity],
    nodes: Sequence[NodeView],
) -> Waiting:
    """What to say of a pod that has no node. hosts: capacity of the nodes that it may go to, without this pod; nodes: all
    of the cluster, or none where they are not known."""
    text = scheduler_text(pod, events)
    disk = _disk(pod, events, text)
    if disk is not None:
        return disk
    if nodes and (closed := _nowhere(pod, nodes, text)) is not None:
        return closed
    if nodes and (never := _never(pod, need, hosts, nodes, text)) is not None:
        return never
    if not text:
        return Waiting(kind=Kind.STARTING, message=WAITING_FOR_A_PLACE, percent=PLACE_PCT, stuck=STUCK_WITHOUT_A_PLACE)
    return Waiting(kind=Kind.FULL, message=_short(need, hosts, text), detail=text, percent=PLACE_PCT)


def scheduler_text(pod: PodView, events: Iterable[EventView]) -> str:
    """What the scheduler said last of why there is no place; empty as long as it said nothing."""
    condition = pod.condition("PodScheduled")
    if condition is not None and condition.status == "False" and condition.reason == "Unschedulable":
        return condition.message or condition.reason
    failed = [event for event in events if event.reason in {"FailedScheduling", "FilteringFailed"} and event.warns]
    newest = max(failed, key=lambda event: event.at or _NO_TIME, default=None)
    return newest.message if newest is not None else ""


def insufficient(text: str) -> tuple[str, ...]:
    """The resources that the scheduler calls insufficient, in its order, each once."""
    return tuple(dict.fromkeys(_INSUFFICIENT.findall(text)))


def _disk(pod: PodView, events: Sequence[EventView], text: str) -> Waiting | None:
    """What stands between the pod and its volume claims."""
    said = [event for event in events if event.kind == "PersistentVolumeClaim" and event.name in pod.claims]
    unset = next((event for event in said if "no storage class is set" in event.message), None)
    if unset is not None:
        return _failed(
            Sentence(
                "There is no disk for your home folder: this cluster has no storage class for it. Tell your administrator."
            ),
            unset.message,
        )
    lower = text.lower()
    if "persistentvolumeclaim" not in lower and "volume" not in lower:
        return None
    if "persistentvolumeclaim" in lower and "not found" in lower and "unbound" not in lower:
        return _failed(
            Sentence("The disk of your home folder is missing from the cluster. Tell your administrator."), text
        )
    if "being deleted" in lower:
        return _failed(
            Sentence("The disk of your home folder is just being deleted. Try again in a few minutes."),
            text,
            again=True,
        )
    if "volume node affinity conflict" in lower:
        return _failed(
            Sentence(
                "The disk of your home folder is on a machine that cannot run this profile. Pick another profile, or "
                "tell your administrator."
            ),
            text,
        )
    detail = "; ".join(filter(None, [text, *(event.message for event in said if event.warns)]))
    return Waiting(kind=Kind.STARTING, message=_DISK_NOT_READY, detail=detail, percent=DISK_PCT, stuck=_DISK_STUCK)


def _nowhere(pod: PodView, nodes: Sequence[NodeView], text: str) -> Waiting | None:
    """There is no node at all that the pod may go to."""
    pool = Pool.of(pod)
    if pool.nodes(nodes):
        return None
    if not Pool(node_selector=pool.node_selector, tolerations=_ALL).nodes(nodes):
        labels = ", ".join(f"{key}={value}" for key, value in sorted(pool.node_selector.items()))
        return _failed(
            Sentence("No machine of this cluster is of the kind that this profile asks for. Tell your instructor."),
            f"no node has the labels {labels}; {text}",
        )
    taints = sorted({f"{taint.key}={taint.value}:{taint.effect}" for node in nodes for taint in node.taints})
    return _failed(
        Sentence("All machines that could run this profile are reserved for something else. Tell your administrator."),
        f"taints that the pod does not tolerate: {', '.join(taints)}; {text}",
    )


def _never(
    pod: PodView, need: Need, hosts: Sequence[HostCapacity], nodes: Sequence[NodeView], text: str
) -> Waiting | None:
    """It is larger than the largest node or card, even if all were empty."""
    admitted = Pool.of(pod).nodes(nodes)
    for name, amount in need.others.items():
        offered = [node.allocatable[name] for node in admitted if name in node.allocatable]
        if not offered:
            return _failed(
                Sentence(
                    "No machine of this cluster offers what this profile asks for ({resource}). Tell your administrator.",
                    resource=name,
                ),
                text or f"no node lists {name}",
            )
        if amount > max(offered) > 0:
            return _is_never(_too_much(name, f"{amount:g}", f"{max(offered):g}"), text)
    found = place(need.resources, Capacity(hosts=tuple(hosts), taken_at=_NO_TIME), {})
    return _is_never(_larger(need.resources, hosts), text) if isinstance(found, TooLarge) else None


def _larger(need: Resources, hosts: Sequence[HostCapacity]) -> Sentence:
    """Which of the wishes no machine could fulfil."""
    gpu, cards = need.gpu, [card for host in hosts for card in host.cards]
    if gpu is not None and not cards:
        return Sentence("No machine of this cluster shares a GPU. Tell your administrator.")
    if gpu is not None:
        largest = max(card.memory_total_bytes for card in cards)
        if gpu.memory_bytes > largest:
            return Sentence(
                "This can never fit: it needs {wanted} of GPU memory, and the largest card has {largest}. "
                "Pick a smaller profile, or tell your instructor.",
                wanted=human_bytes(gpu.memory_bytes),
                largest=human_bytes(largest),
            )
        if not any(holds(Slice(memory_bytes=card.memory_total_bytes, compute_pct=_pct(card)), gpu) for card in cards):
            return Sentence(
                "This can never fit: no card gives {wanted} with {cores} % of its compute time to one server. "
                "Pick a smaller profile, or tell your instructor.",
                wanted=human_bytes(gpu.memory_bytes),
                cores=gpu.compute_pct,
            )
    memory = max((host.memory_total_bytes or 0 for host in hosts), default=0)
    if need.memory_bytes and need.memory_bytes > memory:
        return _too_much(Sentence("memory"), human_bytes(need.memory_bytes), human_bytes(memory))
    cpu = max((host.cpu_total or 0 for host in hosts), default=0)
    if need.cpu and need.cpu > cpu:
        return _too_much(Sentence("processors"), f"{need.cpu:g}", f"{cpu:g}")
    return Sentence(
        "This can never fit: no single machine has all that this profile asks for. Pick a smaller profile, or tell "
        "your instructor."
    )


def _pct(card: CardCapacity) -> int:
    return max(1, min(100, card.compute_total_pct))


def _too_much(what: str, wanted: str, largest: str) -> Sentence:
    return Sentence(
        "This can never fit: it needs {wanted} of {what}, and the largest machine has {largest}. "
        "Pick a smaller profile, or tell your instructor.",
        what=what,
        wanted=wanted,
        largest=largest,
    )


def _short(need: Need, hosts: Sequence[HostCapacity], text: str) -> Sentence:
    """What is short now."""
    names = insufficient(text)
    gpu = need.resources.gpu
    without = Resources(cpu=need.resources.cpu, memory_bytes=need.resources.memory_bytes)
    capacity = Capacity(hosts=tuple(hosts), taken_at=_NO_TIME)
    found = place(need.resources, capacity, {})
    if gpu is not None and not isinstance(found, Fits) and isinstance(place(without, capacity, {}), Fits):
        return Sentence(
            "No card has {wanted} free now. Try again in a few minutes, or pick a smaller profile.",
            wanted=human_bytes(gpu.memory_bytes),
        )
    known = next((_SHORT_OF[name] for name in ("memory", "cpu") if name in names), None)
    if known is None and any("gpu" in name for name in names):
        known = _NO_GPU
    if known is None and names:
        known = Sentence(
            "No machine of the cluster has enough of {what} free now. Try again in a few minutes.",
            what=", ".join(names),
        )
    return known or (_FULL if isinstance(found, Full) else _NO_PLACE)


def _is_never(message: Sentence, text: str) -> Waiting:
    return Waiting(kind=Kind.NEVER, message=message, detail=text)


def _failed(message: Sentence, detail: str, *, again: bool = False) -> Waiting:
    return Waiting(kind=Kind.FAILED, message=message, detail=detail, again=again)
