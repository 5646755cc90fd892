"""The real `jupyterhub-singleuser`, with just enough of a hub for it to ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, ThreadingMixIn, UnixStreamServer

import pytest
import pytest_asyncio
from builders import a_request

from labspawner.model import Checkpoint, LaunchRequest, Ready, ReleaseMode
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider

pytest.importorskip("jupyterlab")


class _Hub(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"version": "6.0.0"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _UnixHub(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest_asyncio.fixture(params=["plain", "auto"])
async def provider(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LocalProvider]:
    context = ProviderContext(name="local", hub_id=f"hub-{new_lease_id()}", data_dir=tmp_path)
    made = LocalProvider(context, {"sandbox": request.param})
    yield made
    for resource in await made.owned():
        await made.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
    made.hub_socket.unlink(missing_ok=True)
    await made.close()


@pytest.fixture
def hub_api(provider: LocalProvider) -> Iterator[str]:
    """A hub on loopback, which answers at the provider's socket too."""
    provider.hub_socket.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    tcp, unix = ThreadingHTTPServer(("127.0.0.1", 0), _Hub), _UnixHub(str(provider.hub_socket), _Hub)
    provider.hub_socket.chmod(0o666)
    with serving(tcp), serving(unix):
        yield f"http://127.0.0.1:{tcp.server_port}/hub/api"


def single_user(hub_api: str, **changes: str) -> LaunchRequest:
    environment = {
        **a_request().environment,
        "JUPYTERHUB_API_URL": hub_api,
        "JUPYTERHUB_ACTIVITY_URL": f"{hub_api}/users/student1/activity",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/student1/oauth_callback",
        **changes,
    }
    return a_request(command=("jupyterhub-singleuser",), environment=environment, ready_timeout_s=600.0)


@pytest.mark.parametrize("path", ["of the hub's environment", "without it"])
async def test_jupyterhub_singleuser_gets_ready_in_the_students_home(
    provider: LocalProvider, hub_api: str, path: str
) -> None:
    request = single_user(hub_api, **({"PATH": "/usr/bin:/bin"} if path == "without it" else {}))

    events = [event async for event in provider.launch(request)]

    ready, handle = events[-1], [event.handle for event in events if isinstance(event, Checkpoint)][-1]
    assert isinstance(ready, Ready)
    answer = await asyncio.to_thread(urllib.request.urlopen, f"{ready.url}{request.base_url}api")
    with answer:
        assert "version" in json.load(answer)
    assert "/student1" in await provider.logs(handle, 200)
    await provider.release(handle, ReleaseMode.STOP, grace_s=10)
    assert await provider.owned() == []


async def test_in_a_home_without_a_free_byte_it_starts(provider: LocalProvider, hub_api: str, tmp_path: Path) -> None:
    home = tmp_path / "homes" / "student1"
    home.mkdir(parents=True)
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(home)], check=False, capture_output=True, text=True
    )
    if mounting.returncode:
        pytest.skip(f"no file system can be mounted: {mounting.stderr.strip()}")
    try:
        with (home / "data.bin").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

        events = [event async for event in provider.launch(single_user(hub_api))]

        handle = [event.handle for event in events if isinstance(event, Checkpoint)][-1]
        assert isinstance(events[-1], Ready)
        await provider.release(handle, ReleaseMode.STOP, grace_s=10)
        assert "data.bin" in os.listdir(home)
    finally:
        subprocess.run(["umount", str(home)], check=True)
