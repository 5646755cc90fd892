"""The pod that is sent carries whose it is, under a name that no other start uses, and the slice that the strategy gives."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.errors import BadConfig
from labspawner.model import LeaseId
from labspawner.naming import new_lease_id
from labspawner.providers.kubernetes import manifest
from labspawner.providers.kubernetes.manifest import Marks
from labspawner.providers.kubernetes.strategies.contract import PodPatch

LEASE = LeaseId("labcdefghijkmnpq")


def some_marks(**changes: Any) -> Marks:
    return Marks(**{"lease_id": LEASE, "hub_id": "hub-a", "provider": "kubernetes", "user": "Ann", **changes})


def built() -> dict[str, Any]:
    """A pod as KubeSpawner builds it."""
    return {
        "metadata": {"name": "jupyter-ann", "labels": {"component": "singleuser-server"}, "annotations": {"a": "b"}},
        "spec": {
            "containers": [
                {"name": "notebook", "env": [{"name": "X", "value": "1"}], "resources": {"limits": {"cpu": 2}}},
                {"name": "sidecar"},
            ]
        },
    }


def finished(patch: PodPatch | None = None, environment: dict[str, str] | None = None, **marks: Any) -> dict[str, Any]:
    return manifest.finished(
        built(),
        name="jupyter-ann-x",
        marks=some_marks(**marks),
        environment=environment or {},
        patch=patch or PodPatch(),
    )


def env_of(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}


def test_a_pod_is_labelled_with_lease_hub_provider_and_user_beside_what_it_had():
    pod = finished()

    assert pod["metadata"]["labels"] == {
        "component": "singleuser-server",
        "labspawner.io/lease": LEASE,
        "labspawner.io/hub": "hub-a",
        "labspawner.io/provider": "kubernetes",
        "labspawner.io/user": manifest.safe_name("Ann"),
    }
    assert pod["metadata"]["annotations"]["labspawner.io/user"] == "Ann"
    assert pod["metadata"]["annotations"]["a"] == "b"


@pytest.mark.parametrize("user", ["张三-Zoë-🎓", "../../etc/passwd", "x" * 300, "", "a b@c"])
def test_any_name_of_a_user_becomes_a_label_that_kubernetes_takes(user: str):
    label = finished(user=user)["metadata"]["labels"]["labspawner.io/user"]

    assert 1 <= len(label) <= 63
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert label[0] != "-"
    assert label[-1] != "-"


def test_the_selector_finds_exactly_the_labels_of_this_hub_and_provider():
    labels = finished()["metadata"]["labels"]

    terms = dict(term.split("=") for term in manifest.selector("hub-a", "kubernetes").split(","))

    assert terms.items() <= labels.items()
    assert not terms.items() <= finished(hub_id="hub-b")["metadata"]["labels"].items()
    assert not terms.items() <= finished(provider="kubernetes-2")["metadata"]["labels"].items()


@pytest.mark.parametrize("stem", ["jupyter-ann", "x" * 250, "", "jupyter-ann---17239b6e--x", "a.b.c." * 20])
def test_a_pods_name_belongs_to_its_lease_alone_and_is_a_host_name(stem: str):
    one, other = new_lease_id(), new_lease_id()

    name = manifest.pod_name(stem, one)

    assert len(name) <= 63
    assert name.endswith(one)
    assert name != manifest.pod_name(stem, other)
    assert name[0] not in "-."


def test_the_servers_environment_gets_the_profiles_our_marks_and_last_the_strategys():
    patch = PodPatch(environment={"NVIDIA_VISIBLE_DEVICES": "none", "Y": "strategy"})

    env = env_of(finished(patch, {"X": "profile", "Y": "profile", "LABSPAWNER_LEASE_ID": "forged"}))

    assert env == {
        "X": "profile",
        "Y": "strategy",
        "NVIDIA_VISIBLE_DEVICES": "none",
        "LABSPAWNER_LEASE_ID": LEASE,
        "LABSPAWNER_HUB_ID": "hub-a",
        "LABSPAWNER_PROVIDER": "kubernetes",
    }


def test_extended_resources_are_limits_and_requests_of_the_servers_container_only():
    pod = finished(PodPatch(limits={"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144}))

    main, sidecar = pod["spec"]["containers"]
    assert main["resources"] == {
        "limits": {"cpu": 2, "nvidia.com/gpu": "1", "nvidia.com/gpumem": "6144"},
        "requests": {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "6144"},
    }
    assert "resources" not in sidecar


def test_a_resource_that_something_else_asks_for_in_another_amount_is_refused_by_name():
    pod = built()
    pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 2

    with pytest.raises(BadConfig, match=r"nvidia\.com/gpu"):
        manifest.finished(
            pod, name="x", marks=some_marks(), environment={}, patch=PodPatch(limits={"nvidia.com/gpu": 1})
        )


def test_volumes_scheduler_runtime_and_selector_of_the_strategy_are_added():
    patch = PodPatch(
        volumes=({"name": "v", "emptyDir": {}},),
        volume_mounts=({"name": "v", "mountPath": "/v"},),
        scheduler_name="hami-scheduler",
        runtime_class="nvidia",
        node_selector={"gpu": "on"},
    )

    spec = finished(patch)["spec"]

    assert spec["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert spec["containers"][0]["volumeMounts"] == [{"name": "v", "mountPath": "/v"}]
    assert (spec["schedulerName"], spec["runtimeClassName"], spec["nodeSelector"]) == (
        "hami-scheduler",
        "nvidia",
        {"gpu": "on"},
    )


def test_what_was_built_is_left_as_it_was():
    before = built()

    manifest.finished(before, name="x", marks=some_marks(), environment={"A": "1"}, patch=PodPatch(limits={"r": 1}))

    assert before == built()


def test_what_outlives_the_lease_does_not_carry_it():
    claim = manifest.marked({"metadata": {"name": "claim-ann", "labels": {"a": "b"}}}, some_marks())

    assert "labspawner.io/lease" not in claim["metadata"]["labels"]
    assert claim["metadata"]["labels"]["labspawner.io/hub"] == "hub-a"
    assert claim["metadata"]["labels"]["a"] == "b"
