"""Bytes go through a pump as they would without it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import errno
import gc
import json
import os
import resource
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.local.warm import mover as mover_module
from labspawner.providers.local.warm.mover import Mover
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class Way:
    """A pump from a TCP port to a unix socket, a server behind it, and what a client sees of both."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "hub.sock"
        (self.port,) = free_ports(1)
        self.mover = Mover([self.pump()])
        self.mover.attach(asyncio.get_running_loop())
        self._servers: list[asyncio.Server] = []

    def pump(self, **changes: Any) -> dict[str, Any]:
        listen = {"tcp": ["127.0.0.1", self.port]}
        return {"in": "host", "listen": listen, "to": {"unix": str(self.socket)}, **changes}

    async def serve(self, serve: Serve, *, backlog: int = 1000) -> asyncio.Server:
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        server = await asyncio.start_unix_server(serve, str(self.socket), backlog=backlog, limit=2**20)
        self._servers.append(server)
        return server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def close(self) -> None:
        self.mover.close()
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    way = Way(tmp_path)
    before = open_descriptors()
    yield way
    await eventually(lambda: len(way.mover) == 0)
    await eventually(lambda: open_descriptors() <= before + len(way._servers))
    await way.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_what_is_said_is_answered(way: Way) -> None:
    await way.serve(echo)
    reader, writer = await way.connect()

    writer.write(b"hello\n")

    assert await reader.readline() == b"hello\n"
    await hang_up(writer)


async def test_a_client_that_has_said_all_still_hears_the_answer(way: Way) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(-1)
        writer.write(str(len(said)).encode())
        await hang_up(writer)

    await way.serve(count)
    reader, writer = await way.connect()

    writer.write(b"x" * 3_000_000)
    writer.write_eof()

    assert await reader.read() == b"3000000"
    await hang_up(writer)


async def test_a_server_that_has_said_all_still_hears_the_client(way: Way) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.set_result(await reader.read())
        await hang_up(writer)

    await way.serve(serve)
    reader, writer = await way.connect()

    assert await reader.read() == b"bye"
    writer.write(b"one more thing")
    writer.write_eof()

    assert await heard == b"one more thing"
    await hang_up(writer)


async def test_a_slow_reader_stops_the_writer_and_nothing_is_lost(way: Way) -> None:
    total = 64 * 2**20
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < total:
            writer.write(b"y" * 2**20)
            await writer.drain()
            sent += 2**20
        await hang_up(writer)

    await way.serve(serve)
    with socket.socket() as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", way.port))
        seen = -1

        async def stands_still() -> bool:
            nonlocal seen
            before, seen = seen, sent
            await asyncio.sleep(0.1)
            return 0 < sent == before

        await eventually(stands_still)
        assert sent < total / 2

        got = 0
        while data := await loop.sock_recv(client, 2**20):
            got += len(data)
        assert got == total


async def test_five_hundred_connections_at_once_each_have_their_own_answer(way: Way) -> None:
    await way.serve(echo)

    async def talk(number: int) -> bool:
        reader, writer = await way.connect()
        writer.write(f"{number}\n".encode())
        answer = await reader.readline()
        await hang_up(writer)
        return answer == f"{number}\n".encode()

    assert all(await asyncio.gather(*(talk(number) for number in range(500))))


async def test_more_connections_than_the_limit_wait_their_turn(tmp_path: Path) -> None:
    way = Way(tmp_path)
    way.mover.close()
    way.mover = Mover([way.pump(limit=3)])
    way.mover.attach(asyncio.get_running_loop())
    most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, len(way.mover))
        await echo(reader, writer)

    await way.serve(serve)

    async def talk() -> bytes:
        reader, writer = await way.connect()
        writer.write(b"z\n")
        answer = await reader.readline()
        await hang_up(writer)
        return answer

    assert await asyncio.gather(*(talk() for _ in range(20))) == [b"z\n"] * 20
    assert most == 3
    await way.close()


async def refused(way: Way) -> bool:
    try:
        reader, writer = await way.connect()
    except OSError:
        return True
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        await hang_up(writer)


async def test_nobody_behind_it_is_a_refusal_at_once_and_a_new_server_is_found(way: Way) -> None:
    assert await refused(way)
    first = await way.serve(echo)
    first.close()
    await first.wait_closed()
    assert await refused(way)

    await way.serve(echo)

    reader, writer = await way.connect()
    writer.write(b"back\n")
    assert await reader.readline() == b"back\n"
    await hang_up(writer)


async def test_a_server_with_a_full_queue_is_asked_again(way: Way) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(way.socket))
        server.listen(0)
        clients = [await way.connect() for _ in range(4)]
        await eventually(lambda: way.mover.wait_s() is not None)

        server.setblocking(False)
        loop = asyncio.get_running_loop()
        for _ in clients:
            accepted, _ = await loop.sock_accept(server)
            accepted.close()

        for reader, writer in clients:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            await hang_up(writer)


async def test_a_client_that_vanishes_leaves_no_connection_behind(way: Way) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        ended.set()
        await hang_up(writer)

    await way.serve(serve)
    client = socket.create_connection(("127.0.0.1", way.port))
    await eventually(lambda: len(way.mover) == 1)

    mover_module._reset(client)

    await asyncio.wait_for(ended.wait(), 120)


async def test_a_server_that_vanishes_is_an_end_for_its_client(way: Way) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()

    await way.serve(serve)
    reader, writer = await way.connect()

    writer.write(b"go\n" + b"more" * 1_000_000)

    with contextlib.suppress(OSError):
        assert await reader.read() == b""
    await hang_up(writer)


async def test_an_early_answer_reaches_a_client_that_still_uploads(way: Way) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 413 Too large\r\n")
        await writer.drain()
        await reader.read()
        await hang_up(writer)

    await way.serve(serve)
    reader, writer = await way.connect()
    writer.write(b"u" * 2**20)

    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    await hang_up(writer)


async def test_out_of_descriptors_it_waits_and_goes_on(way: Way) -> None:
    await way.serve(echo)
    gc.collect()  # what earlier tests left behind must not make room now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest + 1 - open_descriptors() + 8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filler) + 1, hard))
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", way.port))
        await eventually(lambda: way.mover.wait_s() is not None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in filler:
            os.close(fd)

    await asyncio.get_running_loop().sock_sendall(client, b"there\n")
    assert await asyncio.get_running_loop().sock_recv(client, 100) == b"there\n"
    client.close()


def test_a_port_that_is_taken_is_said_so_and_nothing_stays_open(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gc.collect()
        before = open_descriptors()
        plan = [{"in": "host", "listen": {"tcp": list(taken.getsockname())}, "to": {"unix": str(tmp_path / "x")}}]

        with pytest.raises(OSError, match="in use") as seen:
            Mover(plan)

        assert seen.value.errno == errno.EADDRINUSE
        assert open_descriptors() == before


def test_closed_in_the_middle_it_closes_everything_and_removes_its_socket(tmp_path: Path) -> None:
    gc.collect()
    before = open_descriptors()
    listen, to = tmp_path / "in.sock", tmp_path / "out.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(to))
        server.listen()
        mover = Mover([{"in": "host", "listen": {"unix": str(listen)}, "to": {"unix": str(to)}}])
        client.connect(str(listen))
        select.select([mover], [], [], 10)
        mover.turn()
        assert len(mover) == 1

        mover.close()
        mover.close()

        assert client.recv(1) == b""
    assert not listen.exists()
    assert open_descriptors() == before


def test_a_socket_that_listens_already_can_be_given(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as behind, socket.create_server(("127.0.0.1", 0)) as front:
        address = front.getsockname()
        pump = {"in": "host", "listen": {"fd": os.dup(front.fileno())}, "to": {"tcp": list(behind.getsockname())}}
        mover = Mover([pump])
        with socket.create_connection(address) as client:
            client.sendall(b"in")
            select.select([mover], [], [], 10)
            mover.turn()
            accepted, _ = behind.accept()
            with accepted:
                while not select.select([accepted], [], [], 0)[0]:
                    select.select([mover], [], [], 10)
                    mover.turn()
                assert accepted.recv(2) == b"in"
        mover.close()


def test_what_listens_inside_is_opened_only_there(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    mover = Mover(
        [{"in": "sandbox", "listen": {"tcp": ["127.0.0.1", port]}, "to": {"unix": str(tmp_path / "hub.sock")}}]
    )
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))

    mover.listen_inside()

    socket.create_connection(("127.0.0.1", port)).close()
    mover.close()


@pytest.mark.parametrize("name", ["mover.py", "pumps.py"])
def test_it_is_python_3_9_and_imports_the_standard_library_only(name: str) -> None:
    source = Path(mover_module.__file__).with_name(name).read_text()

    tree = ast.parse(source, feature_version=(3, 9))

    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_the_plan_is_json() -> None:
    plan = [{"in": "host", "listen": {"tcp": ["127.0.0.1", 0]}, "to": {"tcp": ["127.0.0.1", 1]}}]

    Mover(json.loads(json.dumps(plan))).close()


@pytest.fixture(autouse=True)
def _descriptor_limit() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_nobody_behind_a_port_is_a_refusal_too_and_a_server_that_comes_later_is_reached() -> None:
    front, behind = free_ports(2)
    mover = Mover(
        [{"in": "host", "listen": {"tcp": ["127.0.0.1", front]}, "to": {"tcp": ["127.0.0.1", behind]}, "limit": 2}]
    )
    mover.attach(asyncio.get_running_loop())
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", front)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await hang_up(writer)
    await eventually(lambda: len(mover) == 0)

    server = await asyncio.start_server(echo, "127.0.0.1", behind)
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    writer.write(b"now\n")

    assert await reader.readline() == b"now\n"
    await hang_up(writer)
    await eventually(lambda: len(mover) == 0)
    mover.close()
    server.close()
    await server.wait_closed()
