"""The console as a process: its socket, its way out, and what becomes of it when its hub goes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from traitlets.config import Config

from labspawner.config import Labspawner
from labspawner.service.console.app import open_house, serve
from labspawner.service.console.settings import VARIABLE, ConsoleSettings, of_hub
from labspawner.service.serving import HUB_PID
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually

PATH = "/services/labspawner/api/v1/openapi.json"


def an_environment(folder: Path) -> dict[str, str]:
    given = Labspawner(config=Config({"Labspawner": {"hub_id": "t-console", "data_dir": str(folder)}}))
    return of_hub(given).to_environment()


@asynccontextmanager
async def serving(folder: Path, url: str) -> AsyncIterator[asyncio.Event]:
    """A console at `url` while nobody answers for its hub; ends when the event is set."""
    auth = HubOAuth(
        api_url="http://127.0.0.1:9/hub/api",
        api_token="x",
        oauth_client_id="service-labspawner",
        base_url="/services/labspawner/",
        hub_prefix="/hub/",
        access_scopes={"x"},
    )
    house = open_house(ConsoleSettings.from_environment(an_environment(folder)), auth, environment={})
    stopping = asyncio.Event()
    running = asyncio.ensure_future(serve(house, url=url, secret=b"0" * 32, secure=None, stopping=stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        await asyncio.wait_for(running, 120)


async def answers(port: int) -> bool:
    client = AsyncHTTPClient(force_instance=True)
    try:
        with suppress(OSError, HTTPClientError):
            url = f"http://127.0.0.1:{port}{PATH}"
            return (await client.fetch(url, raise_error=False, connect_timeout=240, request_timeout=240)).code == 200
        return False
    finally:
        client.close()


async def test_it_answers_without_its_hub_and_gives_everything_back(tmp_path):
    (port,) = free_ports(1)
    async with serving(tmp_path, f"http://127.0.0.1:{port}"):
        await eventually(lambda: answers(port), 30, "the console answers")

    assert not await answers(port)


@pytest.mark.parametrize("value", ["", "{"])
def test_a_wrong_setting_ends_it_with_a_sentence(value, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "labspawner.service.console"],
        env={**os.environ, VARIABLE: value},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ended.returncode == 2
    assert "The console does not start" in ended.stderr
    assert "Traceback" not in ended.stderr


def a_process(folder: Path, **more: str) -> subprocess.Popen[bytes]:
    """The console as its hub starts it, at the place that `listen` names."""
    told = json.loads(an_environment(folder)[VARIABLE])
    listen = {VARIABLE: json.dumps({**told, "listen": more.pop("listen", "http://127.0.0.1:0")})}
    hub = {
        "JUPYTERHUB_SERVICE_URL": "http://no-such-host.invalid:1",
        "JUPYTERHUB_API_TOKEN": "x",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
        "JUPYTERHUB_CLIENT_ID": "service-labspawner",
        "JUPYTERHUB_SERVICE_NAME": "labspawner",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": "[]",
    }
    command = [sys.executable, "-m", "labspawner.service.console"]
    return subprocess.Popen(command, env={**os.environ, **hub, **listen, **more}, cwd=folder)


def test_as_a_process_it_listens_where_it_is_told_to_and_not_where_the_proxy_asks(tmp_path):
    (port,) = free_ports(1)
    process = a_process(tmp_path, listen=f"http://127.0.0.1:{port}")
    try:
        asyncio.run(eventually(lambda: answers(port), 60, "the console answers where it was told to listen"))
    finally:
        process.terminate()
        assert process.wait(240) == 0


def test_it_ends_by_itself_when_its_hub_went_before_it_could_look(tmp_path):
    beyond_all = 2**22 + 1  # no kernel gives a process a larger number than 2**22
    process = a_process(tmp_path, **{HUB_PID: str(beyond_all)})
    try:
        assert process.wait(240) == 0
    finally:
        process.kill()
        process.wait()


def test_it_goes_on_where_what_it_was_told_is_no_parent_but_lives(tmp_path):
    (port,) = free_ports(1)
    process = a_process(tmp_path, listen=f"http://127.0.0.1:{port}", **{HUB_PID: "1"})
    try:
        asyncio.run(eventually(lambda: answers(port), 60, "the console answers"))
    finally:
        process.terminate()
        assert process.wait(240) == 0
