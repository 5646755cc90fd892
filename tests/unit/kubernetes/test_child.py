"""The child is the real KubeSpawner: the hub's settings for it keep their meaning, and a profile sets what it may."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes_asyncio.client import ApiClient, Configuration
from kubespawner import KubeSpawner
from kubespawner import clients as kube_clients

from labspawner.errors import BadConfig
from labspawner.model import LaunchRequest, Resources
from labspawner.providers.kubernetes import child as children
from labspawner.providers.kubernetes.options import KubernetesSettings, KubernetesVariant
from labspawner.providers.standins import Identity
from labspawner.testing.requests import launch_request

REQUEST = launch_request(user="ann", resources=Resources(cpu=2.0, memory_bytes=4 * 2**30))
HUB_ENVIRONMENT = {"PATH": REQUEST.environment["PATH"], "LANG": "C.UTF-8"}


def settings(hub: dict[str, Any] | None = None, **given: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"hub_config": {"KubeSpawner": hub or {}}, **given})


def a_child(
    kubespawner: dict[str, Any] | None = None,
    *,
    request: LaunchRequest = REQUEST,
    provider: dict[str, Any] | None = None,
    **variant: Any,
) -> Any:
    given = settings(kubespawner, **(provider or {}))
    child = children.build(Identity.of_request(request), given, namespace="lab", api=object())
    children.equip(child, request, KubernetesVariant.model_validate(variant), given, where="Profile dl101/gpu")
    return child


async def pod_of(child: Any, request: LaunchRequest = REQUEST) -> dict[str, Any]:
    environment = children.environment_of(child, request, hub_environment=HUB_ENVIRONMENT)
    child.get_env = lambda: environment
    async with ApiClient(Configuration()) as client:
        plain: dict[str, Any] = client.sanitize_for_serialization(await child.get_pod_manifest())
    return plain


def env_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod["spec"]["containers"][0]["env"]}


def test_it_is_kubespawner_and_looks_for_no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    before = dict(kube_clients._client_cache)

    child = a_child()

    assert isinstance(child, KubeSpawner)
    assert child.reflectors is not KubeSpawner.reflectors
    assert kube_clients._client_cache == before
    assert (child.namespace, child.pod_name, child.pvc_name) == ("lab", "jupyter-ann", "claim-ann")


async def test_the_hubs_settings_for_kubespawner_keep_their_meaning():
    pod = await pod_of(
        a_child(
            {
                "image": "lab/base:1",
                "image_pull_policy": "Always",
                "node_selector": {"pool": "lab"},
                "tolerations": [{"key": "lab", "operator": "Exists"}],
                "extra_labels": {"term": "{username}-1"},
                "uid": 1000,
                "fs_gid": 100,
                "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}}],
                "volume_mounts": [{"name": "home", "mountPath": "/home/jovyan"}],
                "extra_container_config": {"securityContext": {"capabilities": {"drop": ["ALL"]}}},
                "environment": {
                    "COURSE": "{username}",
                    "KEY": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                },
            }
        )
    )

    main = pod["spec"]["containers"][0]
    assert (main["image"], main["imagePullPolicy"]) == ("lab/base:1", "Always")
    assert pod["spec"]["nodeSelector"] == {"pool": "lab"}
    assert pod["spec"]["tolerations"] == [{"key": "lab", "operator": "Exists"}]
    assert pod["metadata"]["labels"]["term"] == "ann-1"
    assert pod["spec"]["securityContext"] == {"fsGroup": 100}
    assert pod["spec"]["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "claim-ann"}}]
    assert env_of(pod)["COURSE"] == "ann"
    assert env_of(pod)["KEY"] == {"secretKeyRef": {"name": "s", "key": "k"}}


async def test_the_providers_own_settings_beat_the_hubs():
    child = a_child({"image": "lab/base:1"}, provider={"kubespawner": {"image": "lab/other:2"}})

    assert child.image == "lab/other:2"


async def test_the_server_runs_the_hubs_command_at_the_pods_own_address_with_the_hubs_token():
    pod = await pod_of(a_child())

    assert pod["spec"]["containers"][0]["args"] == list(REQUEST.command)
    env = env_of(pod)
    assert env["JUPYTERHUB_SERVICE_URL"] == f"http://0.0.0.0:8888{REQUEST.base_url}"
    assert env["JUPYTERHUB_API_TOKEN"] == REQUEST.environment["JUPYTERHUB_API_TOKEN"]
    assert env["MEM_LIMIT"] == str(4 * 2**30)
    assert "serviceAccountName" not in pod["spec"]
    assert pod["spec"]["automountServiceAccountToken"] is False


async def test_what_the_hub_keeps_of_its_own_environment_does_not_reach_an_image():
    assert "PATH" not in env_of(await pod_of(a_child()))


async def test_a_variable_that_the_administrator_set_for_servers_stays():
    request = launch_request(user="ann", environment={**REQUEST.environment, "PATH": "/opt/conda/bin"})

    assert env_of(await pod_of(a_child(request=request), request))["PATH"] == "/opt/conda/bin"


async def test_a_command_that_the_administrator_set_for_kubespawner_stays_and_a_profiles_beats_it():
    configured = {"cmd": ["start-singleuser.sh"], "args": ["--debug"]}

    assert (await pod_of(a_child(configured)))["spec"]["containers"][0]["args"] == ["start-singleuser.sh", "--debug"]
    pod = await pod_of(a_child(configured, command=("mine", "--x")))
    assert pod["spec"]["containers"][0]["args"][:2] == ["mine", "--x"]


async def test_resources_of_the_profile_are_limits_and_what_the_scheduler_counts():
    resources = (await pod_of(a_child()))["spec"]["containers"][0]["resources"]

    assert resources == {"limits": {"cpu": 2.0, "memory": 4 * 2**30}, "requests": {"cpu": 2.0, "memory": 4 * 2**30}}


async def test_an_administrator_who_overcommits_asks_the_scheduler_for_less():
    child = a_child(provider={"cpu_overcommit": 4, "memory_overcommit": 2})

    requests = (await pod_of(child))["spec"]["containers"][0]["resources"]["requests"]

    assert requests == {"cpu": 0.5, "memory": 2 * 2**30}


async def test_a_guarantee_of_kubespawner_holds_up_to_the_profiles_limit():
    child = a_child({"cpu_guarantee": 0.1, "mem_guarantee": "8G"})

    requests = (await pod_of(child))["spec"]["containers"][0]["resources"]["requests"]

    assert requests == {"cpu": 0.1, "memory": 4 * 2**30}


async def test_a_profile_places_its_server_beside_what_the_administrator_said():
    child = a_child(
        {"node_selector": {"pool": "lab"}, "tolerations": {"01": {"key": "lab", "operator": "Exists"}}},
        image="lab/gpu:1",
        node_selector={"gpu": "a100"},
        tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
        labels={"course": "dl101"},
    )

    pod = await pod_of(child)

    assert pod["spec"]["nodeSelector"] == {"pool": "lab", "gpu": "a100"}
    assert [each["key"] for each in pod["spec"]["tolerations"]] == ["lab", "gpu"]
    assert pod["spec"]["containers"][0]["image"] == "lab/gpu:1"
    assert pod["metadata"]["labels"]["course"] == "dl101"


async def test_storage_that_is_kept_is_the_students_claim_in_place_of_what_was_mounted_there():
    child = a_child(
        {
            "volumes": [{"name": "old", "persistentVolumeClaim": {"claimName": "x"}}, {"name": "data", "emptyDir": {}}],
            "volume_mounts": [{"name": "old", "mountPath": "/home/jovyan"}, {"name": "data", "mountPath": "/data"}],
        },
        storage={"size": "10GiB", "class": "fast"},
    )

    pod = await pod_of(child)
    async with ApiClient(Configuration()) as client:
        claim = client.sanitize_for_serialization(child.get_pvc_manifest())

    assert child.storage_pvc_ensure
    assert {"name": children.HOME_VOLUME, "persistentVolumeClaim": {"claimName": "claim-ann"}} in pod["spec"]["volumes"]
    assert "old" not in [volume["name"] for volume in pod["spec"]["volumes"]]
    mounts = {each["mountPath"]: each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/home/jovyan": children.HOME_VOLUME, "/data": "data"}
    assert claim["spec"]["resources"]["requests"]["storage"] == str(10 * 2**30)
    assert claim["spec"]["storageClassName"] == "fast"


async def test_storage_that_is_deleted_lives_and_dies_with_its_pod_and_needs_no_claim_of_ours():
    child = a_child(storage={"size": "1GiB", "retain": "delete", "mount": "/scratch"})

    (volume,) = (await pod_of(child))["spec"]["volumes"]

    template = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert template["resources"]["requests"]["storage"] == str(2**30)
    assert template["accessModes"] == ["ReadWriteOnce"]
    assert not child.storage_pvc_ensure


@pytest.mark.parametrize(
    "name",
    [
        *("privileged", "volumes", "volume_mounts", "extra_pod_config", "extra_container_config", "init_containers"),
        *("container_security_context", "pod_security_context", "service_account", "lifecycle_hooks", "uid", "gid"),
        *("extra_containers", "modify_pod_hook", "allow_privilege_escalation", "scheduler_name", "namespace"),
        *("extra_resource_limits", "priority_class_name", "extra_annotations", "no_such_trait"),
    ],
)
def test_an_override_that_could_lead_out_of_a_pod_or_slice_is_refused_by_name(name: str):
    with pytest.raises(BadConfig, match=name):
        a_child(kubespawner_override={name: "x"})


def test_an_administrator_may_allow_more_and_the_names_are_checked():
    child = a_child(
        provider={"course_overrides": ["priority_class_name"]}, kubespawner_override={"priority_class_name": "exam"}
    )

    assert child.priority_class_name == "exam"
    with pytest.raises(BadConfig, match="no_such"):
        children.check_settings(settings(course_overrides=["no_such"]), where="Provider kubernetes")


@pytest.mark.parametrize(
    "override", [{"environment": {"LD_PRELOAD": "/x.so"}}, {"extra_labels": {"labspawner.io/hub": "other"}}]
)
def test_an_override_is_no_way_around_what_a_profile_may_not_set(override: dict[str, Any]):
    with pytest.raises(BadConfig, match="reserved"):
        a_child(kubespawner_override=override)


def test_a_value_of_the_wrong_type_is_a_sentence_that_names_the_profile():
    with pytest.raises(BadConfig, match="dl101/gpu"):
        a_child(kubespawner_override={"cpu_limit": {"a": 1}})


def test_dicts_of_an_override_are_merged_into_copies_so_that_the_next_start_finds_the_old_ones():
    shared = {"environment": {"A": "1", "B": "2"}}
    override = {"environment": {"B": None, "C": "3"}}

    assert a_child(shared, kubespawner_override=override).environment == {"A": "1", "C": "3"}
    assert a_child(shared).environment == {"A": "1", "B": "2"}
    assert shared == {"environment": {"A": "1", "B": "2"}}
    assert override == {"environment": {"B": None, "C": "3"}}


def test_a_service_account_is_only_one_that_the_administrator_allows():
    with pytest.raises(BadConfig, match="service account"):
        a_child(service_account="admin")

    assert a_child(provider={"service_accounts": ["reader"]}, service_account="reader").service_account == "reader"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kubespawner": {"imgae": "x"}}, "imgae"),
        ({"hub_config": {"KubeSpawner": {"enable_user_namespaces": True}}}, "enable_user_namespaces"),
        ({"kubespawner": {"internal_ssl": True}}, "internal_ssl"),
    ],
)
def test_a_setting_of_kubespawner_that_does_not_exist_or_is_not_supported_is_refused(given: dict[str, Any], words: str):
    with pytest.raises(BadConfig, match=words):
        children.check_settings(KubernetesSettings.model_validate(given), where="Provider kubernetes")


async def test_a_variable_with_braces_that_are_no_template_stays_as_it_is():
    env = env_of(await pod_of(a_child({"environment": {"JSON": '{"a": {"b": 1}}', "WHO": "{username}"}})))

    assert (env["JSON"], env["WHO"]) == ('{"a": {"b": 1}}', "ann")


async def test_where_pods_reach_the_hub_at_another_address_they_are_told_that_one():
    request = launch_request(
        user="ann", environment={**REQUEST.environment, "JUPYTERHUB_API_URL": "http://hub:1/x/hub/api"}
    )

    env = env_of(await pod_of(a_child({"hub_connect_url": "http://10.0.0.1:8081"}, request=request), request))

    assert env["JUPYTERHUB_API_URL"] == "http://10.0.0.1:8081/x/hub/api"


async def test_a_value_that_is_a_function_is_asked_with_the_spawner():
    env = env_of(await pod_of(a_child({"environment": {"WHO": lambda spawner: spawner.user.name}})))

    assert env["WHO"] == "ann"
