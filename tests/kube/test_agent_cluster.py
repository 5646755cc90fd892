"""The agent on a node of the double cluster: a pod that asks for a slice is held to it, and hubs hear of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kube.agentlab import GIB, SMALL, TAKE, AgentLab

from labspawner.errors import SetupError
from labspawner.gpu.agent.inventory import ANNOTATION, parse
from labspawner.gpu.libvgpu import find_library
from labspawner.gpu.pretend import find_driver
from labspawner.model import SliceTest
from labspawner.providers.kubernetes.strategies.device_plugin import DevicePlugin
from labspawner.providers.kubernetes.views import NodeView, PodView
from labspawner.testing.kube import KubeDouble, a_node
from labspawner.testing.kubelet import NodeDevices

pytestmark = pytest.mark.timeout(900)
PATCH_NODES = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}


@pytest.fixture
def cluster(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    return new_double([a_node()], tls=True)


@pytest.fixture
def lab(tmp_path: Path, cluster: KubeDouble) -> Iterator[AgentLab]:
    try:
        find_library()
        find_driver()
    except SetupError as exc:
        pytest.skip(str(exc.message))
    with AgentLab(tmp_path) as made:
        cluster.use_devices(NodeDevices(made.kubelet, cluster))
        yield made


def with_rights(lab: AgentLab, cluster: KubeDouble, *rules: dict[str, Any]) -> None:
    """Let the agent speak to the cluster with an account of its own."""
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "agent"}}
    token = cluster.account("agent", [])
    cluster.apply({**rbac, "kind": "ClusterRole", "rules": list(rules)})
    subject = {"kind": "ServiceAccount", "name": "agent", "namespace": cluster.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"}
    cluster.apply({**rbac, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]})
    (lab.folder / "token").write_text(token)
    lab.door = [cluster.url, str(lab.folder / "token"), str(cluster.ca_file)]


def a_pod(cluster: KubeDouble, lab: AgentLab, name: str, gib: float) -> dict[str, Any]:
    """A pod with a slice that takes so much, says in a file what came of it, and stays."""
    stay = f"import sys; sys.stdout = open({str(lab.folder / name)!r}, 'w')\n"
    stay += TAKE.replace("sys.stdin.read()", "import signal; signal.pause()")
    container = {
        "name": "notebook",
        "image": cluster.image,
        "command": [sys.executable, "-c", stay, str(gib)],
        "resources": {"limits": {SMALL: "1"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def running(pod: dict[str, Any], code: str) -> dict[str, Any]:
    """The same pod with another program."""
    container = {**pod["spec"]["containers"][0], "command": [sys.executable, "-c", code]}
    return {**pod, "spec": {**pod["spec"], "containers": [container]}}


def said(lab: AgentLab, name: str) -> str:
    path = lab.folder / name
    return path.read_text().strip() if path.exists() else ""


def test_pods_of_a_cluster_are_held_to_their_slices_and_a_fourth_one_waits(lab: AgentLab, cluster: KubeDouble):
    with_rights(lab, cluster, PATCH_NODES)
    lab.ready()
    lab.wait_for(lambda: cluster.node()["status"]["allocatable"].get(SMALL) == "3")

    for name, gib in (("ann", 6), ("bob", 7), ("carl", 1), ("dora", 1)):
        cluster.apply(a_pod(cluster, lab, name, gib))

    lab.wait_for(lambda: said(lab, "ann") == f"0 {6 * GIB}")
    lab.wait_for(lambda: said(lab, "bob") == f"2 {6 * GIB}")
    lab.wait_for(lambda: f"Insufficient {SMALL}" in str(cluster.pod("dora")["status"].get("conditions")))
    cluster.delete("pods", "ann")
    lab.wait_for(lambda: said(lab, "dora").startswith("0 "))


def test_with_one_right_the_node_says_who_has_what(lab: AgentLab, cluster: KubeDouble):
    with_rights(lab, cluster, PATCH_NODES)
    lab.ready()
    lab.wait_for(lambda: cluster.node()["status"]["allocatable"].get(SMALL) == "3")
    cluster.apply(a_pod(cluster, lab, "ann", 1))

    def inventory() -> Any:
        text = cluster.node()["metadata"].get("annotations", {}).get(ANNOTATION)
        return parse(text) if text else None

    found = lab.wait_for(lambda: (now := inventory()) is not None and now.of_pod(cluster.namespace, "ann"))

    assert found[0].container == "notebook"
    assert [card.classes["small"].used for card in inventory().cards] == [1]


def test_a_hub_reads_the_slice_of_a_pod_and_the_verdict_of_its_self_test(lab: AgentLab, cluster: KubeDouble):
    with_rights(lab, cluster, PATCH_NODES)
    lab.ready()
    lab.wait_for(lambda: cluster.node()["status"]["allocatable"].get(SMALL) == "3")
    code = (
        "import os, signal; from labspawner.extension.slices import begin_test; begin_test(os.environ); signal.pause()"
    )
    cluster.apply(running(a_pod(cluster, lab, "ann", 1), code))

    def held() -> Any:
        pod, nodes = PodView.of(cluster.pod("ann")), [NodeView.of(cluster.node())]
        return DevicePlugin().granted(pod, nodes)

    (found,) = lab.wait_for(lambda: (now := held()) is not None and now[0].tested is not None and now)

    assert found.tested is SliceTest.PASSED, found
    assert (found.memory_bytes, found.compute_pct, found.pretended) == (6 * GIB, 25, True)


def test_without_the_right_slices_are_given_all_the_same_and_the_log_says_why_hubs_hear_nothing(
    lab: AgentLab, cluster: KubeDouble
):
    with_rights(lab, cluster)
    lab.ready()
    lab.wait_for(lambda: cluster.node()["status"]["allocatable"].get(SMALL) == "3")
    cluster.apply(a_pod(cluster, lab, "ann", 1))

    lab.wait_for(lambda: said(lab, "ann").startswith("0 "))
    lab.wait_for(lambda: "403" in lab.log and 'cannot patch resource "nodes"' in lab.log)
