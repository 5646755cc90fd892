"""The Kubernetes provider keeps the contract, with real processes in the pods of the double or of a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import LabError, NeverFits, StartFailed
from labspawner.model import Feature, LaunchRequest, Resources
from labspawner.providers.contract import Provider
from labspawner.providers.kubernetes.provider import KubernetesProvider
from labspawner.testing import tinyserver
from labspawner.testing.conformance import ProviderConformance
from labspawner.testing.kube import KubeDouble

from .pods import pod_request

COMMANDS = {
    "dies": tinyserver.command(say="Traceback: boom", die_after_s=0.0, exit_code=3, never_listen=True),
    "silent": tinyserver.command(never_listen=True),
}


@pytest.mark.kube  # and on the double, where no real cluster was asked for
class TestKubernetes(ProviderConformance):
    """The whole kit."""

    entry_point = "labspawner.providers.kubernetes.provider:KubernetesProvider"
    features = frozenset({Feature.LOGS})
    checkpoints = 1
    slow_stages = ("silent",)
    failing_stages = ("image", "dies", "silent", "too large")
    concurrency = 8
    settle_s = 20.0
    scarce_settings = {"max_servers": 1}

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Any, tmp_path: Path) -> None:
        self.cluster = cluster
        self.settings = {  # type: ignore[misc]
            "kubeconfig": str(cluster.kubeconfig(tmp_path)),
            "namespace": cluster.namespace,
            "patience_s": 1.0,
            "request_timeout_s": 60.0,
            "pending_s": 1.0,
        }

    def request(self, **changes: Any) -> LaunchRequest:
        return pod_request(self.cluster.image, **changes)

    def slow_request(self, stage: str, **changes: Any) -> LaunchRequest:
        return self.request(**{"command": COMMANDS[stage], **changes})

    def failing_request(self, stage: str, **changes: Any) -> LaunchRequest:
        if stage == "image":
            return self.request(**{"settings": {"image": "lab/misspelt:404"}, **changes})
        if stage == "too large":
            return self.request(**{"resources": Resources(memory_bytes=2**50), **changes})
        deadline = {"ready_timeout_s": 1.0} if stage == "silent" else {}
        return self.request(**{"command": COMMANDS[stage], **deadline, **changes})

    def failing_error(self, stage: str) -> type[LabError]:
        return NeverFits if stage == "too large" else StartFailed

    def failing_words(self, stage: str) -> str:
        return "Traceback: boom" if stage == "dies" else ""

    def dying_request(self, **changes: Any) -> LaunchRequest:
        return self.request(**{"command": tinyserver.command(die_when_asked=True), **changes})

    @contextmanager
    def break_host(self, provider: Provider) -> Iterator[None]:
        double = self._double()
        double.faults.down()
        try:
            yield
        finally:
            double.faults.up()

    @contextmanager
    def break_listing(self, provider: Provider) -> Iterator[None]:
        double = self._double()
        double.faults.refuse("list", "pods", 500, times=None)
        try:
            yield
        finally:
            double.faults.heal()

    def listings(self, provider: Provider) -> int | None:
        assert isinstance(provider, KubernetesProvider)
        return provider.cluster.lists

    async def left_on_host(self, root: Path) -> list[str]:
        if not isinstance(self.cluster, KubeDouble):
            return []
        return [pod["metadata"]["name"] for pod in self.cluster.pods()]

    def _double(self) -> KubeDouble:
        if not isinstance(self.cluster, KubeDouble):
            pytest.skip("a real API server cannot be broken from here")
        return self.cluster
