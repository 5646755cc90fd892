"""What the API server adds to an object that is created, so that what comes back is what the real one sends. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from labspawner.testing.kube import quantities
from labspawner.testing.kube.clock import stamp
from labspawner.testing.kube.resources import Json, Resource

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_TOLERATED = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for what in ("not-ready", "unreachable")
]
_PROBES = ("readinessProbe", "livenessProbe", "startupProbe")


def suffix() -> str:
    """Five characters, as `generateName` gets them."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(5))


def complete(resource: Resource, obj: Json) -> Json:
    """`obj` with the server's defaults for its kind, in a new object. Raises BadQuantity."""
    fill = _FILL.get(resource.plural)
    return obj | fill(_without_empty(obj.get("spec") or {})) if fill else obj


def _pod(spec: Json) -> Json:
    spec = _pod_spec(spec)
    return {"spec": spec, "status": {"phase": "Pending", "qosClass": quality(spec)}}


def _claim(spec: Json) -> Json:
    return {"spec": _claim_spec(spec), "status": {"phase": "Pending"}}


def _volume(spec: Json) -> Json:
    spec = {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem", **spec}
    if not spec.get("storageClassName"):
        spec.pop("storageClassName", None)
    return {"spec": spec, "status": {"phase": "Pending", "lastPhaseTransitionTime": stamp()}}


def _namespace(_spec: Json) -> Json:
    return {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


def _service(spec: Json) -> Json:
    return {"spec": _service_spec(spec), "status": {"loadBalancer": {}}}


def _quota(spec: Json) -> Json:
    return {"spec": spec, "status": {}}


def _limits(spec: Json) -> Json:
    return {"spec": {**spec, "limits": [_limit(item) for item in spec.get("limits") or []]}}


def _without_empty(value: Any) -> Any:
    """As Go writes it: empty lists, nulls, and a variable's empty value are left out; empty objects stay."""
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, []) and (key, item) != ("value", "")}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _pod_spec(spec: Json) -> Json:
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec = {
        **spec,
        "containers": [_container(item) for item in spec.get("containers") or []],
        "restartPolicy": spec.get("restartPolicy", "Always"),
        "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 30),
        "dnsPolicy": spec.get("dnsPolicy", "ClusterFirst"),
        "serviceAccountName": account,
        "serviceAccount": account,
        "securityContext": spec.get("securityContext", {}),
        "schedulerName": spec.get("schedulerName", "default-scheduler"),
        "tolerations": _tolerations(spec.get("tolerations") or []),
        "priority": spec.get("priority", 0),
        "enableServiceLinks": spec.get("enableServiceLinks", True),
        "preemptionPolicy": spec.get("preemptionPolicy", "PreemptLowerPriority"),
    }
    if spec.get("initContainers"):
        spec["initContainers"] = [_container(item) for item in spec["initContainers"]]
    return spec if spec.get("automountServiceAccountToken") is False else _with_token(spec)


def _tolerations(given: list[Json]) -> list[Json]:
    have = {(item.get("key"), item.get("effect")) for item in given}
    return [*given, *(dict(item) for item in _TOLERATED if (item["key"], item["effect"]) not in have)]


def _with_token(spec: Json) -> Json:
    name, path = f"kube-api-access-{suffix()}", "/var/run/secrets/kubernetes.io/serviceaccount"
    sources: list[Json] = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    volume = {"name": name, "projected": {"sources": sources, "defaultMode": 420}}
    mount = {"name": name, "readOnly": True, "mountPath": path}
    containers = []
    for item in spec["containers"]:
        mounts = item.get("volumeMounts") or []
        own = any(have.get("mountPath") == path for have in mounts)
        containers.append(item if own else item | {"volumeMounts": [*mounts, mount]})
    return spec | {"volumes": [*(spec.get("volumes") or []), volume], "containers": containers}


def _container(container: Json) -> Json:
    image = container.get("image") or ""
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    result = {
        **container,
        "resources": _resources(container.get("resources") or {}),
        "terminationMessagePath": container.get("terminationMessagePath", "/dev/termination-log"),
        "terminationMessagePolicy": container.get("terminationMessagePolicy", "File"),
        "imagePullPolicy": container.get("imagePullPolicy", "Always" if latest else "IfNotPresent"),
    }
    if "ports" in container:
        result["ports"] = [{"protocol": "TCP", **port} for port in container["ports"]]
    for probe in _PROBES:
        if probe in container:
            usual = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
            result[probe] = {**usual, **container[probe]}
    return result


def _resources(resources: Json) -> Json:
    limits = _amounts(resources.get("limits") or {})
    requests = _amounts(resources.get("requests") or {})
    requests = {**limits, **requests} if limits else requests
    result = {key: value for key, value in resources.items() if key not in ("limits", "requests")}
    return result | ({"limits": limits} if limits else {}) | ({"requests": requests} if requests else {})


def _amounts(amounts: Json) -> dict[str, str]:
    return {name: quantities.canonical(quantities.as_text(amount)) for name, amount in sorted(amounts.items())}


def quality(spec: Json) -> str:
    """The qosClass of a defaulted pod: extended resources alone leave it BestEffort."""
    exact, any_set = True, False
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        resources = container["resources"]
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        any_set = any_set or any(name in limits or name in requests for name in ("cpu", "memory"))
        exact = exact and all(name in limits and requests.get(name) == limits[name] for name in ("cpu", "memory"))
    return "BestEffort" if not any_set else "Guaranteed" if exact else "Burstable"


def _limit(item: Json) -> Json:
    """One limit of a range: what is not said follows from what is."""
    usual = {**(item.get("max") or {}), **(item.get("default") or {})}
    return {**item, "default": usual, "defaultRequest": {**usual, **(item.get("defaultRequest") or {})}}


def _claim_spec(spec: Json) -> Json:
    resources = _resources_of_claim(spec.get("resources") or {})
    return {**spec, "resources": resources, "volumeMode": spec.get("volumeMode", "Filesystem")}


def _resources_of_claim(resources: Json) -> Json:
    return {group: _amounts(amounts) if isinstance(amounts, dict) else amounts for group, amounts in resources.items()}


def _service_spec(spec: Json) -> Json:
    ports = [{"protocol": "TCP", "targetPort": port.get("port"), **port} for port in spec.get("ports") or []]
    address = spec.get("clusterIP") or f"10.96.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
    usual = {
        "clusterIP": address,
        "clusterIPs": [address],
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
    }
    return {**usual, **spec, **({"ports": ports} if ports else {})}


_FILL: Mapping[str, Callable[[Json], Json]] = {
    "pods": _pod,
    "persistentvolumeclaims": _claim,
    "persistentvolumes": _volume,
    "namespaces": _namespace,
    "services": _service,
    "resourcequotas": _quota,
    "limitranges": _limits,
}
