"""Views of API objects: whatever a server leaves out or adds, reading them never raises."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.kubernetes.objects import GIB, a_node, a_pod

from labspawner.providers.kubernetes.views import EventView, NodeView, PodView, Pool, Taint, Toleration, quantity

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["metadata", "spec", "status", "containers", "resources", "limits", "conditions", "involvedObject"]
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("32Gi", 32 * GIB),
        ("500m", 0.5),
        ("1e3", 1000.0),
        ("2", 2.0),
        (2, 2.0),
        (0.5, 0.5),
        ("1E", 1e18),
        ("100M", 1e8),
        ("-1", -1.0),
        ("", 0.0),
        (None, 0.0),
        (True, 0.0),
        ("many", 0.0),
        ("1Zi", 0.0),
    ],
)
def test_a_quantity_is_read_as_kubernetes_writes_it(text, number):
    assert quantity(text) == number


def test_a_pod_asks_for_what_its_containers_ask_together_and_for_its_largest_init_container():
    pod = PodView.of(
        {
            "spec": {
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": 2}}},
                    {"name": "b", "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}}},
                ],
                "initContainers": [
                    {"name": "i", "resources": {"requests": {"cpu": 1, "memory": "512Mi"}}},
                    {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                ],
                "overhead": {"memory": "64Mi"},
            }
        }
    )

    assert pod.requests["cpu"] == pytest.approx(1.0), "the init container, more than 0.5 and a sidecar of 0.1"
    assert pod.requests["memory"] == 2 * GIB + 64 * 2**20
    assert pod.requests["nvidia.com/gpu"] == 1


def test_a_node_that_lost_its_kubelet_is_not_ready():
    assert not a_node(ready=False).ready
    assert a_node().ready
    assert a_node(cordoned=True).cordoned
    assert a_node().allocatable["memory"] == 32 * GIB


def test_an_event_is_as_old_as_it_was_said_last():
    event = EventView.of({"eventTime": "2026-11-21T21:17:55.154381Z", "lastTimestamp": None, "reason": "Scheduled"})

    assert event.at == datetime(2026, 11, 21, 21, 17, 55, 154381, tzinfo=timezone.utc)
    assert (
        EventView.of({"series": {"count": 4, "lastObservedTime": "2026-11-21T21:20:00Z"}, "eventTime": "x"}).count == 4
    )


def test_a_pool_is_the_nodes_with_its_labels_whose_taints_it_bears():
    gpu = a_node("gpu", labels={"pool": "gpu"}, taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    cpu = a_node("cpu", labels={"pool": "cpu"})
    bears = Toleration(key="nvidia.com/gpu", operator="Exists")

    assert Pool().nodes([gpu, cpu]) == (cpu,)
    assert Pool(tolerations=(bears,)).nodes([gpu, cpu]) == (gpu, cpu)
    assert Pool(node_selector={"pool": "gpu"}, tolerations=(bears,)).nodes([gpu, cpu]) == (gpu,)
    assert Pool(node_selector={"pool": "tpu"}).nodes([gpu, cpu]) == ()


def test_a_node_under_pressure_or_cordoned_still_belongs_to_its_pool():
    passing = a_node(taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}], cordoned=True)

    assert Pool().admits(passing)


@pytest.mark.parametrize(
    ("toleration", "borne"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration(key="a", value="1"), True),
        (Toleration(key="a", value="2"), False),
        (Toleration(key="a", operator="Exists", effect="NoExecute"), False),
        (Toleration(key="b", operator="Exists"), False),
    ],
)
def test_a_taint_is_borne_by_key_value_and_effect(toleration, borne):
    assert toleration.bears(Taint("a", "NoSchedule", "1")) is borne


def test_a_pod_is_ready_when_its_condition_says_so():
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}

    assert a_pod(status=running).ready
    assert not a_pod(status={"phase": "Running"}).ready
    assert a_pod(status={"phase": "Failed"}).ended


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(KEYS | st.text(), JSON))
def test_nothing_an_api_server_could_send_makes_reading_raise(obj):
    PodView.of(obj)
    NodeView.of(obj)
    EventView.of(obj)
