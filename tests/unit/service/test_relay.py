"""Frames between a browser and a host: what goes where, how it ends, and who is told why."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.httpclient import HTTPClientError

from labspawner.errors import Permanent, ProviderUnavailable
from labspawner.model import Handle, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.service.desktop.relay import End, Relay, Seat
from labspawner.service.desktop.rights import Role
from labspawner.testing.waiting import eventually

OFF = Sentence("The machine is off. Start your server, then open its desktop again.")
KEY_DOWN = bytes([4, 1, 0, 0, 0, 0, 0, 0x61])


async def closed(socket) -> int:
    """The close code, after everything that came before it."""
    while await asyncio.wait_for(socket.read_message(), 120) is not None:
        pass
    return socket.close_code


async def test_what_the_host_sends_reaches_the_browser(desktop):
    socket = await desktop.look("alice")

    assert await socket.read_message() == b"RFB 003.008\n"


async def test_what_the_browser_sends_reaches_the_host(desktop):
    socket = await desktop.look("alice")

    await socket.write_message(KEY_DOWN, binary=True)

    await eventually(lambda: desktop.host.heard == [KEY_DOWN])


async def test_frames_of_megabytes_pass_whole(desktop):
    picture = bytes(range(256)) * (6 * 4096)  # 6 MiB
    desktop.host.greeting = [picture]

    socket = await desktop.look("alice")

    assert await socket.read_message() == picture


async def test_the_host_gets_the_token_and_the_browser_does_not(desktop):
    answer = await desktop.open("alice")
    await desktop.look("alice", key=json.loads(answer.body)["key"])

    assert desktop.host.seen == [("/screen?vncticket=se%2Bcret", desktop.host.token)]
    assert json.loads(answer.body)["password"] == "pass-word"
    assert not [secret for secret in (b"s3cret", b"se%2Bcret") if secret in answer.body]


async def test_the_page_is_told_the_password_by_no_address_and_no_html(desktop):
    page = await desktop.ask("alice", "/services/desktop/alice/")

    assert page.code == 200
    assert b"pass-word" not in page.body


class SlowBrowser:
    """Takes no frame until it is told to."""

    def __init__(self) -> None:
        self.offered: list[bytes] = []
        self.takes = asyncio.Event()

    async def write_message(self, message: bytes, binary: bool = False) -> None:
        self.offered.append(message)
        await self.takes.wait()

    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


class EndlessHost:
    """Has a frame whenever it is asked for one. slow: takes none of what is sent to it until it is told to."""

    def __init__(self) -> None:
        self.given = 0
        self.offered: list[bytes] = []
        self.takes = asyncio.Event()
        self.is_closed = False

    async def read_message(self) -> bytes | None:
        await asyncio.sleep(0)
        self.given += 1
        return b"x" if self.given <= 1000 else None

    async def write_message(self, message: bytes, binary: bool = False) -> None:
        self.offered.append(message)
        await self.takes.wait()

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.is_closed = True


def a_relay(host: EndlessHost, browser: SlowBrowser) -> Relay:
    seat = Seat(viewer="alice", role=Role.OWNER, lease_id=LeaseId("lease"))
    return Relay(seat, host, browser, used=lambda: None)


async def test_of_what_a_slow_browser_has_not_taken_one_frame_is_held():
    host, browser = EndlessHost(), SlowBrowser()
    running = asyncio.ensure_future(a_relay(host, browser).run())

    await eventually(lambda: browser.offered)
    for _ in range(100):
        await asyncio.sleep(0)

    assert (host.given, len(browser.offered)) == (1, 1)
    browser.takes.set()
    assert await running is End.HOST
    assert len(browser.offered) == 1000


async def test_a_browser_is_read_no_faster_than_its_host_takes():
    host = EndlessHost()
    relay = a_relay(host, SlowBrowser())

    told = asyncio.ensure_future(relay.hear(KEY_DOWN))
    await eventually(lambda: host.offered)

    assert not told.done()
    host.takes.set()
    await told


async def test_a_relay_that_is_ended_lets_go_of_a_browser_that_takes_nothing():
    host, browser = EndlessHost(), SlowBrowser()
    relay = a_relay(host, browser)
    running = asyncio.ensure_future(relay.run())
    await eventually(lambda: browser.offered)

    relay.end(End.WITHDRAWN)

    assert await running is End.WITHDRAWN
    assert host.is_closed


async def test_a_browser_that_begins_to_read_late_gets_every_frame(desktop):
    frame, frames = b"\0" * (1 << 20), 24
    desktop.host.greeting = [frame] * frames
    socket = await desktop.look("alice")
    await eventually(lambda: desktop.house.relays._all[0].frames >= 1, what="the first frame is on its way")

    for _ in range(frames):
        assert len(await asyncio.wait_for(socket.read_message(), 120)) == len(frame)

    assert desktop.house.relays._all[0].frames == frames


async def test_a_host_that_goes_away_is_said_with_its_reason(desktop):
    socket = await desktop.look("alice")
    desktop.vms.why = OFF

    desktop.host.connections[0].close()

    assert await closed(socket) == End.HOST.value
    assert (await desktop.state("alice"))["message"] == str(OFF)


async def test_a_new_picture_ends_the_old_reason(desktop):
    socket = await desktop.look("alice")
    desktop.vms.why = OFF
    desktop.host.connections[0].close()
    await closed(socket)
    desktop.vms.why = None

    await desktop.look("alice")

    await eventually(lambda: len(desktop.house.relays) == 1)
    assert (await desktop.state("alice"))["message"] == "The machine is on."


async def test_a_browser_that_leaves_frees_the_hosts_console(desktop):
    socket = await desktop.look("alice")
    assert await socket.read_message() == b"RFB 003.008\n"

    socket.close()

    await eventually(lambda: desktop.host.connections == [] and len(desktop.house.relays) == 0)


async def test_a_second_window_takes_over_from_the_first(desktop):
    first = await desktop.look("alice")
    await first.read_message()

    second = await desktop.look("alice")

    assert await closed(first) == End.TAKEN_OVER.value
    assert await second.read_message() == b"RFB 003.008\n"


async def test_a_key_opens_one_connection_only(desktop):
    key = json.loads((await desktop.open("alice")).body)["key"]
    await desktop.look("alice", key=key)

    with pytest.raises(HTTPClientError) as refused:
        await desktop.look("alice", key=key)

    assert refused.value.code == 410


async def test_a_key_is_of_no_use_to_somebody_else(desktop):
    key = json.loads((await desktop.open("alice")).body)["key"]
    await desktop.agree()

    with pytest.raises(HTTPClientError) as refused:
        await desktop.look("teacher", key=key)

    assert refused.value.code == 410
    assert desktop.host.seen == []


async def test_a_host_with_another_certificate_gets_no_token(desktop):
    desktop.vms.changes = {"fingerprint": "00" * 32}

    with pytest.raises(HTTPClientError) as refused:
        await desktop.look("alice")

    assert refused.value.code == 503
    assert desktop.host.seen == []
    assert "certificate" in (await desktop.state("alice"))["message"]


async def test_a_host_whose_authority_is_known_needs_no_fingerprint(desktop):
    desktop.vms.changes = {"fingerprint": None, "ca_file": desktop.host.authority.ca_file}

    socket = await desktop.look("alice")

    assert await socket.read_message() == b"RFB 003.008\n"


async def test_a_host_of_an_unknown_authority_gets_no_token(desktop):
    desktop.vms.changes = {"fingerprint": None}

    with pytest.raises(HTTPClientError):
        await desktop.look("alice")

    assert desktop.host.seen == []


async def test_a_host_that_refuses_the_websocket_is_a_sentence(desktop):
    desktop.vms.changes = {"headers": {"Authorization": "wrong"}}

    with pytest.raises(HTTPClientError) as refused:
        await desktop.look("alice")

    assert refused.value.code == 503
    assert (await desktop.state("alice"))["message"] == "The host of this machine does not answer. It is tried again."


@pytest.mark.parametrize(
    ("error", "status"),
    [(Permanent(OFF, detail="vm is off"), 500), (ProviderUnavailable(Sentence("No {what}.", what="answer")), 503)],
)
async def test_what_the_provider_refuses_is_read_by_the_viewer(desktop, error, status):
    desktop.vms.refuses = error

    answer = await desktop.open("alice")

    assert answer.code == status
    assert json.loads(answer.body) == {"message": str(error.message), "code": "console"}


@pytest.mark.parametrize(
    ("phase", "state"), [(Phase.STOPPING, "stopping"), (Phase.ENDED, "off"), (Phase.PARKED, "parked")]
)
async def test_a_machine_that_is_not_on_is_not_asked_for_a_screen(desktop, phase, state):
    await desktop.store.update(desktop.lease.id, phase=Phase.STOPPING)
    if phase is not Phase.STOPPING:
        await desktop.store.update(desktop.lease.id, phase=phase)

    answer = await desktop.open("alice")

    assert answer.code == 409
    assert json.loads(answer.body)["code"] == "off"
    assert desktop.vms.asked == 0
    assert (await desktop.state("alice"))["state"] == state


async def test_work_at_the_screen_counts_as_use_of_the_server(desktop):
    socket = await desktop.look("alice")

    await socket.write_message(bytes([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]), binary=True)  # only asks for a picture
    await socket.write_message(KEY_DOWN, binary=True)
    await socket.write_message(KEY_DOWN, binary=True)

    await eventually(lambda: len(desktop.host.heard) == 3)
    (noted,) = await eventually(lambda: desktop.hub.noted)
    assert noted[0] == "alice"
    assert list(noted[1]["servers"]) == [""]


async def test_a_guests_work_does_not_keep_the_server_from_being_idle(desktop):
    await desktop.agree()
    socket = await desktop.look("teacher")

    await socket.write_message(KEY_DOWN, binary=True)

    await eventually(lambda: desktop.host.heard == [KEY_DOWN])
    assert desktop.hub.noted == []


async def test_one_person_has_only_so_many_desktops_open(desktop):
    for number in range(4):
        handle = Handle(lease_id=LeaseId(f"lease{number}"), provider="vms")
        await desktop.store.add(desktop.lease.with_(id=handle.lease_id, server_name=f"vm{number}", handle=handle))
    for number in range(3):
        await desktop.look("alice", f"alice/vm{number}/")

    answer = await desktop.open("alice", "alice/vm3/")

    assert answer.code == 409
    assert json.loads(answer.body)["message"] == "You have 3 desktops open already. Close one first."


async def test_a_stop_of_this_service_tells_browsers_to_come_again(desktop):
    socket = await desktop.look("alice")

    desktop.house.relays.end_all(End.AWAY)

    assert await closed(socket) == End.AWAY.value
