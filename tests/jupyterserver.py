"""A real Jupyter server as labspawner starts it: a child process, with our extension found through its environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubdouble import TOKEN

from labspawner.extension import enabling
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

SECRET = "let-me-in"
BASE = "/user/a.b@c/"


@dataclass
class JupyterServer:
    """A running server. url: without a slash at its end. home: its folder of documents."""

    url: str
    home: Path
    log_path: Path
    process: subprocess.Popen[bytes]

    def client(self) -> Client:
        """An HTTP client that is logged in."""
        return Client(self.url, {"Authorization": f"token {SECRET}"})

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


@contextmanager
def a_jupyter_server(
    folder: Path, *, hub_url: str, app: str = "jupyter_server", extra: Mapping[str, str] | None = None
) -> Iterator[JupyterServer]:
    """Start `python -m <app>` with a home of its own; nothing of it is left afterwards."""
    home, log_path = folder / "home", folder / "server.log"
    settings = home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # nothing leaves this machine
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JUPYTERHUB_API_URL": hub_url,
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "LABSPAWNER_LEASE_ID": "lease-of-a-test",
        "LABSPAWNER_REPORT_EVERY_S": "2",
        "SHELL": "/bin/bash",
        "JUPYTER_PATH": str(_kernels(folder)),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        **(extra or {}),
    }
    environment = {name: value for name, value in environment.items() if value}
    environment.update(enabling.environment(environment))
    argv = [
        *(sys.executable, "-m", app, "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1", "--debug"),
        *(f"--ServerApp.base_url={BASE}", f"--IdentityProvider.token={SECRET}", f"--ServerApp.root_dir={home}"),
        "--ServerApp.terminado_settings=shell_command=['bash', '--norc']",
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, env=environment, cwd=home, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        url = eventually_sync(lambda: _url(process, log_path), deadline_s=90, what="the server says where it is")
        yield JupyterServer(url=url, home=home, log_path=log_path, process=process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _kernels(folder: Path) -> Path:
    """A kernel whose coverage is not measured: it would take ten seconds to begin and to end."""
    data = folder / "share"
    spec = data / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    unmeasured = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python", "env": unmeasured}))
    return data


def _url(process: subprocess.Popen[bytes], log_path: Path) -> str:
    text = log_path.read_text(errors="replace")
    assert process.poll() is None, text[-3000:]
    found = re.search(r"(http://127\.0\.0\.1:\d+)/user/", text)
    return found[1] if found else ""
