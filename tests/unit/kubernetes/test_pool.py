"""Which nodes count as room for a provider's servers."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.kubernetes.pool import pool_of
from labspawner.providers.kubernetes.views import NodeView, Taint

CONTROL = Taint("node-role.kubernetes.io/control-plane", "NoSchedule")
GPU = Taint("nvidia.com/gpu", "NoSchedule")


def admits(node: NodeView, **kubespawner: Any) -> bool:
    return pool_of(KubernetesSettings.model_validate({"hub_config": {"KubeSpawner": kubespawner}})).admits(node)


def test_without_settings_every_node_counts_but_those_kept_for_the_cluster_itself():
    assert admits(NodeView(name="a"))
    assert not admits(NodeView(name="b", taints=(CONTROL,)))


def test_a_taint_that_single_profiles_bear_does_not_take_a_node_out_of_the_count():
    assert admits(NodeView(name="gpu", taints=(GPU,)))


def test_the_administrators_selector_chooses():
    selector = {"pool": "lab"}

    assert admits(NodeView(name="a", labels={"pool": "lab"}), node_selector=selector)
    assert not admits(NodeView(name="b", labels={"pool": "web"}), node_selector=selector)


@pytest.mark.parametrize("shape", [list, dict])
def test_who_bears_the_taint_of_the_control_plane_may_go_there(shape: type):
    bears = {"key": CONTROL.key, "operator": "Exists"}

    assert admits(NodeView(name="b", taints=(CONTROL,)), tolerations=[bears] if shape is list else {"01": bears})


def test_the_providers_own_settings_beat_the_hubs():
    settings = KubernetesSettings.model_validate(
        {"hub_config": {"KubeSpawner": {"node_selector": {"a": "1"}}}, "kubespawner": {"node_selector": {"b": "2"}}}
    )

    assert pool_of(settings).admits(NodeView(name="n", labels={"b": "2"}))


@pytest.mark.parametrize("odd", [None, 5, "x", [None]])
def test_what_cannot_be_read_chooses_nothing(odd: Any):
    assert admits(NodeView(name="a"), node_selector=odd, tolerations=odd)
