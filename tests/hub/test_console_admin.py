"""The administrators' pages on a real hub: what they show is true, what they do is done, and the hub tells nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bs4 import BeautifulSoup

from labspawner.testing.hub import RealHub, free_ports
from labspawner.testing.storm import enrol
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

pytestmark = [pytest.mark.hub, pytest.mark.timeout(900)]

PREFIX = "/services/labspawner/"
INNER = "/hub/api/labspawner/v1/"
COURSE = """
course: dl101
title: {en: Deep Learning, zh-CN: 深度学习}
profiles:
  - slug: gpu
    title: {en: A slice, zh-CN: 切片}
    variants: [{provider: sim, cpu: 1, memory: 1GiB, gpu: {memory: 6GiB, cores: 25%}, settings: {start_s: 0.1}}]
"""
CONFIG = "from labspawner import wiring\nwiring.run_console(c, url='http://127.0.0.1:{port}')\n"
HOSTS = [{"name": "n1", "servers": 8, "cpu": 16, "memory": "64GiB", "cards": [{"uuid": "GPU-1", "memory": "24GiB"}]}]


@dataclass
class Lab:
    """A hub with a console, and everybody's token."""

    hub: RealHub
    port: int
    tokens: dict[str, str]

    def as_(self, name: str) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", {"Authorization": f"token {self.tokens[name]}"})

    def page(self, path: str, name: str = "admin") -> Answer:
        return self.as_(name).call("GET", PREFIX + path)

    def text(self, path: str) -> str:
        answer = self.page(path)
        assert answer.status == 200, answer.text[:2000]
        return BeautifulSoup(answer.text, "html.parser").select_one("main").get_text(" ", strip=True)

    def post(self, path: str, form: str, name: str = "admin") -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"token {self.tokens[name]}"}
        return Client(f"http://127.0.0.1:{self.port}", kind).call("POST", PREFIX + path, form.encode())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One hub for all: student1 has a server with a slice."""
    (port,) = free_ports(1)
    hub = RealHub(
        tmp_path_factory.mktemp("lab"),
        courses={"dl101.yaml": COURSE},
        groups={"course-dl101": ["student1", "student2"], "course-dl101-instructors": ["teacher"]},
        providers={"sim": {"hosts": HOSTS}},
        config=CONFIG.format(port=port),
    )
    try:
        hub.start()
        hub.add_user("admin")
        known = enrol(hub.folder / "jupyterhub.sqlite", ["admin", "teacher", "student1", "student2"])
        lab = Lab(hub, port, {one.name: one.token for one in known})
        hub.start_server("student1", "dl101/gpu")
        eventually_sync(lambda: _answers(lab), 60.0, "the console answers")
        yield lab
    finally:
        hub.close()


def _answers(lab: Lab) -> bool:
    try:
        return lab.page("admin/").status == 200
    except OSError:
        return False


def test_the_map_and_the_list_show_who_has_the_slice(lab):
    capacity, leases = lab.text("admin/"), lab.text("admin/leases")

    assert "GPU-1" in capacity
    assert "18 GiB of 24 GiB free" in capacity
    assert "student1" in capacity
    assert "Running" in leases
    assert "GPU: 6 GiB, 25 %" in leases


def test_hub_leases_and_hosts_agree(lab):
    assert "Hub, leases and hosts agree" in lab.text("admin/decisions")


def test_doctor_looks_beside_the_hub_that_runs_and_comes_to_an_end(lab):
    assert lab.post("admin/doctor", "").status == 303

    eventually_sync(lambda: "Examined:" in lab.text("admin/doctor"), 120.0, "doctor has looked at everything")

    found = lab.text("admin/doctor")
    assert "labspawner starts the servers" in found
    assert "Provider sim" in found


@pytest.mark.parametrize("name", ["teacher", "student1", "student2"])
def test_only_administrators_are_shown_anything(lab, name):
    for path in (
        "admin/",
        "admin/leases",
        "admin/lines",
        "admin/decisions",
        "admin/audit",
        "admin/audit.csv",
        "admin/doctor",
    ):
        answer = lab.page(path, name)

        assert answer.status == 403, path
        assert "GPU-1" not in answer.text
    assert lab.post("admin/doctor", "", name).status == 403
    assert lab.post(f"admin/leases/{lab.hub.lease('student1').id}/end", "reason=x", name).status == 403


@pytest.mark.parametrize("name", ["admin", "teacher", "student1"])
@pytest.mark.parametrize("path", ["state", "capacity", "availability", "decisions", "reconciler", "doctor", "about"])
def test_only_the_console_itself_is_told_what_the_hub_knows(lab, name, path):
    answer = Client(lab.hub.base, {"Authorization": f"token {lab.tokens[name]}"}).call("GET", INNER + path)

    assert answer.status == 403
    assert "student1" not in answer.text


def test_the_hub_tells_nothing_to_a_token_in_an_address_or_to_a_cookie(lab):
    browser = lab.hub.login("admin")

    assert browser.call("GET", f"{INNER}state").status == 403
    assert Client(lab.hub.base).call("GET", f"{INNER}state?token={lab.tokens['admin']}").status == 403


@pytest.mark.parametrize("name", ["admin", "teacher", "student1"])
def test_nobody_but_the_console_has_the_hub_act(lab, name):
    lease = lab.hub.lease("student1")
    wish: dict[str, Any] = {
        "actor": "admin",
        "verb": "stop",
        "user": "student1",
        "server": "",
        "lease": lease.id,
        "args": {},
    }

    answer = Client(lab.hub.base, {"Authorization": f"token {lab.tokens[name]}"}).call("POST", f"{INNER}act", wish)

    assert answer.status == 403
    assert lab.hub.lease("student1").id == lease.id


def test_a_server_is_ended_for_a_reason_that_its_student_reads_and_it_is_on_record(lab):
    lab.hub.start_server("student2", "dl101/gpu")
    lease = lab.hub.lease("student2")

    answer = lab.post(f"admin/leases/{lease.id}/end", "reason=The+exam+begins.")

    assert answer.status == 303, answer.text[:2000]
    lab.hub.wait_gone("student2")
    assert "The exam begins." in lab.hub.login("student2").get("/hub/home").text
    (entry,) = json.loads(lab.page("admin/audit.json?verb=act.stop").text)
    assert (entry["actor"], entry["subject"], entry["course"]) == ("admin", "student2", "dl101")
    assert entry["detail"]["reason"] == "The exam begins."
