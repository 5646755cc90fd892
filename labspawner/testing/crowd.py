"""Hundreds who only look: pages that watch what is free, and requests at a steady rate, cheap enough to share a small machine
with the hub that is measured."""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tornado.web import create_signed_value

from labspawner.testing.waiting import eventually

COOKIE = "jupyterhub-hub-login"
_PATIENCE_S = 60.0
_LONGEST_LINE = 2**20


def cookies(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """What the browsers of these users send once they are logged in, made from the secret and the database of a hub that runs
    in `folder` and knows them; by user name."""
    secret = binascii.a2b_hex((folder / "cookie_secret").read_text().strip())
    with contextlib.closing(sqlite3.connect(folder / "jupyterhub.sqlite", timeout=20)) as db:
        ids = dict(db.execute("SELECT name, cookie_id FROM users"))
    return {name: f"{COOKIE}={create_signed_value(secret, COOKIE, ids[name]).decode()}" for name in names}


@dataclass
class Page:
    """One open page. heard: when an event came, and a digest of what it said. failed: why it watches no more."""

    name: str
    cookie: str = field(repr=False)
    heard: list[tuple[float, int]] = field(default_factory=list)
    failed: str = ""

    def first_news(self, since: float, until: float) -> float | None:
        """When it was first told something else than what it knew at `since`; None: it was not."""
        known = next((said for at, said in reversed(self.heard) if at <= since), None)
        return next((at for at, said in self.heard if since < at <= until and said != known), None)


@contextlib.asynccontextmanager
async def watching(
    port: int, pages: Sequence[Page], path: str, *, event: str, headers: str = ""
) -> AsyncIterator[None]:
    """Let all pages watch `path` by server-sent events of this kind, from when each has heard its first one."""
    tasks = [asyncio.ensure_future(_watch(port, page, path, event.encode(), headers)) for page in pages]
    try:
        await eventually(lambda: all(page.heard or page.failed for page in pages), what="all pages watch")
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(port: int, page: Page, path: str, event: bytes, headers: str) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE)
    except OSError as exc:
        page.failed = f"no connection: {exc}"
        return
    try:
        known = f"Host: 127.0.0.1:{port}\r\nCookie: {page.cookie}\r\nAccept: text/event-stream\r\n{headers}"
        writer.write(f"GET {path} HTTP/1.1\r\n{known}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if head[9:12] != b"200":
            page.failed = head.partition(b"\r\n")[0].decode()
            return
        named = b""
        while line := await reader.readuntil(b"\n"):
            if line.startswith(b"event:"):
                named = line[6:].strip()
            elif line.startswith(b"data:") and named == event:
                page.heard.append((time.perf_counter(), hash(line)))
    except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
        page.failed = f"{type(exc).__name__} {exc}"
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Taken:
    """One request of a steady rate. seconds: from when it was due, so that a queue in front of it counts."""

    path: str
    seconds: float
    status: int


async def at_rate(
    port: int, paths: Sequence[str], *, per_s: float, seconds: float, headers: str = "", workers: int = 40
) -> list[Taken]:
    """Ask for these paths in turn at a steady rate, whatever the answers take; every answer is read to its end."""
    due: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
    taken: list[Taken] = []

    async def work() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (order := await due.get()) is not None:
            at, path = order
            try:
                connection = connection or await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE)
                status = await asyncio.wait_for(_ask(*connection, path, headers), _PATIENCE_S)
            except (OSError, EOFError, asyncio.TimeoutError, ValueError):
                status = 0
            taken.append(Taken(path, time.perf_counter() - at, status))
            if status == 0 and connection is not None:
                connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
    began = time.perf_counter()
    for number in range(max(1, round(per_s * seconds))):
        at = began + number / per_s
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        due.put_nowait((at, paths[number % len(paths)]))
    for _ in tasks:
        due.put_nowait(None)
    await asyncio.gather(*tasks)
    return taken


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: str) -> int:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if fields.get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return int(head[9:12])


async def send(port: int, method: str, path: str, body: object, *, headers: str = "") -> tuple[int, bytes]:
    """Send JSON once, None for no body; the answer. Raises OSError where nobody answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        length = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n".encode() + data)
        whole = await asyncio.wait_for(reader.read(), _PATIENCE_S)
    finally:
        writer.close()
    head, _, rest = whole.partition(b"\r\n\r\n")
    return int(head[9:12]), rest
