"""The service as a process of its own: it answers, it ends with its hub, and it says why it does not start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from labspawner.service.desktop.settings import DesktopSettings
from labspawner.testing.hub import free_ports
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually_sync

COMMAND = [sys.executable, "-m", "labspawner.service.desktop"]
# As a hub is to it: starts it, and may be killed.
PARENT = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(3600)"


def environment(folder: Path, url: str) -> dict[str, str]:
    hub = {"hub_id": "lab-hub", "data_dir": str(folder), "providers": {"sim": {}}, "courses_dir": str(folder)}
    hub["database_url"] = f"sqlite:///{folder / 'leases.sqlite'}"
    told = DesktopSettings(hub=hub, novnc_dir=str(folder)).to_environment()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTERHUB_", "LABSPAWNER_"))},
        **told,
        "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
        "JUPYTERHUB_API_TOKEN": "not-a-secret",
        "JUPYTERHUB_CLIENT_ID": "service-desktop",
        "JUPYTERHUB_SERVICE_NAME": "desktop",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/desktop/",
        "JUPYTERHUB_SERVICE_URL": url,
        "JUPYTERHUB_BASE_URL": "/",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def status(url: str) -> int:
    """What the page of somebody who is not logged in is answered with; 0 where nobody answers."""

    class AsItIs(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), AsItIs)
    try:
        with opener.open(f"{url}/services/desktop/alice/", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


@pytest.fixture
def url() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def parent(tmp_path: Path, url: str) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A process that has started the service, and the service."""
    with (tmp_path / "log").open("wb") as log:
        starter = subprocess.Popen(
            [sys.executable, "-c", PARENT, *COMMAND], env=environment(tmp_path, url), stdout=subprocess.PIPE, stderr=log
        )
    assert starter.stdout is not None
    with starter.stdout:
        service = psutil.Process(int(starter.stdout.readline()))
        try:
            yield starter, service
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                service.kill()
            starter.kill()
            starter.wait()
            eventually_sync(lambda: not lives(service))


def test_it_answers_and_ends_with_the_hub_that_started_it(parent, url, tmp_path):
    starter, service = parent
    eventually_sync(lambda: status(url) == 302, 60.0, "the service answers")

    starter.kill()
    starter.wait()

    eventually_sync(lambda: not lives(service), 60.0, "the service has ended")
    assert status(url) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_it_waits_for_its_port_and_leaves_when_it_is_told(tmp_path, url):
    port = int(url.rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with (tmp_path / "log").open("wb") as log:
            service = subprocess.Popen(COMMAND, env=environment(tmp_path, url), stdout=log, stderr=log)
        try:
            eventually_sync(lambda: "is taken, waiting" in (tmp_path / "log").read_text(), 60.0, "it waits")
            taken.close()
            eventually_sync(lambda: status(url) == 302, 60.0, "the service answers")
            service.send_signal(signal.SIGTERM)
            assert service.wait(120) == 0
        finally:
            service.kill()
            service.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_without_its_settings_it_says_who_makes_them(tmp_path, url):
    given = {name: value for name, value in environment(tmp_path, url).items() if name != "LABSPAWNER_DESKTOP"}

    ended = subprocess.run(COMMAND, env=given, capture_output=True, text=True, timeout=240, check=False)

    assert ended.returncode == 2
    assert "wiring.run_desktop" in ended.stderr
    assert "Traceback" not in ended.stderr
