"""What a server prints comes to its log, and no more than fits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labspawner.providers.local.warm.talk import Talk
from labspawner.testing.waiting import eventually


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def a_server(talk: Talk, code: str) -> int:
    """A fork that prints as a server does."""
    pid = os.fork()
    if pid == 0:
        talk.speak(None)
        os.execv("/bin/sh", ["sh", "-c", code])
    talk.listen()
    return pid


async def moved(talk: Talk, path: Path, end: str) -> str:
    talk.attach(asyncio.get_running_loop())
    await eventually(lambda: path.read_text().endswith(end), 20)
    return path.read_text()


async def test_what_is_printed_is_in_the_log(log: int, tmp_path: Path) -> None:
    talk = Talk(log, 2**20)
    pid = a_server(talk, "echo out; echo err >&2")

    said = await moved(talk, tmp_path / "log", "err\n")

    os.waitpid(pid, 0)
    assert said == "out\nerr\n"


async def test_a_flood_leaves_its_end_and_a_word_that_there_was_more(log: int, tmp_path: Path) -> None:
    talk = Talk(log, 10_000)
    pid = a_server(talk, "i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done; echo the end")

    said = await moved(talk, tmp_path / "log", "the end\n")

    os.waitpid(pid, 0)
    assert len(said) <= 20_000
    assert said.startswith("[the beginning was dropped]\nline ")


def test_what_was_said_last_is_kept_when_the_server_ends(log: int, tmp_path: Path) -> None:
    talk = Talk(log, 2**20)
    os.waitpid(a_server(talk, "echo last words"), 0)

    talk.drain()

    assert (tmp_path / "log").read_text() == "last words\n"


def test_a_full_disk_costs_words_only() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    talk = Talk(full, 2**20)
    os.waitpid(a_server(talk, "echo lost"), 0)

    talk.drain()

    os.close(full)
