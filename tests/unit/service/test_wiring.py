"""How the service gets into a hub's configuration, and what its process is told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from builders import a_lease
from traitlets.config import Config

from labspawner import wiring
from labspawner.config import Labspawner
from labspawner.errors import BadConfig
from labspawner.model import Handle
from labspawner.pages.hub import DESKTOPS
from labspawner.providers.screens import offers_screen
from labspawner.service.desktop import settings as desktop_settings
from labspawner.service.desktop.settings import DesktopSettings
from labspawner.service.serving import cookie_secret


class Screens:
    """A kind of provider whose servers have screens."""

    desktop_only = True

    async def console(self, handle): ...
    async def console_ended(self, handle, reference): ...
    def ssh(self, handle): ...


class Choosing(Screens):
    """One where the profile says so."""

    def offers_screen(self, settings):
        return settings.get("desktop") is True


@pytest.fixture
def installed(monkeypatch):
    """Two kinds of providers are installed: `vms` has screens, `pods` has none."""
    points = [
        SimpleNamespace(name="vms", load=lambda: Screens),
        SimpleNamespace(name="pods", load=lambda: object),
        SimpleNamespace(name="broken", load=lambda: __import__("no_such_module")),
    ]
    monkeypatch.setattr(desktop_settings, "entry_points", lambda group: points)


def configured(folder, providers, **more) -> Config:
    c = Config()
    c.Labspawner.data_dir = str(folder)
    c.Labspawner.hub_id = "lab-hub"
    c.Labspawner.providers = providers
    for section, values in more.items():
        c[section].update(values)
    return c


def test_a_hub_without_screens_has_no_such_service(installed, tmp_path):
    c = configured(tmp_path, {"pods": {}, "broken": {}, "unknown": {}})

    wiring.run_desktop(c)

    assert "services" not in c.JupyterHub
    assert c.Labspawner.providers == {"pods": {}, "broken": {}, "unknown": {}}


def test_a_hub_with_screens_gets_the_service_with_the_least_scopes(installed, tmp_path):
    c = configured(tmp_path, {"lab-a": {"kind": "vms", "token": "s3cret"}, "pods": {}})

    wiring.run_desktop(c, url="http://127.0.0.1:4711")

    (service,) = c.JupyterHub.services
    assert (service["name"], service["url"], service["display"]) == ("desktop", "http://127.0.0.1:4711", False)
    assert "s3cret" not in json.dumps(service["command"])
    roles = {role["name"]: role for role in c.JupyterHub.load_roles}
    assert roles["labspawner-desktop"] == {
        "name": "labspawner-desktop", "services": ["desktop"], "scopes": ["users:activity"],
    }  # fmt: skip
    assert roles["user"]["scopes"] == ["self", "access:services!service=desktop"]
    assert c.JupyterHub.tornado_settings[DESKTOPS] is True


def test_what_the_administrator_gave_to_every_user_stays(installed, tmp_path):
    mine = {"name": "user", "description": "ours", "scopes": ["self", "read:metrics"]}
    c = configured(
        tmp_path, {"vms": {}}, JupyterHub={"load_roles": [mine, {"name": "other"}], "services": [{"name": "x"}]}
    )

    wiring.run_desktop(c, url="http://127.0.0.1:4711")

    roles = {role["name"]: role for role in c.JupyterHub.load_roles}
    assert roles["user"] == {**mine, "scopes": ["self", "read:metrics", "access:services!service=desktop"]}
    assert set(roles) == {"user", "other", "labspawner-desktop"}
    assert mine["scopes"] == ["self", "read:metrics"]
    assert [service["name"] for service in c.JupyterHub.services] == ["x", "desktop"]


def test_the_process_is_told_of_providers_with_screens_alone(installed, tmp_path):
    c = configured(tmp_path, {"lab-a": {"kind": "vms", "token": "s3cret"}, "pods": {"token": "other"}})
    wiring.run_desktop(c, url="http://127.0.0.1:4711", novnc_dir="/srv/novnc")

    told = DesktopSettings.from_environment(c.JupyterHub.services[0]["environment"])

    settings = told.settings()
    assert settings.providers == {"lab-a": {"kind": "vms", "token": "s3cret"}}
    assert (settings.hub_id, settings.data_dir, told.novnc_dir) == ("lab-hub", tmp_path, "/srv/novnc")
    assert "s3cret" not in repr(told)


@pytest.mark.parametrize(("version", "timeout"), [("6.1.1", 120), ("7.0.0b1", 120), ("5.3.0", None)])
def test_the_hub_gives_a_slow_service_time_where_it_can_be_told(installed, tmp_path, monkeypatch, version, timeout):
    monkeypatch.setattr(wiring.metadata, "version", {"jupyterhub": version}.__getitem__)
    c = configured(tmp_path, {"vms": {}})

    wiring.run_desktop(c, url="http://127.0.0.1:4711")

    assert c.JupyterHub.services[0].get("timeout") == timeout


def test_the_port_is_kept_because_routes_of_servers_name_it(installed, tmp_path):
    first, second = configured(tmp_path, {"vms": {}}), configured(tmp_path, {"vms": {}})

    wiring.run_desktop(first)
    wiring.run_desktop(second)

    url = first.JupyterHub.services[0]["url"]
    assert url.startswith("http://127.0.0.1:")
    assert second.JupyterHub.services[0]["url"] == url


def test_a_provider_of_desktops_learns_where_they_are_unless_it_was_told(installed, tmp_path):
    c = configured(tmp_path, {"vms": {"a": 1}, "own": {"kind": "vms", "desktop_url": "http://10.0.0.1:80"}, "pods": {}})

    wiring.run_desktop(c, url="http://127.0.0.1:4711")

    assert c.Labspawner.providers == {
        "vms": {"a": 1, "desktop_url": "http://127.0.0.1:4711"},
        "own": {"kind": "vms", "desktop_url": "http://10.0.0.1:80"},
        "pods": {},
    }


def test_the_last_call_counts_so_that_a_provider_may_be_added(installed, tmp_path):
    c = configured(tmp_path, {"vms": {}})
    wiring.run_desktop(c)
    c.Labspawner.providers = {**c.Labspawner.providers, "more": {"kind": "vms"}}

    wiring.run_desktop(c)

    (service,) = c.JupyterHub.services
    told = DesktopSettings.from_environment(service["environment"])
    assert set(told.settings().providers) == {"vms", "more"}
    assert sorted(role["name"] for role in c.JupyterHub.load_roles) == ["labspawner-desktop", "user"]
    assert {options["desktop_url"] for options in c.Labspawner.providers.values()} == {service["url"]}


def test_a_wrong_setting_is_left_to_the_hub_to_say(installed, tmp_path):
    c = configured(tmp_path, {"vms": {}})
    c.Labspawner.hub_id = "No Good"

    wiring.run_desktop(c)

    assert "services" not in c.JupyterHub


@pytest.mark.parametrize("environment", [{}, {"LABSPAWNER_DESKTOP": "{"}, {"LABSPAWNER_DESKTOP": "[]"}])
def test_a_process_without_settings_says_who_sets_them(environment):
    with pytest.raises(BadConfig, match=r"wiring\.run_desktop"):
        DesktopSettings.from_environment(environment)


def test_the_secret_of_cookies_outlives_the_process_and_is_nobodys_elses_to_read(tmp_path):
    file = tmp_path / "desktop.cookie-secret"
    first = cookie_secret(file)

    assert cookie_secret(file) == first
    assert len(first) == 32
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("provider", "settings", "offered"),
    [
        (object(), {}, False),
        (None, {}, False),
        (Screens(), {}, True),
        (Choosing(), {}, False),
        (Choosing(), {"desktop": True}, True),
    ],
)
def test_a_screen_is_offered_where_provider_and_profile_do(provider, settings, offered):
    lease = a_lease(pinned={"variant": {"settings": settings}})
    lease = lease.with_(handle=Handle(lease_id=lease.id, provider="vms"))

    assert offers_screen(provider, lease) is offered
    assert offers_screen(provider, None) is False


def test_a_hub_id_that_is_set_after_its_services_does_not_start_a_hub_whose_culler_looks_at_another(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(wiring, "_told", {})
    c = configured(tmp_path, {"local": {}})
    wiring.run_culler(c)
    wiring.run_console(c)
    c.Labspawner.hub_id = "another-hub"

    with pytest.raises(BadConfig, match=r"after wiring.run_culler\(c\), wiring.run_console\(c\)"):
        wiring.check_services(Labspawner(config=c).settings())

    wiring.run_culler(c)
    wiring.run_console(c)
    wiring.check_services(Labspawner(config=c).settings())
    names = [service["name"] for service in c.JupyterHub.services]
    assert sorted(names) == sorted(set(names))
    commands = [" ".join(service["command"]) for service in c.JupyterHub.services if "culler" in service["name"]]
    assert ["--hub-id=another-hub" in command for command in commands] == [True]
    roles = [role["name"] for role in c.JupyterHub.load_roles]
    assert sorted(roles) == sorted(set(roles))
