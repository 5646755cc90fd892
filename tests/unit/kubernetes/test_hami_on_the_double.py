"""Our strategy and a scheduler that counts as HAMi's does agree, pod by pod, on the API server double."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from labspawner.model import Capacity, Resources, Slice
from labspawner.placement import places
from labspawner.providers.kubernetes.strategies.contract import Kind
from labspawner.providers.kubernetes.strategies.hami import Hami
from labspawner.providers.kubernetes.views import EventView, NodeView, PodView
from labspawner.providers.kubernetes.wishes import GpuWish
from labspawner.testing.kube import KubeDouble, a_node
from labspawner.testing.kube.hami import HamiCard, registered
from labspawner.testing.waiting import eventually

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
MIB = 2**20
CARDS = [HamiCard("GPU-1", memory_mib=24564), HamiCard("GPU-2", memory_mib=16384, split=2)]
HAMI = Hami()


@pytest.fixture(params=[False, True], ids=["text", "json"])
def cluster(request: pytest.FixtureRequest) -> Iterator[KubeDouble]:
    with KubeDouble([a_node(cpu=64, memory="256Gi", extended={"nvidia.com/gpu": 20})], runs="still") as double:
        double.annotate_node("labnode", registered(CARDS, as_json=request.param))
        double.install_hami()
        yield double


def a_server(cluster: KubeDouble, name: str, mib: int, cores: int) -> PodView:
    """A pod as the provider would make it, as the API server answers."""
    patch = HAMI.patch(Slice(memory_bytes=mib * MIB, compute_pct=cores), GpuWish())
    limits: dict[str, Any] = {key: str(amount) for key, amount in patch.limits.items()}
    container = {"name": "notebook", "image": cluster.image, "resources": {"limits": limits}}
    return PodView.of(
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": cluster.namespace, "annotations": dict(patch.annotations)},
                "spec": {"containers": [container]},
            }
        )
    )


def seen(cluster: KubeDouble) -> tuple[list[NodeView], list[PodView]]:
    return [NodeView.of(cluster.node())], [PodView.of(pod) for pod in cluster.pods()]


def has_place(cluster: KubeDouble, name: str) -> bool:
    pod = PodView.of(cluster.pod(name))
    return bool(pod.node) or pod.condition("PodScheduled") is not None


def free(cluster: KubeDouble, mib: int, cores: int) -> int:
    nodes, pods = seen(cluster)
    capacity = Capacity(hosts=HAMI.capacity(nodes, pods), taken_at=NOW)
    return places(Resources(gpu=Slice(memory_bytes=mib * MIB, compute_pct=cores)), capacity, {}, most=30)


async def test_the_places_that_we_count_are_the_places_that_it_gives(cluster):
    assert free(cluster, 6144, 25) == 5, "three on the first card, two on the second, which is split in two"

    for number in range(5):
        made = a_server(cluster, f"s{number}", 6144, 25)
        assert HAMI.untouched(made) is None, "its webhook named its scheduler"
        await eventually(lambda n=number: PodView.of(cluster.pod(f"s{n}")).node != "", deadline_s=60)
        assert free(cluster, 6144, 25) == 4 - number

    granted = [HAMI.granted(PodView.of(cluster.pod(f"s{number}"))) for number in range(5)]
    assert sorted(slices[0].card for slices in granted if slices) == ["GPU-1"] * 3 + ["GPU-2"] * 2
    assert {slices[0].memory_bytes for slices in granted if slices} == {6144 * MIB}


async def test_a_pod_that_waits_for_a_slice_is_told_full_and_one_too_large_never(cluster):
    for number in range(5):
        a_server(cluster, f"s{number}", 6144, 25)
    await eventually(lambda: all(PodView.of(pod).node for pod in cluster.pods()), deadline_s=60)

    a_server(cluster, "late", 6144, 25)
    a_server(cluster, "huge", 30000, 25)
    await eventually(lambda: has_place(cluster, "late") and has_place(cluster, "huge"), deadline_s=60)

    nodes, pods = seen(cluster)
    by_name = {pod.name: pod for pod in pods}
    events = [EventView.of(event) for event in cluster.events()]
    late = HAMI.why_waiting(by_name["late"], events, nodes, pods)
    huge = HAMI.why_waiting(by_name["huge"], events, nodes, pods)
    assert late is not None
    assert late.kind is Kind.FULL
    assert "No card has 6 GiB free now" in late.message
    assert huge is not None
    assert huge.kind is Kind.NEVER
    assert "the largest card has 24 GiB" in huge.message


async def test_a_freed_slice_counts_at_once(cluster):
    a_server(cluster, "s0", 20000, 50)
    await eventually(lambda: PodView.of(cluster.pod("s0")).node != "", deadline_s=60)
    assert free(cluster, 20000, 50) == 0

    cluster.delete("pods", "s0", grace_s=0)
    await eventually(lambda: not cluster.pods(), deadline_s=60)

    assert free(cluster, 20000, 50) == 1


async def test_half_an_installation_of_hami_is_noticed(cluster):
    cluster.install_hami(webhook=False)

    made = a_server(cluster, "unseen", 6144, 25)

    found = HAMI.why_waiting(made, (), (), ())
    assert found is not None
    assert found.kind is Kind.FAILED
    assert "HAMi's webhook" in found.message
