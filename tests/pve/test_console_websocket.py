"""A VM's screen through the API: vncproxy, then vncwebsocket, then RFB, as a hub's desktop service uses it."""

from __future__ import annotations

import json
import ssl
from urllib.parse import quote, urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from labspawner.testing.pve.console import BACKGROUND
from labspawner.testing.waiting import eventually

from .rfbclient import Refused, RfbClient

NODE, VMID = "pve1", 20001
ROOT = f"/nodes/{NODE}/qemu/{VMID}"


class Api:
    """The double's HTTP API with the least rights."""

    def __init__(self, pve):
        self.pve = pve
        self.tls = ssl.create_default_context(cafile=str(pve.ca_file))
        self.headers = {"Authorization": f"PVEAPIToken={pve.token}"}
        self.sockets = []

    async def call(self, method, path, **params):
        body = urlencode(params) if method == "POST" else None
        url = f"{self.pve.url_of(NODE)}/api2/json{path}"
        request = HTTPRequest(url, method, self.headers, body, ssl_options=self.tls, request_timeout=120)
        return json.loads((await AsyncHTTPClient().fetch(request)).body)["data"]

    async def upgrade(self, ticket, *, headers=None):
        query = f"port={ticket['port']}&vncticket={quote(ticket['ticket'], safe='')}"
        url = f"wss{self.pve.url_of(NODE)[5:]}/api2/json{ROOT}/vncwebsocket?{query}"
        given = self.headers if headers is None else headers
        request = HTTPRequest(url, headers=given, ssl_options=self.tls, connect_timeout=120, request_timeout=120)
        self.sockets.append(await websocket_connect(request, subprotocols=["binary"]))
        return Socket(self.sockets[-1])

    async def close(self):
        for socket in self.sockets:
            socket.close()

    async def ended(self, upid):
        async def over():
            said = await self.call("GET", f"/nodes/{NODE}/tasks/{quote(upid, safe='')}/status")
            return said["exitstatus"] if said["status"] == "stopped" else None

        return await eventually(over, 60, "the task ends")


class Socket:
    """A websocket as the RFB client wants it."""

    def __init__(self, socket):
        self.socket = socket
        self.protocol = socket.selected_subprotocol

    async def read(self):
        return await self.socket.read_message()

    async def write(self, data):
        await self.socket.write_message(data, binary=True)


@pytest.fixture
def pve(new_pve):
    """A cluster whose clock is so slow that a ticket's 10 s do not pass meanwhile, however slow this machine is."""
    return new_pve(pace=0.1)


@pytest.fixture
async def api(pve):
    pve.add_vm(VMID, NODE, pool=pve.pool, running=True, name="alice-lab")
    made = Api(pve)
    yield made
    await made.close()


@pytest.fixture
async def quick_api(new_pve):
    """The same, where waits of the cluster are over at once."""
    pve = new_pve()
    pve.add_vm(VMID, NODE, pool=pve.pool, running=True, name="alice-lab")
    return Api(pve)


async def test_the_owner_of_a_ticket_sees_the_screen_and_types_on_it(api, pve):
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)
    socket = await api.upgrade(ticket)
    client = await RfbClient(socket).login(ticket["password"])

    await client.ask()
    await client.paint()
    await client.key(True, ord("x"))

    assert socket.protocol == "binary"
    assert client.name == "QEMU (alice-lab)"
    assert client.picture[0, 0] == BACKGROUND
    screen = pve.screens.screen(VMID)
    await eventually(lambda: screen.typed == "x", 60)
    socket.socket.close()
    assert await api.ended(ticket["upid"]) == "OK"
    await eventually(lambda: screen.open == 0, 60)


async def test_the_ticket_is_not_the_password(api):
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)

    with pytest.raises(Refused):
        await RfbClient(await api.upgrade(ticket)).login("password")


async def test_nobody_without_rights_and_no_wrong_ticket_gets_in(quick_api):
    api = quick_api
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)

    for given, headers in ((ticket, {}), ({**ticket, "ticket": "PVEVNC:0000"}, None)):
        with pytest.raises(HTTPClientError) as refused:
            await api.upgrade(given, headers=headers)
        assert refused.value.code == 401


async def test_a_used_ticket_is_closed_without_an_answer(api, pve):
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)
    first = await api.upgrade(ticket)
    await RfbClient(first).login(ticket["password"])
    first.socket.close()
    await api.ended(ticket["upid"])
    pve.call(lambda inside: inside.clock.set_pace(1000))  # for the 5 s until it is closed

    with pytest.raises((HTTPClientError, OSError)):
        await api.upgrade(ticket)


async def test_a_ticket_that_nobody_uses_times_out(quick_api):
    ticket = await quick_api.call("POST", f"{ROOT}/vncproxy", websocket=1)

    assert await quick_api.ended(ticket["upid"]) == "connection timed out"


async def test_the_screen_of_a_stopped_vm_closes_without_a_frame_and_its_task_says_why(api, pve):
    pve.faults.stop(VMID)
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)

    socket = await api.upgrade(ticket)

    assert await socket.read() is None
    assert await api.ended(ticket["upid"]) == "Failed to run vncproxy."
    log = await api.call("GET", f"/nodes/{NODE}/tasks/{quote(ticket['upid'], safe='')}/log")
    assert log[0]["t"] == f"VM {VMID} not running"


async def test_a_vm_that_stops_takes_its_viewers_with_it(api, pve):
    ticket = await api.call("POST", f"{ROOT}/vncproxy", websocket=1)
    socket = await api.upgrade(ticket)
    client = await RfbClient(socket).login(ticket["password"])

    pve.faults.stop(VMID)

    with pytest.raises(EOFError):
        await client.read(1)
