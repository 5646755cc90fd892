"""The controller-manager's part: claims are bound, namespaces end, what belongs to a gone pod goes, quotas are counted."""

from __future__ import annotations

from datetime import datetime

from labspawner.testing.kube import quantities
from labspawner.testing.kube.admission import quota_used
from labspawner.testing.kube.clock import new_uid, now, stamp
from labspawner.testing.kube.deletion import delete
from labspawner.testing.kube.resources import (
    ACCOUNTS,
    CLAIMS,
    EVENTS,
    NAMESPACES,
    PODS,
    QUOTAS,
    RESOURCES,
    VOLUMES,
    Json,
)
from labspawner.testing.kube.store import Change
from labspawner.testing.kube.world import World

_BINDER = "persistentvolume-controller"
_BOUND = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}


class Controllers:
    """All controllers in one; each acts soon after the change that it waits for.

    storage: claims without a storage class are bound to a volume made for them, as a default StorageClass would.
    Without, only a PersistentVolume that is there already binds a claim, as on the recorded cluster.
    """

    def __init__(self, world: World, *, storage: bool) -> None:
        self._world, self._store, self.storage = world, world.store, storage
        world.store.listeners.append(self._heard)

    def _heard(self, change: Change) -> None:
        resource, obj = change.resource, change.after.obj
        metadata = obj["metadata"]
        if resource is NAMESPACES and not change.deleted:
            ending = metadata.get("deletionTimestamp")
            act = self._end_namespace if ending else self._settle
            self._world.soon(lambda: act(metadata["name"]))
        if resource is VOLUMES and not change.deleted:
            ending = metadata.get("deletionTimestamp") and obj["status"]["phase"] != "Bound"
            self._world.soon((lambda: self._forget_volume(metadata["name"])) if ending else self.look_again)
        if resource is CLAIMS and not change.deleted:
            self._world.soon(
                lambda: self._claim(metadata["namespace"], metadata["name"]), self._world.pace.bind_claim_s
            )
        if resource is PODS and change.deleted:
            self._world.soon(lambda: self._pod_gone(obj))
        if resource in (PODS, CLAIMS, QUOTAS):
            self._world.soon(lambda: self._count(metadata["namespace"]))

    # namespaces

    def _settle(self, name: str) -> None:
        if self._store.get(NAMESPACES, "", name) and not self._store.get(ACCOUNTS, name, "default"):
            head = {"name": "default", "namespace": name, "uid": new_uid(), "resourceVersion": ""}
            metadata = head | {"creationTimestamp": stamp()}
            self._store.put(ACCOUNTS, {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": metadata})

    def _end_namespace(self, name: str) -> None:
        entry = self._store.get(NAMESPACES, "", name)
        if entry is None:
            return
        began = datetime.strptime(entry.obj["metadata"]["deletionTimestamp"], "%Y-%m-%dT%H:%M:%S%z")
        if (now() - began).total_seconds() < self._world.pace.end_namespace_s:
            self._world.soon(lambda: self._end_namespace(name), 0.02)
            return
        for resource in RESOURCES:
            if resource.namespaced and resource is not EVENTS:
                for obj in list(self._store.objects(resource, name)):
                    if not obj["metadata"].get("deletionTimestamp"):
                        delete(self._world, resource, obj, {})
        if any(True for _ in self._store.objects(PODS, name)) or any(True for _ in self._store.objects(CLAIMS, name)):
            self._world.soon(lambda: self._end_namespace(name), 0.02)
            return
        for event in list(self._store.objects(EVENTS, name)):
            self._store.remove(EVENTS, name, event["metadata"]["name"])
        status = entry.obj["status"] | {"conditions": _nothing_left()}
        self._store.put(NAMESPACES, entry.obj | {"status": status})
        self._store.remove(NAMESPACES, "", name)

    # claims

    def look_again(self) -> None:
        for claim in list(self._store.objects(CLAIMS)):
            self._claim(claim["metadata"]["namespace"], claim["metadata"]["name"])

    def _claim(self, namespace: str, name: str) -> None:
        entry = self._store.get(CLAIMS, namespace, name)
        if entry is None:
            return
        claim = entry.obj
        if claim["metadata"].get("deletionTimestamp"):
            self._let_go(claim)
        elif claim["status"]["phase"] == "Pending":
            self._bind(claim)

    def _bind(self, claim: Json) -> None:
        wanted = quantities.value(claim["spec"]["resources"]["requests"]["storage"])
        volume = next((v for v in self._store.objects(VOLUMES) if _fits(v, claim, wanted)), None)
        if not self._world.faults.claims_bind or (volume is None and not self._makes_volumes(claim)):
            text = "no persistent volumes available for this claim and no storage class is set"
            self._world.events.counted(claim, "Normal", "FailedBinding", text, component=_BINDER)
            return
        metadata = claim["metadata"]
        if volume is not None:
            reference = {key: metadata[key] for key in ("namespace", "name", "uid", "resourceVersion")}
            spec = volume["spec"] | {"claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", **reference}}
            status = {"phase": "Bound", "lastPhaseTransitionTime": stamp()}
            noted = volume["metadata"] | {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}
            self._store.put(VOLUMES, volume | {"metadata": noted, "spec": spec, "status": status})
        size = volume["spec"]["capacity"] if volume else claim["spec"]["resources"]["requests"]
        name = volume["metadata"]["name"] if volume else f"pvc-{metadata['uid']}"
        annotations = {**(metadata.get("annotations") or {}), **_BOUND}
        chosen = claim | {
            "metadata": metadata | {"annotations": annotations},
            "spec": claim["spec"] | {"volumeName": name},
        }
        filled: Json = {"phase": "Bound", "accessModes": claim["spec"]["accessModes"], "capacity": dict(size)}
        self._store.put(CLAIMS, chosen)  # two steps, as recorded
        self._store.put(CLAIMS, chosen | {"status": filled})

    def _makes_volumes(self, claim: Json) -> bool:
        return self.storage and claim["spec"].get("storageClassName") != ""

    def _let_go(self, claim: Json) -> None:
        """A claim that ends goes when no pod with a node uses it."""
        metadata = claim["metadata"]
        if metadata.get("finalizers") not in (["kubernetes.io/pvc-protection"], None):
            return
        for pod in self._store.objects(PODS, metadata["namespace"]):
            ended = pod["status"]["phase"] in ("Succeeded", "Failed")
            if pod["spec"].get("nodeName") and not ended and metadata["name"] in _claims_of(pod):
                return
        self._store.remove(CLAIMS, metadata["namespace"], metadata["name"])
        for volume in list(self._store.objects(VOLUMES)):
            if (volume["spec"].get("claimRef") or {}).get("uid") == metadata["uid"]:
                status = {"phase": "Released", "lastPhaseTransitionTime": stamp()}
                self._store.put(VOLUMES, volume | {"status": status})

    def _forget_volume(self, name: str) -> None:
        self._store.remove(VOLUMES, "", name)

    # pods

    def _pod_gone(self, pod: Json) -> None:
        for name in _claims_of(pod):
            self._claim(pod["metadata"]["namespace"], name)
        uid, namespace = pod["metadata"]["uid"], pod["metadata"]["namespace"]
        for resource in RESOURCES:
            if resource is EVENTS or not resource.namespaced:
                continue
            for obj in list(self._store.objects(resource, namespace)):
                if any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or []):
                    delete(self._world, resource, obj, {})

    def _count(self, namespace: str) -> None:
        for quota in list(self._store.objects(QUOTAS, namespace)):
            hard = quota["spec"].get("hard") or {}
            status = {"hard": hard, "used": quota_used(self._store, quota)}
            self._store.put(QUOTAS, quota | {"status": status})


def _nothing_left() -> list[Json]:
    said = {
        "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
        "NamespaceDeletionGroupVersionParsingFailure": (
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        "NamespaceDeletionContentFailure": (
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
        "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    }
    head = {"status": "False", "lastTransitionTime": stamp()}
    return [{"type": kind, **head, "reason": reason, "message": text} for kind, (reason, text) in said.items()]


def _claims_of(pod: Json) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    return [v["persistentVolumeClaim"]["claimName"] for v in volumes if v.get("persistentVolumeClaim")]


def _fits(volume: Json, claim: Json, wanted: object) -> bool:
    spec = volume["spec"]
    same_class = (spec.get("storageClassName") or "") == (claim["spec"].get("storageClassName") or "")
    free = not spec.get("claimRef") and volume["status"].get("phase") in ("Pending", "Available")
    return bool(same_class and free and quantities.value(spec["capacity"]["storage"]) >= wanted)  # type: ignore[operator]
