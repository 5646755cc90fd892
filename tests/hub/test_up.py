"""`labspawner up` as a user types it: what goes wrong is said, and servers outlive the hub."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from labspawner.hubid import kept_hub_id
from labspawner.testing import tinyserver
from labspawner.testing.hub import end_processes, free_ports
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

REPO = Path(__file__).parents[2]
LABSPAWNER = [sys.executable, "-c", "from labspawner.cli import main; main()"]
PASSWORD = "open-sesame-of-a-test"

CONFIG = f"""
c = get_config()
load_subconfig({str(REPO / "jupyterhub_config.py")!r})
c.Labspawner.providers = {{"local": {{"min_free_disk": "1MiB"}}}}
MORE
"""
COURSE = f"""
course: py101
title: Python
profiles:
  - {{slug: base, title: Base, variants: [{{provider: local, settings: {{command: {list(tinyserver.command())!r}}}}}]}}
"""


class Up:
    """`labspawner up` in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.hub_id = folder, kept_hub_id(folder / "data")
        self.port = free_ports(1)[0]
        self.data = folder / "data"
        self.config = folder / "config.py"
        (folder / "courses").mkdir()
        (folder / "courses" / "py101.yaml").write_text(COURSE)
        self.write_config()
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LABSPAWNER_")},
            "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
            "LABSPAWNER_COURSES_DIR": str(folder / "courses"),
            "LABSPAWNER_PROXY_API_PORT": str(free_ports(1)[0]),
        }
        self.running = None
        # As an earlier run left it; and two tests that start at once must not both find the usual one free.
        (self.data / "hub.port").write_text(f"{free_ports(1)[0]}\n")

    def write_config(self, more=""):
        self.config.write_text(CONFIG.replace("MORE", more))

    def words(self, *words):
        return [*LABSPAWNER, *words, "--config", str(self.config), "--data-dir", str(self.data)]

    def run(self, *words, **environment):
        """To its end, for what goes wrong."""
        return subprocess.run(
            self.words(*words),
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self):
        with (self.folder / "up.log").open("w") as log:
            self.running = subprocess.Popen(
                self.words("up", "--port", str(self.port)),
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

        def ready():
            assert self.running.poll() is None, self.printed()
            return "Ctrl-C stops the hub." in self.printed()  # the last line of its greeting

        eventually_sync(ready, 60, "labspawner up says that it is ready")

    def printed(self):
        return (self.folder / "up.log").read_text()

    def end(self, number=signal.SIGINT):
        self.running.send_signal(number)
        code = self.running.wait(timeout=240)
        self.running = None
        return code

    def login(self, user):
        browser = Client(f"http://127.0.0.1:{self.port}")
        browser.get("/hub/login")
        answer = browser.post_form("/hub/login?next=/hub/home", {"username": user, "password": PASSWORD})
        return browser if answer.status == 302 else None


@pytest.fixture
def up(tmp_path):
    made = Up(tmp_path)
    yield made
    if made.running is not None:
        made.end(signal.SIGTERM)
    end_processes(made.hub_id)


def test_up_prints_the_url_the_accounts_and_the_password_and_ctrl_c_leaves_the_servers(up):
    hub_port = (up.data / "hub.port").read_text().strip()

    up.start()

    assert f"http://127.0.0.1:{up.port}/" in up.printed()
    assert f"password: {PASSWORD}" in up.printed()
    assert "student1, student2, student3, teacher, admin" in up.printed()
    browser = up.login("student1")
    browser.get("/hub/spawn")
    browser.post_form("/hub/spawn/student1", {"profile": "py101/base"})
    eventually_sync(lambda: browser.call("GET", "/user/student1/api").body == b'{"version": "tiny"}', 20, "it answers")

    assert up.end(signal.SIGINT) == 0
    assert "Servers keep running" in up.printed()
    assert PASSWORD not in (up.data / "hub.log").read_text()
    up.start()

    second = up.run("up", "--port", str(up.port))
    assert second.returncode == 1
    assert "The hub of an earlier run is still there: kill " in second.stderr
    wrong = Client(f"http://127.0.0.1:{up.port}")
    wrong.get("/hub/login")
    for fields in ({"username": "student1", "password": "x"}, {"username": "root", "password": PASSWORD}):
        assert wrong.post_form("/hub/login", fields).status in {200, 401, 403}
    again = up.login("student1")
    eventually_sync(lambda: again.call("GET", "/user/student1/api").body == b'{"version": "tiny"}', 20, "it is found")
    # Servers know the hub by its port, so it is kept even where the usual one is free.
    assert (up.data / "hub.log").read_text().count(f"Hub API listening on http://127.0.0.1:{hub_port}/") == 2
    assert up.end(signal.SIGTERM) == 0
    down = up.run("down", "--yes")
    assert "1 server(s) ended." in down.stdout


def test_up_comes_back_after_it_and_its_hub_were_killed(up):
    """The proxy of the killed hub still has the port, and its culler would go on asking."""
    up.start()
    browser = up.login("student1")
    browser.post_form("/hub/spawn/student1", {"profile": "py101/base"})
    eventually_sync(lambda: browser.call("GET", "/user/student1/api").body == b'{"version": "tiny"}', 20, "it answers")
    hub = psutil.Process(int((up.data / "hub.pid").read_text()))
    cullers = [child for child in hub.children() if "labspawner.culler" in child.cmdline()]
    up.running.kill()
    hub.kill()
    up.running.wait(120)
    eventually_sync(lambda: not lives(hub), 20, "the hub is dead")

    up.start()

    assert "Ending the proxy of a hub that was killed" in up.printed()
    again = up.login("student1")
    eventually_sync(lambda: again.call("GET", "/user/student1/api").body == b'{"version": "tiny"}', 20, "it is found")
    assert cullers
    eventually_sync(lambda: not any(lives(culler) for culler in cullers), 20, "the old culler is gone")
    assert up.end(signal.SIGTERM) == 0
    assert "1 server(s) ended." in up.run("down", "--yes").stdout


def test_a_taken_port_is_said_with_another_to_take(up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", up.port))
        taken.listen()

        done = up.run("up", "--port", str(up.port))

    assert done.returncode == 1
    assert f"Port {up.port} on 127.0.0.1 is taken." in done.stderr
    assert f"--port {up.port + 1}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_refused(up, port):
    done = up.run("up", "--port", port)

    assert done.returncode == 2
    assert "--port" in done.stderr


def test_the_last_port_of_all_does_not_advise_one_beyond(up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 65535))
        taken.listen()

        done = up.run("up", "--port", "65535")

    assert done.returncode == 1
    assert "65536" not in done.stderr


def test_a_data_folder_that_is_a_file_is_said(up):
    up.data = up.folder / "a-file"
    up.data.write_text("in the way")

    done = up.run("up", "--port", str(up.port))

    assert done.returncode != 0
    assert str(up.data) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_folder_below_a_file_is_said(up):
    up.data = up.folder / "a-file" / "data"
    (up.folder / "a-file").write_text("in the way")

    done = up.run("up", "--port", str(up.port))

    assert done.returncode == 1
    assert "The data folder cannot be used" in done.stderr


def test_a_configuration_that_is_missing_is_said(up):
    up.config.unlink()

    done = up.run("up", "--port", str(up.port))

    assert done.returncode == 2
    assert "config.py" in done.stderr
    assert "does not exist" in done.stderr


BROKEN = {
    "a mistake in Python": ("raise RuntimeError('my own mistake')", "my own mistake"),
    "a public bind": ("c.JupyterHub.bind_url = 'http://0.0.0.0:8000'", "this machine only: c.JupyterHub.bind_url is"),
    "an unknown provider": ("c.Labspawner.providers = {'docker': {}}", "no such provider is installed"),
}


@pytest.mark.parametrize(("more", "said"), BROKEN.values(), ids=BROKEN)
def test_a_wrong_configuration_ends_it_with_the_reason(up, more, said):
    up.write_config(more)

    done = up.run("up", "--port", str(up.port))

    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stderr, done.stderr
    assert "The hub did not start" in done.stderr
    assert ("Traceback" in done.stderr) == ("mistake" in said)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", up.port))  # no proxy was left behind
