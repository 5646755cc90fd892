"""A provider is opened without a cluster, and without kubespawner it says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import BadConfig
from labspawner.model import Handle, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Announcing, Forgetting, Keeping, Provider, ProviderContext
from labspawner.providers.kubernetes.provider import KubernetesProvider


def opened(folder: Path, **settings: Any) -> KubernetesProvider:
    return KubernetesProvider(ProviderContext(name="kubernetes", hub_id="hub", data_dir=folder), settings)


def test_a_hub_that_names_it_needs_no_kubespawner_until_it_is_opened():
    program = (
        "import sys; import labspawner.providers.kubernetes.provider; "
        "sys.exit('kubespawner' in sys.modules or 'kubernetes_asyncio' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode == 0


@pytest.mark.parametrize("missing", ["kubespawner", "kubernetes_asyncio"])
def test_without_kubespawner_the_hub_says_which_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
):
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(BadConfig, match=r"pip install 'labspawner\[kubernetes\]'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"no_such": 1}, "no_such"),
        ({"kubespawner": {"imgae": "x"}}, "imgae"),
        ({"gpu": {"strategy": "device-plugin"}}, "classes"),
        ({"gpu": {"strategy": "mig"}}, "strategy"),
    ],
)
def test_a_wrong_setting_is_said_when_the_hub_starts(tmp_path: Path, settings: dict[str, Any], words: str):
    with pytest.raises(BadConfig, match=words):
        opened(tmp_path, **settings)


async def test_it_keeps_the_contract_and_both_optional_parts(tmp_path: Path):
    provider = opened(tmp_path)

    assert isinstance(provider, Provider)
    assert isinstance(provider, Announcing)
    assert isinstance(provider, Forgetting)
    await provider.close()


async def test_without_credentials_it_opens_and_says_so_when_it_is_asked(tmp_path: Path):
    provider = opened(tmp_path, kubeconfig=str(tmp_path / "missing"))
    handle = Handle(lease_id=new_lease_id(), provider="kubernetes", data={"pod": "p", "namespace": "n"})

    with pytest.raises(BadConfig) as failure:
        await provider.capacity()

    assert "credentials" in failure.value.message
    assert await provider.observe([handle]) == {handle.lease_id: ServerState.UNKNOWN}
    await provider.close()


@pytest.mark.parametrize(
    ("variant", "attributes", "keeps"),
    [
        ({}, {}, False),
        ({"storage": {}}, {}, True),
        ({"storage": {"size": "10GiB", "retain": "keep"}}, {}, True),
        ({"storage": {"retain": "delete"}}, {"storage_pvc_ensure": True}, False),
        ({}, {"storage_pvc_ensure": True}, True),
        ({}, {"volumes": [{"name": "homes", "nfs": {"server": "files", "path": "/homes"}}]}, True),
    ],
)
def test_it_says_before_the_start_whether_files_are_kept(
    tmp_path: Path, variant: dict[str, Any], attributes: dict[str, Any], keeps: bool
):
    provider = opened(tmp_path, hub_config={"KubeSpawner": attributes})

    assert isinstance(provider, Keeping)
    assert provider.keeps_files(variant) is keeps
