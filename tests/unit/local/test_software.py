"""Which Python a server runs on, and which ones the hub refuses to run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import labspawner
from labspawner.errors import SetupError
from labspawner.providers.local.software import ask, own_software


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """A program that answers as an interpreter with prefix `env` and a base of `base` would."""
    for name in ("env/bin", "base/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "base/bin/python3").write_text("#!/bin/sh\n")
    told = json.dumps([str(tmp_path / "env"), str(tmp_path / "base"), str(tmp_path / "base/bin/python3")])
    python = tmp_path / "env/bin/python"
    python.write_text(f"#!/bin/sh\necho '{told}'\n")
    python.chmod(0o755)
    return python


def test_the_hubs_own_environment_is_shown_with_its_base_and_our_package() -> None:
    software = own_software()

    assert (software.interpreter, software.folder) == (sys.executable, str(Path(sys.executable).parent))
    assert {sys.prefix, sys.base_prefix} - {"/usr"} <= set(software.trees) | {"/usr"}
    assert str(Path(labspawner.__file__).parent) in software.trees


def test_another_interpreter_is_asked_where_it_lives(fake_python: Path, tmp_path: Path) -> None:
    software = ask(str(fake_python), never=[tmp_path / "homes"])

    assert software.folder == str(fake_python.parent)
    assert {str(tmp_path / "env"), str(tmp_path / "base")} <= set(software.trees)


def test_a_prefix_that_would_show_the_whole_machine_is_not_bound(fake_python: Path) -> None:
    fake_python.write_text('#!/bin/sh\necho \'["/", "/home", ""]\'\n')

    assert set(ask(str(fake_python), never=[]).trees) == {str(Path(labspawner.__file__).parent)}


@pytest.mark.parametrize("script", ["exit 1", "echo no json", "echo '[1]'"])
def test_an_interpreter_that_answers_nonsense_is_refused(fake_python: Path, script: str) -> None:
    fake_python.write_text(f"#!/bin/sh\n{script}\n")

    with pytest.raises(SetupError, match="interpreter") as failure:
        ask(str(fake_python), never=[])

    assert str(fake_python.parent) not in failure.value.message


def test_a_missing_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        ask(str(tmp_path / "nowhere" / "python"), never=[])


def test_an_interpreter_reached_through_a_home_is_refused(fake_python: Path, tmp_path: Path) -> None:
    home = tmp_path / "homes" / "ann"
    home.mkdir(parents=True)
    (home / "python").symlink_to(fake_python)

    with pytest.raises(SetupError) as failure:
        ask(str(home / "python"), never=[tmp_path / "homes"])

    assert "home" in str(failure.value)


def test_an_interpreter_that_others_may_write_is_refused(fake_python: Path) -> None:
    fake_python.chmod(0o777)

    with pytest.raises(SetupError, match="written by others"):
        ask(str(fake_python), never=[])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_interpreter_of_somebody_else_is_refused(fake_python: Path) -> None:
    os.chown(fake_python, 12345, 12345)

    with pytest.raises(SetupError, match="12345"):
        ask(str(fake_python), never=[])
