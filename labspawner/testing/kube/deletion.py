"""How things go: at once, after their finalizers, or, for a pod on a node, when the kubelet has ended it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from labspawner.testing.kube.clock import now, stamp
from labspawner.testing.kube.quantities import value
from labspawner.testing.kube.resources import (
    ACCOUNTS,
    CLAIMS,
    NAMESPACES,
    PODS,
    QUOTAS,
    SERVICES,
    VOLUMES,
    Json,
    Resource,
)
from labspawner.testing.kube.statuses import Cause, field_forbidden, precondition
from labspawner.testing.kube.world import World

_RETURNED = (PODS, CLAIMS, VOLUMES, SERVICES, ACCOUNTS, QUOTAS, NAMESPACES)  # a DELETE answers with the object


def check(resource: Resource, obj: Json, options: Json) -> None:
    """Refuse (409) what was not meant for this object."""
    wanted, metadata = options.get("preconditions") or {}, obj["metadata"]
    if "uid" in wanted and wanted["uid"] != metadata["uid"]:
        raise precondition(resource, metadata["name"], "UID", wanted["uid"], metadata["uid"])
    if "resourceVersion" in wanted and wanted["resourceVersion"] != metadata["resourceVersion"]:
        found = metadata["resourceVersion"]
        raise precondition(resource, metadata["name"], "ResourceVersion", wanted["resourceVersion"], found)


def delete(world: World, resource: Resource, obj: Json, options: Json) -> Json:
    """Begin or finish the end of `obj`; the body of the answer."""
    if resource is PODS:
        return _delete_pod(world, obj, options.get("gracePeriodSeconds"))
    metadata = obj["metadata"]
    held = resource is NAMESPACES or metadata.get("finalizers")
    if held and metadata.get("deletionTimestamp"):
        return obj
    if resource is NAMESPACES:
        ending = metadata | {"deletionTimestamp": stamp()}
        return world.store.put(resource, obj | {"metadata": ending, "status": {"phase": "Terminating"}}).obj
    if held:
        ending = metadata | {"deletionTimestamp": stamp(), "deletionGracePeriodSeconds": 0}
        return world.store.put(resource, obj | {"metadata": _ordered(ending)}).obj
    gone = world.store.remove(resource, metadata.get("namespace", ""), metadata["name"])
    if resource in _RETURNED and gone is not None:
        return obj
    details = {"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _delete_pod(world: World, obj: Json, grace_s: Any) -> Json:
    metadata, spec = obj["metadata"], obj["spec"]
    grace = spec["terminationGracePeriodSeconds"] if grace_s is None else max(int(grace_s), 0 if grace_s == 0 else 1)
    ended = obj["status"]["phase"] in ("Succeeded", "Failed")
    if not spec.get("nodeName") or ended:
        grace = 0  # nobody has to end anything
    terminating = bool(metadata.get("deletionTimestamp"))
    if terminating and grace > 0 and grace >= metadata.get("deletionGracePeriodSeconds", 0):
        return obj
    until = stamp(now() + timedelta(seconds=grace))
    fresh = 0 if terminating else 1
    ending = metadata | {
        "generation": metadata.get("generation", 1) + fresh,
        "deletionTimestamp": until,
        "deletionGracePeriodSeconds": grace,
    }
    marked = obj | {"metadata": _ordered(ending)}
    if grace > 0 or metadata.get("finalizers"):
        return world.store.put(PODS, marked).obj
    return finish(world, marked)


def finish(world: World, obj: Json) -> Json:
    """The last two steps of a pod: MODIFIED with grace 0, then DELETED; a finalizer holds it before the second."""
    metadata = obj["metadata"]
    ending = metadata | {
        "deletionTimestamp": metadata.get("deletionTimestamp", stamp()),
        "deletionGracePeriodSeconds": 0,
    }
    last = world.store.put(PODS, obj | {"metadata": _ordered(ending)}).obj
    if not metadata.get("finalizers"):
        world.store.remove(PODS, metadata["namespace"], metadata["name"])
    return last


def was_held(resource: Resource, old: Json, new: Json) -> bool:
    """Whether only finalizers held `old`, and `new` has none."""
    due = resource is not PODS or new["metadata"].get("deletionGracePeriodSeconds") == 0
    freed = old["metadata"].get("finalizers") and not new["metadata"].get("finalizers")
    return bool(due and freed and new["metadata"].get("deletionTimestamp"))


def shrinks(old: Json, new: Json) -> list[Cause]:
    """What is wrong with a claim that asks for less than it has."""
    have = (old.get("status") or {}).get("capacity", {}).get("storage")
    asked = new["spec"]["resources"]["requests"]["storage"]
    if have and value(asked) < value(have):
        return [field_forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")]
    return []


_FIRST = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def _ordered(metadata: Json) -> Json:
    return {key: metadata[key] for key in _FIRST if key in metadata} | metadata
