"""What a pod's status says of its server: running, gone, or nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.model import ServerState
from labspawner.providers.kubernetes.cluster import Seen
from labspawner.providers.kubernetes.state import state_of
from labspawner.providers.kubernetes.views import PodView

READY = {"type": "Ready", "status": "True"}


def a_pod(status: dict[str, Any], **meta: Any) -> Seen:
    raw = {"metadata": {"name": "p", **meta}, "spec": {"containers": [{"name": "notebook"}]}, "status": status}
    return Seen(PodView.of(raw), raw)


def running(**state: Any) -> dict[str, Any]:
    return {
        "phase": "Running",
        "conditions": [READY],
        "containerStatuses": [{"name": "notebook", "state": state or {"running": {}}, "ready": True}],
    }


def test_a_pod_that_runs_is_a_server_that_runs():
    assert state_of([a_pod(running())]) is ServerState.RUNNING


def test_a_pod_that_starts_is_not_gone():
    assert state_of([a_pod({"phase": "Pending"})]) is ServerState.RUNNING


def test_no_pod_is_no_server():
    assert state_of([]) is ServerState.GONE


@pytest.mark.parametrize(
    "pod",
    [
        a_pod({"phase": "Failed", "reason": "Evicted"}),
        a_pod({"phase": "Succeeded"}),
        a_pod(running(), deletionTimestamp="2026-01-01T00:00:00Z"),
        a_pod(running(terminated={"exitCode": 137, "reason": "OOMKilled"})),
        a_pod(running(waiting={"reason": "CrashLoopBackOff"})),
    ],
    ids=["evicted", "ended", "being deleted", "killed", "crashing"],
)
def test_a_pod_that_will_not_serve_any_more_is_gone(pod: Seen):
    assert state_of([pod]) is ServerState.GONE


@pytest.mark.parametrize(
    "status",
    [
        {**running(), "conditions": [{"type": "Ready", "status": "Unknown"}]},
        {**running(), "conditions": [{"type": "Ready", "status": "False", "reason": "NodeStatusUnknown"}]},
        {**running(), "reason": "NodeLost"},
    ],
)
def test_of_a_pod_on_a_node_that_does_not_report_nobody_can_tell(status: dict[str, Any]):
    assert state_of([a_pod(status)]) is ServerState.UNKNOWN


def test_of_two_pods_of_a_lease_one_that_runs_is_enough():
    assert state_of([a_pod({"phase": "Failed"}), a_pod(running())]) is ServerState.RUNNING
