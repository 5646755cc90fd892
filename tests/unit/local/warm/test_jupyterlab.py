"""The environment that the tests run in: the real JupyterLab, imported once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from labspawner.providers.local.warm import StartOrder, Zygotes
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually

pytest.importorskip("jupyterlab")


class _Hub(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"version": "6.0.0"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub_api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hub/api"
    server.shutdown()
    server.server_close()
    thread.join()


def an_order(home: Path, api: str, port: int, user: str) -> StartOrder:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "JUPYTERHUB_API_TOKEN": f"token-of-{user}",
        "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{user}",
        "JUPYTERHUB_USER": user,
        "JUPYTERHUB_API_URL": api,
        "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/{user}/activity",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"/user/{user}/oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": "[]",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": "[]",
        "JUPYTERHUB_SERVICE_PREFIX": f"/user/{user}/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/user/{user}/",
    }
    return StartOrder(
        argv=(sys.executable, "-m", "jupyterhub.singleuser", "--allow-root"),
        environment=environment,
        marks={},
        title=user,
        cwd=str(home),
        output_fd=os.open(home / "log", os.O_CREAT | os.O_WRONLY),
    )


def answers(port: int, user: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/user/{user}/api", timeout=60) as answer:
            return "version" in json.load(answer)
    except (urllib.error.URLError, OSError):
        return False


async def test_two_students_have_each_their_own_server_out_of_one_zygote(tmp_path: Path, hub_api: str) -> None:
    if os.environ.get("PYTHONPATH"):
        pytest.skip("PYTHONPATH is set, and is not what this is about")
    zygotes = Zygotes({"PATH": os.environ["PATH"]}, wait_s=600.0)
    await zygotes.open()
    started = {}
    for user, port in zip(("ann", "bob"), free_ports(2), strict=True):
        home = tmp_path / user
        home.mkdir()
        order = an_order(home, hub_api, port, user)
        started[user] = await zygotes.start(order)
        os.close(order.output_fd)
        await eventually(lambda: answers(port, user), 30.0, (home / "log").read_text())  # noqa: B023

    assert all(server.warm for server in started.values()), await zygotes.ready()
    for user, server in started.items():
        other = "bob" if user == "ann" else "ann"
        log = (tmp_path / user / "log").read_text()
        assert str(tmp_path / user) in log
        assert "/nonexistent" not in log
        assert str(tmp_path / other) not in log
        files = {file.path for file in psutil.Process(server.server_pid).open_files()}
        assert not any(str(tmp_path / other) in file for file in files)
        psutil.Process(server.keeper[0]).terminate()
    for server in started.values():
        await eventually(lambda: server.exit_status() is not None, 30.0)  # noqa: B023
        assert server.exit_status() == 0
    await eventually(  # those of other tests at this moment come and go
        lambda: not list(Path(tempfile.gettempdir()).glob("labspawner-rehearsal-*")),
        30.0,
        "no rehearsal leaves a folder",
    )
    await zygotes.close()
