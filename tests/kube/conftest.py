"""`cluster`: the double, or with `-m kube` the real Kubernetes of KUBECONFIG; `kube_double` where its faults are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labspawner.testing.kube import KubeDouble
from labspawner.testing.kube.real import RealCluster, real_cluster


@pytest.fixture
def new_double() -> Iterator[Callable[..., KubeDouble]]:
    """Starts doubles, with any of KubeDouble's arguments, and closes them after the test."""
    started: list[KubeDouble] = []

    def start(*arguments: object, **options: object) -> KubeDouble:
        double = KubeDouble(*arguments, **options)  # type: ignore[arg-type]
        started.append(double)
        return double.start()

    yield start
    for double in reversed(started):
        double.close()


@pytest.fixture
def kube_double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    """A double with one node of 8 CPUs, 32 GiB and 10 x nvidia.com/gpu, whose pods are processes."""
    from labspawner.testing.kube import a_node

    return new_double([a_node(extended={"nvidia.com/gpu": 10})])


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KubeDouble | RealCluster]:
    """What a provider test runs on: a real API server where one was asked for, else the double."""
    chosen = str(request.config.getoption("-m") or "").split()
    real = real_cluster() if "kube" in chosen and "not" not in chosen else None
    if real is None:
        yield request.getfixturevalue("kube_double")
        return
    with real:
        yield real
