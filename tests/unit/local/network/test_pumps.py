"""The keeper's side in this very process; from inside real sandboxes it is in test_sandbox.py."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.local.warm import pumps as pumps_module
from labspawner.providers.local.warm.pumps import Pumps
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually

READY = """#!/bin/bash
for word in "$@"; do case $word in
  --ready-fd=*) ready=${word#*=};;
  --exit-fd=*) life=${word#*=};;
esac; done
echo -n 1 >&$ready
eval "exec $ready>&-"
cat <&$life
"""


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Any:
    gc.collect()  # what earlier tests left behind must not go while this one is under way
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def program(folder: Path, text: str) -> list[str]:
    """A stand-in for slirp4netns."""
    path = folder / "slirp"
    path.write_text(text)
    path.chmod(0o755)
    return [str(path)]


def egress(*argv: str) -> dict[str, Any]:
    return {"egress": {"argv": list(argv), "env": {"PATH": os.environ["PATH"]}}}


@pytest.mark.parametrize("plan", [None, {}, {"pumps": [], "deny": [], "egress": None}])
def test_a_plan_for_nothing_does_nothing(plan: Any) -> None:
    pumps = Pumps(plan)

    pumps.open_outside(os.getpid())
    pumps.open_inside()

    assert pumps.egress_pid() is None
    pumps.close()
    pumps.close()


async def test_run_moves_bytes_until_it_is_cancelled_and_closes_everything(tmp_path: Path) -> None:
    (port,) = free_ports(1)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    server = await asyncio.start_unix_server(greet, str(tmp_path / "hub.sock"))
    to = {"unix": str(tmp_path / "hub.sock")}
    pumps = Pumps({"pumps": [{"in": "sandbox", "listen": {"tcp": ["127.0.0.1", port]}, "to": to}]})
    pumps.open_outside(os.getpid())
    pumps.open_inside()
    running = asyncio.ensure_future(pumps.run())

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    running.cancel()

    with contextlib.suppress(asyncio.CancelledError):
        await running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)


def test_a_taken_port_is_said_so_and_what_was_opened_is_closed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pump = {"listen": {"tcp": list(taken.getsockname())}, "to": {"unix": str(tmp_path / "x")}}

        with pytest.raises(OSError, match="in use"):
            Pumps({"pumps": [{"in": "host", **pump}]}).open_outside(os.getpid())

        inside = Pumps({"pumps": [{"in": "sandbox", **pump}]})
        inside.open_outside(os.getpid())
        with pytest.raises(OSError, match="in use"):
            inside.open_inside()


async def test_the_way_to_the_world_is_there_when_open_inside_returns_and_ends_with_close(tmp_path: Path) -> None:
    pumps = Pumps(egress(*program(tmp_path, READY)))
    pumps.open_outside(os.getpid())
    pumps.open_inside()
    pid = pumps.egress_pid()
    assert pid is not None
    assert Path(f"/proc/{pid}").exists()

    pumps.close()

    await eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_one_that_ignores_its_end_is_killed(tmp_path: Path) -> None:
    pumps = Pumps(egress(*program(tmp_path, READY.replace("cat <&$life", "exec sleep 100"))))
    pumps.open_outside(os.getpid())
    pumps.open_inside()
    pid = pumps.egress_pid()

    pumps.close()

    assert not Path(f"/proc/{pid}").exists()


def test_one_that_ends_at_once_fails_the_start(tmp_path: Path) -> None:
    pumps = Pumps(egress(*program(tmp_path, "#!/bin/sh\nexit 7\n")))
    pumps.open_outside(os.getpid())

    with pytest.raises(OSError, match="status 7") as seen:
        pumps.open_inside()

    assert seen.value.errno == errno.EPIPE


def test_one_that_is_never_ready_fails_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumps_module, "EGRESS_READY_S", 0.1)
    pumps = Pumps(egress(*program(tmp_path, "#!/bin/sh\nexec sleep 100\n")))
    pumps.open_outside(os.getpid())

    with pytest.raises(OSError, match="in time"):
        pumps.open_inside()


def test_one_that_is_not_installed_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Pumps(egress(str(tmp_path / "missing"))).open_outside(os.getpid())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2")
def test_networks_are_made_unreachable_and_a_second_time_is_no_error() -> None:
    networks = ["192.0.2.9/32", "198.51.100.0/24", "fd00:ec2::254/128"]

    def inside() -> str:
        import ctypes

        assert ctypes.CDLL(None).unshare(0x40000000) == 0
        os.system("ip link set lo up")
        pumps_module.deny(networks)
        pumps_module.deny(networks)
        return os.popen("ip route; ip -6 route").read()

    shown = in_a_fork(inside)

    assert "unreachable 192.0.2.9" in shown
    assert "unreachable 198.51.100.0/24" in shown
    assert "unreachable fd00:ec2::254" in shown


def test_a_route_that_the_kernel_refuses_is_an_error() -> None:
    def inside() -> str:
        with pytest.raises(OSError, match="route to"):
            pumps_module.deny(["192.0.2.9/99"])
        return "refused"

    assert in_a_fork(inside) == "refused"


def in_a_fork(work: Any) -> str:
    """What `work` answers in a process that may go where this one cannot come back from."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(work()).encode())
        except BaseException as exc:
            os.write(write, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said
