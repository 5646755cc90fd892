"""`labspawner doctor`: what it says of the hub's own configuration, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import NOW
from click.testing import CliRunner
from traitlets.config import Config

from labspawner.cli import main
from labspawner.cli.doctor import table
from labspawner.config import Labspawner, Settings
from labspawner.doctor import looks
from labspawner.doctor.hub import hub_findings
from labspawner.providers.findings import Finding, Level, error, ok, warning
from labspawner.store import Store

GOOD = {
    "spawner_class": "lab",
    "cleanup_servers": False,
    "authenticator_class": "generic-oauth",
    "bind_url": "https://lab.example.org",
    "services": [{"name": "labspawner-culler"}, {"name": "labspawner"}],
}
CLUSTER = {"kubernetes": {}}


def settings_of(tmp_path: Path, **changes: Any) -> Settings:
    config = Config({"Labspawner": {"data_dir": str(tmp_path), **changes}})
    return Labspawner(config=config).settings()


def looked(
    tmp_path: Path, hub: Mapping[str, Any], *, environment: Mapping[str, str] | None = None, **changes: Any
) -> dict[str, list[Finding]]:
    """The findings about the hub, by what was looked at."""
    settings = settings_of(tmp_path, **changes)
    proxy = {"ConfigurableHTTPProxy": {"command": ["true"]}}
    sections = {"Labspawner": settings.sections["Labspawner"], **proxy, "JupyterHub": {**GOOD, **hub}}
    found: dict[str, list[Finding]] = {}
    for finding in hub_findings(sections, settings, environment=environment or {}):
        found.setdefault(finding.what, []).append(finding)
    return found


def levels(findings: list[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


def test_a_good_configuration_has_nothing_to_say_against_it(tmp_path):
    found = looked(tmp_path, {}, hub_id="lab")

    assert {level for findings in found.values() for level in levels(findings)} == {Level.OK}


@pytest.mark.parametrize(
    ("hub", "what", "level", "words"),
    [
        ({"spawner_class": "simple"}, "spawner", Level.ERROR, "labspawner starts nothing"),
        ({"cleanup_servers": True}, "restarts", Level.WARNING, "it ends all servers"),
        ({"authenticator_class": "dummy"}, "log-in", Level.ERROR, "without a password"),
        ({"authenticator_class": "labspawner-demo"}, "log-in", Level.NOTE, "demo accounts"),
        ({"bind_url": "http://0.0.0.0:8000"}, "address", Level.NOTE, "without TLS"),
        ({"services": []}, "culler", Level.WARNING, "no idle server is ended"),
        ({"services": [{"name": "labspawner-culler"}]}, "console", Level.NOTE, "courses are files alone"),
        (
            {"services": [{"name": "labspawner-culler"}, {"name": "cull-idle"}]},
            "culler",
            Level.WARNING,
            "a second one runs",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_the_hub_is_said_with_what_to_do(tmp_path, hub, what, level, words):
    found = looked(tmp_path, hub, hub_id="lab")[what]

    assert level in levels(found)
    assert any(words in finding.detail for finding in found)


def test_a_hub_on_loopback_needs_no_tls(tmp_path):
    assert "address" not in looked(tmp_path, {"bind_url": "http://127.0.0.1:8000"}, hub_id="lab")


@pytest.mark.parametrize(
    ("hub", "level"),
    [
        ({}, Level.ERROR),
        ({"hub_ip": "127.0.0.1"}, Level.ERROR),
        ({"hub_bind_url": "http://localhost:8081"}, Level.ERROR),
        ({"hub_bind_url": "http://:8081"}, Level.OK),
        ({"hub_ip": "0.0.0.0"}, Level.OK),
        ({"hub_connect_url": "http://hub:8081", "hub_ip": "127.0.0.1"}, Level.OK),
    ],
    ids=str,
)
def test_servers_on_other_machines_must_find_the_hub(tmp_path, hub, level):
    found = looked(tmp_path, hub, hub_id="lab", providers=CLUSTER)["address"]

    assert levels(found) == [level]


def test_a_hub_in_a_pod_without_an_id_of_its_own_would_lose_its_servers(tmp_path):
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}

    assert levels(looked(tmp_path, {}, environment=inside)["hub id"]) == [Level.ERROR]
    assert levels(looked(tmp_path, {}, providers=CLUSTER)["hub id"]) == [Level.WARNING]
    assert levels(looked(tmp_path, {})["hub id"]) == [Level.NOTE]
    assert levels(looked(tmp_path, {}, environment=inside, hub_id="lab")["hub id"]) == [Level.OK]


def test_a_proxy_that_cannot_be_run_is_an_error(tmp_path):
    settings = settings_of(tmp_path)

    def proxy(section: Mapping[str, Any], **hub: Any) -> Finding:
        sections = {"JupyterHub": {**GOOD, **hub}, "ConfigurableHTTPProxy": section}
        return next(each for each in hub_findings(sections, settings, environment={}) if each.what == "proxy")

    assert proxy({"command": ["no-such-program-4711"]}).level is Level.ERROR
    assert proxy({"should_start": False, "api_url": "http://proxy-api:8001"}).level is Level.NOTE
    assert proxy({}, proxy_class="traefik").level is Level.NOTE


def test_leases_in_jupyterhubs_own_database_are_an_error(tmp_path):
    settings = settings_of(tmp_path, database_url="sqlite:////tmp/one.sqlite")

    (found,) = looks.database(settings, "sqlite:////tmp/one.sqlite")

    assert (found.level, "own database" in found.detail) == (Level.ERROR, True)


def test_a_database_that_does_not_answer_is_an_error_and_its_password_is_not_shown(tmp_path):
    url = "postgresql+psycopg://labspawner:s3cret@127.0.0.1:1/labs?connect_timeout=5"

    (found,) = looks.database(settings_of(tmp_path, database_url=url), None)

    assert found.level is Level.ERROR
    assert "s3cret" not in found.detail + found.advice


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "x.sqlite").write_text("no database " * 1000)

    (found,) = looks.database(settings_of(tmp_path, database_url=f"sqlite:///{tmp_path}/x.sqlite"), None)

    assert found.level is Level.ERROR


def test_looking_at_a_database_that_is_not_there_yet_does_not_make_it(tmp_path):
    (found,) = looks.database(settings_of(tmp_path), None)

    assert (found.level, "will be made" in found.detail) == (Level.OK, True)
    assert list(tmp_path.glob("*.sqlite")) == []


COURSE = """
course: py101
title: Python
profiles:
  - {slug: base, title: Base, variants: [{provider: PROVIDER, memory: 1GiB}]}
"""


def a_config(tmp_path: Path, *, provider: str = "sim", more: str = "") -> Path:
    (tmp_path / "courses").mkdir()
    (tmp_path / "courses" / "py101.yaml").write_text(COURSE.replace("PROVIDER", provider))
    path = tmp_path / "jupyterhub_config.py"
    path.write_text(
        f"c = get_config()\nc.Labspawner.data_dir = {str(tmp_path)!r}\nc.Labspawner.hub_id = 'doctor'\n"
        f"c.Labspawner.courses_dir = {str(tmp_path / 'courses')!r}\nc.Labspawner.providers = {{'sim': {{}}}}\n"
        "c.JupyterHub.spawner_class = 'lab'\nc.ConfigurableHTTPProxy.command = ['true']\n" + more
    )
    return path


def run(*words: str):
    return CliRunner().invoke(main, ["doctor", *words])


def test_a_hub_that_will_start_its_servers_ends_with_0(tmp_path):
    result = run("--config", str(a_config(tmp_path)), "--json")

    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["ok"] is True
    rows = {(row["where"], row["what"]): row for row in said["findings"]}
    assert rows["hub", "courses"]["detail"].startswith("1 course(s), 1 profile(s)")
    assert rows["sim", "room"]["level"] == "ok"


def test_courses_of_the_console_are_looked_at_as_well(tmp_path):
    config = a_config(tmp_path)

    async def write() -> None:
        store = Store.open(f"sqlite:///{tmp_path}/labspawner.sqlite", hub_id="doctor")
        await store.migrate()
        good = COURSE.replace("py101", "ml1").replace("PROVIDER", "sim")
        await store.coursebook.create("ml1", good, by="ann", now=NOW)
        await store.coursebook.create("ml2", good, by="ann", now=NOW)
        await store.coursebook.create("ml3", good.replace("ml1", "ml3").replace("sim", "pods"), by="ann", now=NOW)
        await store.close()

    asyncio.run(write())
    findings = json.loads(run("--config", str(config), "--json").output)["findings"]

    said = " | ".join(row["detail"] for row in findings if row["what"] == "courses")
    assert "console/ml2:2:9: this course is called 'ml2', for good" in said
    assert "console/ml3:5:" in said
    assert "the hub has no provider 'pods'" in said
    assert "3 course(s), 3 profile(s)" in said
    assert "2 of the courses written in the console" in said


def test_a_course_for_a_provider_that_the_hub_has_not_ends_with_1(tmp_path):
    result = run("--config", str(a_config(tmp_path, provider="kubernetes")))

    assert result.exit_code == 1
    assert "the hub has no provider 'kubernetes'" in result.output
    assert "some servers will not start" in result.output


def test_a_wrong_setting_of_one_provider_does_not_hide_the_others(tmp_path):
    more = "c.Labspawner.providers = {'sim': {}, 'other': {'kind': 'sim', 'no_such_setting': 1}}\n"

    result = run("--config", str(a_config(tmp_path, more=more)), "--json")

    assert result.exit_code == 1
    rows = [(row["where"], row["level"], row["detail"]) for row in json.loads(result.output)["findings"]]
    assert any(where == "other" and level == "error" and "no_such_setting" in text for where, level, text in rows)
    assert any(where == "sim" and level == "ok" for where, level, _ in rows)


def test_a_profile_that_no_machine_could_ever_hold_is_an_error(tmp_path):
    config = a_config(
        tmp_path, more="c.Labspawner.providers = {'sim': {'hosts': [{'name': 'a', 'memory': '512MiB'}]}}\n"
    )

    result = run("--config", str(config))

    assert result.exit_code == 1
    assert "py101/base can never start here: it wants 1 GiB" in result.output


def test_one_provider_alone_can_be_asked(tmp_path):
    result = run("--config", str(a_config(tmp_path)), "--provider", "sim", "--json")

    assert {row["where"] for row in json.loads(result.output)["findings"]} == {"sim"}
    assert run("--config", str(tmp_path / "jupyterhub_config.py"), "--provider", "nope").exit_code == 1


@pytest.mark.parametrize("broken", ["1 / 0\n", "import no_such_module_4711\n", "raise SystemExit(3)\n", "def f(:\n"])
def test_a_configuration_that_cannot_be_read_is_said_and_ends_with_1(tmp_path, broken):
    result = run("--config", str(a_config(tmp_path, more=broken)))

    assert result.exit_code == 1
    assert "cannot be read" in result.output


def test_where_nothing_is_configured_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = run()

    assert result.exit_code == 1
    assert "there is no jupyterhub_config.py" in result.output
    assert "labspawner up" in result.output


def test_the_table_shows_text_in_square_brackets_as_it_stands(capsys):
    table.show({"x": [warning("rights", 'add: {apiGroups: [""], verbs: [watch]}'), ok("a", "b"), error("c", "d")]})

    said = capsys.readouterr().out
    assert 'add: {apiGroups: [""], verbs: [watch]}' in said
    assert "1 error(s) and 1 warning(s)" in said


async def test_a_machine_of_its_own_is_looked_at_by_trying(tmp_path):
    """The local provider: sandbox, limits, network, quota and cards are all said, whatever this machine allows."""
    settings = settings_of(tmp_path, providers={"local": {"gpu": {"cards": ()}}})

    found = await looks.provider(settings, "local")

    assert {"sandbox", "network", "home quota", "GPUs", "room"} <= {finding.what for finding in found}
    assert all(finding.detail for finding in found)
