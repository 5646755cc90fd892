"""Real sandboxes for tests: bubblewrap around a student that does as it is told, and a keeper at its border.

Run as a program, this file is the keeper: `python sandboxes.py <folder of warm> <pid inside> <plan>`; it ends with its
standard input.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PYTHON = shutil.which("python3", path="/usr/bin") or sys.executable
"""One that every user may run, where there is one."""

_STUDENT = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    names = {}
    try:
        exec(json.loads(line), names)
        answer = names.get("answer")
    except BaseException as exc:
        answer = f"{type(exc).__name__}: {exc}"
    print(json.dumps(answer), flush=True)
"""


@cache
def why_not(*, as_nobody: bool = False) -> str:
    """Why no sandbox can be made here; empty where one can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is missing"
    if as_nobody and os.geteuid() != 0:
        return "only root can become somebody else"
    command = [*_as(as_nobody), *_bwrap(as_nobody), "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return f"bubblewrap does not work here: {tried.stderr.strip()}" if tried.returncode else ""


def _as(nobody: bool) -> list[str]:
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if nobody else []


def _bwrap(nobody: bool) -> list[str]:
    root = os.geteuid() == 0 and not nobody
    drop = ["setpriv", "--reuid=254321", "--regid=254321", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    user = [] if root else ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    caps = ["--cap-drop", "ALL", *(f"--cap-add=cap_{cap}" for cap in ("setuid", "setgid", "setpcap"))] if root else []
    caps = [word for cap in caps for word in cap.split("=")]
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    view = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    return ["bwrap", *user, *spaces, *view, *caps, "--", *(drop if root else [])]


class Student:
    """A process without any right in a sandbox of its own."""

    def __init__(self, process: subprocess.Popen[str], pid: int) -> None:
        self._process = process
        self.pid = pid

    def run(self, source: str, **values: Any) -> Any:
        """What `answer` is after `source`, with `values` as names; the error as text where it ends with one."""
        names = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(f"{names}\n{source}") + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the student is gone"
        return json.loads(line)

    def connect(self, ip: str, port: int, *, timeout_s: float = 60.0) -> str:
        """`connected: <first line>`, or the error."""
        return self.run(
            "import socket\n"
            "with socket.create_connection((ip, port), timeout=timeout_s) as s:\n"
            "    answer = 'connected: ' + s.makefile().readline().strip()",
            ip=ip,
            port=port,
            timeout_s=timeout_s,
        )


@contextlib.contextmanager
def a_student(*, as_nobody: bool = False) -> Iterator[Student]:
    info, info_end = os.pipe()
    command = _bwrap(as_nobody)
    with subprocess.Popen(
        [*_as(as_nobody), command[0], "--info-fd", str(info_end), *command[1:], PYTHON, "-I", "-c", _STUDENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[info_end],
        cwd="/",
    ) as process:
        os.close(info_end)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Student(process, json.loads(os.read(info, 65536))["child-pid"])
        finally:
            os.close(info)
            process.kill()


@contextlib.contextmanager
def a_keeper(student: Student, plan: Mapping[str, Any], *, as_nobody: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that carries out `plan` for the student's sandbox; it has no rights left when this begins."""
    from labspawner.providers.local.warm import pumps

    folder = Path(pumps.__file__).parent
    with contextlib.ExitStack() as held:
        if as_nobody:  # who may not read our checkout
            shared = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="labspawner-", dir="/tmp")))
            shared.chmod(0o755)
            shutil.copytree(folder, shared, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            shutil.copy(__file__, shared / "sandboxes.py")
            folder = shared
        program = folder / "sandboxes.py" if as_nobody else Path(__file__)
        keeper = held.enter_context(
            subprocess.Popen(
                [*_as(as_nobody), PYTHON, "-B", str(program), str(folder), str(student.pid), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
            )
        )
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        said = keeper.stdout.readline()
        if said != "ready\n":
            raise AssertionError(f"the keeper: {said or keeper.stderr.read()}")
        try:
            yield keeper
        finally:
            with contextlib.suppress(BrokenPipeError):
                keeper.communicate(timeout=120)


def _keep(folder: str, pid: int, plan: Mapping[str, Any]) -> None:
    import asyncio

    package = types.ModuleType("_warm")
    package.__path__ = [folder]
    sys.modules["_warm"] = package
    root = os.geteuid() == 0
    pumps = importlib.import_module("_warm.pumps").Pumps(plan)
    linux = importlib.import_module("_warm.linux")
    inside = linux.Namespaces(pid)
    pumps.open_outside(pid)
    inside.enter("net")
    pumps.open_inside()
    inside.close()
    if root:
        os.setgroups([])
        os.setresgid(254321, 254321, 254321)
        os.setresuid(254321, 254321, 254321)
    linux.drop_capabilities()
    print("ready", flush=True)

    async def until_the_end() -> None:
        moving = asyncio.ensure_future(pumps.run())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        moving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await moving

    asyncio.run(until_the_end())


@contextlib.contextmanager
def a_world(address: str, here: str) -> Iterator[Sequence[str]]:
    """Another machine, reached by this one at `address`: what to put before a command that is to run there. Needs root.

    One at a time on this machine, however many tests run: two would have the same address.
    """
    name = f"t{os.getpid() % 10**8}"
    with open("/tmp/labspawner-test-world.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(["unshare", "--net", "sleep", "300"]) as machine:
            yield from _a_world(machine, name, address, here)


def _a_world(machine: subprocess.Popen[bytes], name: str, address: str, here: str) -> Iterator[Sequence[str]]:
    try:
        inside = ["nsenter", f"--net=/proc/{machine.pid}/ns/net"]
        from labspawner.testing.waiting import eventually_sync

        def apart() -> bool:
            return os.readlink(f"/proc/{machine.pid}/ns/net") != os.readlink("/proc/self/ns/net")

        eventually_sync(apart)
        for command in (
            ["ip", "link", "add", name, "type", "veth", "peer", "name", "world0", "netns", str(machine.pid)],
            ["ip", "addr", "add", f"{here}/24", "dev", name],
            ["ip", "link", "set", name, "up"],
            [*inside, "ip", "addr", "add", f"{address}/24", "dev", "world0"],
            [*inside, "ip", "link", "set", "world0", "up"],
            [*inside, "ip", "link", "set", "lo", "up"],
            [*inside, "ip", "route", "add", "default", "via", here],
        ):
            subprocess.run(command, check=True, capture_output=True)
        yield inside
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        machine.kill()


_GREETER = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
s = socket.socket(socket.AF_INET, kind)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[2], int(sys.argv[3])))
if kind == socket.SOCK_STREAM:
    s.listen()
print(s.getsockname()[1], flush=True)
while True:
    if kind == socket.SOCK_STREAM:
        c, _ = s.accept()
        c.sendall(b"hello from " + sys.argv[2].encode() + b"\\n")
        c.close()
    else:
        data, who = s.recvfrom(2000)
        s.sendto(b"hello " + data, who)
"""


@contextlib.contextmanager
def a_greeter(ip: str, *, kind: str = "tcp", port: int = 0, inside: Sequence[str] = ()) -> Iterator[int]:
    """A server that greets who comes, and its port."""
    with subprocess.Popen(
        [*inside, PYTHON, "-I", "-c", _GREETER, kind, ip, str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    _keep(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
