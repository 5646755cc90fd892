"""The extension never stands in the way of the server that it is in."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import labspawner.extension as extension

pytest.importorskip("jupyter_server", reason="jupyter_server is not installed")
app = pytest.importorskip("labspawner.extension.app")

STARTED_BY_US = {
    "LABSPAWNER_LEASE_ID": "lease",
    "JUPYTERHUB_API_TOKEN": "0123456789-not-a-secret",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
}


@pytest.fixture
def broken_server() -> SimpleNamespace:
    """A server that has nothing of what the extension needs but a log."""
    return SimpleNamespace(log=logging.getLogger("a server"))


@pytest.mark.parametrize("missing", STARTED_BY_US)
def test_where_no_labspawner_hub_started_the_server_it_does_nothing(monkeypatch, caplog, broken_server, missing):
    for name, value in {**STARTED_BY_US, missing: ""}.items():
        monkeypatch.setenv(name, value)

    with caplog.at_level(logging.DEBUG):
        extension._load_jupyter_server_extension(broken_server)

    assert [record.levelname for record in caplog.records if "labspawner" in record.message] == ["DEBUG"]


def test_a_server_that_it_does_not_understand_runs_without_it(monkeypatch, caplog, broken_server):
    for name, value in STARTED_BY_US.items():
        monkeypatch.setenv(name, value)

    extension._load_jupyter_server_extension(broken_server)

    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no reports from this server" in record.message
    assert STARTED_BY_US["JUPYTERHUB_API_TOKEN"] not in caplog.text


def test_jupyter_finds_the_extension_by_its_module():
    assert extension._jupyter_server_extension_points() == [{"module": "labspawner.extension"}]


def test_terminals_find_the_command_of_a_server_that_runs_without_its_own_folder_in_path(tmp_path, monkeypatch):
    folders = [tmp_path / "own", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "labspawner").touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(folders[0] / "python"))
    lost, found = {"PATH": "/nowhere:/bin"}, {"PATH": str(folders[1])}

    app.offer_command(lost)
    app.offer_command(lost)
    app.offer_command(found)

    assert lost["PATH"] == f"/nowhere:/bin:{folders[0]}"
    assert found["PATH"] == str(folders[1])


def test_path_stays_where_there_is_no_command_to_offer(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    environment = {"PATH": "/nowhere"}

    app.offer_command(environment)

    assert environment["PATH"] == "/nowhere"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_login_shell_that_makes_a_path_of_its_own_has_the_command(tmp_path):
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(extension.__file__).parents[2])}
    app.offer_command(environment)
    shell = ["bash", "-l", "-c", "PATH=/usr/bin:/bin; labspawner hold 1m; echo $?; labspawner hold 1; echo $?"]
    own = tmp_path / "labspawner"

    bare = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
    own.write_text("#!/bin/sh\necho its own: $*\n")
    own.chmod(0o755)
    found = subprocess.run(
        ["bash", "-c", "labspawner top"],
        env={**environment, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert bare.stdout.split() == ["2", "2"]
    assert "This command works in a terminal of your own server" in bare.stderr
    assert found.stdout == "its own: top\n"
