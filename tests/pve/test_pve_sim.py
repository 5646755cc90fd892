"""`labspawner pve-sim` runs a simulated cluster, and `labspawner up --pve-sim` a hub with a VM profile on one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from traitlets.config import Config

from labspawner import vmdemo
from labspawner.cli.pve_sim import course_file, pve_sim
from labspawner.courses.loader import Loaded, read_course
from labspawner.hubid import kept_hub_id
from labspawner.testing.hub import end_processes, free_ports
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

REPO = Path(__file__).parents[2]
LABSPAWNER = [sys.executable, "-c", "from labspawner.cli import main; main()"]
PASSWORD = "open-sesame-of-a-test"


# -- the course and the provider that are added


def described(folder, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"settings": {"endpoints": ["https://127.0.0.1:1"], **settings}, "course": str(course_file())}
    (folder / "cluster.json").write_text(json.dumps(whole))


def test_the_course_is_a_good_one_and_says_that_it_is_simulated():
    found = read_course(course_file())

    assert isinstance(found, Loaded), found
    text = course_file().read_text(encoding="utf-8")
    assert found.course.profiles[0].variants[0].provider == vmdemo.PROVIDER
    assert text.count("(simulated)") == 2
    assert text.count("（模拟）") == 2


def test_a_configuration_keeps_what_it_has_and_gets_a_provider_and_a_course(tmp_path):
    courses, folder = tmp_path / "own", tmp_path / "sim"
    courses.mkdir()
    (courses / "py101.yaml").write_text("course: py101\n")
    described(folder, token="t", hub_connect_url="http://127.0.0.1:8081")
    c = Config()
    c.Labspawner.providers = {"local": {"max_servers": 2}}
    c.Labspawner.courses_dir = str(courses)
    c.JupyterHub.hub_port = 4711

    vmdemo.add_to(c, str(folder), str(tmp_path / "jupyterhub_config.py"))

    assert c.Labspawner.providers["local"] == {"max_servers": 2}
    assert c.Labspawner.providers["pve-sim"]["kind"] == "proxmox"
    assert c.Labspawner.providers["pve-sim"]["hub_connect_url"] == "http://127.0.0.1:4711"
    found = Path(c.Labspawner.courses_dir)
    assert sorted(path.name for path in found.iterdir()) == ["py101.yaml", "vm-demo.yaml"]
    (courses / "py101.yaml").write_text("course: changed\n")
    assert (found / "py101.yaml").read_text() == "course: changed\n"


def test_a_configuration_that_says_nothing_gets_the_courses_beside_it(tmp_path):
    (tmp_path / "courses").mkdir()
    (tmp_path / "courses" / "a.yaml").write_text("course: a\n")
    described(tmp_path / "sim")
    c = Config()

    vmdemo.add_to(Config(), str(tmp_path / "sim"), str(tmp_path / "jupyterhub_config.py"))  # at an earlier start
    vmdemo.add_to(c, str(tmp_path / "sim"), str(tmp_path / "jupyterhub_config.py"))

    assert set(c.Labspawner.providers) == {"local", "pve-sim"}
    assert sorted(path.name for path in Path(c.Labspawner.courses_dir).iterdir()) == ["a.yaml", "vm-demo.yaml"]


# -- the program


@pytest.fixture
def cluster(tmp_path):
    """`labspawner pve-sim`, as `up` starts it; its description."""
    target = tmp_path / "cluster.json"
    words = ["pve-sim", "--port=0", "--guests=scripted", "--nodes=2", f"--write={target}", "--lifeline"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*LABSPAWNER, *words], stdin=subprocess.PIPE, stdout=log, stderr=log)

    def ready():
        assert process.poll() is None, (tmp_path / "log").read_text()
        return target.exists()

    try:
        eventually_sync(ready, 60, "pve-sim is ready")
        yield process, json.loads(target.read_text()), tmp_path / "log"
    finally:
        process.kill()
        process.communicate()


def asked(settings, path):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is the provider's business
    headers = {"Authorization": f"PVEAPIToken={settings['token']}"}
    request = urllib.request.Request(f"{settings['endpoints'][1]}/api2/json{path}", headers=headers)
    with urllib.request.urlopen(request, context=context, timeout=120) as response:
        return json.load(response)["data"]


def test_it_prints_what_a_hub_needs_and_answers_until_its_lifeline_ends(cluster):
    process, described, log = cluster
    settings = described["settings"]

    found = asked(settings, "/cluster/resources?type=vm")

    assert described["template"] in {row["vmid"] for row in found}
    assert len(settings["endpoints"]) == 2
    assert "SIMULATED" in eventually_sync(lambda: "Ctrl-C ends it." in log.read_text() and log.read_text(), 60)
    assert settings["token"] in log.read_text()
    process.stdin.close()
    assert process.wait(300) == 0


def test_it_ends_when_it_is_told_to(cluster):
    process, _, log = cluster

    process.send_signal(signal.SIGTERM)

    assert process.wait(300) == 0
    assert "ends, with all its VMs" in log.read_text()


def test_a_taken_port_is_said_with_another_to_take():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = CliRunner().invoke(pve_sim, [f"--port={port}"])

    assert done.exit_code == 1
    assert f"Port {port} on 127.0.0.1 is taken." in done.output
    assert "--port 0" in done.output


# -- with a hub

CONFIG = f"""
c = get_config()
load_subconfig({str(REPO / "jupyterhub_config.py")!r})
c.Labspawner.providers = {{"local": {{"min_free_disk": "1MiB"}}}}
"""


class Up:
    """`labspawner up --pve-sim 10` in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.data, self.hub_id = folder, folder / "data", kept_hub_id(folder / "data")
        self.port, hub_port, proxy_port = free_ports(3)
        (folder / "courses").mkdir()
        (folder / "config.py").write_text(CONFIG)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LABSPAWNER_")},
            "LABSPAWNER_DEMO_PASSWORD": PASSWORD,
            "LABSPAWNER_COURSES_DIR": str(folder / "courses"),
            "LABSPAWNER_HUB_PORT": str(hub_port),
            "LABSPAWNER_PROXY_API_PORT": str(proxy_port),
        }
        words = ["up", f"--port={self.port}", "--config=config.py", f"--data-dir={self.data}", "--pve-sim=10"]
        with (folder / "up.log").open("w") as log:
            self.process = subprocess.Popen(
                [*LABSPAWNER, *words], env=self.environment, cwd=folder, stdout=log, stderr=log
            )

    def printed(self):
        return (self.folder / "up.log").read_text()

    def ready(self):
        assert self.process.poll() is None, self.printed()
        return "is ready:" in self.printed()

    def login(self, user):
        browser = Client(f"http://127.0.0.1:{self.port}")
        browser.get("/hub/login")
        assert browser.post_form("/hub/login?next=/hub/home", {"username": user, "password": PASSWORD}).status == 302
        return browser

    def family(self):
        """All processes that it has started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def up(tmp_path):
    made = Up(tmp_path)
    try:
        eventually_sync(made.ready, 120, "labspawner up says that it is ready")
        yield made
    finally:
        made.process.terminate()
        made.process.wait(300)
        end_processes(made.hub_id)


@pytest.mark.hub
def test_up_offers_a_vm_that_is_labelled_as_simulated_and_ends_with_it(up):
    browser = up.login("student1")

    page = browser.get("/hub/spawn").text
    browser.post_form("/hub/spawn/student1", {"profile": "vm-demo/machine"})
    eventually_sync(
        lambda: browser.call("GET", "/user/student1/api").status == 200, 120, "JupyterLab in the VM answers"
    )
    family = up.family()
    up.process.kill()
    up.process.wait(300)

    assert "SIMULATED" in up.printed()
    assert "Your own VM (simulated)" in page
    cluster = [process for process in family if _is_of_cluster(process)]
    assert cluster
    eventually_sync(lambda: not any(lives(process) for process in cluster), 60, "the cluster and its VMs have ended")
    # The hub outlives a killed `up`, as without --pve-sim.
    _end([process for process in family if process not in cluster])


def _end(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=120)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=120)


def _is_of_cluster(process):
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return True
    hub = "jupyterhub" in words and "singleuser" not in words
    return not hub and any(part in words for part in ("pve-sim", "singleuser", "sitter.py"))
