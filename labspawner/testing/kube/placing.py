"""Which node a pod fits on, and in the scheduler's own words why on none. Pure.

Texts as recorded on 1.34: "No preemption victims found" where other pods hold what is
wanted, "Preemption is not helpful" where the node could never give it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from labspawner.testing.kube import quantities
from labspawner.testing.kube.resources import Json

_NO_VICTIMS = "No preemption victims found for incoming pod"
_NOT_HELPFUL = "Preemption is not helpful for scheduling"


def asks(pod: Json) -> dict[str, int]:
    """What a pod's containers ask of a node, in thousandths; init containers count where they ask for more."""
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        for key, amount in (container["resources"].get("requests") or {}).items():
            total[key] = total.get(key, 0) + quantities.milli(amount)
    for container in pod["spec"].get("initContainers") or []:
        for key, amount in (container["resources"].get("requests") or {}).items():
            total[key] = max(total.get(key, 0), quantities.milli(amount))
    return total


@dataclass(slots=True)
class Load:
    """What the pods of one node ask for together, in thousandths."""

    amounts: dict[str, int] = field(default_factory=dict)
    pods: int = 0

    def add(self, wanted: Mapping[str, int], times: int = 1) -> None:
        """One pod more, or with `times` -1 one less."""
        self.pods += times
        for name, amount in wanted.items():
            self.amounts[name] = self.amounts.get(name, 0) + times * amount


@dataclass(slots=True)
class NodeRoom:
    """What a node has, in thousandths, and how much of it is taken."""

    node: Json
    total: dict[str, int]
    used: Load

    @classmethod
    def of(cls, node: Json, used: Load) -> NodeRoom:
        amounts = node["status"].get("allocatable") or {}
        return cls(node, {name: quantities.milli(amount) for name, amount in amounts.items()}, used)

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    def free(self, name: str) -> int:
        return self.total.get(name, 0) - self.used.amounts.get(name, 0)

    def load(self) -> float:
        """How full it is, by CPU and memory: the emptiest node is taken first."""
        taken = self.used.amounts
        return sum(taken.get(name, 0) / self.total[name] for name in ("cpu", "memory") if self.total.get(name))

    def is_crowded(self) -> bool:
        return self.used.pods * 1000 >= self.total.get("pods", 110_000)


@dataclass(frozen=True, slots=True)
class Lack:
    """Why one node does not do. `never`: not even if all other pods left."""

    reasons: tuple[str, ...]
    never: bool


Lacks = Callable[[NodeRoom], "Lack | None"]


def place(
    pod: Json, rooms: Sequence[NodeRoom], more: Lacks | None = None, ignored: frozenset[str] = frozenset()
) -> str:
    """The name of the node that takes `pod`. Raises NoNode with the text. `more` may refuse a node for a reason of its
    own, as a scheduler's extender does; `ignored` resources are left to it."""
    if not rooms:
        raise NoNode("no nodes available to schedule pods", never=False)
    wanted = {name: amount for name, amount in asks(pod).items() if name not in ignored}
    lacks: dict[str, Lack] = {}
    for room in rooms:
        lack = _lack(pod, wanted, room) or (more(room) if more else None)
        if lack is not None:
            lacks[room.name] = lack
    fitting = [room for room in rooms if room.name not in lacks]
    if fitting:
        return min(fitting, key=lambda room: (room.load(), room.used.pods, room.name)).name
    raise NoNode(_text(list(lacks.values())), never=all(lack.never for lack in lacks.values()))


class NoNode(Exception):
    """No node takes the pod; the text is what PodScheduled and FailedScheduling say."""

    def __init__(self, text: str, *, never: bool) -> None:
        super().__init__(text)
        self.text, self.never = text, never


def refused_before_filter(nodes: int, why: str) -> NoNode:
    """What is said when it is no node's fault: an unbound or missing claim."""
    return NoNode(f"0/{nodes} nodes are available: {why}. not found", never=False)


def _text(lacks: list[Lack]) -> str:
    reasons = Counter(reason for lack in lacks for reason in lack.reasons)
    helpful = Counter(_NOT_HELPFUL if lack.never else _NO_VICTIMS for lack in lacks)
    head = f"0/{len(lacks)} nodes are available"
    return f"{head}: {_counted(reasons)}. no new claims to deallocate, preemption: {head}: {_counted(helpful)}."


def _counted(counts: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))


def _lack(pod: Json, wanted: Mapping[str, int], room: NodeRoom) -> Lack | None:
    if room.node["spec"].get("unschedulable") and not _tolerates(pod, {"key": "node.kubernetes.io/unschedulable"}):
        return Lack(("node(s) were unschedulable",), never=True)
    for taint in room.node["spec"].get("taints") or []:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerates(pod, taint):
            return Lack((f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}",), never=True)
    if not _selected(pod, room.node):
        return Lack(("node(s) didn't match Pod's node affinity/selector",), never=True)
    short = [name for name, amount in sorted(wanted.items()) if amount > room.free(name) and amount > 0]
    reasons = [f"Insufficient {name}" for name in short]
    if room.is_crowded():
        reasons.insert(0, "Too many pods")
    never = any(wanted[name] > room.total.get(name, 0) for name in short)
    return Lack(tuple(reasons), never=never) if reasons else None


def _tolerates(pod: Json, taint: Json) -> bool:
    for toleration in pod["spec"].get("tolerations") or []:
        key_fits = not toleration.get("key") or toleration["key"] == taint["key"]
        effect_fits = not toleration.get("effect") or toleration["effect"] == taint.get("effect", "NoSchedule")
        exists = toleration.get("operator") == "Exists"
        if key_fits and effect_fits and (exists or toleration.get("value", "") == taint.get("value", "")):
            return True
    return False


def _selected(pod: Json, node: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    return terms is None or any(_term(term, labels) for term in terms)


def _term(term: Json, labels: Mapping[str, str]) -> bool:
    return all(_expression(expression, labels) for expression in term.get("matchExpressions") or [])


def _expression(expression: Json, labels: Mapping[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    if operator in ("Exists", "DoesNotExist"):
        return (key in labels) is (operator == "Exists")
    if operator == "NotIn":
        return labels.get(key) not in values
    if operator == "In":
        return labels.get(key) in values
    try:
        number, limit = int(labels[key]), int(values[0])
    except (KeyError, ValueError, IndexError):
        return False
    return number > limit if operator == "Gt" else number < limit
