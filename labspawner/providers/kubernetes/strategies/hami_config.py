"""HAMi's device config (its ConfigMap), read into our settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from labspawner.errors import BadConfig
from labspawner.providers.kubernetes.strategies.options import HamiSettings
from labspawner.sentences import Sentence

FILE = "device-config.yaml"
_NAMES = {
    "resourceCountName": "count",
    "resourceMemoryName": "memory",
    "resourceCoreName": "cores",
    "resourcePriorityName": "priority",
}


def with_device_config(settings: HamiSettings, text: str) -> HamiSettings:
    """`settings` with the names, the memory factor and the MIG geometries that HAMi itself was given. text: the ConfigMap's
    `device-config.yaml`. Raises BadConfig where it cannot be read."""
    try:
        data = YAML(typ="safe", pure=True).load(text)
        nvidia = data.get("nvidia") if isinstance(data, Mapping) else None
        if not isinstance(nvidia, Mapping):
            raise ValueError("there is no section `nvidia` in it")
        changes: dict[str, Any] = {ours: nvidia[theirs] for theirs, ours in _NAMES.items() if nvidia.get(theirs)}
        if isinstance(nvidia.get("memoryFactor"), int) and nvidia["memoryFactor"] > 1:
            changes["memory_factor"] = nvidia["memoryFactor"]
        if geometries := [_model(each) for each in nvidia.get("knownMigGeometries") or ()]:
            changes["mig"] = [model for model in geometries if model["geometries"]]
        return HamiSettings.model_validate({**settings.model_dump(), **changes})
    except (YAMLError, ValidationError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise BadConfig(
            Sentence("HAMi's device config on this cluster cannot be read. Tell your administrator."),
            detail=f"{FILE}: {' '.join(str(exc).split())[:300]}",
        ) from exc


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of `knownMigGeometries`: each geometry a list of instances, in some versions below `geometries`, in some
    written without the inner list."""
    geometries: list[list[dict[str, Any]]] = []
    for each in entry.get("allowedGeometries") or ():
        inner = each.get("geometries") if isinstance(each, Mapping) and "geometries" in each else each
        geometries.append([_instance(one) for one in (inner if isinstance(inner, list) else [inner])])
    return {"models": [str(model) for model in entry["models"]], "geometries": geometries}


def _instance(entry: Any) -> dict[str, Any]:
    return {"name": str(entry.get("name") or ""), "memory": int(entry["memory"]), "count": int(entry.get("count") or 1)}
