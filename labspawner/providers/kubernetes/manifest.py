"""The pod of a server, as it is sent: what KubeSpawner built, with our marks and the strategy's slice. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from labspawner.errors import BadConfig
from labspawner.model import LeaseId
from labspawner.naming import safe_name
from labspawner.providers.kubernetes.strategies.contract import PodPatch
from labspawner.sentences import Sentence

LEASE, HUB, PROVIDER, USER = (f"labspawner.io/{name}" for name in ("lease", "hub", "provider", "user"))
SERVER, PROFILE = "labspawner.io/server", "labspawner.io/profile"
MAIN = "notebook"
"""The container that KubeSpawner gives the server."""
_LONGEST_NAME = 63  # it is a host name too
_MARKS = {LEASE: "LABSPAWNER_LEASE_ID", HUB: "LABSPAWNER_HUB_ID", PROVIDER: "LABSPAWNER_PROVIDER"}

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Whose a pod is. user, server_name, profile: any text."""

    lease_id: LeaseId
    hub_id: str
    provider: str
    user: str
    server_name: str = ""
    profile: str = ""

    def labels(self) -> dict[str, str]:
        """For the pod, and all that lives as long."""
        return {LEASE: self.lease_id, **self.lasting_labels()}

    def lasting_labels(self) -> dict[str, str]:
        """For what outlives the lease: a student's claim."""
        return {HUB: self.hub_id, PROVIDER: safe_name(self.provider), USER: safe_name(self.user)}

    def annotations(self) -> dict[str, str]:
        """What people are called, as it is."""
        return {USER: self.user, SERVER: self.server_name, PROFILE: self.profile}

    def environment(self) -> dict[str, str]:
        """By which our extension in the server knows that we started it."""
        labels = self.labels()
        return {variable: labels[label] for label, variable in _MARKS.items()}


def selector(hub_id: str, provider: str) -> str:
    """Selects all that this provider of this hub has in a namespace."""
    return f"{HUB}={hub_id},{PROVIDER}={safe_name(provider)}"


def pod_name(stem: str, lease_id: LeaseId) -> str:
    """A name that begins as KubeSpawner's template says and belongs to this lease alone: no start ever meets the pod of
    another one, ending or of another hub."""
    room = _LONGEST_NAME - len(lease_id) - 1
    return f"{stem[:room].strip('-.') or 'jupyter'}-{lease_id}"


def finished(
    pod: Mapping[str, Any], *, name: str, marks: Marks, environment: Mapping[str, str], patch: PodPatch
) -> Manifest:
    """The pod to create. environment: the profile's. Raises BadConfig where something else already asks for what the
    strategy gives."""
    done: Manifest = deepcopy(dict(pod))
    meta = done.setdefault("metadata", {})
    meta["name"] = name
    meta["labels"] = {**(meta.get("labels") or {}), **patch.labels, **marks.labels()}
    meta["annotations"] = {**(meta.get("annotations") or {}), **patch.annotations, **marks.annotations()}
    spec = done["spec"]
    main = main_container(done)
    _set_environment(main, {**environment, **marks.environment(), **patch.environment})
    _ask_for(main, patch.limits)
    main.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")  # the last words, without a right to read logs
    if patch.volume_mounts:
        main["volumeMounts"] = [*(main.get("volumeMounts") or ()), *(dict(each) for each in patch.volume_mounts)]
    if patch.volumes:
        spec["volumes"] = [*(spec.get("volumes") or ()), *(dict(each) for each in patch.volumes)]
    if patch.node_selector:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **patch.node_selector}
    if patch.scheduler_name is not None:
        spec["schedulerName"] = patch.scheduler_name
    if patch.runtime_class is not None:
        spec["runtimeClassName"] = patch.runtime_class
    return done


def main_container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The container of the server: the one with KubeSpawner's name, else the first."""
    containers: list[dict[str, Any]] = pod["spec"]["containers"]
    return next((each for each in containers if each.get("name") == MAIN), containers[0])


def claim_of(pod: Mapping[str, Any], name: str) -> bool:
    """Whether the pod mounts the claim `name`."""
    volumes = pod["spec"].get("volumes") or ()
    return any((volume.get("persistentVolumeClaim") or {}).get("claimName") == name for volume in volumes)


def marked(obj: Mapping[str, Any], marks: Marks) -> Manifest:
    """A claim or service with our labels, those that last."""
    done: Manifest = deepcopy(dict(obj))
    meta = done.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), **marks.lasting_labels()}
    return done


def _set_environment(container: dict[str, Any], variables: Mapping[str, str]) -> None:
    before = [each for each in container.get("env") or () if each.get("name") not in variables]
    container["env"] = [*before, *({"name": name, "value": value} for name, value in variables.items())]


def _ask_for(container: dict[str, Any], limits: Mapping[str, int]) -> None:
    resources = container.setdefault("resources", {})
    for name, amount in limits.items():
        for part in ("limits", "requests"):
            asked = resources.setdefault(part, {})
            if name in asked and str(asked[name]) != str(amount):
                raise BadConfig(
                    Sentence(
                        "The profile asks for {name} in two ways: leave it out of extra_resource_limits and "
                        "extra_resource_guarantees, and write `gpu` alone.",
                        name=name,
                    )
                )
            asked[name] = str(amount)
