"""What the API server refuses of an object that KubeSpawner, or a profile, got wrong. Pure.

Only what our provider can meet: names, labels, annotations, containers, resources, volumes. Texts as recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from labspawner.testing.kube import quantities
from labspawner.testing.kube.resources import PODS, Json, Resource
from labspawner.testing.kube.statuses import (
    Cause,
    Refused,
    bad_request,
    duplicate,
    invalid_value,
    required,
    unsupported,
)

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_DNS_LABEL}')"
)
_LABEL = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_LABEL_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_LABEL}')"
)
_KEY = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_KEY_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_KEY}')"
)
_STANDARD = frozenset({"cpu", "memory", "ephemeral-storage"})
_LABEL_NAMED = frozenset({"namespaces", "services"})  # resources whose name is one DNS label


def problems(resource: Resource, obj: Json) -> list[Cause]:
    """Every field of a defaulted object that is wrong, in the API server's order; empty when it is good."""
    found = list(_metadata(resource, obj["metadata"]))
    if resource is PODS:
        found += _pod_spec(obj.get("spec") or {})
    if resource.plural == "persistentvolumeclaims":
        found += _claim_spec(obj.get("spec") or {})
    return found


def _metadata(resource: Resource, metadata: Json) -> Iterator[Cause]:
    name = metadata.get("name") or ""
    one_label = resource.plural in _LABEL_NAMED
    pattern, text, longest = (_DNS_LABEL, _DNS_LABEL_TEXT, 63) if one_label else (_SUBDOMAIN, _SUBDOMAIN_TEXT, 253)
    if resource.group == "rbac.authorization.k8s.io":
        pattern = text = ""  # path segments, not DNS names
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif len(name) > longest:
        yield invalid_value("metadata.name", name, f"must be no more than {longest} characters")
    elif pattern and not re.fullmatch(pattern, name):
        yield invalid_value("metadata.name", name, text)
    yield from _labels("metadata.labels", metadata.get("labels") or {})
    for key in metadata.get("annotations") or {}:
        yield from _key("metadata.annotations", key)


def _labels(where: str, labels: dict[str, str]) -> Iterator[Cause]:
    for key, value in labels.items():
        yield from _key(where, key)
        if len(value) > 63:
            yield invalid_value(where, value, "must be no more than 63 characters")
        elif not re.fullmatch(_LABEL, value):
            yield invalid_value(where, value, _LABEL_TEXT)


def _key(where: str, key: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not prefix:
        yield invalid_value(where, key, "prefix part must be non-empty")
    elif prefix and not re.fullmatch(_SUBDOMAIN, prefix):
        yield invalid_value(where, key, f"prefix part {_SUBDOMAIN_TEXT}")
    if not name:
        yield invalid_value(where, key, "name part must be non-empty")
    elif len(name) > 63:
        yield invalid_value(where, key, "name part must be no more than 63 characters")
    elif not re.fullmatch(_KEY, name):
        yield invalid_value(where, key, _KEY_TEXT)


def _pod_spec(spec: Json) -> Iterator[Cause]:
    volumes: set[str] = set()
    for number, volume in enumerate(spec.get("volumes") or []):
        where = f"spec.volumes[{number}].name"
        yield from _dns_label(where, volume.get("name") or "", volumes)
    names: set[str] = set()
    if not spec.get("containers"):
        yield required("spec.containers")
    for group in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(group) or []):
            yield from _container(f"spec.{group}[{number}]", container, names, volumes)
    policy = spec.get("restartPolicy")
    if policy not in ("Always", "OnFailure", "Never"):
        yield unsupported("spec.restartPolicy", str(policy), ["Always", "OnFailure", "Never"])
    yield from _labels("spec.nodeSelector", spec.get("nodeSelector") or {})


def _dns_label(where: str, name: str, seen: set[str]) -> Iterator[Cause]:
    if not name:
        yield required(where)
    elif name in seen:
        yield duplicate(where, name)
    elif len(name) > 63:
        yield invalid_value(where, name, "must be no more than 63 characters")
    elif not re.fullmatch(_DNS_LABEL, name):
        yield invalid_value(where, name, _DNS_LABEL_TEXT)
    seen.add(name)


def _container(where: str, container: Json, names: set[str], volumes: set[str]) -> Iterator[Cause]:
    yield from _dns_label(f"{where}.name", container.get("name") or "", names)
    if not container.get("image"):
        yield required(f"{where}.image")
    for number, variable in enumerate(container.get("env") or []):
        if not variable.get("name"):
            yield required(f"{where}.env[{number}].name")
    mounted: set[str] = set()
    for number, mount in enumerate(container.get("volumeMounts") or []):
        place, path = f"{where}.volumeMounts[{number}]", mount.get("mountPath") or ""
        if mount.get("name") not in volumes:
            yield Cause(f"{place}.name", "FieldValueNotFound", f'Not found: "{mount.get("name") or ""}"')
        if not path:
            yield required(f"{place}.mountPath")
        elif path in mounted:
            yield invalid_value(f"{place}.mountPath", path, "must be unique")
        mounted.add(path)
    yield from _resources(f"{where}.resources", container.get("resources") or {})


def _resources(where: str, resources: Json) -> Iterator[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for group, amounts in (("limits", limits), ("requests", requests)):
        for name in sorted(amounts):
            yield from _amount(f"{where}.{group}[{name}]", name, amounts[name])
            if group == "requests":
                yield from _request(where, name, amounts[name], limits.get(name))


def _amount(where: str, name: str, amount: str) -> Iterator[Cause]:
    standard = name in _STANDARD or name.startswith("hugepages-")
    if not standard and "/" not in name:
        yield invalid_value(where, name, "must be a standard resource type or fully qualified")
        yield invalid_value(where, name, "must be a standard resource for containers")
        return
    number = quantities.value(amount)
    if number < 0:
        yield invalid_value(where, amount, "must be greater than or equal to 0")
    elif not standard and number.denominator != 1:
        yield invalid_value(where, amount, "must be an integer")


def _request(where: str, name: str, amount: str, limit: str | None) -> Iterator[Cause]:
    overcommitable = name in _STANDARD
    if limit is None:
        if not overcommitable and "/" in name:
            yield required(f"{where}.limits", "Limit must be set for non overcommitable resources")
    elif overcommitable and quantities.value(amount) > quantities.value(limit):
        yield invalid_value(f"{where}.requests", amount, f"must be less than or equal to {name} limit of {limit}")
    elif not overcommitable and quantities.value(amount) != quantities.value(limit):
        yield invalid_value(f"{where}.requests", amount, f"must be equal to {name} limit of {limit}")


def _claim_spec(spec: Json) -> Iterator[Cause]:
    if not spec.get("accessModes"):
        yield required("spec.accessModes", "at least 1 access mode is required")
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        yield required("spec.resources[storage]")
    elif quantities.value(storage) <= 0:
        yield invalid_value("spec.resources[storage]", storage, "must be greater than zero")


_INTEGERS = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "priority")
_KNOWN_SPEC = frozenset(
    """
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy
    enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname
    hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy
    priority priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName
    schedulerName schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN
    shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints
    volumes
    """.split()  # noqa: SIM905 - forty lines else
)


def decoded(resource: Resource, body: Any, *, strict: bool) -> Json:
    """`body` as an object of this resource; raises Refused (400) for another kind, a wrong type, or an unknown field
    when `strict`. Unknown fields are dropped otherwise."""
    kind = body.get("kind") or resource.kind
    what = f'{kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
    if kind != resource.kind:
        raise bad_request(f"{what}: converting (v1.{kind}) to (core.{resource.kind}): unknown conversion")
    if resource is PODS and isinstance(body.get("spec"), dict):
        spec = body["spec"]
        for name in _INTEGERS:
            if isinstance(spec.get(name), str):
                raise bad_request(
                    f"{what}: json: cannot unmarshal string into Go struct field PodSpec.spec.{name} of type int64"
                )
        unknown = [name for name in spec if name not in _KNOWN_SPEC]
        if unknown and strict:
            raise bad_request(f'{what}: strict decoding error: unknown field "spec.{unknown[0]}"')
        body = body | {"spec": {name: value for name, value in spec.items() if name in _KNOWN_SPEC}}
    return dict(body)


def not_a_quantity(resource: Resource) -> Refused:
    what = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
    return bad_request(f"{what}: {quantities.PATTERN_REFUSED}")
