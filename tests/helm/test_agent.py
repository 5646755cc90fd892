"""The node agent of strategy device-plugin: its settings, its folders, and what it may do."""

from __future__ import annotations

import copy
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from helm.rendering import Chart, Object, Rendered, at, read_yaml, values_of

from labspawner.gpu.agent.inventory import ANNOTATION
from labspawner.gpu.agent.settings import AgentSettings, load_settings
from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.options import read_options

POOLS = ("a5000", "a100")


@pytest.fixture(scope="module")
def rendered(chart: Chart) -> Rendered:
    return chart.render(values_of("device-plugin"))


def settings_of(rendered: Rendered, pool: str, folder: Path) -> AgentSettings:
    """As the agent reads them."""
    file = folder / "agent.yaml"
    file.write_text(rendered.the("ConfigMap", f"labspawner-agent-{pool}")["data"]["agent.yaml"], encoding="utf-8")
    return load_settings(file)


def pod_of(rendered: Rendered, pool: str) -> Object:
    spec: Object = rendered.the("DaemonSet", f"labspawner-agent-{pool}")["spec"]["template"]["spec"]
    return spec


def test_only_device_plugin_has_agents(chart: Chart) -> None:
    for name in ("minimal", "hami", "proxmox-only"):
        assert chart.render(values_of(name)).all("DaemonSet") == []


def test_an_agent_reads_the_layout_of_its_pool(rendered: Rendered, tmp_path: Path) -> None:
    name, pool = settings_of(rendered, "a100", tmp_path).pool(None)

    assert name == "a100"
    assert set(pool.classes) == {"medium", "small"}
    assert pool.classes["medium"].memory == 18 * 2**30
    assert pool.classes["medium"].cores == 50
    assert pool.classes["small"].per_card == 2
    assert (pool.runtime, pool.placement, pool.watchdog) == ("cdi", "spread", "kill")


@pytest.mark.parametrize("pool", POOLS)
def test_what_the_settings_name_is_mounted_and_the_port_is_open(rendered: Rendered, pool: str, tmp_path: Path) -> None:
    settings = settings_of(rendered, pool, tmp_path)
    spec = pod_of(rendered, pool)
    (container,) = spec["containers"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}

    for path in (settings.plugins, settings.state, settings.libvgpu_dir):
        assert volumes[mounts[str(path)]["name"]]["hostPath"]["path"] == str(path), "the kubelet is told this path"
    assert str(PurePosixPath(settings.pod_resources).parent) in mounts
    assert mounts[str(settings.pod_resources.parent)]["readOnly"] is True
    assert container["args"] == ["--config", f"{mounts['/etc/labspawner']['mountPath']}/agent.yaml"]
    assert settings.metrics.rpartition(":")[2] == str(container["ports"][0]["containerPort"])


def test_hub_and_agents_speak_of_the_same_slices(rendered: Rendered, tmp_path: Path) -> None:
    given = dict(rendered.settings()["Labspawner"]["providers"]["kubernetes"])
    del given["kind"]
    hub = read_options(KubernetesSettings, given, where="kubernetes").gpu

    for pool in POOLS:
        for name, cut in settings_of(rendered, pool, tmp_path).pool(None)[1].classes.items():
            assert (hub.classes[name].memory, hub.classes[name].cores) == (cut.memory, cut.cores)


def test_the_hub_knows_the_pools_policy_of_compute_time(chart: Chart) -> None:
    forced = {"gpu": {"pools": {name: {"options": {"cores_policy": "force"}} for name in POOLS}}}

    gpu = chart.render(values_of("device-plugin"), forced).settings()["Labspawner"]["providers"]["kubernetes"]["gpu"]

    assert {each["policy"] for each in gpu["classes"].values()} == {"force"}


def test_pools_run_on_their_own_nodes(rendered: Rendered) -> None:
    selectors = [pod_of(rendered, pool)["nodeSelector"] for pool in POOLS]

    assert {each["gpu"] for each in selectors} == set(POOLS)
    tolerated = pod_of(rendered, "a100")["tolerations"]
    assert {"key": "dedicated", "operator": "Equal", "value": "teaching", "effect": "NoSchedule"} in tolerated
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in tolerated


def test_a_new_layout_restarts_the_agents_of_its_pool_alone(chart: Chart, rendered: Rendered) -> None:
    def stamp(rendered: Rendered, pool: str) -> str:
        template = rendered.the("DaemonSet", f"labspawner-agent-{pool}")["spec"]["template"]
        return str(template["metadata"]["annotations"]["labspawner.io/settings"])

    changed = chart.render(values_of("device-plugin"), at("gpu.pools.a100.classes.small.per_card", 3))

    assert stamp(changed, "a100") != stamp(rendered, "a100")
    assert stamp(changed, "a5000") == stamp(rendered, "a5000")


@pytest.mark.parametrize(
    ("watchdog", "hosts_processes", "powers"),
    [("kill", True, ["KILL", "SYS_PTRACE"]), ("report", True, ["SYS_PTRACE"]), (False, False, [])],
)
def test_an_agent_has_the_powers_that_its_watchdog_needs(
    chart: Chart, watchdog: object, hosts_processes: bool, powers: list[str]
) -> None:
    rendered = chart.render(values_of("device-plugin"), at("gpu.agent.watchdog", watchdog))
    spec = pod_of(rendered, "a5000")

    assert spec["hostPID"] is hosts_processes
    assert spec["containers"][0]["securityContext"]["capabilities"].get("add", []) == powers


def test_the_account_of_an_agent_may_patch_nodes_and_nothing_else(rendered: Rendered) -> None:
    role = rendered.the("ClusterRole", "labspawner-teaching-lab-agent")
    binding = rendered.the("ClusterRoleBinding", "labspawner-teaching-lab-agent")

    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
    (subject,) = binding["subjects"]
    account = rendered.the("ServiceAccount", subject["name"])
    assert account["metadata"]["namespace"] == subject["namespace"] == "labspawner-agents"
    assert pod_of(rendered, "a5000")["serviceAccountName"] == account["metadata"]["name"]


def test_everything_of_an_agent_is_in_its_namespace(rendered: Rendered) -> None:
    for each in rendered:
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == "agent" and "Cluster" not in each["kind"]:
            if each["kind"].startswith("ValidatingAdmissionPolicy"):
                continue
            assert each["metadata"]["namespace"] == "labspawner-agents"


# -- the guard of nodes: its expressions are run by an interpreter of the language that they are written in -----------

NODE: dict[str, Any] = {
    "metadata": {"name": "gpu-1", "labels": {"gpu": "a100"}, "annotations": {"other": "x", ANNOTATION: "old"}},
    "spec": {"podCIDR": "10.42.0.0/24"},
}


def guard(rendered: Rendered, *, before: Object, after: Object, bound_to: str | None) -> list[str]:
    """The messages by which the API server would refuse this change by an agent."""
    celpy = pytest.importorskip("celpy", reason="cel-python is not installed; the node guard's expressions are not run")
    policy = rendered.the("ValidatingAdmissionPolicy", "labspawner-teaching-lab-agent")["spec"]
    user: dict[str, Any] = {"username": "system:serviceaccount:labspawner-agents:labspawner-agent"}
    if bound_to is not None:
        user["extra"] = {"authentication.kubernetes.io/node-name": [bound_to]}
    environment = celpy.Environment()
    world = {"object": after, "oldObject": before, "request": {"userInfo": user}}
    context = {name: celpy.json_to_cel(value) for name, value in world.items()}

    def value(expression: str) -> Any:
        return environment.program(environment.compile(expression)).evaluate(context)

    assert all(value(each["expression"]) for each in policy["matchConditions"])
    context["variables"] = celpy.celtypes.MapType(
        {celpy.celtypes.StringType(each["name"]): value(each["expression"]) for each in policy["variables"]}
    )
    return [each["message"] for each in policy["validations"] if not value(each["expression"])]


def changed(**paths: Any) -> Object:
    node = copy.deepcopy(NODE)
    for path, value in paths.items():
        target = node
        *parents, last = path.split("__")
        for key in parents:
            target = target.setdefault(key, {})
        target[last] = value
    return node


def with_annotations(annotations: dict[str, str]) -> Object:
    return changed(metadata__annotations=annotations)


@pytest.mark.parametrize(
    "annotations",
    [{"other": "x", ANNOTATION: "new"}, {"other": "x"}, {"other": "x", ANNOTATION: "old"}],
    ids=["changed", "removed", "same"],
)
def test_an_agent_may_change_its_annotation_of_its_node(rendered: Rendered, annotations: dict[str, str]) -> None:
    assert guard(rendered, before=NODE, after=with_annotations(annotations), bound_to="gpu-1") == []


def test_an_agent_may_annotate_a_node_that_has_no_annotations(rendered: Rendered) -> None:
    bare = copy.deepcopy(NODE)
    del bare["metadata"]["annotations"]

    assert guard(rendered, before=bare, after=with_annotations({ANNOTATION: "new"}), bound_to="gpu-1") == []


@pytest.mark.parametrize("bound_to", ["gpu-2", None])
def test_an_agent_changes_no_other_node(rendered: Rendered, bound_to: str | None) -> None:
    after = with_annotations({"other": "x", ANNOTATION: "new"})

    assert "its own node only" in "".join(guard(rendered, before=NODE, after=after, bound_to=bound_to))


@pytest.mark.parametrize(
    "annotations",
    [{"other": "y", ANNOTATION: "old"}, {ANNOTATION: "old"}, {"other": "x", "new": "z"}, {}],
    ids=["changes", "removes", "adds", "removes all"],
)
def test_an_agent_changes_no_other_annotation(rendered: Rendered, annotations: dict[str, str]) -> None:
    said = guard(rendered, before=NODE, after=with_annotations(annotations), bound_to="gpu-1")

    assert "no annotation but" in "".join(said)


@pytest.mark.parametrize(
    "after",
    [
        changed(spec__unschedulable=True),
        changed(metadata__labels={"gpu": "a100", "node-role.kubernetes.io/control-plane": ""}),
        changed(metadata__finalizers=["example.com/never"]),
        changed(metadata__ownerReferences=[{"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "y"}]),
    ],
    ids=["spec", "labels", "finalizers", "owners"],
)
def test_an_agent_changes_nothing_else_of_its_node(rendered: Rendered, after: Object) -> None:
    assert "nothing of a node but" in "".join(guard(rendered, before=NODE, after=after, bound_to="gpu-1"))


def test_the_guard_can_be_left_out(chart: Chart) -> None:
    kinds = {each["kind"] for each in chart.render(values_of("device-plugin"), at("gpu.agent.nodeGuard", False))}

    assert not {kind for kind in kinds if kind.startswith("ValidatingAdmission")}


def test_the_agents_yaml_is_plain(rendered: Rendered) -> None:
    for pool in POOLS:
        data = read_yaml(rendered.the("ConfigMap", f"labspawner-agent-{pool}")["data"]["agent.yaml"])
        assert set(data) == {"pools", "metrics", "state", "libvgpu_dir"}
