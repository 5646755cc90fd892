"""The scheduler stand-in: what fits where, what it says when nothing does, and HAMi's accounting by card."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kube.asking import a_pod, condition, is_gone, is_ready

from labspawner.testing.kube import HamiCard, KubeDouble, a_node, registered
from labspawner.testing.waiting import eventually_sync

GPU = "nvidia.com/gpu"


def _refused(double: KubeDouble, name: str = "p") -> str:
    return str(eventually_sync(lambda: condition(double, "PodScheduled", name).get("message", "")))


def _node_of(double: KubeDouble, name: str = "p") -> str:
    return str(eventually_sync(lambda: double.pod(name)["spec"].get("nodeName", "")))


def test_an_exhausted_resource_may_come_free(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node(extended={GPU: 10})], runs="still")
    double.apply(a_pod("holder", limits={GPU: 8}))
    double.apply(a_pod(limits={GPU: 4}))

    said = _refused(double)

    assert said == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    assert said in [event["message"] for event in double.events("p") if event["reason"] == "FailedScheduling"]


def test_what_is_larger_than_the_node_never_comes(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node(memory="32Gi")], runs="still")
    double.apply(a_pod(limits={"memory": "900Gi", "nvidia.com/mig-1g.10gb": 1}))

    assert _refused(double) == (
        "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/mig-1g.10gb. no new claims to "
        "deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )


def test_each_node_has_a_reason_of_its_own(new_double: Callable[..., KubeDouble]) -> None:
    taint = {"key": "lab/fake", "value": "", "effect": "NoSchedule"}
    double = new_double([a_node(extended={GPU: 1}), a_node("other", taints=[taint])], runs="still")
    double.apply(a_pod("holder", limits={GPU: 1}))
    double.apply(a_pod(limits={GPU: 1}))

    assert _refused(double) == (
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {lab/fake: }. no new "
        "claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, "
        "1 Preemption is not helpful for scheduling."
    )


def test_a_freed_device_is_taken_by_who_waits(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node(extended={"labspawner.io/gpu-small": 1})], runs="still")
    double.apply(a_pod("first", limits={"labspawner.io/gpu-small": 1}))
    double.apply(a_pod("second", limits={"labspawner.io/gpu-small": 1}))
    _refused(double, "second")

    double.delete("pods", "first")

    eventually_sync(lambda: is_gone(double, "first") and is_ready(double, "second"))


def test_resources_that_a_device_plugin_adds_let_pods_in(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double(runs="still")
    double.apply(a_pod(limits={"labspawner.io/gpu-small": 1}))
    _refused(double)

    double.set_resources("labnode", {"labspawner.io/gpu-small": 4})

    eventually_sync(lambda: is_ready(double))


def test_a_toleration_and_a_selector_find_their_node(new_double: Callable[..., KubeDouble]) -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    double = new_double([a_node(), a_node("gpus", labels={"pool": "gpu"}, taints=[taint])], runs="still")

    double.apply(a_pod(nodeSelector={"pool": "gpu"}, tolerations=[{"key": "gpu", "operator": "Exists"}]))

    assert _node_of(double) == "gpus"


def test_pods_spread_over_the_nodes(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node("a"), a_node("b")], runs="still")
    for name in ("one", "two"):
        double.apply(a_pod(name, limits={"cpu": 1}))

    assert {_node_of(double, name) for name in ("one", "two")} == {"a", "b"}


def test_a_cluster_without_nodes_says_so(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([], runs="still")
    double.apply(a_pod())

    assert _refused(double) == "no nodes available to schedule pods"


# HAMi

CARDS = (HamiCard("GPU-a"), HamiCard("GPU-b"))


@pytest.fixture(params=[False, True], ids=["text", "json"])
def hami(request: pytest.FixtureRequest, new_double: Callable[..., KubeDouble]) -> KubeDouble:
    """A node with two cards of 24564 MiB, registered in the older and in the newer form."""
    double = new_double([a_node(extended={GPU: 20})], runs="still")
    double.install_hami()
    double.annotate_node("labnode", registered(CARDS, as_json=request.param))
    return double


def _slice(name: str, mib: int, cores: int = 10, cards: int = 1, **spec: object) -> dict[str, object]:
    limits = {GPU: cards, "nvidia.com/gpumem": mib, "nvidia.com/gpucores": cores}
    return a_pod(name, limits=limits, **spec)


def _notes(double: KubeDouble, name: str) -> dict[str, str]:
    return dict(double.pod(name)["metadata"].get("annotations") or {})


def test_hami_writes_what_it_chose_on_the_pod(hami: KubeDouble) -> None:
    hami.apply(_slice("p", 6144, 25))

    eventually_sync(lambda: is_ready(hami))
    notes = _notes(hami, "p")

    assert hami.pod("p")["spec"]["schedulerName"] == "hami-scheduler"
    assert notes["hami.io/vgpu-node"] == "labnode"
    assert notes["hami.io/vgpu-devices-allocated"] == "GPU-a,NVIDIA,6144,25:;"
    assert notes["hami.io/bind-phase"] == "success"


def test_hami_counts_each_card_and_never_their_sum(hami: KubeDouble) -> None:
    for number in range(2):
        hami.apply(_slice(f"p{number}", 16384))
        eventually_sync(lambda number=number: is_ready(hami, f"p{number}"))

    hami.apply(_slice("third", 10000))  # 8180 MiB are free on each

    assert "NodeUnfitPod" in _refused(hami, "third")
    cards = {_notes(hami, name)["hami.io/vgpu-devices-allocated"].split(",")[0] for name in ("p0", "p1")}
    assert cards == {"GPU-a", "GPU-b"}


def test_four_slices_of_six_gib_do_not_fit_a_card_that_reports_less(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node()], runs="still")
    double.install_hami()
    double.annotate_node("labnode", registered([HamiCard("GPU-a", memory_mib=24564)]))
    for number in range(4):
        double.apply(_slice(f"p{number}", 6144, 25))

    eventually_sync(lambda: sum(is_ready(double, f"p{number}") for number in range(4)) == 3)
    assert "NodeUnfitPod" in _refused(double, "p3")


def test_a_share_that_is_freed_is_given_to_who_waits(hami: KubeDouble) -> None:
    for name in ("one", "two", "three"):
        hami.apply(_slice(name, 20000))
    _refused(hami, "three")

    hami.delete("pods", "one")

    eventually_sync(lambda: is_ready(hami, "three"))


def test_a_pod_with_two_cards_gets_two_different_ones(hami: KubeDouble) -> None:
    hami.apply(_slice("p", 6144, 25, cards=2))

    eventually_sync(lambda: is_ready(hami))

    assert _notes(hami, "p")["hami.io/vgpu-devices-allocated"] == "GPU-a,NVIDIA,6144,25:GPU-b,NVIDIA,6144,25:;"


def test_without_the_webhook_the_stock_scheduler_sees_the_pod(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node(extended={GPU: 10})], runs="still")
    double.install_hami(webhook=False)
    double.apply(_slice("p", 6144))

    assert "Insufficient nvidia.com/gpumem" in _refused(double)
    assert double.pod("p")["spec"]["schedulerName"] == "default-scheduler"


def test_without_the_scheduler_nobody_says_anything(hami: KubeDouble) -> None:
    hami.install_hami(scheduler=False)
    hami.apply(_slice("p", 6144))
    hami.apply(a_pod("other"))  # of the stock scheduler

    eventually_sync(lambda: is_ready(hami, "other"))

    assert hami.pod("p")["spec"]["schedulerName"] == "hami-scheduler"
    assert "conditions" not in hami.pod("p")["status"]
    assert hami.events("p") == []


def test_a_failed_allocation_is_the_bind_phase(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double([a_node()], runs="still")
    double.install_hami(allocation_fails=True)
    double.annotate_node("labnode", registered(CARDS))

    double.apply(_slice("p", 6144))

    eventually_sync(lambda: _notes(double, "p").get("hami.io/bind-phase") == "failed")
