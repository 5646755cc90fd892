"""The demo accounts refuse an address that another machine can reach."""

from __future__ import annotations

import pytest
from jupyterhub.app import JupyterHub

from labspawner.demo import ACCOUNTS, DemoAuthenticator, bind_urls, is_loopback
from labspawner.errors import BadConfig


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://localhost",
        "https://[::1]:443",
        "http+unix://%2Ftmp%2Fhub.sock",
        "http://127.8.8.8",
    ],
)
def test_loopback_addresses_are_this_machine(url):
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    ["http://0.0.0.0:8000", "http://:8000", "http://", "http://[::]:80", "http://10.0.0.5", "http://lab.example.org"],
)
def test_all_other_addresses_are_not(url):
    assert not is_loopback(url)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bind_url": "http://0.0.0.0:8000"}, "c.JupyterHub.bind_url"),
        ({"bind_url": "http://127.0.0.1:8000", "hub_ip": "0.0.0.0"}, "c.JupyterHub.hub_ip"),
        ({"bind_url": "http://127.0.0.1:8000", "hub_ip": "::"}, "c.JupyterHub.hub_ip"),
        ({"bind_url": "http://127.0.0.1:8000", "hub_bind_url": "http://10.1.1.1:8081"}, "c.JupyterHub.hub_bind_url"),
    ],
    ids=str,
)
def test_the_demo_refuses_every_public_address(settings, said):
    app = JupyterHub(**settings)

    with pytest.raises(BadConfig, match=f"for this machine only: {said} is"):
        DemoAuthenticator(parent=app, password="x")


def test_the_demo_refuses_to_run_without_a_password(monkeypatch):
    monkeypatch.delenv("LABSPAWNER_DEMO_PASSWORD", raising=False)

    with pytest.raises(BadConfig, match="LABSPAWNER_DEMO_PASSWORD"):
        DemoAuthenticator(parent=JupyterHub(bind_url="http://127.0.0.1:8000"))


async def test_the_demo_lets_in_with_the_right_password_only(monkeypatch):
    monkeypatch.setenv("LABSPAWNER_DEMO_PASSWORD", "sésame")
    demo = DemoAuthenticator(parent=JupyterHub(bind_url="http://127.0.0.1:8000"))

    assert await demo.authenticate(None, {"username": "student1", "password": "sésame"}) == "student1"
    assert await demo.authenticate(None, {"username": "student1", "password": "sesame"}) is None
    assert await demo.authenticate(None, {"username": "student1"}) is None
    assert demo.allowed_users == set(ACCOUNTS)
    assert demo.admin_users == {"admin"}


def test_without_a_hub_there_is_nothing_to_listen():
    assert bind_urls(None) == {}
