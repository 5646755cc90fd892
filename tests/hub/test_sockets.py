"""Servers at unix sockets, behind npm's proxy: pages, kernels, and a restart of the hub."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from unit.local.network.sandboxes import why_not

from labspawner.proxies import proxy_command, reach_sockets
from labspawner.testing.hub import RealHub, free_ports
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

COURSE = """
course: py101
title: Python
profiles:
  - slug: lab
    title: JupyterLab
    variants: [{provider: local, settings: {network: none}}]
"""
CONFIG = """
c.JupyterHub.proxy_class = "configurable-http-proxy"
c.ConfigurableHTTPProxy.command = {command!r}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{port}"
c.Spawner.cmd = ["jupyterhub-singleuser"]
c.Spawner.args = ["--allow-root"]
"""


@pytest.fixture(params=[True, False], ids=["socket", "port"])
def lab(request: pytest.FixtureRequest, new_hub: Any) -> Iterator[RealHub]:
    """A hub with a real proxy in front and one JupyterLab behind it, in a sandbox."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed in the hub's environment")
    if why := why_not():
        pytest.skip(why)
    command = proxy_command()
    if request.param and not reach_sockets(command):
        pytest.skip("this JupyterHub, or the proxy that is installed, cannot reach unix sockets")
    (port,) = free_ports(1)
    hub = new_hub(
        courses={"py101.yaml": COURSE},
        providers={"local": {"min_free_disk": "1MiB", "unix_sockets": request.param, "allow_unsandboxed": False}},
        config=CONFIG.format(command=command, port=port),
    )
    hub.start()
    model = start(hub)
    assert (model["ready"], hub.lease("student1").url.startswith("http+unix")) == (True, request.param)
    return hub


def start(hub: RealHub) -> dict[str, Any]:
    if "student1" not in hub.servers("student1"):
        hub.start_server("student1", "py101/lab")
    return hub.wait_ready("student1")


class Lab:
    """The student's server as a browser sees it: through the proxy."""

    def __init__(self, hub: RealHub) -> None:
        spec = json.loads((hub.folder / "spec.json").read_text())
        answer = hub.api.call("POST", "/hub/api/users/student1/tokens", {"scopes": ["access:servers!user=student1"]})
        self.headers = {"Authorization": f"token {answer.json()['token']}"}
        self.base = f"http://127.0.0.1:{spec['proxy_port']}"
        self.client = Client(self.base, self.headers)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        return self.client.call(method, f"/user/student1{path}", body)

    def kernel(self) -> str:
        answer = self.ask("POST", "/api/kernels", {"name": "python3"})
        assert answer.status == 201, answer.text
        return str(answer.json()["id"])

    def run(self, kernel: str, code: str) -> str:
        return asyncio.run(asyncio.wait_for(self._run(kernel, code), 600))

    async def _run(self, kernel: str, code: str) -> str:
        url = f"ws{self.base[4:]}/user/student1/api/kernels/{kernel}/channels"
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
        await socket.write_message(
            json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"})
        )
        printed = ""
        while True:
            message = json.loads(await socket.read_message())
            if message["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if message["msg_type"] == "stream":
                printed += message["content"]["text"]
            if message["msg_type"] == "execute_reply":
                assert message["content"]["status"] == "ok", message["content"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                socket.close()
                while await socket.read_message() is not None:
                    pass
                return printed


REACHES = """
import socket, os
def tried(*address):
    try:
        socket.create_connection(address, timeout=60).close()
        return "connected"
    except OSError as exc:
        return type(exc).__name__
print(*(tried("127.0.0.1", port) for port in {ports}), [name for _, name in socket.if_nameindex()])
"""


def test_pages_kernels_uploads_and_a_hub_restart(lab: RealHub) -> None:
    student = Lab(lab)
    spec = json.loads((lab.folder / "spec.json").read_text())

    page = student.ask("GET", "/lab")
    kernel = student.kernel()
    big = "x" * 8_000_000
    saved = student.ask("PUT", "/api/contents/big.txt", {"type": "file", "format": "text", "content": big})
    read = student.ask("GET", "/api/contents/big.txt")

    assert page.status == 200
    assert student.run(kernel, "seen = 40\nprint(seen + 2)") == "42\n"
    assert saved.status == 201
    assert read.json()["content"] == big

    # The hub is reached where it is, and nothing else of the machine is.
    hub_port = urlsplit(lab.base).port
    said = student.run(kernel, REACHES.format(ports=[hub_port, spec["proxy_port"], 1]))
    assert said == "connected ConnectionRefusedError ConnectionRefusedError ['lo']\n"

    lab.stop()
    lab.start()
    lab.wait_ready("student1")
    eventually_sync(lambda: student.ask("GET", "/api/status").status == 200, 30, "the server is behind the new proxy")

    assert student.run(kernel, "print(seen)") == "40\n"
    assert (
        student.run(
            kernel,
            "import os, time, urllib.request as u\n"
            "request = u.Request(os.environ['JUPYTERHUB_API_URL'] + '/user', headers={'Authorization': 'token ' +"
            " os.environ['JUPYTERHUB_API_TOKEN']})\n"
            "deadline = time.monotonic() + 120\n"  # the hub answers the world a little before it listens for its servers
            "while True:\n"
            "    try:\n"
            "        print(u.urlopen(request).status)\n"
            "        break\n"
            "    except OSError:\n"  # refused, cut off, or answered by a hub that does not know it yet
            "        assert time.monotonic() < deadline\n"
            "        time.sleep(0.2)\n",
        )
        == "200\n"
    )

    lab.stop_server("student1")
    assert lab.processes() == []
