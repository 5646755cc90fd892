"""The demo accounts never reach beyond this machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from traitlets import Unicode
from traitlets.config import Configurable

from labspawner.demo import ACCOUNTS, PASSWORD_ENV, DemoAuthenticator, bind_urls, is_loopback
from labspawner.errors import BadConfig


class App(Configurable):
    """The part of JupyterHub that an authenticator sees."""

    bind_url = Unicode("http://127.0.0.1:8000")
    hub_bind_url = Unicode("")
    hub_ip = Unicode("127.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://localhost:8000/x",
        "http://[::1]:80",
        "https://127.9.9.9",
        "http+unix://%2Frun%2Fx",
    ],
)
def test_an_address_of_this_machine_alone_is_loopback(url: str):
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://:8000",
        "http://0.0.0.0:8000",
        "http://[::]:8000",
        "http://10.0.0.1",
        "http://lab.example",
        "http://*:80",
        "",
    ],
)
def test_an_address_that_others_may_reach_is_not_loopback(url: str):
    assert not is_loopback(url)


@pytest.mark.parametrize(
    "setting",
    [{"bind_url": "http://0.0.0.0:8000"}, {"hub_ip": "0.0.0.0"}, {"hub_ip": ""}, {"hub_bind_url": "http://:8081"}],
)
def test_the_demo_refuses_any_public_address(setting: dict[str, str]):
    with pytest.raises(BadConfig, match="Bind to 127"):
        DemoAuthenticator(parent=App(**setting), password="secret")


def test_the_demo_refuses_an_empty_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(PASSWORD_ENV, raising=False)

    with pytest.raises(BadConfig, match=PASSWORD_ENV):
        DemoAuthenticator(parent=App())


def test_the_password_comes_from_the_environment_and_the_accounts_are_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PASSWORD_ENV, "from-env")

    demo = DemoAuthenticator(parent=App())

    assert demo.password == "from-env"
    assert demo.allowed_users == set(ACCOUNTS)
    assert demo.admin_users == {"admin"}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"username": "student1", "password": "pässword"}, "student1"),
        ({"username": "student1", "password": "wrong"}, None),
        ({"username": "student1"}, None),
        ({"password": "pässword"}, ""),
    ],
)
async def test_only_the_right_password_logs_in(data: dict[str, str], name: str | None):
    demo = DemoAuthenticator(parent=App(), password="pässword")

    assert await demo.authenticate(None, data) == name


def test_an_authenticator_without_a_hub_has_nothing_to_check():
    assert bind_urls(None) == {}
    assert bind_urls(SimpleNamespace(bind_url="http://a", hub_bind_url="", hub_ip="::1")) == {
        "c.JupyterHub.bind_url": "http://a",
        "c.JupyterHub.hub_ip": "http://[::1]",
    }
