"""The question that decides whether a server is ready."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from labspawner.providers import probe


@asynccontextmanager
async def saying(answer: bytes, *, path: Path | None = None) -> AsyncIterator[str]:
    """A server that reads a request and says `answer`; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if answer:
            writer.close()
        else:
            await reader.read()  # until the asker gives up
            writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(serve, str(path))
        url = "http+unix://" + quote(str(path), safe="")
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield url


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", True),
        (b"HTTP/1.1 500 Oops\r\n\r\n", False),
        (b"HTTP/1.1 503\r\n\r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"\x00\xff garbage\n", False),
        (b"\n", False),
        (b"", False),
    ],
)
async def test_any_http_answer_below_500_counts(answer: bytes, expected: bool) -> None:
    async with saying(answer) as url:
        assert await probe.answers(url + "/user/ann/api", timeout_s=60.0 if answer else 0.3) is expected


async def test_a_unix_socket_can_be_asked(tmp_path: Path) -> None:
    async with saying(b"HTTP/1.1 200 OK\r\n\r\n", path=tmp_path / "s.sock") as url:
        assert await probe.answers(url + "/api")
        assert await probe.answers(url + ":80/api")


async def test_nobody_there_is_no_answer() -> None:
    async with saying(b"x") as url:
        pass

    assert not await probe.answers(url)
    assert not await probe.answers("http+unix://%2Fnonexistent/api")


async def test_a_plain_server_does_not_answer_https() -> None:
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert not await probe.answers(url.replace("http:", "https:"), timeout_s=0.5)


def test_a_certificate_is_not_checked() -> None:
    assert probe._unchecked_tls().verify_mode is ssl.CERT_NONE
