"""A real cluster in the double's place: what tests need of it that do not break it, from KUBECONFIG and four variables.

`LABSPAWNER_KUBE_NAMESPACE`: where pods are made; it is emptied of what carries our labels and of nothing else.
`LABSPAWNER_KUBE_IMAGE`: an image with jupyterhub-singleuser, on the nodes or pulled IfNotPresent.
`LABSPAWNER_KUBE_HUB_HOST`: the address at which pods reach the hub. No DNS and no Services are assumed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_OURS = "app.kubernetes.io/managed-by in (labspawner,kubespawner)"


class RealCluster:
    """The part of `KubeDouble` that a real cluster has: where it is, what is in it, and deleting by hand."""

    runs = "real"

    def __init__(self, kubeconfig: Path, namespace: str, image: str, hub_host: str) -> None:
        self._kubeconfig, self.namespace, self.image, self.hub_host = kubeconfig, namespace, image, hub_host

    def kubeconfig(self, folder: Path) -> Path:
        """A copy of the real one in `folder`."""
        path = folder / "kubeconfig"
        shutil.copyfile(self._kubeconfig, path)
        path.chmod(0o600)
        return path

    def pods(self, namespace: str | None = None) -> list[dict[str, Any]]:
        where = namespace or self.namespace
        return self._items(lambda core: core.list_namespaced_pod(where, label_selector=_OURS))

    def pod(self, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Raises LookupError when there is none."""
        for pod in self.pods(namespace):
            if pod["metadata"]["name"] == name:
                return pod
        raise LookupError(f"no pod {name}")

    def events(self, name: str = "", namespace: str | None = None) -> list[dict[str, Any]]:
        """The events about objects of this name, or all."""
        found = self._items(lambda core: core.list_namespaced_event(namespace or self.namespace))
        return [event for event in found if name in ("", event["involvedObject"]["name"])]

    def delete(self, plural: str, name: str, namespace: str | None = None, *, grace_s: int | None = None) -> None:
        """Delete a pod or claim as an administrator does by hand."""
        singular = {"pods": "pod", "persistentvolumeclaims": "persistent_volume_claim"}[plural]
        where, more = namespace or self.namespace, {} if grace_s is None else {"grace_period_seconds": grace_s}
        self._ask(lambda core: getattr(core, f"delete_namespaced_{singular}")(name, where, **more))

    def _items(self, call: Callable[[Any], Awaitable[Any]]) -> list[dict[str, Any]]:
        async def plain(core: Any) -> list[dict[str, Any]]:
            found = await call(core)
            return [core.api_client.sanitize_for_serialization(item) for item in found.items]

        return self._ask(plain)

    def _ask(self, call: Callable[[Any], Awaitable[T]]) -> T:
        from kubernetes_asyncio import client, config  # noqa: PLC0415 - only where a real cluster is

        async def ask() -> T:
            settings = client.Configuration()
            await config.load_kube_config(str(self._kubeconfig), client_configuration=settings)
            async with client.ApiClient(settings) as api:
                return await call(client.CoreV1Api(api))

        with ThreadPoolExecutor(1) as apart:  # a test may have a loop of its own
            return apart.submit(lambda: asyncio.run(ask())).result()

    def __enter__(self) -> RealCluster:
        self._empty()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._empty()

    def _empty(self) -> None:
        for plural in ("pod", "persistent_volume_claim"):
            self._ask(
                lambda core, plural=plural: getattr(core, f"delete_collection_namespaced_{plural}")(  # type: ignore[misc]
                    self.namespace, label_selector=_OURS, grace_period_seconds=0
                )
            )


def real_cluster() -> RealCluster | None:
    """The real cluster, None where KUBECONFIG names none. Raises KeyError for a variable that it also needs."""
    path = os.environ.get("KUBECONFIG", "")
    if not path or not Path(path).is_file():
        return None
    names = ("LABSPAWNER_KUBE_NAMESPACE", "LABSPAWNER_KUBE_IMAGE", "LABSPAWNER_KUBE_HUB_HOST")
    namespace, image, host = (os.environ[name] for name in names)
    return RealCluster(Path(path), namespace, image, host)
