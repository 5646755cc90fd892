"""The double tells the truth: what a real API server 1.34 answered, it answers too.

`recorded-kube-1.34.jsonl.gz` is the project's recording of a real cluster, without managedFields. What the double cannot
answer is listed in LEFT_OUT with the reason; `test_nothing_is_left_out_unseen` keeps that list honest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kube.replaying import Player, rows

from labspawner.testing.kube import KubeDouble, Pace, a_node
from labspawner.testing.waiting import eventually_sync

LEFT_OUT: dict[str, str] = {
    "apis": "the double has the groups that labspawner and its chart use",
    "api/v1 (cut to the resources that matter)": "it has other rows, without the hashes of their storage",
}


@pytest.fixture
def recorded_cluster(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    """The double in the shape of the cluster that was recorded: one node, one image, no storage class."""
    double = new_double(
        [a_node(cpu=4, memory="16Gi", extended={"nvidia.com/gpu": 10})],
        namespace="default",
        storage=False,
        pace=Pace(bookmark_s=0.05, end_namespace_s=3600),
    )
    double.call(lambda inside: setattr(inside.kubelet.machine.runner, "init", True))
    return double


def _namespace(double: KubeDouble, name: str, **labels: str) -> None:
    named = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
    double.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": named}})


def _hooks(double: KubeDouble) -> dict[str, Callable[[], None]]:
    """What the recorder did between two recorded requests."""

    def waiting_pods() -> None:
        container = {"name": "notebook", "image": "docker.io/lab/singleuser:1", "imagePullPolicy": "Never"}
        container["command"] = ["sleep", "3600"]  # type: ignore[assignment]
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False}
        spec |= {"terminationGracePeriodSeconds": 1, "containers": [container], "nodeSelector": {"lab": "none"}}
        for name in ("w0", "w1", "w2"):
            metadata = {"name": name, "namespace": "samples", "labels": {"component": "singleuser-server"}}
            double.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def old_namespaces_end() -> None:
        double.pace.end_namespace_s = 0.0
        eventually_sync(
            lambda: "samples-quota" not in [item["metadata"]["name"] for item in double.objects("namespaces")]
        )
        double.pace.end_namespace_s = 3600

    def kubelet(*, answers: bool) -> None:
        """What is asked of a pod while it terminates is asked in time, on the slowest machine too."""
        if answers:
            double.call(lambda inside: inside.kubelet.find("labnode"))
        else:
            double.call(lambda inside: inside.kubelet.lose("labnode", kill=False))

    restricted = {"pod_security.kubernetes.io__enforce": "restricted"}
    return {
        "log": lambda: kubelet(answers=False),  # the step before the deletion
        "watch events: line 8 ADDED": lambda: kubelet(answers=True),
        "create refused: name starting with -": lambda: double.delete("pods", "b" * 64, "samples", grace_s=0),
        "quota create": lambda: _namespace(double, "samples-quota"),
        "pod security: restricted refuses": lambda: _namespace(double, "samples-restricted", **restricted),
        "list limit=2": waiting_pods,
        "persistent volume create": old_namespaces_end,
        "watch namespaces: line 3 MODIFIED": lambda: setattr(double.pace, "end_namespace_s", 0.0),
    }


SCENARIOS = (
    "discovery",
    "pod-life",
    "pod-failures",
    "auth",
    "watch",
    "selector-move",
    "write-conflicts",
    "pvc-bound",
    "fault-shapes",
    "namespace-life",
)
NAMESPACE = "samples-rbac"
HUB = f"system:serviceaccount:{NAMESPACE}:hub"


def test_the_double_answers_as_the_real_server_did(recorded_cluster: KubeDouble) -> None:
    player = Player(recorded_cluster, _hooks(recorded_cluster), LEFT_OUT)

    player.play(rows(*SCENARIOS))  # in one go: later ones use what earlier ones made

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 250


def test_who_has_no_right_reads_the_same_refusals(recorded_cluster: KubeDouble) -> None:
    for name in (NAMESPACE, f"{NAMESPACE}-student1"):
        _namespace(recorded_cluster, name)
    refused = [row for row in rows("kubespawner-rbac") if _is_refusal(row)]
    player = Player(recorded_cluster, {}, {})

    player.play([row | {"identity": HUB} for row in refused])

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 20


def test_what_kubespawner_makes_comes_back_with_the_same_defaults(recorded_cluster: KubeDouble) -> None:
    _namespace(recorded_cluster, NAMESPACE)
    rules = [{"apiGroups": [""], "resources": ["*"], "verbs": ["create"]}]
    recorded_cluster.account("hub", rules, NAMESPACE)
    made = {row["request"]["path"]: row for row in rows("kubespawner-rbac") if _is_made(row)}
    player = Player(recorded_cluster, {}, {})

    player.play([row | {"identity": HUB} for row in made.values()])

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared == 3  # a claim, a pod, a service


def test_nothing_is_left_out_unseen() -> None:
    assert set(LEFT_OUT) <= {row["step"] for row in rows(*SCENARIOS)}


def _is_refusal(row: dict[str, Any]) -> bool:
    return row["response"]["status"] == 403 and isinstance(row["response"]["body"], dict)


def _is_made(row: dict[str, Any]) -> bool:
    path = row["request"]["path"]
    return row["request"]["method"] == "POST" and row["response"]["status"] == 201 and f"/{NAMESPACE}/" in path
