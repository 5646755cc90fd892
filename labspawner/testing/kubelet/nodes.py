"""The kubelet's double as the device manager of a node of the double cluster: plugins' devices become its pods'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from labspawner.testing.kube.running import NotAdmitted
from labspawner.testing.kubelet.container import Grant
from labspawner.testing.kubelet.double import AdmissionError, KubeletDouble, NotEnough

_WORDS = "Allocate failed due to {}, which is unexpected"


class Cluster(Protocol):
    """What is needed of a KubeDouble."""

    def set_resources(self, name: str, amounts: Mapping[str, int | str]) -> None: ...


class NodeDevices:
    """A `labspawner.testing.kube.Devices`: give it to `cluster.use_devices`. What plugins offer stands in the node's status.

    Containers of that double have no mounts: their processes get variables that name the files on the host.
    """

    def __init__(self, kubelet: KubeletDouble, cluster: Cluster, node: str = "labnode") -> None:
        self._kubelet, self._node = kubelet, node
        self.grants: dict[tuple[str, str, str], Grant] = {}
        kubelet.on_change = lambda resource, count: cluster.set_resources(node, {resource: count})

    def allocate(self, node: str, pod: Mapping[str, Any], container: Mapping[str, Any]) -> Mapping[str, str]:
        """The variables that the container's devices bring. Raises NotAdmitted."""
        limits = (container.get("resources") or {}).get("limits") or {}
        wanted = {name: int(count) for name, count in limits.items() if self._kubelet.capacity(name)}
        if node != self._node or not wanted:
            return {}
        namespace, name = _key(pod)
        try:
            grant = self._kubelet.admit(namespace, name, wanted, container=container["name"])
        except AdmissionError as exc:
            prefix, _, suffix = _WORDS.partition("{}")
            raise NotAdmitted(str(exc).removeprefix(prefix).removesuffix(suffix)) from exc
        except NotEnough as exc:
            raise NotAdmitted(f"requested number of devices unavailable: {exc}") from exc
        self.grants[namespace, name, container["name"]] = grant
        return grant.outside()

    def free(self, node: str, pod: Mapping[str, Any]) -> None:
        """The pod is gone."""
        if node == self._node:
            self._kubelet.remove(*_key(pod))


def _key(pod: Mapping[str, Any]) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]
