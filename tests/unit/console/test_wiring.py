"""How the console gets into a hub's configuration, what its process is told, and that docs/console.md says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from traitlets.config import Config

from labspawner import wiring
from labspawner.cli.course import course
from labspawner.errors import BadConfig
from labspawner.service.console import NAME, custom_scopes, role, service_scopes
from labspawner.service.console.rights import CONSOLE, SELF
from labspawner.service.console.settings import VARIABLE, ConsoleSettings

PAGE = (Path(__file__).parents[3] / "docs" / "console.md").read_text(encoding="utf-8")


def configured(folder: Path, **more: object) -> Config:
    c = Config()
    c.Labspawner.data_dir = str(folder)
    c.Labspawner.hub_id = "lab-hub"
    c.Labspawner.providers = {"vms": {"kind": "proxmox", "token": "s3cret"}, "local": {}}
    for key, value in more.items():
        c.Labspawner[key] = value
    return c


def test_the_console_gets_the_least_scopes_and_everybody_the_way_in(tmp_path):
    c = configured(tmp_path)
    c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "shares!user"]}, {"name": "mine", "scopes": []}]

    wiring.run_console(c)

    roles = {one["name"]: one for one in c.JupyterHub.load_roles}
    assert roles["labspawner-console"]["scopes"] == ["list:users", "admin:groups", CONSOLE]
    assert roles["user"]["scopes"] == ["self", "shares!user", "access:services!service=labspawner", SELF]
    assert "mine" in roles
    assert set(c.JupyterHub.custom_scopes) == set(custom_scopes())


def test_nobody_but_the_console_holds_the_scope_that_is_told_everything(tmp_path):
    c = configured(tmp_path)

    wiring.run_console(c)

    (service,) = c.JupyterHub.services
    assert CONSOLE not in service["oauth_client_allowed_scopes"]
    assert [one["name"] for one in c.JupyterHub.load_roles if CONSOLE in one["scopes"]] == ["labspawner-console"]
    assert not any(CONSOLE in given.get("subscopes", ()) for given in custom_scopes().values())


def test_users_are_made_only_where_that_is_asked_for(tmp_path):
    assert "admin:users" not in service_scopes()
    assert "admin:users" in role(creates_users=True)["scopes"]
    c = configured(tmp_path)

    wiring.run_console(c, create_users=True)

    (service,) = c.JupyterHub.services
    assert ConsoleSettings.from_environment(service["environment"]).creates_users


def test_no_secret_of_a_provider_reaches_the_console(tmp_path):
    c = configured(tmp_path)

    wiring.run_console(c)

    (service,) = c.JupyterHub.services
    assert "s3cret" not in json.dumps(service)
    told = ConsoleSettings.from_environment(service["environment"])
    assert sorted(told.settings().providers) == ["local", "vms"]
    assert "s3cret" not in repr(told)


def test_what_courses_of_the_console_may_ask_for_reaches_it(tmp_path):
    c = configured(tmp_path, console_creators=["lecturers"], console_images=["lab/*"])

    wiring.run_console(c)

    (service,) = c.JupyterHub.services
    settings = ConsoleSettings.from_environment(service["environment"]).settings()
    assert list(settings.console_creators) == ["lecturers"]
    assert settings.bounds.images == ("lab/*",)


def test_the_last_call_counts_and_the_port_stays(tmp_path):
    c = configured(tmp_path)

    wiring.run_console(c)
    first = c.JupyterHub.services[0]["url"]
    wiring.run_console(c)

    (service,) = c.JupyterHub.services
    assert service["url"] == first
    assert service["name"] == NAME
    wiring.run_console(c, url="http://127.0.0.1:4711")
    assert [one["url"] for one in c.JupyterHub.services] == ["http://127.0.0.1:4711"]


def test_it_may_listen_elsewhere_than_where_the_proxy_asks(tmp_path):
    c = configured(tmp_path)

    wiring.run_console(c, url="http://labspawner-console:8082", listen="http://0.0.0.0:8082")

    (service,) = c.JupyterHub.services
    assert service["url"] == "http://labspawner-console:8082"
    assert ConsoleSettings.from_environment(service["environment"]).listen == "http://0.0.0.0:8082"


def test_desktop_and_console_stand_side_by_side(tmp_path):
    c = configured(tmp_path)

    wiring.run_desktop(c)
    wiring.run_console(c)
    wiring.run_desktop(c)

    (user,) = [one for one in c.JupyterHub.load_roles if one["name"] == "user"]
    assert "access:services!service=labspawner" in user["scopes"]
    assert len({one["name"] for one in c.JupyterHub.services}) == len(c.JupyterHub.services)


def test_a_wrong_setting_is_said_at_hub_start_and_not_here(tmp_path):
    c = configured(tmp_path, hub_id="No such id")

    wiring.run_console(c)

    assert "services" not in c.JupyterHub


@pytest.mark.parametrize("value", [None, "", "{", "[]", '{"hub": 1}'])
def test_a_console_that_nobody_configured_says_so(value):
    with pytest.raises(BadConfig, match="run_console"):
        ConsoleSettings.from_environment({} if value is None else {VARIABLE: value})


def test_the_page_for_operators_names_every_scope_and_every_verb():
    for scope in custom_scopes():
        assert f"`{scope}`" in PAGE
    for verb in course.commands:
        assert f"`{verb}`" in PAGE
