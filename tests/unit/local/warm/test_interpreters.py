"""Which interpreter's server a command is, whom root trusts, and every Python that is supported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labspawner.providers.local.warm.child import _sealed_copy
from labspawner.providers.local.warm.orders import Program, program_of
from labspawner.providers.local.warm.trust import distrust

from .conftest import Bench

PYTHONS = [f"python3.{minor}" for minor in range(9, 15)]


def found(name: str) -> str | None:
    """The interpreter behind a name on PATH, which may be a shim."""
    command = shutil.which(name)
    if command is None:
        return None
    asked = subprocess.run(
        [command, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None


@pytest.mark.parametrize("name", PYTHONS)
async def test_every_python_can_be_a_zygote(bench: Bench, name: str) -> None:
    python = found(name)
    if python is None:
        pytest.skip(f"{name} is not installed")

    started = await bench.start("raise SystemExit(21)", argv=(python, "-m", "jupyterhub.singleuser"))

    assert await bench.end_of(started) == 21, bench.log()
    assert started.warm or distrust(python, uid=os.geteuid()), await bench.zygotes.ready(python)


@pytest.mark.parametrize("name", PYTHONS)
async def test_every_python_can_be_the_keeper_of_another_program(bench: Bench, name: str) -> None:
    python = found(name)
    if python is None:
        pytest.skip(f"{name} is not installed")
    bench.zygotes._cold.interpreter = python
    await bench.zygotes.close()
    bench.zygotes._closed, bench.zygotes._cold.making = False, None

    assert await bench.run("", argv=("sh", "-c", "exit 22")) == 22, bench.log()


def test_an_interpreter_that_its_students_own_outside_is_run_from_a_copy_that_nobody_can_change() -> None:
    descriptor = _sealed_copy(os.path.realpath(sys.executable))
    code = "import sys; print(sys.executable, sys.prefix); open('/proc/self/exe', 'r+b')"

    run = subprocess.run(
        [sys.executable, "-I", "-c", code], executable=f"/proc/self/fd/{descriptor}", pass_fds=[descriptor],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert run.stdout.split() == [sys.executable, sys.prefix]
    assert "Error" in run.stderr
    for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0)):
        with pytest.raises(PermissionError):
            change()
    os.close(descriptor)


def script(folder: Path, first_line: str, name: str = "jupyterhub-singleuser") -> str:
    file = folder / name
    file.write_text(first_line + "\nimport sys\n")
    file.chmod(0o755)
    return str(file)


def test_a_script_is_of_the_interpreter_in_its_first_line(tmp_path: Path) -> None:
    path = script(tmp_path, "#!/opt/env/bin/python3.11")

    assert program_of((path, "--debug"), "") == Program("/opt/env/bin/python3.11", 1)
    assert program_of(("jupyterhub-singleuser",), str(tmp_path)) == Program("/opt/env/bin/python3.11", 1)
    assert program_of((sys.executable, "-m", "jupyterhub.singleuser", "x"), "") == Program(sys.executable, 3)


@pytest.mark.parametrize(
    "first_line", ["#!/bin/sh", "#!/usr/bin/env python3", "#!/opt/bin/python3 -E", "#!python3", "\x7fELF", "#!", ""]
)
def test_a_script_that_does_not_say_so_is_just_a_command(tmp_path: Path, first_line: str) -> None:
    assert program_of((script(tmp_path, first_line),), "") is None


def test_other_commands_are_commands(tmp_path: Path) -> None:
    unreadable = tmp_path / "jupyterhub-singleuser"
    unreadable.mkdir()

    assert program_of(("jupyter-labhub",), str(tmp_path)) is None
    assert program_of(("jupyterhub-singleuser",), str(tmp_path)) is None
    assert program_of((sys.executable, "-m", "notebook"), "") is None
    assert program_of(("python-that-is-not-there", "-m", "jupyterhub.singleuser"), "") is None


def an_environment(tmp_path: Path) -> Path:
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "some"
    packages.mkdir(parents=True)
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3\n")
    python = tmp_path / "env" / "bin" / "python3"
    python.symlink_to(os.path.realpath(sys.executable))
    return python


def test_root_trusts_what_only_root_can_write(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("files of root are made by root")
    python = an_environment(tmp_path)

    assert distrust(str(python), uid=0) is None


@pytest.mark.parametrize("part", ["bin", "lib/python3.11/site-packages", "lib/python3.11/site-packages/some", "."])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_what_others_can_write_is_not_trusted(tmp_path: Path, part: str, mode: int) -> None:
    python = an_environment(tmp_path)
    (tmp_path / "env" / part).chmod(mode)

    assert "can be written by others" in str(distrust(str(python), uid=os.geteuid()))


def test_what_belongs_to_another_account_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    python = an_environment(tmp_path)
    os.chown(tmp_path / "env" / "lib", 54321, 54321)

    assert "belongs to uid 54321" in str(distrust(str(python), uid=0))
    assert "cannot be looked at" in str(distrust(str(tmp_path / "no" / "bin" / "python"), uid=0))


async def test_root_warms_up_no_interpreter_that_others_can_write(bench: Bench, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root must not")
    python = an_environment(tmp_path)
    (tmp_path / "env" / "bin").chmod(0o777)

    started = await bench.start("", argv=(str(python), "-m", "jupyterhub.singleuser"))

    assert not started.warm
    assert "root does not run it" in str(await bench.zygotes.ready(str(python)))
