"""More connections may wait than tornado lets, and fewer are taken in at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tornado import netutil
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from labspawner.gate import open_wide
from labspawner.gate.doors import AT_A_TIME


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = netutil._DEFAULT_BACKLOG
    yield
    netutil._DEFAULT_BACKLOG = before


class Hello(RequestHandler):
    def get(self) -> None:
        self.finish("hello")


async def test_hundreds_who_connect_before_anyone_is_taken_in_are_all_answered():
    server = HTTPServer(Application([("/", Hello)], log_function=lambda _handler: None))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]
    assert open_wide(server)

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    answers = await asyncio.gather(*(ask() for _ in range(300)))

    assert all(answer.endswith(b"hello") for answer in answers)
    assert netutil._DEFAULT_BACKLOG == AT_A_TIME
    server.stop()
    await server.close_all_connections()


@pytest.mark.parametrize("server", [None, SimpleNamespace(), SimpleNamespace(_sockets=[])])
def test_a_server_of_another_shape_is_left_alone(server):
    before = netutil._DEFAULT_BACKLOG

    assert not open_wide(server)
    assert before == netutil._DEFAULT_BACKLOG


def test_a_tornado_of_another_shape_is_left_alone(monkeypatch):
    monkeypatch.delattr(netutil, "_DEFAULT_BACKLOG")

    assert not open_wide(SimpleNamespace(_sockets={}))
    monkeypatch.undo()
