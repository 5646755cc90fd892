"""Nodes as the API has them: built for a test, lost, and found again. Pure but for the two that act on a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labspawner.testing.kube.clock import new_uid, stamp
from labspawner.testing.kube.resources import Json

_HEALTHY = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
}
_LOST = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
UNREACHABLE = "node.kubernetes.io/unreachable"


def a_node(
    name: str = "labnode",
    *,
    cpu: float | str = 8,
    memory: str = "32Gi",
    pods: int = 110,
    extended: Mapping[str, int | str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    address: str = "127.0.0.1",
) -> Json:
    """A Ready node. extended: its further resources, e.g. {"nvidia.com/gpu": 10}. A taint is {"key", "value", "effect"}."""
    amounts = {"cpu": str(cpu), "ephemeral-storage": "100Gi", "memory": memory, "pods": str(pods)}
    amounts |= {key: str(amount) for key, amount in (extended or {}).items()}
    usual = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    metadata: Json = {
        "name": name,
        "uid": new_uid(),
        "resourceVersion": "",
        "creationTimestamp": stamp(),
        "labels": {**usual, **(labels or {})},
        "annotations": dict(annotations or {}),
    }
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"taints": [dict(taint) for taint in taints]} if taints else {},
        "status": {
            "capacity": amounts,
            "allocatable": dict(amounts),
            "conditions": conditions(),
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": "v1.34.2", "operatingSystem": "linux", "architecture": "amd64"},
        },
    }


def conditions(*, lost: bool = False) -> list[Json]:
    """The four conditions of a node, all healthy or all unknown."""
    at = stamp()
    return [
        {
            "type": kind,
            "status": said[0],
            "lastHeartbeatTime": at,
            "lastTransitionTime": at,
            "reason": said[1],
            "message": said[2],
        }
        for kind, said in ((kind, _LOST if lost else said) for kind, said in _HEALTHY.items())
    ]


def lost(node: Json) -> Json:
    """The node when its kubelet is silent: all conditions Unknown, and tainted so that pods leave it."""
    kept = [taint for taint in node["spec"].get("taints") or [] if taint["key"] != UNREACHABLE]
    taints = [{"key": UNREACHABLE, "effect": effect, "timeAdded": stamp()} for effect in ("NoSchedule", "NoExecute")]
    spec, status = node["spec"] | {"taints": [*kept, *taints]}, node["status"] | {"conditions": conditions(lost=True)}
    return node | {"spec": spec, "status": status}


def found(node: Json) -> Json:
    """The node when its kubelet is back."""
    kept = [taint for taint in node["spec"].get("taints") or [] if taint["key"] != UNREACHABLE]
    spec = {key: value for key, value in node["spec"].items() if key != "taints"} | ({"taints": kept} if kept else {})
    return node | {"spec": spec, "status": node["status"] | {"conditions": conditions()}}
