"""A VM without an agent calls a real JupyterHub: past its log-in and its cookies, and nobody else gets in."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from labspawner.guest.labspawner_guest import HINT
from labspawner.providers.proxmox.record import record_of
from labspawner.testing import tinyserver
from labspawner.testing.hub import RealHub
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.guest import Guests

from .providers import settings_of

PLACE = "/hub/labspawner/guest/call-home"


@pytest.fixture
def pve() -> Iterator[PveDouble]:
    with PveDouble(guests=Guests.scripted(agent=False, calls_home=True)) as double:
        double.set_config(double.template, agent="0")
        yield double


@pytest.fixture
def hub(pve: PveDouble, tmp_path: Path) -> Iterator[RealHub]:
    command = list(tinyserver.command())
    course = (
        "course: py101\ntitle: Python\nprofiles:\n"
        f'  - {{slug: vm, title: A VM, variants: [{{provider: proxmox, template: "{pve.template}", '
        f"settings: {{handover: call-home, command: {command!r}}}}}]}}\n"
    )
    made = RealHub(
        tmp_path / "hub",
        courses={"py101.yaml": course},
        groups={"course-py101": ["student1"]},
        providers={"proxmox": settings_of(pve)},
        config="c.Labspawner.providers['proxmox']['hub_connect_url'] = f'http://127.0.0.1:{c.JupyterHub.hub_port}'",
    )
    yield made
    made.close()


def asked(port: int, body: bytes, source: str = "127.0.0.1", **headers: str) -> tuple[int, bytes, str]:
    """Status, answer and cookies."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(source, 0))
    try:
        line.request("POST", PLACE, body, headers)
        with line.getresponse() as got:
            return got.status, got.read(), got.headers.get("Set-Cookie", "")
    finally:
        line.close()


@pytest.mark.timeout(600)
def test_a_student_starts_a_vm_that_calls_and_the_same_call_again_is_refused(hub: RealHub, pve: PveDouble) -> None:
    hub.start()

    hub.ask("student1", {"profile": "py101/vm"})
    hub.wait_ready("student1", deadline_s=240)

    record = record_of(hub.lease("student1").handle)
    assert record.called
    assert record.vmid is not None
    found = HINT.search(f"password: {pve.vm(record.vmid).config['cipassword']}")
    assert found is not None
    body = json.dumps({"protocol": 1, "nonce": found[1]}).encode()
    pretended = {"X-Forwarded-For": record.address, "X-Real-Ip": record.address}
    answers = [
        asked(hub.port, body, record.address),
        asked(hub.port, body, **pretended),
        asked(hub.port, b"{}"),
        asked(hub.port, b"x" * 20_000),
    ]

    assert set(answers) == {(403, b'{"protocol": 1, "ok": false, "message": "refused"}', "")}
    log = hub.log()
    assert found[1] not in log
    assert f"a call home was refused, look at this machine lease={hub.lease('student1').id}" in log
    assert PLACE not in log
