"""The three ways to patch: JSON patch, merge patch, and strategic merge as far as pods, nodes and metadata go. Pure."""

from __future__ import annotations

import copy
from typing import Any

from labspawner.testing.kube.resources import Json
from labspawner.testing.kube.statuses import patch_failed, unknown_patch_type

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

# The key by which the items of a list are told apart; a list that is not here is replaced.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "containerStatuses": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "imagePullSecrets": "name",
    "addresses": "type",
    "ownerReferences": "uid",
}


def patched(obj: Json, content_type: str, patch: Any) -> Json:
    """`obj` with `patch` applied; `obj` itself stays as it is. Raises Refused (415, 422)."""
    kind = content_type.split(";", maxsplit=1)[0].strip()
    if kind == JSON_PATCH:
        if not isinstance(patch, list):
            raise patch_failed()
        return _json_patch(copy.deepcopy(obj), patch)
    if kind in (MERGE_PATCH, APPLY_PATCH, STRATEGIC_PATCH):
        merged: Json = _merge(copy.deepcopy(obj), patch, strategic=kind != MERGE_PATCH)
        return merged
    raise unknown_patch_type()


def _merge(old: Any, new: Any, *, strategic: bool, key: str = "") -> Any:
    if isinstance(new, list) and isinstance(old, list) and strategic and key in _KEYS:
        return _merge_lists(old, new, _KEYS[key])
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    if strategic and new.get("$patch") == "replace":
        return {name: value for name, value in new.items() if name != "$patch"}
    for name, value in new.items():
        if name.startswith("$") and strategic:
            continue
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value, strategic=strategic, key=name)
    return result


def _merge_lists(old: list[Any], new: list[Any], key: str) -> list[Any]:
    result = list(old)
    for item in new:
        place = next((n for n, have in enumerate(result) if have.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(_merge({}, item, strategic=True))
        else:
            result[place] = _merge(result[place], item, strategic=True)
    return result


def _json_patch(obj: Json, operations: list[Any]) -> Json:
    try:
        for operation in operations:
            _apply(obj, operation)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise patch_failed() from None
    return obj


def _apply(obj: Json, operation: dict[str, Any]) -> None:
    verb, path = operation["op"], _pointer(operation["path"])
    if verb in ("move", "copy"):
        value = copy.deepcopy(_at(obj, _pointer(operation["from"])))
        if verb == "move":
            _remove(obj, _pointer(operation["from"]))
        _add(obj, path, value)
    elif verb == "add":
        _add(obj, path, operation["value"])
    elif verb == "remove":
        _remove(obj, path)
    elif verb == "replace":
        _at(obj, path)
        _remove(obj, path)
        _add(obj, path, operation["value"])
    elif verb == "test":
        if _at(obj, path) != operation["value"]:
            raise ValueError
    else:
        raise ValueError


def _pointer(text: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _at(obj: Any, path: list[str]) -> Any:
    for part in path:
        obj = obj[int(part)] if isinstance(obj, list) else obj[part]
    return obj


def _add(obj: Any, path: list[str], value: Any) -> None:
    parent = _at(obj, path[:-1])
    if isinstance(parent, list):
        parent.insert(len(parent) if path[-1] == "-" else int(path[-1]), value)
    else:
        parent[path[-1]] = value


def _remove(obj: Any, path: list[str]) -> None:
    parent = _at(obj, path[:-1])
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
