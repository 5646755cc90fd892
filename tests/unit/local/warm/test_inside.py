"""Servers in a sandbox: which namespaces, which rights, and whose end is whose."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from labspawner.providers.local.confinement import Account
from labspawner.providers.local.warm import wire
from labspawner.providers.local.warm.child import PROGRAM
from labspawner.testing.processes import alive
from labspawner.testing.waiting import eventually

from .conftest import SLEEP, Bench, kill, layout

Sandbox = Callable[[], dict[str, Any]]
LOOK = (
    "import os\n"
    "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
    "answer = {'pid': os.getpid(), 'host': os.uname().nodename, 'ids': [os.getresuid(), os.getresgid()],\n"
    " 'rights': [status[name].strip() for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs')],\n"
    " 'links': sorted(os.listdir('/sys/class/net')) if 0 else open('/proc/net/dev').read().count(':'),\n"
    " 'fds': sorted(os.listdir('/proc/self/fd')), 'seen': len([n for n in os.listdir('/proc') if n.isdigit()])}\n"
)
NONE = "0" * 16


@pytest.mark.parametrize("warm", [True, False])
async def test_a_server_is_inside_and_has_no_rights(bench: Bench, sandbox: Sandbox, warm: bool) -> None:
    order: dict[str, Any] = {**sandbox(), "warm": warm}
    if not order["user_namespace"]:
        order["account"] = Account(uid=54321, gid=54322, name="ann")

    answer = await bench.answer(LOOK, **order)

    ids = [1000, 1000] if order["user_namespace"] else [54321, 54322]
    assert answer["ids"] == [[number] * 3 for number in ids]
    assert answer["rights"] == [NONE, NONE, NONE, NONE, NONE, "1"]
    assert answer["host"] == "lab"
    assert answer["pid"] > 1
    assert answer["seen"] <= 4
    assert answer["links"] == 1
    assert answer["fds"] == ["0", "1", "2", "3"]


async def test_a_killed_keeper_takes_all_that_is_inside_along(bench: Bench, sandbox: Sandbox) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen(['setsid', 'sh', '-c', 'sleep 601 & exec sleep 602'], env={'PATH': '/bin:/usr/bin'})\n"
        + SLEEP
    )
    started = await bench.start(script, **sandbox())
    await eventually((bench.home / "up").exists, 10.0, bench.log())
    with _namespace_of(started.server_pid) as inside:
        kill(started.keeper[0])

        await eventually(lambda: not _in_namespace(inside))
    assert started.exit_status() == -signal.SIGKILL


async def test_what_a_server_leaves_behind_ends_with_it(bench: Bench, sandbox: Sandbox) -> None:
    script = "import subprocess; subprocess.Popen(['setsid', 'sleep', '603']); " + SLEEP
    started = await bench.start(script, **sandbox())
    await eventually((bench.home / "up").exists, 10.0, bench.log())
    with _namespace_of(started.server_pid) as inside:
        kill(started.keeper[0], signal.SIGTERM)

        assert await bench.end_of(started) == -signal.SIGTERM
        await eventually(lambda: not alive(started.keeper[0]))
        await eventually(lambda: not _in_namespace(inside))


async def test_a_keeper_of_an_account_has_the_accounts_rights_only(bench: Bench, sandbox: Sandbox) -> None:
    order = sandbox()
    if not order["user_namespace"]:
        order["account"] = Account(uid=54321, gid=54322, name="ann")

    started = await bench.start("import time; time.sleep(600)", **{**order, "cwd": "/"})

    status = Path(f"/proc/{started.keeper[0]}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapPrm"] == NONE
    assert fields["NoNewPrivs"] == "1"
    if not order["user_namespace"]:
        assert set(fields["Uid"].split()) == {"54321"}
        assert set(fields["Gid"].split()) == {"54322"}
        assert not fields["Groups"].strip()
    assert psutil.Process(started.keeper[0]).environ() == {"LABSPAWNER_LEASE_ID": "lease-1"}


async def test_the_zygote_stays_outside(bench: Bench, sandbox: Sandbox) -> None:
    await bench.start("import time; time.sleep(600)", **sandbox())

    for pid in bench.zygotes.zygotes.values():
        for kind in ("mnt", "pid", "net", "user"):
            assert os.stat(f"/proc/{pid}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


async def test_a_command_that_is_not_there_leaves_no_sandbox(bench: Bench, sandbox: Sandbox) -> None:
    name = secrets.token_hex(8)  # of this sandbox alone, among those of other tests at this moment
    order = sandbox()
    order["sandbox"] = tuple(name if word == "lab" else word for word in order["sandbox"])
    await bench.start(SLEEP, **order)
    before = _sandboxes(name)
    assert before

    with pytest.raises(FileNotFoundError):
        await bench.start("", argv=("no-such-command",), **order)

    await eventually(lambda: _sandboxes(name) <= before)


def test_an_ordinary_user_needs_no_rights(tmp_path: Path) -> None:
    """The program alone, as nobody: its hub here is this test."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not Path(python).exists():
        pytest.skip("needs root, to become an ordinary user, and Debian's Python")
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    command = layout(user_namespace=True, interpreter=False)
    if subprocess.run([*nobody, *command, "--", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("an ordinary user cannot make a sandbox here")
    folder = Path(
        subprocess.check_output([*nobody, "mktemp", "-d"], text=True, env={"TMPDIR": "/tmp"}, cwd="/").strip()
    )
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR)
    ours, theirs = socket.socketpair()
    try:
        shutil.copytree(PROGRAM.parent, folder / "warm", ignore=shutil.ignore_patterns("__pycache__"))
        os.chmod(folder, 0o755)
        settings = f'{{"control": {theirs.fileno()}, "warm": false, "path": []}}'
        zygote = subprocess.Popen(
            [*nobody, python, "-I", "-S", str(folder / "warm" / "program.py"), settings, " " * 4096],
            pass_fds=[theirs.fileno()], env={"ROOM": "-" * 4096}, cwd="/", start_new_session=True,
        )  # fmt: skip
        theirs.close()
        assert b"ready" in ours.recv(4096)
        connection, keepers = socket.socketpair()
        socket.send_fds(ours, [b"k"], [keepers.fileno()])
        keepers.close()
        request = {
            "argv": ["sh", "-c", "id -u; cat /proc/sys/kernel/hostname; exit 5"], "words": 0, "warm": False,
            "environment": {"PATH": "/usr/bin:/bin"}, "marks": {"LABSPAWNER_LEASE_ID": "l"}, "title": "t", "cwd": "/",
            "account": {"uid": 1000, "gid": 1000}, "user_namespace": True, "sandbox": list(command),
            "outside_files": [], "inside_files": [], "rlimits": {"RLIMIT_CORE": [0, 0]}, "nice": 0,
            "oom_score_adj": None, "umask": 0o22, "network": None,
        }  # fmt: skip
        socket.send_fds(connection, [wire.frame(request)], [log])
        said = b""
        while b"server" not in said and b"failed" not in said:
            said += connection.recv(4096)
        connection.sendall(wire.GO)
        while some := connection.recv(4096):
            said += some
        connection.close()

        assert b'{"exited": 5}' in said, said
        assert os.pread(log, 4096, 0).split() == [b"1000", b"lab"]
    finally:
        ours.close()
        theirs.close()
        os.close(log)
        zygote.wait(timeout=120)
        shutil.rmtree(folder)


@contextmanager
def _namespace_of(pid: int) -> Iterator[int]:
    """The inode number of the pid namespace of `pid`; open, so that the kernel gives the number to no other one."""
    descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    try:
        yield os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _in_namespace(number: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        try:
            if os.stat(f"/proc/{pid}/ns/pid").st_ino == number and alive(pid):
                found.append(pid)
        except (OSError, psutil.Error):
            continue
    return found


def _sandboxes(name: str) -> set[int]:
    """The bubblewraps of sandboxes whose host name is `name`, whoever is their parent by now."""
    found = psutil.process_iter(["name", "cmdline"])
    return {
        process.pid for process in found if process.info["name"] == "bwrap" and name in (process.info["cmdline"] or ())
    }
