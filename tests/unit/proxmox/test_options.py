"""What an administrator and a profile may say, and what they read when it cannot be."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from labspawner.errors import BadConfig
from labspawner.providers.options import read_options
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant

SECRET = "5ec2e7-5ec2e7-5ec2e7"
TOKEN = f"labs@pve!hub={SECRET}"
PRINT = "ab" * 32
ENOUGH: dict[str, Any] = {"endpoints": "https://pve1:8006", "token": TOKEN}


def _settings(**changes: Any) -> ProxmoxSettings:
    given = {key: value for key, value in {**ENOUGH, **changes}.items() if value is not None}
    return read_options(ProxmoxSettings, given, where="provider")


def _variant(**given: Any) -> ProxmoxVariant:
    return read_options(ProxmoxVariant, given, where="variant")


def _refusal(model: type[BaseModel], given: dict[str, Any]) -> str:
    with pytest.raises(BadConfig) as refused:
        read_options(model, given, where="here")
    assert SECRET not in f"{refused.value.message}{refused.value}{refused.value.__cause__}"
    return refused.value.message


# -- the provider


def test_endpoints_and_a_token_are_enough():
    settings = _settings()

    assert settings.endpoints == ("https://pve1:8006",)
    assert (settings.vmids.first, settings.vmids.last) == (20_000, 29_999)
    assert settings.cool_down == timedelta(minutes=10)
    assert settings.pool == "labspawner"
    assert settings.addresses == {}
    assert settings.pace == 1


def test_no_page_and_no_log_shows_the_token():
    settings = _settings()

    assert SECRET not in f"{settings!r}{settings}{json.dumps(settings.model_dump(mode='json'), default=str)}"
    assert settings.token is not None
    assert settings.token.get_secret_value() == TOKEN


@pytest.mark.parametrize(
    ("given", "endpoints"),
    [
        ("pve1", ("https://pve1:8006",)),
        ("pve1, pve2:443 https://10.0.0.3", ("https://pve1:8006", "https://pve2:443", "https://10.0.0.3:8006")),
        (["https://pve1:8006/", "pve2"], ("https://pve1:8006", "https://pve2:8006")),
        ("https://[fd00::1]:8006", ("https://[fd00::1]:8006",)),
    ],
)
def test_endpoints_may_be_written_as_people_write_them(given: object, endpoints: tuple[str, ...]):
    assert _settings(endpoints=given).endpoints == endpoints


def test_one_fingerprint_is_for_all_and_several_for_one_each():
    written = ":".join(["AB"] * 32)

    one = _settings(endpoints="pve1,pve2", fingerprint=PRINT)
    each = _settings(endpoints="pve1,pve2", fingerprint=f"{PRINT},{'cd' * 32}")

    assert [one.fingerprint_of(endpoint) for endpoint in one.endpoints] == [written, written]
    assert each.fingerprint_of("https://pve2:8006") == ":".join(["CD"] * 32)
    assert _settings().fingerprint_of("https://pve1:8006") is None


def test_sizes_times_and_pools_are_read_with_their_units():
    settings = _settings(
        cool_down="1h",
        vmids="700-799",
        nodes={"pve1": {"memory": "48GiB", "cores": 16}, "pve2": {}},
        addresses={"dl101": "10.0.0.5-10.0.0.9/24 gw 10.0.0.1", "default": "10.1.0.5"},
    )

    assert settings.cool_down == timedelta(hours=1)
    assert len(settings.vmids) == 100
    assert settings.nodes["pve1"].memory == 48 * 2**30
    assert {name: pool.name for name, pool in settings.addresses.items()} == {"dl101": "dl101", "default": "default"}


def test_one_pool_may_be_written_as_a_text():
    assert list(_settings(addresses="10.0.0.5-10.0.0.6").addresses) == ["default"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endpoints": None}, "endpoints"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": "http://pve1"}, "for example https://pve1.example.org:8006"),
        ({"endpoints": "https://pve1:99999"}, "is no endpoint"),
        ({"endpoints": "https://pve1/api2/json"}, "is no endpoint"),
        ({"endpoints": "https://root:pw@pve1"}, "is no endpoint"),
        ({"token": None}, "write one of token_file, token, or username"),
        ({"token_file": "/run/token"}, "write one of token_file, token, or username"),
        ({"token": f"labs@pve={SECRET}"}, "a token is written user@realm!name=secret"),
        ({"token": None, "token_file": "token"}, "write an absolute path"),
        ({"token": None, "username": "root@pam"}, "belong together"),
        ({"token": None, "username": "root", "password_file": "/run/pw"}, "write for example root@pve"),
        ({"fingerprint": "AB:CD"}, "64 hexadecimal digits"),
        ({"endpoints": "a,b,c", "fingerprint": [PRINT, PRINT]}, "or 3, one for each"),
        ({"pool": "my pool"}, "is no name as Proxmox VE writes it"),
        ({"vmids": "5-10"}, "for example 20000-29999"),
        ({"cool_down": 10}, "write 10m for minutes"),
        ({"cool_down": -1}, "is not a time"),
        ({"addresses": {"default": "10.0.0.9-10.0.0.1"}}, "write the smaller address first"),
        ({"addresses": ["10.0.0.9"]}, "write pools by name"),
        ({"nodes": {"pve1": {"memory": 48}}}, "write 48GiB"),
        ({"hub_connect_url": "hub:8081"}, "is no URL"),
        ({"placement": "random"}, "placement"),
        ({"memory_overcommit": 0.5}, "memory_overcommit"),
        ({"verify_ssl": False}, "there is no setting 'verify_ssl'"),
    ],
)
def test_a_wrong_setting_is_said_at_hub_start_with_what_to_write(changes: dict[str, Any], says: str):
    given = {key: value for key, value in {**ENOUGH, **changes}.items() if value is not None}

    assert says in _refusal(ProxmoxSettings, given)


def test_every_setting_is_explained():
    for model in (ProxmoxSettings, ProxmoxVariant):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


# -- a variant


def test_a_template_is_enough():
    variant = _variant(template=9100)

    assert variant.template == "9100"
    assert variant.serves_jupyter
    assert not variant.offers_desktop
    assert variant.home_dir == "/home/student"


def test_all_that_a_profile_may_say_together():
    variant = _variant(
        template="ubuntu-dl",
        cpu_type="x86-64-v2-AES",
        user="ann",
        home="/srv/ann",
        ssh=True,
        ssh_keys=["ecdsa-sha2-nistp256 AAAA+/= a", " ssh-ed25519 BBBB "],
        environment={"COURSE": "dl101"},
        default_url="/lab",
        bridge="vmbr1",
        vlan=42,
        pci={"mapping": "gpu", "type": "nvidia-231"},
    )

    assert variant.ssh_keys == ("ecdsa-sha2-nistp256 AAAA+/= a", "ssh-ed25519 BBBB")
    assert variant.home_dir == "/srv/ann"
    assert _settings(hub_connect_url="http://10.0.0.1:8081/").hub_connect_url == "http://10.0.0.1:8081"


@pytest.mark.parametrize(
    ("given", "jupyter", "desktop"),
    [
        ({}, True, False),
        ({"desktop": True}, True, True),
        ({"jupyter": False}, False, True),
        ({"os": "windows"}, False, True),
        ({"os": "windows", "desktop": True}, False, True),
    ],
)
def test_who_has_no_jupyterlab_has_a_desktop(given: dict[str, Any], jupyter: bool, desktop: bool):
    variant = _variant(**given)

    assert (variant.serves_jupyter, variant.offers_desktop) == (jupyter, desktop)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"os": "windows", "jupyter": True}, "students get the desktop"),
        ({"jupyter": False, "desktop": False}, "nothing to open"),
        ({"pci": {"mapping": "gpu"}, "hibernate": True}, "cannot be hibernated"),
        ({"pci": {"mapping": "gpu"}, "balloon": "1GiB"}, "leave balloon out"),
        ({"pci": {"mapping": "gpu", "primary": True}, "os": "windows"}, "leave primary out"),
        ({"pci": {"mapping": "0000:01:00.0"}}, "is not the name of a resource mapping"),
        ({"pci": {"mapping": "gpu", "type": "nvidia 231"}}, "write for example nvidia-231"),
        ({"pci": {"mapping": "gpu,romfile=x"}}, "is not the name of a resource mapping"),
        ({"gpu": {"cards": 1}}, "no slice"),
        ({"cpu_type": "host,flags=+aes"}, "is no type of processor"),
        ({"user": "root"}, "is no account for students"),
        ({"user": "a b"}, "is no account for students"),
        ({"home": "home"}, "absolute path"),
        ({"home": "/home/../etc"}, "absolute path"),
        ({"ssh_keys": ["AAAAC3Nz"]}, "is no public key"),
        ({"ssh_keys": ["ssh-ed25519 AAAA a\nssh-ed25519 BBBB b"]}, "is no public key"),
        ({"default_url": "//evil.example"}, "one slash"),
        ({"environment": {"JUPYTERHUB_API_TOKEN": "x"}}, "reserved"),
        ({"environment": {"LD_PRELOAD": "x"}}, "reserved"),
        ({"environment": {"A B": "x"}}, "letters, digits and _ only"),
        ({"bridge": "vmbr0,tag=3"}, "is no name as Proxmox VE writes it"),
        ({"vlan": 5000}, "vlan"),
        ({"port": 80}, "port"),
        ({"args": "-device x"}, "there is no setting 'args'"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_in_a_sentence(given: dict[str, Any], says: str):
    assert says in _refusal(ProxmoxVariant, given)


@pytest.mark.parametrize(
    ("given", "may"),
    [
        ({}, False),
        ({"handover": "auto"}, True),
        ({"handover": "call-home"}, True),
        ({"handover": "auto", "cloud_init": False}, False),
        ({"handover": "auto", "os": "windows"}, False),
    ],
)
def test_a_vm_may_call_home_where_its_profile_says_so_and_its_template_can(given: dict[str, Any], may: bool) -> None:
    assert _variant(template="t", **given).may_call_home is may


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"os": "windows"}, "is for JupyterLab"),
        ({"cloud_init": False}, "needs cloud-init"),
        ({"network": "dhcp"}, "needs a static address"),
    ],
)
def test_calling_home_without_what_it_needs_is_refused_with_what_to_write(given: dict[str, Any], said: str) -> None:
    assert said in _refusal(ProxmoxVariant, {"template": "t", "handover": "call-home", **given})


def test_another_way_to_hand_over_is_refused_with_those_that_there_are() -> None:
    assert "'agent', 'call-home' or 'auto'" in _refusal(ProxmoxVariant, {"template": "t", "handover": "ssh"})
