"""What stands between a request and the store: namespaces, service accounts, limits, pod security, quota, webhooks.

Order and texts as recorded: quota answers 403 before an existing name answers 409.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from labspawner.testing.kube import quantities
from labspawner.testing.kube.resources import (
    ACCOUNTS,
    CLAIMS,
    LIMIT_RANGES,
    NAMESPACES,
    PODS,
    PRIORITY_CLASSES,
    QUOTAS,
    RUNTIME_CLASSES,
    Json,
    Resource,
)
from labspawner.testing.kube.statuses import Cause, not_admitted, not_found
from labspawner.testing.kube.store import Store

Webhook = Callable[[Json], Json]
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


class Admission:
    """Lets an object in, perhaps changed, or raises Refused. `webhooks` see each pod that is created."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.webhooks: list[Webhook] = []

    def namespace(self, resource: Resource, namespace: str, name: str) -> None:
        """The namespace exists and does not end."""
        entry = self._store.get(NAMESPACES, "", namespace)
        if entry is None:
            raise not_found(NAMESPACES, namespace)
        if entry.obj["metadata"].get("deletionTimestamp"):
            cause = Cause("metadata.namespace", "NamespaceTerminating", f"namespace {namespace} is being terminated")
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise not_admitted(resource, name, why, [cause])

    def change(self, resource: Resource, obj: Json) -> Json:
        """`obj` with what the cluster adds to it."""
        if resource is not PODS:
            return obj
        name, namespace, spec = obj["metadata"].get("name") or "", obj["metadata"]["namespace"], obj["spec"]
        account = spec["serviceAccountName"]
        if self._store.get(ACCOUNTS, namespace, account) is None:
            what = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise not_admitted(resource, name, what)
        priority = spec.get("priorityClassName")
        if priority:
            obj = obj | {"spec": spec | {"priority": self._priority(name, priority)}}
        runtime = spec.get("runtimeClassName")
        if runtime and self._store.get(RUNTIME_CLASSES, "", runtime) is None:
            raise not_admitted(resource, name, f'pod rejected: RuntimeClass "{runtime}" not found')
        for webhook in self.webhooks:
            obj = webhook(obj)
        return self._with_limit_defaults(obj)

    def _priority(self, pod: str, name: str) -> int:
        entry = self._store.get(PRIORITY_CLASSES, "", name)
        if entry is None and name not in _SYSTEM_PRIORITIES:
            raise not_admitted(PODS, pod, f"no PriorityClass with name {name} was found")
        return int(entry.obj.get("value", 0)) if entry else _SYSTEM_PRIORITIES[name]

    def _container_limits(self, namespace: str) -> Iterator[Json]:
        for limits in self._store.objects(LIMIT_RANGES, namespace):
            yield from (item for item in limits["spec"].get("limits") or [] if item.get("type") == "Container")

    def _with_limit_defaults(self, obj: Json) -> Json:
        for item in self._container_limits(obj["metadata"]["namespace"]):
            containers, said = [], []
            for container in obj["spec"]["containers"]:
                resources = dict(container["resources"])
                for group, usual, word in (("requests", "defaultRequest", "request"), ("limits", "default", "limit")):
                    have = resources.get(group) or {}
                    added = {key: amount for key, amount in (item.get(usual) or {}).items() if key not in have}
                    said += [f"{key} {word} for container {container['name']}" for key in sorted(added)]
                    if added:
                        resources[group] = {**have, **added}
                containers.append(container | {"resources": resources})
            if said:
                annotations = obj["metadata"].get("annotations") or {}
                note = {"kubernetes.io/limit-ranger": "LimitRanger plugin set: " + "; ".join(said)}
                obj = obj | {
                    "metadata": obj["metadata"] | {"annotations": {**annotations, **note}},
                    "spec": obj["spec"] | {"containers": containers},
                }
        return obj

    def check(self, resource: Resource, obj: Json) -> None:
        """What may only refuse: limits, pod security, quota."""
        name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace", "")
        if resource is PODS:
            self._check_limits(name, namespace, obj)
            self._check_security(name, namespace, obj)
        for quota in self._store.objects(QUOTAS, namespace) if namespace else ():
            self._check_quota(resource, name, quota, obj)

    def _check_limits(self, name: str, namespace: str, obj: Json) -> None:
        for item in self._container_limits(namespace):
            for key, most in (item.get("max") or {}).items():
                for container in obj["spec"]["containers"]:
                    limit = (container["resources"].get("limits") or {}).get(key)
                    if limit is not None and quantities.value(limit) > quantities.value(most):
                        why = f"maximum {key} usage per Container is {most}, but limit is {limit}"
                        raise not_admitted(PODS, name, why)

    def _check_security(self, name: str, namespace: str, obj: Json) -> None:
        entry = self._store.get(NAMESPACES, "", namespace)
        labels = (entry.obj["metadata"].get("labels") or {}) if entry else {}
        if labels.get("pod-security.kubernetes.io/enforce") == "restricted" and (wrong := _unrestricted(obj["spec"])):
            raise not_admitted(PODS, name, f'violates PodSecurity "restricted:latest": {", ".join(wrong)}')

    def _check_quota(self, resource: Resource, name: str, quota: Json, obj: Json) -> None:
        hard = quota["spec"].get("hard") or {}
        wants = usage(resource, obj)
        if resource is PODS and (missing := _not_given(hard, obj)):
            raise not_admitted(resource, name, f"failed quota: {quota['metadata']['name']}: must specify {missing}")
        used = quota_used(self._store, quota)
        over = sorted(
            key
            for key in hard
            if key in wants and quantities.value(used[key]) + quantities.value(wants[key]) > quantities.value(hard[key])
        )
        if over:
            parts = (",".join(f"{key}={amounts[key]}" for key in over) for amounts in (wants, used, hard))
            requested, in_use, limited = parts
            why = f"exceeded quota: {quota['metadata']['name']}, requested: {requested}, used: {in_use}, limited: {limited}"
            raise not_admitted(resource, name, why)


def _not_given(hard: Json, obj: Json) -> str:
    """What a quota counts and a container does not say: "requests.memory for: notebook"."""
    wrong = []
    for key in sorted(hard):
        group, _, what = key.partition(".") if "." in key else ("requests", "", key)
        if group not in ("requests", "limits") or what not in ("cpu", "memory"):
            continue
        silent = [c["name"] for c in obj["spec"]["containers"] if what not in (c["resources"].get(group) or {})]
        if silent:
            wrong.append(f"{key} for: {','.join(silent)}")
    return "; ".join(wrong)


def _unrestricted(spec: Json) -> list[str]:
    pod, wrong = spec.get("securityContext") or {}, []
    for container in spec["containers"]:
        own, name = container.get("securityContext") or {}, container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            what = f'container "{name}" must set securityContext.allowPrivilegeEscalation=false'
            wrong.append(f"allowPrivilegeEscalation != false ({what})")
        if "ALL" not in ((own.get("capabilities") or {}).get("drop") or []):
            what = f'container "{name}" must set securityContext.capabilities.drop=["ALL"]'
            wrong.append(f"unrestricted capabilities ({what})")
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            what = f'pod or container "{name}" must set securityContext.runAsNonRoot=true'
            wrong.append(f"runAsNonRoot != true ({what})")
        if (own.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in (
            "RuntimeDefault",
            "Localhost",
        ):
            kinds = 'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
            wrong.append(f'seccompProfile (pod or container "{name}" must set {kinds})')
    return wrong


def usage(resource: Resource, obj: Json) -> dict[str, str]:
    """What one object counts for in a quota, by the quota's keys."""
    counts = {resource.plural: "1", f"count/{resource.plural}": "1"}
    if resource is CLAIMS:
        return counts | {"requests.storage": obj["spec"]["resources"]["requests"]["storage"]}
    if resource is not PODS:
        return counts
    sums: dict[str, list[str]] = {}
    for container in obj["spec"]["containers"]:
        for group in ("requests", "limits"):
            for key, amount in (container["resources"].get(group) or {}).items():
                sums.setdefault(f"{group}.{key}", []).append(amount)
    totals = {key: quantities.total(amounts) for key, amounts in sums.items()}
    plain = {key.partition(".")[2]: totals[key] for key in ("requests.cpu", "requests.memory") if key in totals}
    return counts | totals | plain


def quota_used(store: Store, quota: Json) -> dict[str, str]:
    """How much of each key of this quota is used now. Ended pods count no more."""
    namespace = quota["metadata"]["namespace"]
    found: dict[str, list[str]] = {key: [] for key in quota["spec"].get("hard") or {}}
    for resource in (PODS, CLAIMS):
        for obj in store.objects(resource, namespace):
            if resource is PODS and obj["status"]["phase"] in ("Succeeded", "Failed"):
                continue
            for key, amount in usage(resource, obj).items():
                if key in found:
                    found[key].append(amount)
    return {key: quantities.total(amounts) for key, amounts in sorted(found.items())}
