"""Zygotes of an environment whose single-user server runs what a test tells it; real forks, sandboxes and signals."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.local.warm import Started, StartOrder, Zygotes
from labspawner.testing.processes import alive
from labspawner.testing.waiting import eventually

MARK = "LABSPAWNER_LEASE_ID"
_SINGLEUSER = """
import os, sys, json
def main():
    exec(compile(os.environ["SCRIPT"], "script", "exec"), {"__name__": "__main__"})
if __name__ == "__main__":
    main()
"""
SLEEP = "import time, pathlib; pathlib.Path('up').touch(); time.sleep(600)"


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder for the front of sys.path: a `jupyterhub.singleuser` that runs $SCRIPT, and nothing else of Jupyter."""
    folder = Path(tempfile.mkdtemp(prefix="labspawner-test-"))  # pytest's own folders are closed to other accounts
    folder.chmod(0o755)
    for name in ("jupyter_server", "jupyterlab", "nbconvert", "ipykernel", "jupyter_client", "tornado"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('left out')\n")
    (folder / "jupyterhub").mkdir()
    (folder / "jupyterhub" / "__init__.py").write_text("")
    (folder / "jupyterhub" / "singleuser.py").write_text(_SINGLEUSER)
    yield folder
    shutil.rmtree(folder)


@dataclass
class Bench:
    """What a test starts, and what it must end. home: where servers run."""

    zygotes: Zygotes
    home: Path
    site: Path
    started: list[Started] = field(default_factory=list)

    def order(self, script: str, **changes: Any) -> StartOrder:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": str(self.site),
            "SCRIPT": script,
            MARK: "lease-1",
            **changes.pop("environment", {}),
        }
        values: dict[str, Any] = {
            "argv": (sys.executable, "-m", "jupyterhub.singleuser", "--flag"),
            "environment": environment,
            "marks": {MARK: environment[MARK]},
            "title": "student1",
            "cwd": str(self.home),
            "output_fd": os.open(self.home / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY),
        }
        return StartOrder(**{**values, **changes})

    async def start(self, script: str, **changes: Any) -> Started:
        order = self.order(script, **changes)
        try:
            started = await self.zygotes.start(order)
        finally:
            os.close(order.output_fd)
        self.started.append(started)
        return started

    async def run(self, script: str, **changes: Any) -> int:
        """Start, and wait for the end: the exit status."""
        started = await self.start(script, **changes)
        return await self.end_of(started)

    async def end_of(self, started: Started) -> int:
        await eventually(lambda: started.exit_status() is not None, 20.0, f"the end; log: {self.log()}")
        status = started.exit_status()
        assert status is not None
        return status

    async def answer(self, script: str, **changes: Any) -> Any:
        """What the script leaves in `answer`, as JSON."""
        code = script + "\nimport json, pathlib\npathlib.Path('answer').write_text(json.dumps(answer))"
        assert await self.run(code, **changes) == 0, self.log()
        return json.loads((self.home / "answer").read_text())

    async def sleeper(self, **changes: Any) -> Started:
        """A server that has begun, and stays."""
        (self.home / "up").unlink(missing_ok=True)
        started = await self.start(SLEEP, **changes)
        await eventually((self.home / "up").exists, 10.0, f"the server is up; log: {self.log()}")
        return started

    def log(self) -> str:
        file = self.home / "log"
        return file.read_text() if file.exists() else ""

    async def close(self) -> None:
        for started in self.started:
            if started.exit_status() is None:
                kill(started.keeper[0])
            await eventually(lambda pid=started.server_pid: not alive(pid), 10.0, "the server is gone")
            started.close()
        await self.zygotes.close()


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture
async def bench(site: Path) -> AsyncIterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="labspawner-test-"))
    home.chmod(0o777)
    bench = Bench(Zygotes({"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}, wait_s=300.0), home, site)
    await bench.zygotes.open()
    yield bench
    await bench.close()
    shutil.rmtree(home)


def layout(*, user_namespace: bool = False, interpreter: bool = True) -> tuple[str, ...]:
    """A sandbox that sees all of the host, in namespaces of its own; with this interpreter, wherever it is."""
    words = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--as-pid-1"]
    words += ["--hostname", "lab", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    if (
        interpreter and not os.stat(Path(sys.base_prefix).parents[-2]).st_mode & 0o001
    ):  # an interpreter below /root, for one
        closed = str(Path(sys.base_prefix).parents[-2])
        words += ["--perms", "0755", "--tmpfs", closed]
        for folder in reversed(Path(sys.base_prefix).parents[:-2]):
            words += ["--perms", "0755", "--dir", str(folder)]
        words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    if user_namespace:
        words += ["--unshare-user", "--uid", "1000", "--gid", "1000", "--disable-userns"]
    else:
        words += ["--cap-drop", "ALL"]
    return tuple(words)


def _works(command: tuple[str, ...]) -> bool:
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*command, "--", "true"], capture_output=True, timeout=120, check=False).returncode == 0


@pytest.fixture(params=["as the hub's kind of user", "in a user namespace"])
def sandbox(request: pytest.FixtureRequest, bench: Bench) -> Callable[[], dict[str, Any]]:
    """What an order needs to be sandboxed, in each way that works here."""
    namespaced = request.param == "in a user namespace"
    if not namespaced and os.geteuid() != 0:
        pytest.skip("only root makes a sandbox without a user namespace")
    if not _works(layout(user_namespace=namespaced)):
        pytest.skip("bubblewrap does not run here")
    return lambda: {"sandbox": layout(user_namespace=namespaced), "user_namespace": namespaced}
