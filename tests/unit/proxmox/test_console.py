"""The ticket for a VM's screen, and what the end of a console means. Answers as recorded from 8.4."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from labspawner.errors import ProviderUnavailable
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.console import (
    FAILED,
    GONE,
    LATE,
    OFF,
    ConsoleOff,
    open_console,
    password_of,
    why_ended,
)
from labspawner.providers.proxmox.endpoints import Endpoints

UPID = "UPID:pve2:000013F1:000AE2AD:6B020B80:vncproxy:20017:labs@pve!hub:"
TICKET = "hT8+k/1=:PVEVNC:6B020B80::Zm9v+YmFy/cQ=="
ANSWER = {"port": "5900", "ticket": TICKET, "password": "hT8+k/1=", "upid": UPID, "user": "labs@pve!hub"}


@dataclass(frozen=True)
class Way:
    url: str
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": "PVEAPIToken=labs@pve!hub=s3cret"})
    fingerprint: str | None = "AB:CD"
    ca_file: Path | None = None


class Door:
    """A client that answers what a test gives it, and remembers what was asked."""

    def __init__(self, answer: Any = None, **answers: Any) -> None:
        self.answer = ANSWER if answer is None else answer
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    async def post(self, path: str, *, node: str | None = None, **params: Any) -> Any:
        self.asked.append(("POST", path, node, params))
        return self.answer.pop(0) if isinstance(self.answer, list) and self.answer else self.answer

    async def get(self, path: str, **params: Any) -> Any:
        self.asked.append(("GET", path))
        found = self.answers[path.rsplit("/", 1)[1]]
        if isinstance(found, Exception):
            raise found
        return found

    async def way(self, *, node: str | None = None) -> Way:
        return Way(f"https://{node}.lab.example:8006/")


async def test_both_steps_go_to_the_vms_own_node():
    door = Door()

    ticket = await open_console(door, vmid=20017, node="pve2", status="running")

    assert door.asked == [("POST", "/nodes/pve2/qemu/20017/vncproxy", "pve2", {"websocket": 1})]
    parts = urlsplit(ticket.url)
    assert (parts.scheme, parts.netloc) == ("wss", "pve2.lab.example:8006")
    assert parts.path == "/api2/json/nodes/pve2/qemu/20017/vncwebsocket"


async def test_endpoints_are_tried_until_one_is_the_vms_node():
    answers = [{**ANSWER, "upid": UPID.replace("pve2", name)} for name in ("pve1", "pve3", "pve2", "pve1")]

    ticket = await open_console(Door(answers), vmid=20017, node="pve2", status="running")

    assert urlsplit(ticket.url).netloc == "pve2.lab.example:8006"
    assert len(answers) == 1


async def test_the_websocket_goes_where_the_console_was_made_when_another_node_answered():
    answer = {**ANSWER, "upid": UPID.replace("pve2", "pve1")}

    ticket = await open_console(Door(answer), vmid=20017, node="pve2", status="running")

    assert urlsplit(ticket.url).netloc == "pve1.lab.example:8006"


async def test_the_ticket_survives_its_way_through_the_query():
    ticket = await open_console(Door(), vmid=20017, node="pve2", status="running")

    query = urlsplit(ticket.url).query
    assert parse_qs(query) == {"port": ["5900"], "vncticket": [TICKET]}
    assert not set("+/") & set(query)


async def test_no_secret_of_a_ticket_is_printed():
    ticket = await open_console(Door(), vmid=20017, node="pve2", status="running")

    assert not [part for part in ("s3cret", "hT8", "Zm9v") if part in repr(ticket)]


async def test_trust_and_token_are_those_of_the_endpoint():
    ticket = await open_console(Door(), vmid=20017, node="pve2", status="running")

    assert ticket.headers == {"Authorization": "PVEAPIToken=labs@pve!hub=s3cret"}
    assert ticket.fingerprint == "AB:CD"
    assert ticket.reference == UPID


async def test_an_older_host_gives_the_password_only_as_the_tickets_beginning():
    answer = {key: value for key, value in ANSWER.items() if key != "password"}

    ticket = await open_console(Door(answer), vmid=20017, node="pve2", status="running")

    assert ticket.password == "hT8+k/1="


def test_a_ticket_of_another_form_still_begins_with_the_password():
    assert password_of("12345678abcdef") == "12345678"


@pytest.mark.parametrize(("node", "status", "words"), [(None, "", GONE), ("pve1", "stopped", OFF)])
async def test_a_machine_that_is_off_or_gone_is_not_asked_for_a_screen(node, status, words):
    door = Door()

    with pytest.raises(ConsoleOff) as refused:
        await open_console(door, vmid=20017, node=node, status=status)

    assert refused.value.message == words
    assert door.asked == []


@pytest.mark.parametrize("answer", ["", {"port": "5900"}, []])
async def test_an_answer_that_cannot_be_read_is_the_hosts_trouble(answer):
    with pytest.raises(ProviderUnavailable):
        await open_console(Door(answer), vmid=20017, node="pve2", status="running")


@pytest.mark.parametrize(
    ("exitstatus", "log", "words"),
    [
        ("connection timed out", ["TASK ERROR: connection timed out"], LATE),
        ("Failed to run vncproxy.", ["VM 20017 not running", "TASK ERROR: Failed to run vncproxy."], OFF),
        ("Failed to run vncproxy.", ["ssh: connect to host 10.0.0.1 port 22: Connection refused\r"], FAILED),
        ("OK", [], None),
    ],
)
async def test_the_task_says_why_there_was_no_picture(exitstatus, log, words):
    door = Door(
        status={"status": "stopped", "exitstatus": exitstatus},
        log=[{"n": number, "t": line} for number, line in enumerate(log, 1)],
    )

    assert await why_ended(door, UPID) == words


@pytest.mark.parametrize(
    "status",
    [
        {"status": "running"},
        PveSilent("GET status", sent=False, status=595),
        PveRefused(400, "Parameter verification failed.", {"upid": "no such task"}),
        [],
    ],
)
async def test_while_nobody_knows_why_nothing_is_said(status):
    assert await why_ended(Door(status=status, log=[]), UPID) is None


async def test_what_is_no_task_is_not_asked_for():
    door = Door()

    assert await why_ended(door, "") is None
    assert door.asked == []


def test_an_endpoint_is_known_by_what_ran_on_it():
    endpoints = Endpoints(["https://10.0.0.1:8006", "https://10.0.0.2:8006", "https://pve3.lab:8006"])
    first, second, third = endpoints.all

    first.heard("/nodes/pve2/qemu/100/vncproxy", {"upid": UPID.replace("pve2", "pve1")})
    first.heard("/nodes/pve2/qemu/100/status/start", UPID)

    assert endpoints.order(0.0, node="pve2") == [second, third, first]
    second.heard("/nodes/pve2/qemu/100/vncproxy", {"upid": UPID})
    assert endpoints.best(0.0, node="pve2") is second
    assert endpoints.best(0.0, node="pve1") is first
    assert endpoints.best(0.0, node="pve3") is third
