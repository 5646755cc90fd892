"""The rights that the chart gives are those that the hub uses: all of them, and no other.

The rendered roles are put into the double of the API server, which judges RBAC as Kubernetes does, and the provider lives
a whole life with the token of the hub's account.
"""

from __future__ import annotations

import asyncio
import copy
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helm.rendering import NAMESPACE, Chart, Object, Rendered, at, values_of
from kube.pods import pod_request

from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.gpu.agent.inventory import ANNOTATION
from labspawner.gpu.agent.node import NodeDoor, NodeError
from labspawner.model import Checkpoint, Handle, Json, LaunchRequest, ReleaseMode
from labspawner.providers.contract import ProviderContext
from labspawner.providers.findings import Level
from labspawner.providers.kubernetes.diagnosis.rights import wanted
from labspawner.providers.kubernetes.provider import KubernetesProvider
from labspawner.testing.kube import KubeDouble, Request
from labspawner.testing.waiting import eventually

Right = tuple[str, str, str]  # resource, verb, "" for the whole cluster

ALL_NAMESPACES = at("rbac.podsOfAllNamespaces", True)
NEEDED: list[Right] = [
    *(("pods", verb, NAMESPACE) for verb in ("list", "watch", "create", "delete")),
    ("pods/log", "get", NAMESPACE),
    *(("events", verb, NAMESPACE) for verb in ("list", "watch")),
    *(("persistentvolumeclaims", verb, NAMESPACE) for verb in ("get", "create", "delete")),
    *(("nodes", verb, "") for verb in ("list", "watch")),
    *(("pods", verb, "") for verb in ("list", "watch")),
]
NO_START_WITHOUT = {
    *(("pods", verb, NAMESPACE) for verb in ("list", "create")),
    *(("persistentvolumeclaims", verb, NAMESPACE) for verb in ("get", "create")),
}


@pytest.fixture(scope="module")
def rendered(chart: Chart) -> Rendered:
    return chart.render(values_of("minimal"), ALL_NAMESPACES)


@pytest.fixture(scope="module")
def double() -> Iterator[KubeDouble]:
    with KubeDouble(namespace=NAMESPACE, runs="still") as cluster:
        yield cluster


def rights_in(rendered: Rendered) -> set[Right]:
    """What the hub's account may, by the rendered roles and bindings."""
    return {
        (resource, verb, NAMESPACE if role["kind"] == "Role" else "")
        for role in rendered
        if role["kind"] in ("Role", "ClusterRole")
        and role["metadata"]["labels"]["app.kubernetes.io/component"] == "hub"
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def install(double: KubeDouble, rendered: Rendered, *, but: Right | None = None) -> None:
    """Put accounts, roles and bindings into the double; without one right."""
    for each in rendered:
        if each["kind"] in ("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            double.apply(_without(each, but))


def _without(role: Object, right: Right | None) -> Object:
    changed = copy.deepcopy(role)
    if right is None or changed["kind"] not in ("Role", "ClusterRole"):
        return changed
    if right[2] != ("" if changed["kind"] == "ClusterRole" else changed["metadata"].get("namespace", NAMESPACE)):
        return changed
    for rule in changed["rules"]:
        if right[0] in rule["resources"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != right[1]]
    changed["rules"] = [rule for rule in changed["rules"] if rule["verbs"]]
    return changed


@dataclass
class Life:
    """What came of a whole life."""

    ready: bool = False
    errors: list[LabError] = field(default_factory=list)


async def a_life(provider: KubernetesProvider, request: LaunchRequest) -> Life:
    """Everything that a hub asks of a provider, once; what fails is remembered, and the rest tried all the same."""
    life, handle = Life(), Handle(lease_id=request.lease_id, provider=provider.name)
    try:
        async for event in provider.launch(request):
            handle = event.handle if isinstance(event, Checkpoint) else handle
        life.ready = True
    except LabError as error:
        life.errors.append(error)
    for step in (
        provider.capacity(),
        provider.observe([handle]),
        provider.owned(),
        provider.logs(handle, 5),
        provider.release(handle, ReleaseMode.DESTROY, grace_s=0),
        provider.forget(request.user, request.server_name),
    ):
        try:
            await step
        except LabError as error:
            life.errors.append(error)
    return life


def run(double: KubeDouble, folder: Path, name: str, *, until: set[Right], **more: Json) -> tuple[Life, list[Request]]:
    """A life with the rights of the hub's account; what it asked of the API server, all of `until` at least."""
    config = double.kubeconfig(folder, token=double.token_of("labspawner-hub"))
    claims = {"storage_pvc_ensure": True, "storage_capacity": "1Gi"}
    settings = {"kubeconfig": str(config), "kubespawner": claims, "relist_s": 0.5, **more}

    def asked() -> list[Request]:
        return [each for each in double.requests if each.user.endswith(":labspawner-hub")]

    async def live() -> Life:
        context = ProviderContext(name="kubernetes", hub_id=name, data_dir=folder)
        provider = KubernetesProvider(context, settings)
        try:
            life = await within(180, a_life(provider, pod_request(double.image, user=name, hub_id=name)))
            # A watch is opened beside what it is for, so it may come a little later.
            await eventually(lambda: until <= {right_of(each) for each in asked()}, what="all that is to be asked")
        finally:
            await provider.close()
        return life

    double.requests.clear()
    life = asyncio.run(live())
    return life, asked()


def right_of(request: Request) -> Right:
    return (request.resource, request.verb, request.namespace)


def test_the_list_of_rights_is_the_charts(rendered: Rendered) -> None:
    assert rights_in(rendered) == set(NEEDED)


def test_a_hub_lives_with_these_rights_and_uses_each_of_them(
    rendered: Rendered, double: KubeDouble, tmp_path: Path
) -> None:
    install(double, rendered)

    life, requests = run(double, tmp_path, "whole", until=set(NEEDED), whole_cluster=True)

    assert life.errors == []
    assert life.ready
    assert [each for each in requests if each.status in (401, 403)] == []
    assert {right_of(each) for each in requests} == set(NEEDED)


@pytest.mark.parametrize("right", NEEDED, ids=lambda right: "-".join(filter(None, right)).replace("/", "-"))
def test_without_one_right_the_hub_is_refused_and_says_so(
    chart: Chart, double: KubeDouble, tmp_path: Path, right: Right
) -> None:
    resource, verb, namespace = right
    # A right in the whole cluster is one in each namespace, too: each is taken away where the other is not given.
    everywhere = not namespace
    install(double, chart.render(values_of("minimal"), at("rbac.podsOfAllNamespaces", everywhere)), but=right)

    name = f"no-{verb}-{resource.replace('/', '-')}-{'anywhere' if everywhere else 'here'}"
    life, requests = run(double, tmp_path, name, until={right}, whole_cluster=everywhere)

    refused = {right_of(each) for each in requests if each.status == 403}
    assert right in refused, "the right is asked for, so it is needed"
    assert life.ready == (right not in NO_START_WITHOUT)
    for error in life.errors:
        assert str(error.jupyterhub_message)


@pytest.mark.parametrize("given", [True, False])
def test_hamis_own_names_are_read_by_a_right_to_one_configmap(
    chart: Chart, double: KubeDouble, tmp_path: Path, given: bool
) -> None:
    right = ("configmaps", "get", "kube-system")
    rendered = chart.render(values_of("hami"))
    install(double, rendered, but=None if given else right)
    for name in ("hami-scheduler-device", "of-somebody-else"):
        about = {"name": name, "namespace": "kube-system"}
        double.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"device-config.yaml": "{}"}})
    gpu = rendered.settings()["Labspawner"]["providers"]["kubernetes"]["gpu"]

    life, requests = run(double, tmp_path, f"hami-{given}".lower(), until={right}, whole_cluster=False, gpu=gpu)

    assert life.ready, "names that cannot be read stay as they are set"
    statuses = {each.name: each.status for each in requests if right_of(each) == right}
    assert statuses == {"hami-scheduler-device": 200 if given else 403}


def test_the_doctor_asks_for_the_rights_that_the_chart_gives(chart: Chart) -> None:
    services = at("jupyterhub.hub.config.KubeSpawner.services_enabled", True)
    given = chart.render(values_of("hami"), ALL_NAMESPACES, services)

    asked = wanted(claims=True, services=True, config_map="kube-system/hami-scheduler-device")

    assert {(each.resource, each.verb, "" if each.everywhere else NAMESPACE) for each in asked} == rights_in(given)
    role = given.the("Role", "labspawner-teaching-lab-hub")
    assert role["metadata"]["namespace"] == "kube-system"
    assert role["rules"][0]["resourceNames"] == ["hami-scheduler-device"]


@pytest.mark.parametrize("right", [None, ("pods", "delete", NAMESPACE), ("nodes", "watch", "")])
async def test_the_doctor_names_a_right_that_an_administrator_forgot(
    chart: Chart, double: KubeDouble, tmp_path: Path, right: Right | None
) -> None:
    install(double, chart.render(values_of("minimal"), at("rbac.podsOfAllNamespaces", right is None)), but=right)
    config = double.kubeconfig(tmp_path, token=double.token_of("labspawner-hub"))
    context = ProviderContext(name="kubernetes", hub_id="doctor", data_dir=tmp_path)
    provider = KubernetesProvider(context, {"kubeconfig": str(config)})
    try:
        found = [each for each in await provider.diagnose() if each.what == "rights"]
    finally:
        await provider.close()

    missing = [each for each in found if each.level not in (Level.OK, Level.NOTE)]
    if right is None:
        assert missing == []
    else:
        (said,) = missing
        assert f"resources: [{right[0]}], verbs: [{right[1]}]" in said.advice


def test_an_agent_annotates_its_node_and_reads_nothing(chart: Chart, double: KubeDouble, tmp_path: Path) -> None:
    install(double, chart.render(values_of("device-plugin"), at("gpu.agent.namespace", "")))
    token = tmp_path / "token"
    token.write_text(double.token_of("labspawner-agent"), encoding="ascii")

    NodeDoor(node="labnode", url=double.url, token=token).annotate({ANNOTATION: "{}"})

    assert double.node()["metadata"]["annotations"][ANNOTATION] == "{}"
    for path in ("nodes", "nodes/labnode", "pods", f"namespaces/{NAMESPACE}/secrets"):
        asked = urllib.request.Request(
            f"{double.url}/api/v1/{path}", headers={"Authorization": f"Bearer {token.read_text()}"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=60)
        assert refused.value.code == 403
        refused.value.close()


def test_without_its_right_an_agent_is_refused(double: KubeDouble, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(double.token_of("default"), encoding="ascii")

    with pytest.raises(NodeError, match="403"):
        NodeDoor(node="labnode", url=double.url, token=token).annotate({ANNOTATION: "x"})
