"""What we read of nodes, pods and events: frozen views of API objects, which are plain dicts as JSON has them. Pure.

An API server may leave out whatever is empty, and a newer one may add what we do not know: reading never raises. It is
done for each change of each pod, so it is kept cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from types import MappingProxyType
from typing import Any

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_SUFFIXES = {
    **{"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)},
    **{name: Decimal(1000) ** power for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate(("K", "M", "G", "T", "P", "E"), 1)},
}

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})


def quantity(value: object) -> float:
    """A Kubernetes quantity (`32Gi`, `500m`, `1e3`, a JSON number) as a number; 0 for what is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return _parsed(str(value or "").strip())


@lru_cache(maxsize=4096)
def _parsed(text: str) -> float:
    """The number that a text means: the same few texts stand in every pod."""
    number = text.rstrip("numkKMGTPEi")
    suffix = text[len(number) :]
    if suffix not in _SUFFIXES:
        return 0.0
    try:
        return float(Decimal(number) * _SUFFIXES[suffix])
    except InvalidOperation:
        return 0.0


def instant(value: object) -> datetime | None:
    """An RFC 3339 instant of the API; None for what is none."""
    if not isinstance(value, str) or not value:
        return None
    try:
        at = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Taint:
    """Keeps pods off a node that do not tolerate it. effect: `NoSchedule`, `PreferNoSchedule` or `NoExecute`."""

    key: str
    effect: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """Which taints a pod bears. An empty key with `Exists` is every key, an empty effect every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def bears(self, taint: Taint) -> bool:
        """Whether a pod with this toleration may run in spite of `taint`."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return not self.key or self.key == taint.key
        return self.key == taint.key and self.value == taint.value


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One machine of the cluster. allocatable: what pods may have of it (cpu in cores, memory in bytes, others counted).

    ready: its kubelet reports and says so. cordoned: no new pod goes there.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, float] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    cordoned: bool = False

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> NodeView:
        """The node that an API object describes."""
        meta, spec, status = _map(obj, "metadata"), _map(obj, "spec"), _map(obj, "status")
        return cls(
            name=_text(meta, "name"),
            labels=_texts(meta, "labels"),
            annotations=_texts(meta, "annotations"),
            allocatable=_quantities(_map(status, "allocatable") or _map(status, "capacity")),
            taints=tuple(
                Taint(_text(taint, "key"), _text(taint, "effect"), _text(taint, "value"))
                for taint in _maps(spec, "taints")
            ),
            ready=any(
                _text(condition, "type") == "Ready" and _text(condition, "status") == "True"
                for condition in _maps(status, "conditions")
            ),
            cordoned=spec.get("unschedulable") is True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionView:
    """One condition of a pod. status: `True`, `False` or `Unknown`."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerView:
    """One container's state: `waiting`, `running`, `terminated`, or empty before the kubelet said anything.

    last_reason, last_exit_code, last_message: of the run before this one, where it was started again.
    memory_limit_bytes: what is enforced; None: nothing.
    """

    name: str
    image: str = ""
    state: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    ready: bool = False
    restarts: int = 0
    last_reason: str = ""
    last_message: str = ""
    last_exit_code: int | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """One pod. requests: what the scheduler counts for it (the larger of its containers' sum and of each init container).

    node: empty before it is scheduled. phase: `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    terminating: its deletion was asked for.
    """

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    scheduler_name: str = "default-scheduler"
    requests: Mapping[str, float] = field(default_factory=dict)
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    ip: str = ""
    conditions: tuple[ConditionView, ...] = ()
    init_containers: tuple[ContainerView, ...] = ()
    containers: tuple[ContainerView, ...] = ()
    terminating: bool = False
    created_at: datetime | None = None
    claims: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it holds nothing of its node any more."""
        return self.phase in TERMINAL_PHASES

    @property
    def ready(self) -> bool:
        """Whether all its containers run and answered their probes."""
        return self.phase == "Running" and self.holds("Ready")

    def condition(self, kind: str) -> ConditionView | None:
        """The condition of that type; None as long as there is none."""
        return next((condition for condition in self.conditions if condition.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether the condition of that type is true."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> PodView:
        """The pod that an API object describes."""
        meta, spec, status = _map(obj, "metadata"), _map(obj, "spec"), _map(obj, "status")
        specs, inits = _maps(spec, "containers"), _maps(spec, "initContainers")
        return cls(
            name=_text(meta, "name"),
            namespace=_text(meta, "namespace"),
            uid=_text(meta, "uid"),
            resource_version=_text(meta, "resourceVersion"),
            labels=_texts(meta, "labels"),
            annotations=_texts(meta, "annotations"),
            node=_text(spec, "nodeName"),
            node_selector=_texts(spec, "nodeSelector"),
            tolerations=tuple(_toleration(each) for each in _maps(spec, "tolerations")),
            scheduler_name=_text(spec, "schedulerName") or "default-scheduler",
            requests=_requests(specs, inits, _map(spec, "overhead")),
            phase=_text(status, "phase") or "Pending",
            reason=_text(status, "reason"),
            message=_text(status, "message"),
            ip=_text(status, "podIP"),
            conditions=tuple(
                ConditionView(
                    type=_text(each, "type"),
                    status=_text(each, "status"),
                    reason=_text(each, "reason"),
                    message=_text(each, "message"),
                )
                for each in _maps(status, "conditions")
            ),
            init_containers=_containers(inits, _maps(status, "initContainerStatuses")),
            containers=_containers(specs, _maps(status, "containerStatuses")),
            terminating=bool(meta.get("deletionTimestamp")),
            created_at=instant(meta.get("creationTimestamp")),
            claims=tuple(
                name
                for volume in _maps(spec, "volumes")
                if (name := _text(_map(volume, "persistentVolumeClaim"), "claimName"))
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One event: something was said of an object. at: the newest time it was said. kind: of the object (`Pod`, ...)."""

    kind: str
    name: str
    uid: str = ""
    type: str = "Normal"
    reason: str = ""
    message: str = ""
    count: int = 1
    at: datetime | None = None
    source: str = ""

    @property
    def warns(self) -> bool:
        return self.type == "Warning"

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> EventView:
        """The event that an API object of `v1` or `events.k8s.io/v1` describes."""
        about = _map(obj, "involvedObject") or _map(obj, "regarding")
        series = _map(obj, "series")
        times = (
            series.get("lastObservedTime"),
            obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp"),
            obj.get("eventTime"),
            _map(obj, "metadata").get("creationTimestamp"),
        )
        counted = series.get("count") or obj.get("count") or obj.get("deprecatedCount")
        return cls(
            kind=_text(about, "kind"),
            name=_text(about, "name"),
            uid=_text(about, "uid"),
            type=_text(obj, "type") or "Normal",
            reason=_text(obj, "reason"),
            message=_text(obj, "message") or _text(obj, "note"),
            count=counted if isinstance(counted, int) else 1,
            at=next((at for value in times if (at := instant(value)) is not None), None),
            source=_text(obj, "reportingComponent") or _text(_map(obj, "source"), "component"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Which nodes servers may go to: those with all these labels whose taints are borne."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()

    @classmethod
    def of(cls, pod: PodView) -> Pool:
        """Where this pod may go by its own selector and tolerations; its affinity is not looked at."""
        return cls(node_selector=pod.node_selector, tolerations=pod.tolerations)

    def admits(self, node: NodeView) -> bool:
        """Whether a server of this pool could ever run on `node`, ready or not."""
        if any(node.labels.get(key) != value for key, value in self.node_selector.items()):
            return False
        return not any(
            taint.effect in {"NoSchedule", "NoExecute"} and not any(bear.bears(taint) for bear in self.tolerations)
            for taint in node.taints
            if not taint.key.startswith("node.kubernetes.io/")  # a state that passes: not ready, cordoned, pressure
        )

    def nodes(self, nodes: Iterable[NodeView]) -> tuple[NodeView, ...]:
        """Those of `nodes` that this pool admits."""
        return tuple(node for node in nodes if self.admits(node))


def _toleration(each: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=_text(each, "key"),
        operator=_text(each, "operator") or "Equal",
        value=_text(each, "value"),
        effect=_text(each, "effect"),
    )


def _requests(
    containers: Sequence[Mapping[str, Any]], inits: Sequence[Mapping[str, Any]], overhead: Mapping[str, Any]
) -> Mapping[str, float]:
    total: dict[str, float] = {}
    for container in containers:
        _add(total, _wanted(container))
    first: dict[str, float] = {}
    sidecars: dict[str, float] = {}
    for init in inits:  # one after the other, beside the sidecars that were started before it
        need = _wanted(init)
        if init.get("restartPolicy") == "Always":
            _add(sidecars, need)
            need = {}
        for name, amount in {**sidecars, **{key: sidecars.get(key, 0) + value for key, value in need.items()}}.items():
            first[name] = max(first.get(name, 0), amount)
    _add(total, sidecars)
    for name, amount in first.items():
        total[name] = max(total.get(name, 0), amount)
    _add(total, _quantities(overhead))
    return MappingProxyType(total)


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _wanted(container: Mapping[str, Any]) -> Mapping[str, float]:
    """What one container asks for: its requests, and its limits where it requests nothing."""
    resources = _map(container, "resources")
    return _quantities({**_map(resources, "limits"), **_map(resources, "requests")})


def _containers(specs: Sequence[Mapping[str, Any]], said: Sequence[Mapping[str, Any]]) -> tuple[ContainerView, ...]:
    """One view per container, in the order of the manifest; those that nothing is said of have no state."""
    by_name = {_text(each, "name"): each for each in said}
    ordered = [(_text(spec, "name"), spec) for spec in specs]
    ordered += [(name, _EMPTY) for name in by_name if name not in {known for known, _ in ordered}]
    return tuple(_container(name, spec, by_name.get(name, _EMPTY)) for name, spec in ordered)


def _container(name: str, spec: Mapping[str, Any], said: Mapping[str, Any]) -> ContainerView:
    states = _map(said, "state")
    state = next((kind for kind in ("running", "waiting", "terminated") if isinstance(states.get(kind), dict)), "")
    now, last = _map(states, state), _map(_map(said, "lastState"), "terminated")
    limit = _map(_map(spec, "resources"), "limits").get("memory")
    restarts = said.get("restartCount")
    return ContainerView(
        name=name,
        image=_text(spec, "image") or _text(said, "image"),
        state=state,
        reason=_text(now, "reason"),
        message=_text(now, "message"),
        exit_code=_exit_code(now),
        ready=said.get("ready") is True,
        restarts=restarts if isinstance(restarts, int) else 0,
        last_reason=_text(last, "reason"),
        last_message=_text(last, "message"),
        last_exit_code=_exit_code(last),
        memory_limit_bytes=int(quantity(limit)) or None,
    )


def _exit_code(state: Mapping[str, Any]) -> int | None:
    code = state.get("exitCode")
    return code if isinstance(code, int) else None


def _map(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else _EMPTY


def _maps(data: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], ...]:
    value = data.get(key)
    return tuple([each for each in value if isinstance(each, dict)]) if isinstance(value, list) else ()


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if type(value) is str:
        return value
    return "" if value is None else str(value)


def _texts(data: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = _map(data, key)
    return MappingProxyType({str(name): str(text) for name, text in value.items()}) if value else _EMPTY


def _quantities(data: Mapping[str, Any]) -> Mapping[str, float]:
    return MappingProxyType({str(name): quantity(amount) for name, amount in data.items()})
