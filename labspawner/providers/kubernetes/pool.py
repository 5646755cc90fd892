"""Which nodes a provider's servers may go to at all, from the administrator's settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.kubernetes.views import NodeView, Toleration

_KEPT_FREE = frozenset({"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"})


@dataclass(frozen=True, slots=True)
class NodePool:
    """The nodes that count as room. A taint counts only where it keeps everybody's work off: single profiles bear others,
    those of GPU nodes above all, and which profile asks for room is not known here."""

    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()

    def admits(self, node: NodeView) -> bool:
        """Whether a server could run there, as far as the administrator's settings tell."""
        if any(node.labels.get(key) != value for key, value in self.selector.items()):
            return False
        kept_free = [taint for taint in node.taints if taint.key in _KEPT_FREE and taint.effect != "PreferNoSchedule"]
        return all(any(each.bears(taint) for each in self.tolerations) for taint in kept_free)


def pool_of(settings: KubernetesSettings) -> NodePool:
    """The pool that `node_selector` and `tolerations` of KubeSpawner name."""
    section = settings.hub_config.get("KubeSpawner")
    given = {**(section if isinstance(section, Mapping) else {}), **settings.kubespawner}
    selector = given.get("node_selector")
    return NodePool(
        selector={str(key): str(value) for key, value in selector.items()} if isinstance(selector, Mapping) else {},
        tolerations=tuple(_toleration(each) for each in _each(given.get("tolerations"))),
    )


def _each(values: Any) -> Iterable[Mapping[str, Any]]:
    listed = values.values() if isinstance(values, Mapping) else values
    return [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, Iterable) else []


def _toleration(each: Mapping[str, Any]) -> Toleration:
    said = {name: str(each[name]) for name in ("key", "operator", "value", "effect") if each.get(name)}
    return Toleration(**said)
