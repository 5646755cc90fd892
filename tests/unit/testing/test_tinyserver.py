"""The stand-in for a single-user server behaves as it was told, as a real process."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from labspawner.testing import tinyserver
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually_sync

Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def run(port: int) -> Iterator[Run]:
    """Starts tiny servers; whatever still runs is killed after the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*extra: str, **behaviour: object) -> subprocess.Popen[bytes]:
        environment = {"JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/user/ann/", "JUPYTERHUB_USER": "<ann>"}
        command = [*tinyserver.command(**behaviour), *extra]  # type: ignore[arg-type]
        children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError as error:
        error.close() if isinstance(error, urllib.error.HTTPError) else None
        return ""


def test_it_answers_the_hub_in_json_and_people_with_their_name(run: Run, port: int):
    run("--ServerApp.some_option=1")

    assert json.loads(eventually_sync(lambda: get(port, "/user/ann/api"))) == {"version": "tiny"}
    assert "&lt;ann&gt;" in get(port, "/user/ann/lab")


def test_it_dies_when_told_with_its_last_words(run: Run):
    child = run(die_after_s=0.0, exit_code=3, say="boom", never_listen=True)

    assert child.communicate(timeout=120)[1] == b"boom\n"
    assert child.returncode == 3


def test_it_may_ignore_a_polite_request_to_end(run: Run, port: int):
    child = run(deaf=True, listen_after_s=0.01)
    eventually_sync(lambda: get(port, "/"))

    child.terminate()
    child.send_signal(signal.SIGINT)

    assert get(port, "/")
    child.kill()
    assert child.wait(120) == -signal.SIGKILL
