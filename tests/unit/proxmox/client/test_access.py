"""What an administrator types, and what is said where it cannot be right."""

from __future__ import annotations

import pytest

from labspawner.errors import BadConfig
from labspawner.providers.proxmox.access import Access

TOKEN = "hub@pve!lab=very-secret"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("https://pve1.lab:8006", "https://pve1.lab:8006"),
        ("pve1.lab", "https://pve1.lab:8006"),
        (" https://10.0.0.1/ ", "https://10.0.0.1:8006"),
        ("https://[fd00::1]:443", "https://[fd00::1]:443"),
        ("https://proxy.lab:443/pve/", "https://proxy.lab:443/pve"),
    ],
)
def test_endpoints_are_completed(typed, meant):
    assert Access(endpoints=(typed,), token=TOKEN).endpoints == (meant,)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoints": ()},
        {"endpoints": ("http://pve1",)},
        {"endpoints": ("https://",)},
        {"endpoints": ("https://pve1:port",)},
        {"endpoints": ("https://root:very-secret@pve1",)},
        {"token": ""},
        {"token": "very-secret"},
        {"token": "hub@pve=very-secret"},
        {"token": "hub!lab=very-secret"},
        {"token": "hub@pve!lab="},
        {"token": "hub@pve!lab=very secret"},
        {"token": "", "username": "hub@pve"},
        {"fingerprint": "ab:cd"},
        {"fingerprint": {"https://pve1:8006": "ab:cd"}},
    ],
)
def test_what_cannot_be_right_is_told_without_the_secret(changes):
    with pytest.raises(BadConfig) as caught:
        Access(**{"endpoints": ("https://pve1:8006",), "token": TOKEN, **changes})

    assert "very" not in f"{caught.value} {caught.value.message}"


def test_a_token_file_that_is_not_there_is_told(tmp_path):
    access = Access(endpoints=("pve1",), token_file=tmp_path / "none")

    with pytest.raises(BadConfig, match="none"):
        access.secret()


def test_a_pin_is_found_by_url_by_host_and_port_and_by_host():
    pins = {"https://pve1:8006": "11" * 32, "pve2:8006": "22" * 32, "pve3": "33" * 32}
    access = Access(endpoints=("pve1", "pve2", "pve3", "pve4"), token=TOKEN, fingerprint=pins)

    assert [access.pin(each)[:2] for each in access.endpoints] == ["11", "22", "33", ""]
    assert [access.trust(each) for each in access.endpoints] == ["pinned"] * 3 + ["system"]
