"""The hub at a unix socket: its API and no more, and found again after a restart."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tornado.web import Application, RequestHandler

from labspawner.hubsocket import HubSocket

SEPARATOR = "\r\n\r\n"


class Echo(RequestHandler):
    def get(self) -> None:
        self.write(f"{self.request.path} from {self.request.remote_ip}")


def an_application(*, name: str = "") -> Application:
    class Named(Echo):
        def get(self) -> None:
            self.write(name)

    return Application([(r"/hub/name", Named), (r"/hub/api/name", Named), (r"/.*", Echo)])


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubSocket]:
    hub = HubSocket(an_application(), hub_prefix="/hub/", path=tmp_path / "hub.sock")
    yield hub
    await hub.close()


async def ask_at(folder: Path, name: str, url: str) -> str:
    held = os.open(folder, os.O_PATH)
    try:
        return await ask(Path(f"/proc/self/fd/{held}/{name}"), url)
    finally:
        os.close(held)


async def ask(path: Path, url: str, *headers: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(path))
    lines = [f"GET {url} HTTP/1.1", "Host: hub", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return f"{answer.split()[1]} {answer.partition(SEPARATOR)[2]}"


@pytest.mark.parametrize("url", ["/hub/api", "/hub/api/", "/hub/api/users/ann/activity?x=1", "/hub/labspawner/report"])
async def test_the_api_and_our_own_pages_are_served(hub: HubSocket, url: str) -> None:
    assert (await ask(hub.path, url)).startswith(f"200 {url.partition('?')[0]}")


@pytest.mark.parametrize(
    "url",
    ["/", "/hub/", "/hub/metrics", "/hub/login", "/hub/apikeys", "/hub/admin", "/metrics", "/user/ann/api", "//hub/api",
     "/hub/%61pi", "/x/hub/api"],
)  # fmt: skip
async def test_nothing_else_is_served(hub: HubSocket, url: str) -> None:
    assert (await ask(hub.path, url)).startswith("404")


async def test_an_address_that_is_only_claimed_is_not_believed(hub: HubSocket) -> None:
    answer = await ask(hub.path, "/hub/api", "X-Forwarded-For: 203.0.113.9", "X-Real-Ip: 203.0.113.9")

    assert "203.0.113.9" not in answer


async def test_a_next_hub_takes_the_place_at_once_and_its_predecessor_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    first = HubSocket(an_application(name="first"), hub_prefix="/hub/", path=path)
    assert "first" in await ask(path, "/hub/api/name")

    second = HubSocket(an_application(name="second"), hub_prefix="/hub/", path=path)
    await first.close()

    assert "second" in await ask(path, "/hub/api/name")
    await second.close()
    await second.close()
    assert not path.exists()


async def test_what_a_killed_hub_left_is_replaced(tmp_path: Path) -> None:
    for name in ("hub.sock", "hub.sock.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))

    hub = HubSocket(an_application(name="alive"), hub_prefix="/hub/", path=tmp_path / "hub.sock")

    assert "alive" in await ask(hub.path, "/hub/api/name")
    await hub.close()


async def test_a_long_path_is_fine_and_everyone_who_gets_there_may_connect(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)

    hub = HubSocket(an_application(), hub_prefix="/hub/", path=folder / "hub.sock")

    assert (await ask_at(folder, "hub.sock", "/hub/api")).startswith("200")
    assert stat.S_IMODE(hub.path.stat().st_mode) == 0o666
    await hub.close()


async def test_a_hub_below_a_prefix_is_found_there(tmp_path: Path) -> None:
    hub = HubSocket(an_application(), hub_prefix="/lab.1/hub/", path=tmp_path / "hub.sock")

    assert (await ask(hub.path, "/lab.1/hub/api")).startswith("200")
    assert (await ask(hub.path, "/labX1/hub/api")).startswith("404")
    await hub.close()


async def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        HubSocket(an_application(), hub_prefix="/hub/", path=tmp_path / "file" / "hub.sock")
