"""The environment and command line of a container, from its spec. Pure but for the lookup that it is given."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping

from labspawner.testing.kube.resources import CONFIG_MAPS, SECRETS, Json, Resource

Lookup = Callable[[Resource, str], "Json | None"]  # resource, name -> object of the pod's namespace
_REFERENCE = re.compile(r"\$(\$)?\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


class ConfigError(Exception):
    """A container cannot be made: the text is that of CreateContainerConfigError."""


def environment(pod: Json, container: Json, address: str, lookup: Lookup) -> dict[str, str]:
    """What the container's `envFrom` and `env` say. Raises ConfigError for a missing secret, config map or key."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for key, resource in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
            if key in source:
                data = _data(resource, source[key], lookup)
                found |= {source.get("prefix", "") + name: value for name, value in data.items()}
    for variable in container.get("env") or []:
        value = variable.get("value", "")
        if "valueFrom" in variable:
            value = _from(pod, container, variable["valueFrom"], address, lookup)
        if value is not None:
            found[variable["name"]] = expanded(value, found)
    return found


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`text` with each $(NAME) that is known replaced; $$(NAME) is $(NAME)."""

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        return known.get(match[2], match[0])

    return _REFERENCE.sub(one, text)


def _data(resource: Resource, reference: Json, lookup: Lookup) -> dict[str, str]:
    obj = lookup(resource, reference["name"])
    if obj is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{resource.plural.removesuffix("s")} "{reference["name"]}" not found')
    data = obj.get("data") or {}
    if resource is SECRETS:
        plain = {key: base64.b64decode(value).decode() for key, value in data.items()}
        return plain | dict(obj.get("stringData") or {})
    return dict(data)


def _from(pod: Json, container: Json, source: Json, address: str, lookup: Lookup) -> str | None:
    for key, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
        if key in source:
            return _key(pod, resource, source[key], lookup)
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], address)
    if "resourceFieldRef" in source:
        group, _, name = source["resourceFieldRef"]["resource"].partition(".")
        return str(((container.get("resources") or {}).get(group) or {}).get(name, ""))
    return ""


def _key(pod: Json, resource: Resource, reference: Json, lookup: Lookup) -> str | None:
    data = _data(resource, reference, lookup)
    if reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    kind = "Secret" if resource is SECRETS else "ConfigMap"
    where = f"{pod['metadata']['namespace']}/{reference['name']}"
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {where}")


def _field(pod: Json, path: str, address: str) -> str:
    if path in ("status.podIP", "status.podIPs"):
        return address
    match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if match:
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    value: object = pod
    for key in path.split("."):
        value = value.get(key, "") if isinstance(value, dict) else ""
    return str(value)
