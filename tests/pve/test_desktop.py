"""The desktop service in front of a cluster: what a student sees and types goes to their VM and to no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError
from unit.service.desktops import Desktop, a_desktop

from labspawner.providers.proxmox.console import GONE, OFF
from labspawner.service.desktop.relay import End
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.console import BACKGROUND, Screen
from labspawner.testing.waiting import eventually

from .providers import Started, a_request, follow, provider_on
from .rfbclient import RfbClient

OPEN_S = 60.0


class Lab:
    """A cluster with one VM that is a desktop, and the service in front of it."""

    def __init__(self, pve: PveDouble, desktop: Desktop, started: Started) -> None:
        self.pve, self.desktop, self.started = pve, desktop, started

    @property
    def vmid(self) -> int:
        return self.started.vmid

    @property
    def screen(self) -> Screen:
        found: Screen = self.pve.screens.screen(self.vmid)
        return found

    async def look(self) -> RfbClient:
        """Open the desktop as the page does, with noVNC's part played by a small client. The host waits 10 s for who was
        late once; the page comes again, and so does this."""
        for _ in range(5):
            answer = await self.desktop.open("alice")
            assert answer.code == 200, answer.body
            way = json.loads(answer.body)
            try:
                socket = await self.desktop.look("alice", key=way["key"])
                client = await asyncio.wait_for(RfbClient(Frames(socket)).login(way["password"]), OPEN_S)
            except (HTTPClientError, EOFError):
                continue
            # The screen counts a client a moment after the client knows that it is in.
            await eventually(lambda: self.screen.open >= 1, OPEN_S, "the screen knows its client")
            return client
        raise AssertionError("no console in five tries")


class Frames:
    """A websocket as `RfbClient` reads and writes."""

    def __init__(self, socket) -> None:
        self.socket = socket

    async def read(self) -> bytes | None:
        return await asyncio.wait_for(self.socket.read_message(), OPEN_S)

    async def write(self, data: bytes) -> None:
        await self.socket.write_message(data, binary=True)


@pytest.fixture
async def lab(pve: PveDouble, tmp_path: Path) -> AsyncIterator[Lab]:
    """alice's VM runs; from then on a second of the cluster is a second, so that browsers come in time."""
    provider = provider_on(pve, tmp_path / "provider", desktop_url="http://127.0.0.1:9")
    try:
        started = await follow(provider, a_request(pve, user="alice", settings={"jupyter": False}))
        assert started.url == "http://127.0.0.1:9"
        pve.call(lambda inside: inside.clock.set_pace(1.0))
        (tmp_path / "service").mkdir()
        async with a_desktop(tmp_path / "service", provider=provider, handle=started.handle) as desktop:
            yield Lab(pve, desktop, started)
    finally:
        await provider.close()


async def test_a_student_sees_their_machine_and_types_into_it(lab: Lab):
    client = await lab.look()
    await client.ask()
    await client.paint()
    await client.key(True, ord("L"))
    await client.key(False, ord("L"))

    assert client.name == f"QEMU ({lab.pve.vm(lab.vmid).name})"
    assert client.picture[0, 0] == BACKGROUND
    await eventually(lambda: lab.screen.keys == [(True, ord("L")), (False, ord("L"))], OPEN_S)
    assert not lab.pve.requests.matching("POST", "/access/ticket")  # the least token is enough


async def test_each_opening_is_a_new_console_and_closing_frees_it(lab: Lab):
    first = await lab.look()
    first.wire.socket.close()
    await eventually(lambda: lab.screen.open == 0, OPEN_S)

    before = lab.screen.connections
    await lab.look()

    assert lab.screen.connections == before + 1
    assert lab.screen.open == 1


async def test_a_console_that_the_host_ends_is_lost_and_comes_again(lab: Lab):
    client = await lab.look()

    lab.screen.drop()

    while await client.wire.read() is not None:
        pass
    assert client.wire.socket.close_code == End.HOST.value
    again = await lab.look()
    assert again.name == client.name


async def test_a_machine_that_goes_off_is_said_so(lab: Lab):
    await lab.look()

    lab.pve.faults.stop(lab.vmid)

    async def refused() -> bool:
        answer = await lab.desktop.open("alice")
        return answer.code == 409 and json.loads(answer.body)["message"] == str(OFF)

    await eventually(refused, OPEN_S, "the desktop says that the machine is off")
    assert (await lab.desktop.state("alice"))["message"] == str(OFF)


async def test_a_machine_that_an_administrator_deleted_is_said_so(lab: Lab):
    lab.pve.faults.stop(lab.vmid)
    lab.pve.faults.delete(lab.vmid)

    async def refused() -> bool:
        answer = await lab.desktop.open("alice")
        return answer.code == 409 and json.loads(answer.body)["message"] == str(GONE)

    await eventually(refused, OPEN_S, "the desktop says that the machine is gone")


async def test_a_machine_that_moved_is_found_on_its_new_node(lab: Lab):
    here = lab.pve.vm(lab.vmid).node
    there = next(name for name in ("pve1", "pve2", "pve3") if name != here)

    lab.pve.faults.migrate(lab.vmid, there)

    async def shown() -> bool:
        try:
            return bool((await lab.look()).name)
        except AssertionError:
            return False  # the listing still has the old node

    await eventually(shown, OPEN_S, "the screen is shown from the new node")


async def test_a_flood_of_pictures_arrives_whole(lab: Lab):
    client = await lab.look()
    wanted = 8 << 20

    lab.screen.flood(wanted)

    received = 0
    while received < wanted:
        frame = await client.wire.read()
        assert frame is not None
        received += len(frame)
    # The screen counts a frame once its network has taken it, which may be after it was read here.
    await eventually(lambda: lab.screen.sent >= wanted, OPEN_S, "the screen has counted all that it sent")
