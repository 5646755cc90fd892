"""API objects for tests, as JSON has them, and the views of them; name only what the test is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labspawner.providers.kubernetes.views import EventView, NodeView, PodView

MIB, GIB = 2**20, 2**30
GPU_1, GPU_2 = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec", "GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448"


def a_node(
    name: str = "node-1",
    *,
    allocatable: Mapping[str, object] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    ready: bool = True,
    cordoned: bool = False,
) -> NodeView:
    return NodeView.of(
        {
            "metadata": {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})},
            "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
            "status": {
                "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", **(allocatable or {})},
                "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            },
        }
    )


def a_pod(
    name: str = "jupyter-ann",
    *,
    limits: Mapping[str, object] | None = None,
    node: str = "",
    annotations: Mapping[str, str] | None = None,
    scheduler: str = "default-scheduler",
    status: Mapping[str, Any] | None = None,
    image: str = "docker.io/lab/singleuser:1",
    uid: str = "uid-1",
    **spec: Any,
) -> PodView:
    """A pod of one container. limits: also its requests."""
    return PodView.of(
        {
            "metadata": {"name": name, "namespace": "jhub", "uid": uid, "annotations": dict(annotations or {})},
            "spec": {
                "schedulerName": scheduler,
                **({"nodeName": node} if node else {}),
                "containers": [{"name": "notebook", "image": image, "resources": {"limits": dict(limits or {})}}],
                **spec,
            },
            "status": dict(status or {"phase": "Pending"}),
        }
    )


def waiting(reason: str, message: str = "", *, last: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The status of a scheduled pod whose container waits."""
    return {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [
            {
                "name": "notebook",
                "state": {"waiting": {"reason": reason, "message": message}},
                "lastState": {"terminated": dict(last)} if last else {},
                "ready": False,
                "restartCount": 1 if last else 0,
            }
        ],
    }


def terminated(reason: str, code: int, message: str = "", *, phase: str = "Failed") -> dict[str, Any]:
    """The status of a pod whose container ended."""
    return {
        "phase": phase,
        "containerStatuses": [
            {
                "name": "notebook",
                "state": {"terminated": {"reason": reason, "exitCode": code, "message": message}},
                "lastState": {},
                "ready": False,
            }
        ],
    }


def unschedulable(message: str) -> dict[str, Any]:
    """The status of a pod for which the scheduler found no node."""
    return {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
        ],
    }


def an_event(
    reason: str, message: str = "", *, warns: bool = True, count: int = 1, kind: str = "Pod", name: str = "jupyter-ann",
    uid: str = "uid-1", at: str = "2026-11-21T21:18:00Z",
) -> EventView:  # fmt: skip
    return EventView.of(
        {
            "involvedObject": {"kind": kind, "name": name, "uid": uid},
            "type": "Warning" if warns else "Normal",
            "reason": reason,
            "message": message,
            "count": count,
            "lastTimestamp": at,
        }
    )
