"""What the hub in the pod does with the chart's values: the rendered files are run as they are."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helm.rendering import Chart, at, values_of
from traitlets.config import Config

from labspawner.config import Labspawner
from labspawner.courses import Catalog
from labspawner.providers.kubernetes.options import KubernetesSettings
from labspawner.providers.options import read_options
from labspawner.service.console import custom_scopes, service_scopes, user_scopes
from labspawner.service.console.settings import ConsoleSettings

TOKEN = "0123456789abcdef" * 2
Install = Callable[..., Path]


@pytest.fixture
def install(chart: Chart, tmp_path: Path) -> Install:
    """Puts the chart's files where the hub's pod has them; its data are in a folder of this test."""
    data = at("settings.data_dir", str(tmp_path / "data"))

    def put(*values: dict[str, Any], secrets: dict[str, str] | None = None) -> Path:
        rendered = chart.render(data, *values)
        files = {"settings": rendered.the("ConfigMap", "labspawner-settings")["data"], "secrets": secrets or {}}
        for folder, contents in files.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            for name, text in contents.items():
                (tmp_path / folder / name).write_text(text, encoding="utf-8")
        return tmp_path

    return put


def configured(etc: Path) -> Config:
    """As the official chart's jupyterhub_config.py runs ours: after its own settings."""
    c = Config()
    c.JupyterHub.services = []
    c.JupyterHub.load_roles = []
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
    runpy.run_path(str(etc / "settings" / "hub.py"))["configure"](c, etc)
    return c


def test_the_hub_spawns_with_labspawner_and_its_culler(install: Install) -> None:
    c = configured(install(values_of("minimal")))

    assert c.JupyterHub.spawner_class == "lab"
    assert [each["name"] for each in c.JupyterHub.services] == ["labspawner-culler", "labspawner"]
    assert c.JupyterHub.load_roles[0]["scopes"] == ["list:users", "read:servers", "delete:servers"]
    assert c.JupyterHub.tornado_settings["slow_spawn_timeout"] == 0


def test_the_console_is_asked_by_the_charts_service_and_has_the_scopes_of_any_console(install: Install) -> None:
    c = configured(install(values_of("minimal")))

    service = c.JupyterHub.services[-1]
    roles = {each["name"]: each["scopes"] for each in c.JupyterHub.load_roles}
    told = ConsoleSettings.from_environment(service["environment"])
    assert (service["name"], service["url"], told.listen) == (
        "labspawner",
        "http://labspawner-console:8082",
        "http://0.0.0.0:8082",
    )
    assert roles["labspawner-console"] == service_scopes()
    assert set(user_scopes()) <= set(roles["user"])
    assert set(c.JupyterHub.custom_scopes) == set(custom_scopes())


def test_the_console_makes_users_only_where_the_values_say_so(install: Install) -> None:
    c = configured(install(values_of("minimal"), at("console", {"createUsers": True, "port": 8090})))

    service = c.JupyterHub.services[-1]
    (scopes,) = [each["scopes"] for each in c.JupyterHub.load_roles if each["name"] == "labspawner-console"]
    assert scopes == service_scopes(creates_users=True)
    assert service["url"] == "http://labspawner-console:8090"
    assert ConsoleSettings.from_environment(service["environment"]).creates_users


def test_the_console_can_be_off(install: Install) -> None:
    c = configured(install(values_of("minimal"), at("console.enabled", False)))

    assert [each["name"] for each in c.JupyterHub.services] == ["labspawner-culler"]
    assert "custom_scopes" not in c.JupyterHub


def test_each_value_reaches_its_setting(install: Install) -> None:
    c = configured(install(values_of("hami"), secrets={"metrics-token": TOKEN}))

    settings = Labspawner(config=c).settings()

    assert settings.hub_id == "campus"
    assert str(settings.courses_dir) == "/etc/labspawner/courses"
    provider = settings.providers["kubernetes"]
    assert provider["kind"] == "kubernetes"
    assert provider["max_servers"] == 120
    gpu = provider["gpu"]
    assert isinstance(gpu, dict)
    assert gpu["hami"] == {
        "config_map": "kube-system/hami-scheduler-device",
        "memory": "example.com/gpumem",
        "node_policy": "binpack",
    }


def test_the_culler_can_be_off_or_only_look(install: Install) -> None:
    off = configured(install(values_of("minimal"), at("culler.enabled", False), at("console.enabled", False)))
    dry = configured(install(values_of("minimal"), at("culler.dryRun", True)))

    assert off.JupyterHub.services == []
    assert "--dry-run" in dry.JupyterHub.services[0]["command"]


def test_the_lease_database_comes_from_the_secret(install: Install) -> None:
    url = "postgresql+psycopg://labspawner:secret@db/labspawner"

    c = configured(install(values_of("external-database"), secrets={"database-url": url + "\n"}))

    assert c.Labspawner.database_url == url
    culler, console = c.JupyterHub.services
    assert culler["environment"]["LABSPAWNER_STORE_URL"] == url
    assert ConsoleSettings.from_environment(console["environment"]).settings().database_url == url
    assert not [word for each in (culler, console) for word in each["command"] if "secret" in word]


@pytest.mark.parametrize(
    ("name", "key"), [("external-database", "database-url"), ("hami", "metrics-token")], ids=["database", "metrics"]
)
def test_a_key_that_the_secret_lacks_is_named(install: Install, name: str, key: str) -> None:
    with pytest.raises(SystemExit, match=f"has no key {key}"):
        configured(install(values_of(name)))


def test_metrics_are_read_with_a_token_that_can_do_nothing_else(install: Install) -> None:
    c = configured(install(values_of("hami"), secrets={"metrics-token": TOKEN}))

    assert {"name": "labspawner-metrics", "api_token": TOKEN} in c.JupyterHub.services
    role = {"name": "labspawner-metrics", "scopes": ["read:metrics"], "services": ["labspawner-metrics"]}
    assert role in c.JupyterHub.load_roles


def test_a_token_that_can_be_guessed_is_refused(install: Install) -> None:
    with pytest.raises(SystemExit, match="openssl rand -hex 32"):
        configured(install(values_of("hami"), secrets={"metrics-token": "secret"}))


def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(install: Install) -> None:
    with pytest.raises(SystemExit, match=r"no reconcile_every_s\. There are: .*reconcile_interval_s"):
        configured(install(values_of("minimal"), at("settings.reconcile_every_s", 30)))


async def test_new_settings_end_the_hub_so_that_it_is_started_again_with_them(install: Install) -> None:
    etc = install(values_of("minimal"))
    code = runpy.run_path(str(etc / "settings" / "hub.py"))
    before = code["digest"](etc)
    ended = asyncio.Event()

    install(values_of("minimal"), at("culler.dryRun", True))
    await asyncio.wait_for(code["watch"](etc, before, every_s=0.01, end=ended.set), 60)

    assert ended.is_set()


@pytest.mark.parametrize("change", ["settings/settings.json", "settings/hub.py", "secrets/database-url"])
def test_whatever_is_read_at_the_start_counts_as_a_change(install: Install, change: str) -> None:
    etc = install(values_of("minimal"), secrets={"database-url": "sqlite://"})
    digest = runpy.run_path(str(etc / "settings" / "hub.py"))["digest"]
    before = digest(etc)
    assert digest(etc) == before

    (etc / change).write_text("other", encoding="utf-8")

    assert digest(etc) not in ("", before)


async def test_settings_that_cannot_be_read_are_looked_at_again(install: Install) -> None:
    etc = install(values_of("minimal"))
    code = runpy.run_path(str(etc / "settings" / "hub.py"))
    before = code["digest"](etc)
    (etc / "settings" / "settings.json").unlink()
    assert code["digest"](etc) == ""
    ended = asyncio.Event()
    watching = asyncio.ensure_future(code["watch"](etc, before, every_s=0.01, end=ended.set))

    install(values_of("minimal"), at("culler.dryRun", True))

    await asyncio.wait_for(watching, 60)
    assert ended.is_set()


def test_reading_the_configuration_outside_of_a_hub_watches_nothing(install: Install) -> None:
    configured(install(values_of("minimal")))  # no event loop, as in `jupyterhub token`


@pytest.mark.parametrize("name", ["minimal", "hami", "device-plugin", "external-database", "locked-down"])
def test_the_provider_reads_its_settings(chart: Chart, name: str) -> None:
    given = dict(chart.render(values_of(name)).settings()["Labspawner"]["providers"]["kubernetes"])
    assert given.pop("kind") == "kubernetes"

    settings = read_options(KubernetesSettings, given, where="kubernetes")

    assert settings.whole_cluster is False
    assert settings.gpu.strategy == values_of(name).get("gpu", {}).get("strategy", "none")


def test_settings_of_the_values_win_over_the_charts_own(chart: Chart) -> None:
    wished = at("kubernetes.options", {"home": "/home/student", "gpu": {"place": "spread"}})

    provider = chart.render(values_of("hami"), wished).settings()["Labspawner"]["providers"]["kubernetes"]

    assert provider["home"] == "/home/student"
    assert provider["gpu"]["place"] == "spread"
    assert provider["gpu"]["strategy"] == "hami"


def mount(folder: Path, contents: dict[str, str], number: int) -> None:
    """As a kubelet mounts a ConfigMap or Secret: links through `..data`, which it exchanges as a whole."""
    version = folder / f"..version_{number}"
    version.mkdir(parents=True)
    for name, text in contents.items():
        (version / name).write_text(text, encoding="utf-8")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.replace(folder / "..data")


def test_a_course_changes_when_the_kubelet_exchanges_the_configmap(chart: Chart, tmp_path: Path) -> None:
    courses = chart.render(values_of("minimal")).the("ConfigMap", "labspawner-courses")["data"]
    mount(tmp_path, courses, 1)
    catalog = Catalog(tmp_path)
    catalog.refresh()
    assert catalog.profile("py101/base") is not None

    mount(tmp_path, {"py101.yaml": courses["py101.yaml"].replace("slug: base", "slug: basics")}, 2)
    catalog.refresh()

    assert catalog.problems == ()
    assert catalog.profile("py101/basics") is not None


def test_settings_and_secrets_are_followed_as_the_kubelet_mounts_them(chart: Chart, tmp_path: Path) -> None:
    settings = chart.render(values_of("minimal")).the("ConfigMap", "labspawner-settings")["data"]
    mount(tmp_path / "settings", settings, 1)
    mount(tmp_path / "secrets", {"database-url": "sqlite://"}, 1)
    digest = runpy.run_path(str(tmp_path / "settings" / "hub.py"))["digest"]
    before = digest(tmp_path)

    mount(tmp_path / "settings", settings, 2)
    assert digest(tmp_path) == before, "the same again, in another folder"
    mount(tmp_path / "secrets", {"database-url": "sqlite:///other"}, 2)

    assert digest(tmp_path) not in ("", before)
