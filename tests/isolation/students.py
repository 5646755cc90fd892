"""Students in real sandboxed servers who run whatever a test has them run, and what a test reads of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from builders import a_request

from labspawner.model import Checkpoint, Handle, Ready, ReleaseMode, Resources, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider
from labspawner.providers.local.network.rundir import default_base
from labspawner.units import parse_bytes

T = TypeVar("T")
AGENT = r"""
import json, os, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"version": "agent"})

    def do_POST(self):
        code = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path.endswith("/here"):
            names = {}
            exec(code, names)
            return self.answer(names.get("answer"))
        done = subprocess.run([sys.executable, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.answer({"code": done.returncode, "out": done.stdout, "err": done.stderr[-3000:]})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def main():
    port = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port
    server = ThreadingHTTPServer(("127.0.0.1", port), Agent)
    server.daemon_threads = True
    server.serve_forever()

if __name__ == "__main__":
    main()
"""
PRELUDE = r"""
import ctypes, errno, glob, json, os, platform, re, resource, signal, socket, stat, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def tried(do, *args, **kwargs):
    "What a call answers, or the name of the kernel's no."
    try:
        return do(*args, **kwargs)
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc))

def kernel(name, *args):
    "A system call by its name in libc, or by its number; 0 or more, or the name of the kernel's no."
    ctypes.set_errno(0)
    result = libc.syscall(name, *args) if isinstance(name, int) else getattr(libc, name)(*args)
    return result if result != -1 else errno.errorcode[ctypes.get_errno()]

def connects(family, address, seconds=2):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(seconds)
        try:
            one.connect(address)
        except OSError:
            return False
        return True

def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]

answer = None
"""


class Lab:
    """A local provider on one rung, whose students start cold (a program) or warm (a fork).

    provider: what it is made with beside its settings.
    """

    def __init__(self, rung: str, start: str, *, provider: dict[str, Any] | None = None, **settings: Any) -> None:
        self.rung, self.start = rung, start
        self.folder = Path(tempfile.mkdtemp(prefix="labspawner-attack-"))
        self.hub_id = f"attack-{new_lease_id()[-6:]}"
        self._site = self._write_site()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        inherited = {"PYTHONPATH": str(self._site)} if start == "warm" else {}
        with _environment(inherited):
            self.provider = LocalProvider(
                ProviderContext(name="local", hub_id=self.hub_id, data_dir=self.folder / "data"),
                {"sandbox": rung, "read_only_paths": [str(self._site)], "network": "none", "max_processes": 200}
                | settings,
                **(provider or {}),
            )
        self.inherited = inherited

    def enter(self, name: str, *, resources: Resources | None = None, **changes: Any) -> Student:
        """A student whose server answers."""
        student = Student(self, name)
        with _environment(self.inherited):
            self.run(student.begin(resources or Resources(memory_bytes=parse_bytes("512MiB"), cpu=1.0), changes))
        return student

    def home(self, name: str) -> Path:
        return self.folder / "data" / "homes" / name

    def command(self) -> tuple[str, ...]:
        if self.start == "warm":
            return (sys.executable, "-m", "jupyterhub.singleuser")
        return (sys.executable, "-I", "-c", AGENT)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=600)

    def close(self) -> None:
        self.run(self._release_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)
        shutil.rmtree(default_base(self.hub_id, environment=os.environ, uid=os.geteuid()), ignore_errors=True)

    async def _release_all(self) -> None:
        for resource in await self.provider.owned():
            await self.provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
        await self.provider.close()

    def _write_site(self) -> Path:
        """A `jupyterhub.singleuser` that is the agent, for forks of a zygote that imports nothing big."""
        self.folder.chmod(0o755)
        site = self.folder / "site"
        for name in ("jupyter_server", "jupyterlab", "nbconvert", "ipykernel", "jupyter_client", "tornado"):
            (site / name).mkdir(parents=True)
            (site / name / "__init__.py").write_text("raise ImportError('left out')\n")
        (site / "jupyterhub").mkdir()
        (site / "jupyterhub" / "__init__.py").write_text("")
        (site / "jupyterhub" / "singleuser.py").write_text(AGENT)
        return site


@dataclass
class Student:
    """One student's server."""

    lab: Lab
    name: str
    handle: Handle = field(default_factory=lambda: Handle(lease_id=new_lease_id(), provider="local"))
    url: str = ""
    token: str = field(default_factory=lambda: f"token-{new_lease_id()}")

    async def begin(self, resources: Resources, changes: dict[str, Any]) -> None:
        request = a_request(
            lease_id=self.handle.lease_id,
            hub_id=self.lab.hub_id,
            user=self.name,
            base_url=f"/user/{self.name}/",
            command=self.lab.command(),
            resources=resources,
        )
        environment = {**request.environment, "JUPYTERHUB_API_TOKEN": self.token, "JUPYTERHUB_USER": self.name}
        request = a_request(**{**_fields(request), "environment": environment, **changes})
        async for event in self.lab.provider.launch(request):
            if isinstance(event, Checkpoint):
                self.handle = event.handle
            elif isinstance(event, Ready):
                self.url = event.url

    @property
    def keeper(self) -> int:
        return int(str(self.handle.data["pid"]))

    def does(self, code: str, *, deadline_s: float = 240.0) -> Any:
        """What a program of the student's leaves in `answer`."""
        said = self._post("run", f"{PRELUDE}\n{code}\nprint(json.dumps(answer))", deadline_s)
        assert said["code"] == 0, said["err"]
        return json.loads(said["out"].splitlines()[-1])

    def ends(self, code: str, *, deadline_s: float = 240.0) -> int:
        """The exit status of a program of the student's that is not expected to live."""
        return int(self._post("run", f"{PRELUDE}\n{code}", deadline_s)["code"])

    def does_here(self, code: str) -> Any:
        """The same in the server's own process."""
        return self._post("here", f"{PRELUDE}\n{code}", 240.0)

    def works(self) -> bool:
        """Whether the server answers, and still runs programs."""
        return bool(self.does("answer = 6 * 7") == 42)

    def state(self) -> ServerState:
        states = self.lab.run(self.lab.provider.observe([self.handle]))
        return states[self.handle.lease_id]

    def leave(self) -> None:
        self.lab.run(self.lab.provider.release(self.handle, ReleaseMode.DESTROY, grace_s=0))

    def _post(self, path: str, code: str, deadline_s: float) -> Any:
        request = urllib.request.Request(f"{self.url}/user/{self.name}/{path}", data=code.encode())
        with urllib.request.urlopen(request, timeout=deadline_s) as answer:
            return json.loads(answer.read())


def _fields(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in type(request).__dataclass_fields__}


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Any:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


Enter = Callable[..., Student]
