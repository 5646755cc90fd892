"""Hundreds of students who start at once, economical enough to share a small machine with the hub that they ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from jupyterhub.utils import hash_token

PATIENCE_S = 300.0
_PROBE = """
import http.client, json, signal, sys, time
port, path, every_s, go, taken = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), True, []
def end(*_):
    global go
    go = False
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while go:
    began = time.perf_counter()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
    except OSError:
        pass
    else:
        taken.append(time.perf_counter() - began)
    time.sleep(every_s)
print(json.dumps(taken))
"""


@dataclass(slots=True)
class Student:
    """One who starts a server, and when what happened; seconds since all began, None where it did not.

    answered: the POST. heard: the first line of progress. ready: the server. failed: what went wrong.
    """

    name: str
    token: str
    answered: float | None = None
    heard: float | None = None
    ready: float | None = None
    failed: str = ""


def enrol(database: Path, names: Sequence[str]) -> list[Student]:
    """Students with API tokens of their own, written into the database of a hub that runs and knows these users."""
    students = [Student(name, secrets.token_hex(16)) for name in names]
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as db, db:
        ids = dict(db.execute("SELECT name, id FROM users"))
        db.executemany(
            "INSERT INTO api_tokens (hashed, prefix, user_id, client_id, created, note, scopes)"
            " VALUES (?, ?, ?, 'jupyterhub', ?, 'storm', '[\"inherit\"]')",
            [
                (
                    hash_token(student.token, rounds=1, salt=8, algorithm="sha512"),
                    student.token[:4],
                    ids[student.name],
                    datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" "),
                )
                for student in students
            ],
        )
    return students


async def storm(port: int, students: Sequence[Student], body: object) -> float:
    """Let all ask for a server at once and follow its progress until it is ready; how long that took, in seconds.

    body: what is POSTed. A failure stands in the student; the connection that a dying hub drops is one.
    """
    began = time.perf_counter()
    await asyncio.gather(*(_start(port, student, json.dumps(body).encode(), began) for student in students))
    return time.perf_counter() - began


async def _start(port: int, student: Student, body: bytes, began: float) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as exc:
        student.failed = f"no connection: {exc}"
        return
    try:
        await asyncio.wait_for(_follow(reader, writer, student, body, began), PATIENCE_S)
    except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError) as exc:
        student.failed = f"{type(exc).__name__} {exc}"
    finally:
        writer.close()


async def _follow(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, student: Student, body: bytes, began: float
) -> None:
    path = f"/hub/api/users/{student.name}/server"
    known = f"Host: 127.0.0.1\r\nAuthorization: token {student.token}\r\n"
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"POST {path} HTTP/1.1\r\n{known}{length}\r\n".encode() + body)
    status, text = await _answer(reader)
    student.answered = time.perf_counter() - began
    if status not in {201, 202}:
        student.failed = f"{status} {text[:200]!r}"
        return
    writer.write(f"GET {path}/progress HTTP/1.1\r\n{known}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if int(head[9:12]) != 200:
        student.failed = f"progress: {head[:60]!r}"
        return
    while student.ready is None and not student.failed:
        line = await reader.readuntil(b"\n")
        if line.startswith(b"data:"):
            _hear(student, json.loads(line[5:]), time.perf_counter() - began)


def _hear(student: Student, event: dict[str, object], at: float) -> None:
    if student.heard is None:
        student.heard = at
    if event.get("ready"):
        student.ready = at
    elif event.get("failed"):
        student.failed = str(event.get("message"))


async def stop_all(port: int, students: Sequence[Student]) -> float:
    """Let all stop their servers at once; seconds until the hub has answered everybody. A failure stands in the student."""
    began = time.perf_counter()
    await asyncio.gather(*(_stop(port, student) for student in students))
    return time.perf_counter() - began


async def _stop(port: int, student: Student) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as exc:
        student.failed = f"no connection: {exc}"
        return
    try:
        known = f"Host: 127.0.0.1\r\nAuthorization: token {student.token}\r\n"
        writer.write(f"DELETE /hub/api/users/{student.name}/server HTTP/1.1\r\n{known}\r\n".encode())
        status, text = await asyncio.wait_for(_answer(reader), PATIENCE_S)
        if status not in {202, 204}:
            student.failed = f"{status} {text[:200]!r}"
    except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError) as exc:
        student.failed = f"{type(exc).__name__} {exc}"
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return int(head[9:12]), await reader.readexactly(int(fields.get(b"content-length", b"0")))


@contextlib.contextmanager
def latencies(port: int, path: str = "/hub/api", *, every_s: float = 0.02) -> Iterator[list[float]]:
    """Ask the hub for `path` all the time, one request after another, in a process of its own; the seconds that each
    took are in the list on the way out."""
    found: list[float] = []
    command = [sys.executable, "-c", _PROBE, str(port), path, str(every_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:  # noqa: S603 - our own interpreter
        try:
            assert probe.stdout is not None
            probe.stdout.readline()
            yield found
            probe.send_signal(signal.SIGTERM)
            found += json.loads(probe.communicate(timeout=150)[0])
        finally:
            if probe.poll() is None:
                probe.kill()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else float("nan")
