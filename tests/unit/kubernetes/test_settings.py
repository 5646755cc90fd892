"""What an administrator and a profile may set for Kubernetes, and the sentence where they may not."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.errors import BadConfig
from labspawner.providers.kubernetes.options import KubernetesSettings, KubernetesVariant
from labspawner.providers.options import read_options


def settings(**given: Any) -> KubernetesSettings:
    return read_options(KubernetesSettings, given, where="Provider kubernetes")


def variant(**given: Any) -> KubernetesVariant:
    return read_options(KubernetesVariant, given, where="Profile dl101/gpu")


def test_a_hub_in_its_cluster_needs_no_setting():
    assert settings().gpu.strategy == "none"
    assert settings().max_servers is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"namespace": "Lab_1"}, "no namespace"),
        ({"kubeconfig": "config"}, "absolute path"),
        ({"home": "home"}, "absolute path"),
        ({"max_servers": 0}, "max_servers"),
        ({"gpu": {"strategy": "HAMI"}}, "strategy"),
        ({"memory_overcommit": 0.5}, "memory_overcommit"),
        ({"colour": "red"}, "there is no setting 'colour'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(given: dict[str, Any], words: str):
    with pytest.raises(BadConfig, match=words):
        settings(**given)


@pytest.mark.parametrize(
    "name",
    [
        *("CUDA_DISABLE_CONTROL", "LD_PRELOAD", "CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_SM_LIMIT_0"),
        *("NVIDIA_VISIBLE_DEVICES", "JUPYTERHUB_API_TOKEN", "PATH", "LABSPAWNER_LEASE_ID", "cuda_disable_control"),
        *("GPU_CORE_UTILIZATION_POLICY", "ACTIVE_OOM_KILLER"),
    ],
)
def test_a_variable_that_would_free_a_program_from_its_slice_is_refused(name: str):
    with pytest.raises(BadConfig, match=name):
        variant(environment={name: "1"})


@pytest.mark.parametrize("name", ["A=B", "", "A B", "1A", "A\0"])
def test_a_name_that_is_no_variable_is_refused(name: str):
    with pytest.raises(BadConfig, match="environment"):
        variant(environment={name: "1"})


@pytest.mark.parametrize(
    "key",
    [
        *("hostPath", "privileged", "volumes", "security_context", "container_security_context", "init_containers"),
        *("extra_pod_config", "namespace", "modify_pod_hook", "hostNetwork"),
    ],
)
def test_what_leads_out_of_a_pod_is_no_key_of_a_profile(key: str):
    with pytest.raises(BadConfig, match=f"there is no setting '{key}'"):
        variant(**{key: True})


@pytest.mark.parametrize(
    "label", ["labspawner.io/hub", "hub.jupyter.org/username", "component", "app.kubernetes.io/name", "hami.io/x"]
)
def test_a_label_by_which_servers_are_found_is_refused(label: str):
    with pytest.raises(BadConfig, match="reserved"):
        variant(labels={label: "x"})


@pytest.mark.parametrize(
    "given",
    [
        {"labels": {"a b": "x"}},
        {"labels": {"a": "x" * 64}},
        {"labels": {"a": "x@y"}},
        {"node_selector": {"pool": "-x"}},
        {"tolerations": [{"key": "gpu", "effect": "Sometimes"}]},
        {"tolerations": [{"keys": "gpu"}]},
        {"storage": {"size": 10}},
        {"storage": {"size": "10GiB", "retain": "maybe"}},
        {"storage": {"class": "Fast Disk"}},
        {"storage": {"mount": "../etc"}},
        {"service_account": "../admin"},
        {"default_url": "//elsewhere"},
        {"command": []},
    ],
)
def test_a_value_that_kubernetes_would_refuse_is_refused_before(given: dict[str, Any]):
    with pytest.raises(BadConfig, match=next(iter(given))):
        variant(**given)


def test_a_profile_says_storage_with_units_and_a_class():
    storage = variant(storage={"size": "10GiB", "class": "fast", "retain": "delete"}).storage

    assert storage is not None
    assert (storage.size, storage.storage_class, storage.retain) == (10 * 2**30, "fast", "delete")


def test_the_gpu_of_a_profile_is_read_elsewhere_and_let_through():
    assert variant(image="lab/a:1", gpu={"policy": "fair"}).image == "lab/a:1"
