"""`labspawner doctor` on a cluster: the API server double, with rights, nodes and cards as a test wants them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config
from unit.kubernetes.objects import GPU_1, a_node

from labspawner.config import Labspawner
from labspawner.doctor import looks
from labspawner.gpu.agent.inventory import ANNOTATION, CardState, ClassUse, NodeInventory, Share, SliceUse, render
from labspawner.providers.findings import Finding, Level
from labspawner.providers.kubernetes.diagnosis import nodes as looking
from labspawner.providers.kubernetes.diagnosis.rights import judge, wanted
from labspawner.providers.kubernetes.strategies.hami_notes import HANDSHAKE, REGISTER
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.testing.kube import KubeDouble
from labspawner.testing.kube import a_node as a_real_node

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
CARD = f"{GPU_1},10,24564,100,NVIDIA-RTX A5000,0,true:"
CLASSES = {"small": {"memory": "6GiB", "cores": 25}}


@pytest.fixture
def cluster() -> Iterator[KubeDouble]:
    with KubeDouble([a_real_node(cpu=8, memory="32Gi")], runs="still") as double:
        yield double


async def doctor(
    cluster: KubeDouble,
    tmp_path: Path,
    *,
    token: str | None = None,
    gpu: dict[str, Any] | None = None,
    **kubespawner: Any,
) -> dict[str, list[Finding]]:
    """The findings, by what was looked at."""
    options = {
        "kubeconfig": str(cluster.kubeconfig(tmp_path, token=token)),
        "namespace": cluster.namespace,
        "gpu": gpu or {},
        "kubespawner": kubespawner,
        "patience_s": 0,
        "request_timeout_s": 120,  # a slow machine is no failure
    }
    config = Config(
        {"Labspawner": {"data_dir": str(tmp_path), "hub_id": "doctor", "providers": {"kubernetes": options}}}
    )
    found: dict[str, list[Finding]] = {}
    for finding in await looks.provider(Labspawner(config=config).settings(), "kubernetes"):
        found.setdefault(finding.what, []).append(finding)
    return found


def levels(findings: Sequence[Finding]) -> set[Level]:
    return {finding.level for finding in findings}


def said(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{finding.level.value}: {finding.detail} -> {finding.advice}" for finding in findings)


async def test_a_cluster_with_all_rights_is_well(cluster, tmp_path):
    found = await doctor(cluster, tmp_path)

    assert {level for findings in found.values() for level in levels(findings)} <= {Level.OK, Level.NOTE}, found
    assert {"cluster", "rights", "namespace", "nodes", "a server", "room"} <= set(found)
    assert cluster.pods() == [], "a dry run leaves nothing"


async def test_a_missing_right_is_named_with_the_line_of_the_role(cluster, tmp_path):
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "create", "delete"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "create"]},
    ]

    found = await doctor(cluster, tmp_path, token=cluster.account("hub", rules))

    text = said(found["rights"])
    assert f"warning: the hub may not watch pods in {cluster.namespace}" in text
    assert '- {apiGroups: [""], resources: [pods], verbs: [watch]}' in text
    assert "the hub may not list, watch nodes in all namespaces" in text
    assert '- {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [delete]}' in text
    assert "events" not in text
    assert Level.ERROR not in levels(found["rights"])
    assert "may not see them" in said(found["nodes"])


async def test_without_the_right_to_create_pods_no_server_starts(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, token=cluster.account("hub", []))

    assert Level.ERROR in levels(found["rights"])
    assert "no server starts" in said(found["rights"])
    assert "a server" not in found, "said once"


async def test_a_token_that_is_not_known_any_more_is_said(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, token="expired")

    assert levels(found["cluster"]) == {Level.ERROR}
    assert "does not know this hub" in said(found["cluster"])
    assert "renew its token" in said(found["cluster"])


async def test_an_api_server_that_is_away_is_said(cluster, tmp_path):
    cluster.faults.down()

    found = await doctor(cluster, tmp_path)

    assert levels(found["cluster"]) == {Level.ERROR}
    assert "does not answer" in said(found["cluster"])


async def test_a_namespace_that_is_not_there_is_said(cluster, tmp_path):
    cluster.namespace = "nowhere"

    found = await doctor(cluster, tmp_path)

    assert "nowhere does not exist -> kubectl create namespace nowhere" in said(found["namespace"])


async def test_hami_that_is_not_there_is_an_error_where_it_is_wanted(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, gpu={"strategy": "hami"})

    assert "no node shows HAMi" in said(found["GPU strategy"])
    assert "webhook" in said(found["a server"])
    assert levels(found["a server"]) == {Level.ERROR}


async def test_hami_that_works_is_seen_to_work(cluster, tmp_path):
    cluster.annotate_node("labnode", {REGISTER: CARD})
    cluster.install_hami()

    found = await doctor(cluster, tmp_path, gpu={"strategy": "hami"})

    assert levels(found["a server"]) == {Level.OK}, "its webhook looked at the server that was tried out"
    assert "hami: 1 of 1 places have room, the largest has 24 GiB" in said(found["GPU strategy"])


async def test_hami_that_is_there_and_not_used_is_said(cluster, tmp_path):
    cluster.annotate_node("labnode", {REGISTER: CARD})

    found = await doctor(cluster, tmp_path)

    assert levels(found["GPU strategy"]) == {Level.WARNING}
    assert "{'gpu': {'strategy': 'hami'}}" in said(found["GPU strategy"])


async def test_hamis_device_config_that_cannot_be_read_is_an_error(cluster, tmp_path):
    gpu = {"strategy": "hami", "hami": {"config_map": "kube-system/hami-scheduler-device"}}

    found = await doctor(cluster, tmp_path, gpu=gpu)

    assert "cannot be read" in said(found["HAMi"])


async def test_classes_that_no_node_offers_are_an_error(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, gpu={"strategy": "device-plugin", "classes": CLASSES})

    assert "no node offers labspawner.io/gpu-small now" in said(found["slice classes"])
    assert levels(found["slice classes"]) == {Level.ERROR}


async def test_a_pull_secret_that_is_missing_is_an_error(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, image_pull_secrets=["registry"])

    assert "registry is missing" in said(found["pull secret"])


async def test_a_storage_class_that_is_not_there_is_an_error(cluster, tmp_path):
    found = await doctor(cluster, tmp_path, storage_class="fast")

    assert levels(found["storage class"]) == {Level.ERROR}


async def test_a_quota_that_lets_no_server_in_is_said_before_the_class_finds_out(cluster, tmp_path):
    cluster.faults.quota({"pods": 0})

    found = await doctor(cluster, tmp_path)

    assert levels(found["a server"]) == {Level.ERROR}
    assert "exceeded quota" in said(found["a server"])


def test_every_right_says_what_is_lost_without_it():
    rights = wanted(claims=True, services=True, config_map="kube-system/hami-scheduler-device")

    found = judge(dict.fromkeys(rights, False), namespace="labs")

    assert all(finding.detail.count(":") and finding.advice.startswith("add to its") for finding in found)
    assert "resourceNames: [hami-scheduler-device], verbs: [get]" in said(found)
    assert "add to its ClusterRole" in said(found)
    assert judge(dict.fromkeys(rights, True), namespace="labs")[0].level is Level.OK


def agent(*, healthy: bool = True, memory: int = 6144, tested: str = "passed", at: datetime = NOW) -> str:
    card = CardState(
        uuid=GPU_1,
        index=0,
        name="A5000",
        memory_mib=24564,
        healthy=healthy,
        why="" if healthy else "lost",
        classes={"small": ClassUse(memory_mib=memory, cores_pct=25, count=3)},
    )
    use = SliceUse(
        name="s", class_name="small", devices=(), cards={GPU_1: Share(memory, 25)}, namespace="jhub", pod="jupyter-ann",
        container="notebook", tested=tested,
    )  # fmt: skip
    return render(NodeInventory(at=at, cards=(card,), slices=(use,)))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (agent(), ""),
        (agent(healthy=False), f"these cards do not answer: {GPU_1} (lost)"),
        (agent(memory=4096), "'small' is 6 GiB / 25 % for the hub, and 4 GiB / 25 % on node-1"),
        (agent(tested="failed"), "slices that do not hold, of: jupyter-ann"),
        (agent(at=NOW - timedelta(hours=2)), "its agent said nothing for 2 h"),
    ],
    ids=["well", "sick", "other size", "does not hold", "old"],
)
def test_what_agents_publish_is_compared_with_what_the_hub_is_set_to(annotation, words):
    slicing = SlicingSettings.model_validate({"strategy": "device-plugin", "classes": CLASSES})
    node = a_node(allocatable={"labspawner.io/gpu-small": 3}, annotations={ANNOTATION: annotation})

    found = looking.cards([node], slicing, (), NOW)

    bad = said([finding for finding in found if finding.level in {Level.WARNING, Level.ERROR}])
    assert words in bad
    assert bool(bad) is bool(words)


def test_what_is_wrong_with_hamis_nodes_is_said_node_by_node():
    slicing = SlicingSettings(strategy="hami")
    nodes = [
        a_node("a", annotations={REGISTER: CARD, HANDSHAKE: "Requesting_2026.11.22 08:00:00"}),
        a_node("b", annotations={REGISTER: CARD.replace("true", "false"), HANDSHAKE: "Deleted_2026.11.22 08:00:00"}),
        a_node("c", annotations={REGISTER: "nonsense"}),
    ]

    text = said(looking.cards(nodes, slicing, (), NOW))

    assert "b: HAMi's device plugin does not answer" in text
    assert f"b: HAMi calls these cards not healthy: {GPU_1}" in text
    assert "c: the annotation hami.io/node-nvidia-register cannot be read" in text
    assert "a:" not in text


def test_a_cluster_whose_nodes_take_no_pods_is_an_error():
    assert looking.machines([])[0].level is Level.ERROR
    assert looking.machines([a_node(ready=False)])[0].level is Level.ERROR
    assert levels(looking.machines([a_node("a"), a_node("b", cordoned=True)])) == {Level.OK, Level.WARNING}
