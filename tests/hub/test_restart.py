"""Twenty students run a long cell while the hub stops, dies and comes back: nobody notices."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from unit.local.network.sandboxes import why_not

from labspawner.proxies import proxy_command
from labspawner.testing.hub import RealHub, free_ports
from labspawner.testing.tinyserver import command
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

SERVERS = 20
FEW = 3
ROOM_BYTES = 6 * 2**30  # for twenty kernels, each a Python of its own
TINY = "[" + ", ".join(f'"{word}"' for word in command()) + "]"
COURSE = f"""
course: py101
title: Python
profiles:
  - slug: lab
    title: JupyterLab
    variants: [{{provider: local, settings: {{network: none}}}}]
  - slug: tiny
    title: Small
    variants: [{{provider: local, settings: {{network: none, command: {TINY}}}}}]
"""
CONFIG = """
c.JupyterHub.proxy_class = "configurable-http-proxy"
c.ConfigurableHTTPProxy.command = {command!r}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{port}"
c.Spawner.cmd = ["jupyterhub-singleuser"]
"""
LONG_CELL = """
import itertools, os, pathlib, time
for n in itertools.count(1):
    pathlib.Path("draft").write_text(f"{os.getpid()} {n}")
    os.replace("draft", "count")
    time.sleep(0.2)
"""


@dataclass
class Running:
    """One student's server, and the cell that runs there."""

    hub: RealHub
    user: str
    real: bool
    front: str
    headers: dict[str, str]
    kernel: str = ""

    @property
    def client(self) -> Client:
        return Client(self.front, self.headers)

    def begin(self) -> None:
        if self.real:
            answer = self.client.call("POST", f"/user/{self.user}/api/kernels", {"name": "python3"})
            assert answer.status == 201, answer.text
            self.kernel = answer.json()["id"]
            asyncio.run(asyncio.wait_for(self._execute(LONG_CELL), 600))

    def answers(self) -> bool:
        """Whether it is reached through the proxy, with its kernel at work."""
        if not self.real:
            return self.client.call("GET", f"/user/{self.user}/api").status == 200
        answer = self.client.call("GET", f"/user/{self.user}/api/kernels/{self.kernel}")
        return answer.status == 200 and answer.json()["execution_state"] == "busy"

    def counted(self) -> tuple[int, int] | None:
        """The kernel's pid as it sees itself, and how far its cell has counted; of a small server, nothing."""
        path = self.hub.folder / "data" / "providers" / "local" / "homes" / self.user / "count"
        if not self.real or not path.exists():
            return None
        pid, count = path.read_text().split()
        return int(pid), int(count)

    def goes_on(self, before: tuple[int, int] | None) -> bool:
        now = self.counted()
        return before is None or (now is not None and now[0] == before[0] and now[1] > before[1])

    async def _execute(self, code: str) -> None:
        """Begin a cell, and leave, as a student does who closes the laptop."""
        url = f"ws{self.front[4:]}/user/{self.user}/api/kernels/{self.kernel}/channels"
        socket = await websocket_connect(
            HTTPRequest(url, headers=self.headers, connect_timeout=240, request_timeout=240)
        )
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "t",
            "username": "",
            "version": "5",
        }
        content = {"code": code, "silent": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await socket.write_message(json.dumps(message))
        await asyncio.to_thread(eventually_sync, self.counted, 50, f"the cell of {self.user} counts")
        socket.close()
        while await socket.read_message() is not None:
            pass


@pytest.fixture
def twenty(new_hub: Any) -> Iterator[list[Running]]:
    """A hub with a real proxy, and twenty students at work: real JupyterLabs where the memory is, else a few of them."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed in the hub's environment")
    if why := why_not():
        pytest.skip(why)
    if (proxy := proxy_command()) is None:
        pytest.skip("configurable-http-proxy is not installed")
    real = SERVERS if psutil.virtual_memory().available > ROOM_BYTES else FEW
    (port,) = free_ports(1)
    users = [f"student{number}" for number in range(1, SERVERS + 1)]
    hub = new_hub(
        courses={"py101.yaml": COURSE},
        groups={"course-py101": users},
        providers={"local": {"min_free_disk": "1MiB", "allow_unsandboxed": False, "prewarm": True}},
        config=CONFIG.format(command=proxy, port=port),
    )
    hub.start()
    front = f"http://127.0.0.1:{json.loads((hub.folder / 'spec.json').read_text())['proxy_port']}"
    made = []
    for number, user in enumerate(users):
        hub.add_user(user, "course-py101")
        token = hub.api.call(
            "POST", f"/hub/api/users/{user}/tokens", {"scopes": [f"access:servers!user={user}"]}
        ).json()
        headers = {"Authorization": f"token {token['token']}"}
        made.append(Running(hub, user, real=number < real, front=front, headers=headers))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_start, made))
    yield made
    for user in users:
        hub.stop_server(user)
    assert hub.processes() == []


def _start(server: Running) -> None:
    server.hub.start_server(server.user, "py101/lab" if server.real else "py101/tiny")
    server.begin()


@pytest.mark.timeout(3000)
def test_twenty_servers_go_on_while_the_hub_is_stopped_and_while_it_is_killed(twenty: list[Running]) -> None:
    hub = twenty[0].hub
    leases = {lease.user: (lease.id, lease.handle, lease.url) for lease in hub.leases()}
    keepers = {pid: psutil.Process(pid).create_time() for pid in _keepers(hub)}
    assert len(leases) == len(keepers) == SERVERS
    began = {server.user: hub.servers(server.user)[""]["started"] for server in twenty}

    for end in (hub.stop, hub.kill):
        before = [server.counted() for server in twenty]
        end()
        for server, count in zip(twenty, before, strict=True):  # while there is no hub at all
            eventually_sync(lambda one=server, last=count: one.goes_on(last), 30, f"{server.user} counts on")
        hub.start()

        for server, count in zip(twenty, before, strict=True):
            hub.wait_ready(server.user)
            eventually_sync(server.answers, 60, f"{server.user} is behind the proxy")
            assert server.goes_on(count)
        assert {lease.user: (lease.id, lease.handle, lease.url) for lease in hub.leases()} == leases
        assert {pid: psutil.Process(pid).create_time() for pid in _keepers(hub)} == keepers
        assert {server.user: hub.servers(server.user)[""]["started"] for server in twenty} == began


def _keepers(hub: RealHub) -> list[int]:
    return [int(str(lease.handle.data["pid"])) for lease in hub.leases() if lease.handle is not None]
