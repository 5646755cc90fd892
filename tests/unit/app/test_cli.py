"""The commands that need no hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click import ClickException
from click.testing import CliRunner

from labspawner import wiring
from labspawner.cli import main
from labspawner.cli.up import _end, find_config


def run(*words: str, **environment: str):
    return CliRunner(env=environment).invoke(main, list(words))


def test_help_lists_every_command():
    result = run("--help")

    assert result.exit_code == 0
    for command in ("up", "down", "profiles", "reconcile", "top", "bench"):
        assert command in result.output


def test_up_says_which_port_is_taken_and_what_to_type(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "jupyterhub_config.py").write_text("")

        result = run(
            "up", "--port", str(port), "--data-dir", str(tmp_path), "--config", str(tmp_path / "jupyterhub_config.py")
        )

    assert result.exit_code == 1
    assert f"Port {port}" in result.output
    assert f"--port {port + 1}" in result.output


@pytest.mark.parametrize(("word", "named"), [("jupyterhub", True), ("something-else", False)])
def test_up_names_the_hub_of_an_earlier_run_and_nobody_who_only_has_its_pid(tmp_path: Path, word: str, named: bool):
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", word]) as earlier,
        socket.socket() as taken,
    ):
        (tmp_path / "hub.pid").write_text(f"{earlier.pid}\n")
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = run("up", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path), "--config", __file__)
        earlier.kill()

    assert (f"kill {earlier.pid}" in result.output) is named


@pytest.mark.parametrize("text", ["", "x", "-1", "99999999"])
def test_up_makes_nothing_of_a_pid_file_that_names_nobody(tmp_path: Path, text: str):
    (tmp_path / "hub.pid").write_text(text)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = run("up", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path), "--config", __file__)

    assert result.exit_code == 1
    assert "earlier run" not in result.output


def test_a_proxy_that_goes_between_being_asked_and_being_forced_is_no_error():
    class GoesJustThen:
        asked = 0

        def terminate(self):
            self.asked += 1

        def wait(self, seconds):
            raise psutil.TimeoutExpired(seconds)

        def kill(self):
            raise psutil.NoSuchProcess(1)

    proxy = GoesJustThen()

    _end(proxy)

    assert proxy.asked == 1


def test_up_refuses_a_data_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")

    result = run("up", "--data-dir", str(tmp_path / "file" / "data"), "--config", __file__)

    assert result.exit_code == 1
    assert "--data-dir" in result.output


def test_without_a_configuration_here_the_one_of_the_wheel_is_taken(tmp_path: Path):
    here, share = tmp_path / "here", tmp_path / "share"
    here.mkdir()
    share.mkdir()

    with pytest.raises(ClickException, match="--config"):
        find_config((here, share))
    (share / "jupyterhub_config.py").write_text("")
    assert find_config((here, share)) == share / "jupyterhub_config.py"
    (here / "jupyterhub_config.py").write_text("")
    assert find_config((here, share)) == here / "jupyterhub_config.py"


def test_reconcile_and_down_on_an_empty_folder_find_nothing(tmp_path: Path):
    config = tmp_path / "config.py"
    config.write_text(
        f"c = get_config()\nc.Labspawner.data_dir = {str(tmp_path)!r}\nc.Labspawner.hub_id = 'empty-hub'\n"
    )

    assert "nothing to do" in run("reconcile", "--dry-run", "--config", str(config)).output
    assert "No server is running" in run("down", "--yes", "--config", str(config)).output


def test_a_wrong_setting_is_a_sentence_and_no_traceback(tmp_path: Path):
    config = tmp_path / "config.py"
    config.write_text("c = get_config()\nc.Labspawner.hub_id = 'Not Allowed'\n")

    result = run("reconcile", "--config", str(config))

    assert result.exit_code == 1
    assert "hub_id" in result.output
    assert "Traceback" not in result.output


def test_bench_prints_a_table():
    result = run("bench", "engine", "--n", "10", "--start-s", "0.05")

    assert result.exit_code == 0, result.output
    assert "start, all ready" in result.output


def test_the_npm_proxy_on_path_wins_over_the_python_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / wiring.PROXY
    script.write_text("#!/usr/bin/env node\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))

    assert wiring.proxy_command() == [str(script)]


def test_without_the_npm_proxy_the_one_beside_python_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / wiring.PROXY).write_text("#!/usr/bin/python\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert wiring.proxy_command() == [str(tmp_path / wiring.PROXY)]
