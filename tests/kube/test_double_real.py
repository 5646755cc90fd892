"""`RealCluster`, which stands for the double on a real cluster, tried on the double."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kube.asking import a_pod, is_ready

from labspawner.testing.kube import KubeDouble
from labspawner.testing.kube.real import RealCluster, real_cluster
from labspawner.testing.waiting import eventually_sync

OURS = {"app.kubernetes.io/managed-by": "labspawner"}


@pytest.fixture
def double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    return new_double(runs="still")


def test_it_sees_and_deletes_what_is_ours(double: KubeDouble, tmp_path: Path) -> None:
    real = RealCluster(double.kubeconfig(tmp_path), double.namespace, double.image, "127.0.0.1")
    double.apply(a_pod("ours", labels=OURS))
    double.apply(a_pod("others"))
    eventually_sync(lambda: is_ready(double, "ours") and is_ready(double, "others"))

    seen = [pod["metadata"]["name"] for pod in real.pods()]
    reasons = [event["reason"] for event in real.events("ours")]
    real.delete("pods", "ours", grace_s=0)

    assert seen == ["ours"]
    assert "Started" in reasons
    assert real.pods() == []


def test_it_empties_the_namespace_of_what_is_ours_and_of_nothing_else(double: KubeDouble, tmp_path: Path) -> None:
    double.apply(a_pod("ours", labels=OURS))
    double.apply(a_pod("others"))

    with RealCluster(double.kubeconfig(tmp_path), double.namespace, double.image, "127.0.0.1"):
        left = [pod["metadata"]["name"] for pod in double.pods()]

    assert left == ["others"]


async def test_it_can_be_asked_from_a_test_with_a_loop(double: KubeDouble, tmp_path: Path) -> None:
    real = RealCluster(double.kubeconfig(tmp_path), double.namespace, double.image, "127.0.0.1")

    with pytest.raises(LookupError):
        real.pod("nope")


def test_without_a_kubeconfig_there_is_no_real_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    assert real_cluster() is None


def test_a_kubeconfig_alone_is_not_enough(double: KubeDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(tmp_path)))
    monkeypatch.delenv("LABSPAWNER_KUBE_NAMESPACE", raising=False)

    with pytest.raises(KeyError, match="LABSPAWNER_KUBE_NAMESPACE"):
        real_cluster()
