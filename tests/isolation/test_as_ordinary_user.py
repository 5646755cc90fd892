"""The whole suite once more, as a hub that is an ordinary user; by root only, who can become one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SUITE = Path(__file__).parent
BECOME = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_NEEDS = """
import os, sys
import labspawner, builders, pytest, pytest_asyncio, pytest_timeout, hypothesis, psutil, pydantic
for path in (sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))):
    os.listdir(path)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the user's own, which pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="labspawner-nobody-"))
    os.chown(made, 65534, 65534)
    yield made
    shutil.rmtree(made)


def an_interpreter(environment: dict[str, str]) -> str | None:
    """One that the user may run, and that finds what we need: our own, or the system's of the same version."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, shutil.which(version, path="/usr/bin:/usr/local/bin")):
        if candidate is None:
            continue
        tried = subprocess.run(
            [*BECOME, candidate, "-c", _NEEDS], env=environment, capture_output=True, cwd="/", check=False
        )
        if tried.returncode == 0:
            return candidate
    return None


@pytest.mark.timeout(3600)  # each wait in the suite has its own end
@pytest.mark.parametrize("rung", ["rlimit", "cgroup"])
def test_every_attack_fails_where_the_hub_is_an_ordinary_user(folder: Path, rung: str) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root becomes somebody else; what runs here runs as an ordinary user already")
    paths = [str(SUITE.parents[1]), str(SUITE.parent), sysconfig.get_paths()["purelib"]]
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    if (python := an_interpreter(environment)) is None:
        pytest.skip("the user may not read this Python, nor is there a system's of the same version")
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder / 't'}",
        "-k",
        f"{rung} and not ordinary",
    ]

    done = subprocess.run(
        [*BECOME, python, *words, str(SUITE)],
        env=environment,
        cwd=SUITE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    if rung == "cgroup" and " passed" not in done.stdout:
        pytest.skip("the user may change no control group here")
