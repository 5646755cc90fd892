"""What an administrator writes for an adapter, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jupyterhub.spawner import SimpleLocalProcessSpawner

from labspawner.errors import BadConfig
from labspawner.providers.adapter import AdapterProvider, AdapterSettings
from labspawner.providers.adapter.options import spawner_class
from labspawner.providers.contract import ProviderContext


@pytest.mark.parametrize(
    "name",
    ["simple", "jupyterhub.spawner:SimpleLocalProcessSpawner", "jupyterhub.spawner.SimpleLocalProcessSpawner"],
)
def test_a_class_is_named_by_entry_point_or_by_its_path(name: str) -> None:
    assert spawner_class(name) is SimpleLocalProcessSpawner


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "spawner_class"),
        ({"spawner_class": "dockerspawner.nowhere:DockerSpawner"}, "cannot be imported"),
        ({"spawner_class": "jupyterhub.spawner:NoSuch"}, "cannot be imported"),
        ({"spawner_class": "not a name"}, "cannot be imported"),
        ({"spawner_class": "pathlib:Path"}, "not a JupyterHub Spawner"),
        ({"spawner_class": "simple", "config": {"home_dir_tempalte": "/x"}}, "home_dir_tempalte"),
        ({"spawner_class": "simple", "config": {"cmd": ["x"]}}, "cmd is set by labspawner"),
        ({"spawner_class": "simple", "variant_traits": ["image"]}, "image"),
        ({"spawner_class": "simple", "max_servers": 0}, "max_servers"),
    ],
)
def test_a_wrong_setting_is_explained_at_hub_start(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=said):
        AdapterProvider(ProviderContext(name="adapter", hub_id="h", data_dir=tmp_path), settings)


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in AdapterSettings.model_fields.values())
