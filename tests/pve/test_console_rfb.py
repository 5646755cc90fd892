"""The console speaks RFB as QEMU does: password, a picture that can be recognised, keys, pointer, clipboard."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from labspawner.testing.pve.console import BACKGROUND, INK, MARK, Screens
from labspawner.testing.pve.console.canvas import PixelFormat
from labspawner.testing.pve.console.rfb import answer_to
from labspawner.testing.waiting import eventually

from .guesthost import a_vm
from .rfbclient import Refused, RfbClient, Wire

PASSWORD = "8letters"


class Room:
    """Screens, and clients in front of them."""

    def __init__(self):
        self.screens, self.tasks = Screens(), []

    def client(self, vm, password=PASSWORD):
        """A client that has not yet said anything; served from now on."""
        inside, outside = Wire.pair()
        self.tasks.append(asyncio.create_task(self.screens.serve(vm, password, inside)))
        return RfbClient(outside)

    async def close(self):
        await self.screens.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def room():
    made = Room()
    yield made
    await made.close()


@pytest.fixture
def vm():
    found = a_vm(701)
    found.pid, found.started_at = 1234, 1.0
    return found


def test_the_response_to_a_challenge_is_that_of_vnc_authentication():
    # DES of zeros under a key of zeros, from the standard's own table of test vectors.
    assert answer_to(bytes(8), "") == bytes.fromhex("8ca64de9c1b123a7")
    assert answer_to(bytes(16), "password") != answer_to(bytes(16), "passwore")
    assert answer_to(bytes(16), "password-and-more") == answer_to(bytes(16), "password")


async def test_a_client_with_the_password_sees_the_vm_of_its_name(room, vm):
    client = await room.client(vm).login(PASSWORD)

    await client.ask()
    await client.paint()

    assert client.version == b"RFB 003.008\n"
    assert client.name == "QEMU (vm701)"
    assert client.picture[5, 5] == BACKGROUND
    assert INK in client.picture.values()
    screen = room.screens.screen(701)
    assert all(
        client.picture[x, y] == screen.pixel(x, y)
        for x in range(0, client.width, 7)
        for y in range(0, client.height, 7)
    )
    assert (screen.connections, screen.open) == (1, 1)


async def test_a_client_without_the_password_is_told_so_and_sees_nothing(room, vm):
    with pytest.raises(Refused, match="Authentication failed"):
        await room.client(vm).login("wrong")

    await eventually(room.tasks[0].done, 60)
    screen = room.screens.screen(701)
    assert (screen.connections, screen.open, screen.refused) == (0, 0, 1)


async def test_keys_arrive_and_are_drawn(room, vm):
    client = await room.client(vm).login(PASSWORD)
    await client.ask()
    await client.paint()

    for letter in "Hi":
        await client.key(True, ord(letter))
        await client.key(False, ord(letter))
    await client.ask(incremental=True)
    *_, height = await client.paint()

    screen = room.screens.screen(701)
    await eventually(lambda: len(screen.keys) == 4, 60)
    assert screen.keys == [(True, 72), (False, 72), (True, 105), (False, 105)]
    assert screen.typed == "Hi"
    assert height < client.height


async def test_a_pressed_button_leaves_a_mark_and_a_moving_pointer_none(room, vm):
    client = await room.client(vm).login(PASSWORD)

    await client.pointer(0, 300, 250)
    await client.pointer(1, 400, 270)
    await client.pointer(1, 60000, 60000)
    await client.cut("clip")

    screen = room.screens.screen(701)
    await eventually(lambda: screen.cut_texts == ["clip"], 60)
    assert screen.pointers == [(0, 300, 250), (1, 400, 270), (1, 60000, 60000)]
    assert screen.pixel(400, 270) == MARK
    assert screen.pixel(300, 250) == BACKGROUND


async def test_an_incremental_request_is_answered_when_something_changed(room, vm):
    first, second = await room.client(vm).login(PASSWORD), await room.client(vm).login(PASSWORD)
    await second.ask()
    await second.paint()
    await second.ask(incremental=True)
    waiting = asyncio.create_task(second.paint())

    await first.key(True, 0x61)

    assert (await waiting)[3] > 0


async def test_the_pixel_format_that_a_client_asks_for_is_the_one_it_gets(room, vm):
    sixteen = PixelFormat(bits=16, depth=16, maxima=(31, 63, 31), shifts=(11, 5, 0))
    client = await room.client(vm).login(PASSWORD)

    await client.wire.write(b"\0\0\0\0" + sixteen.packed())
    await client.ask()
    await client.read(4)
    header = await client.read(12)
    raw = await client.read(client.width * client.height * 2)

    assert header[:8] == b"\0\0\0\0" + client.width.to_bytes(2, "big") + client.height.to_bytes(2, "big")
    assert raw[:2] == sixteen.pixel(BACKGROUND)


async def test_a_console_ends_with_its_vm(room, vm):
    client = await room.client(vm).login(PASSWORD)

    vm.status = "stopped"

    with pytest.raises(EOFError):
        await asyncio.wait_for(client.read(1), 60)


async def test_a_vm_that_was_switched_on_again_shows_nothing_of_before(room, vm):
    client = await room.client(vm).login(PASSWORD)
    await client.pointer(1, 400, 270)
    screen = room.screens.screen(701)
    await eventually(lambda: screen.pointers, 60)

    vm.pid, vm.started_at = 99, 2.0
    with pytest.raises(EOFError):
        await asyncio.wait_for(client.read(1), 60)
    await room.client(vm).login(PASSWORD)

    assert room.screens.screen(701) is screen
    assert (screen.pixel(400, 270), screen.pointers) == (BACKGROUND, [])


async def test_all_connections_of_a_screen_can_be_dropped(room, vm):
    client = await room.client(vm).login(PASSWORD)
    screen = room.screens.screen(701)
    await eventually(lambda: screen.open == 1, 60)

    screen.drop()

    with pytest.raises(EOFError):
        await asyncio.wait_for(client.read(1), 60)
    await eventually(lambda: screen.open == 0, 60)


async def test_a_flood_comes_unasked_and_is_counted(room, vm):
    client = await room.client(vm).login(PASSWORD)
    screen = room.screens.screen(701)
    await eventually(lambda: screen.open == 1, 60)

    screen.flood(200_000)
    await client.paint()

    await eventually(lambda: screen.sent >= 200_000, 60)


async def test_nonsense_ends_a_connection_and_nothing_else(room, vm):
    bad, good = await room.client(vm).login(PASSWORD), await room.client(vm).login(PASSWORD)

    with contextlib.suppress(ConnectionError):
        await bad.wire.write(b"\xff" * 40)
    with pytest.raises(EOFError):
        await asyncio.wait_for(bad.read(1), 60)

    await good.ask()
    assert (await good.paint())[2] == good.width
