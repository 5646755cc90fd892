"""`labspawner top` on real leases and simulated servers, on a real terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from builders import a_lease, a_request
from click.testing import CliRunner
from rich.console import Console

from labspawner.cli import main
from labspawner.cli.top.command import Board, watch
from labspawner.cli.top.rows import Row
from labspawner.errors import StoreUnavailable
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.usages import Usages
from labspawner.model import Checkpoint, Phase
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.sentences import Sentence
from labspawner.store import Store
from labspawner.store.store import utcnow
from labspawner.testing.waiting import eventually

SIM = {"start_s": 0.0, "uses_memory": "512MiB", "uses_cpu": 0.5, "uses_processes": 7}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.py"
    path.write_text(
        f"c = get_config()\nc.Labspawner.data_dir = {str(tmp_path)!r}\nc.Labspawner.hub_id = 'top-hub'\n"
        f"c.Labspawner.providers = {{'sim': {SIM!r}}}\n"
    )
    return path


def run(config: Path, *words: str):
    return CliRunner().invoke(main, ["top", "--config", str(config), *words])


def start_servers(tmp_path: Path, *users: str) -> None:
    """Leases in the store, and their servers in the simulation, as a hub leaves them."""

    async def work() -> None:
        folder = tmp_path / "providers" / "sim"
        folder.mkdir(parents=True)
        provider = SimProvider(ProviderContext(name="sim", hub_id="top-hub", data_dir=folder), SIM)
        store = Store.open(f"sqlite:///{tmp_path}/labspawner.sqlite")
        await store.migrate()
        for user in users:
            request = a_request(user=user, hub_id="top-hub", base_url=f"/user/{user}/")
            events = [event async for event in provider.launch(request)]
            handle = [event.handle for event in events if isinstance(event, Checkpoint)][-1]
            lease = a_lease(id=request.lease_id, hub_id="top-hub", user=user, phase=Phase.READY, handle=handle)
            await store.add(lease)
        await provider.close()
        await store.close()

    asyncio.run(work())


def test_once_prints_a_table_with_what_servers_use(tmp_path: Path, config: Path):
    start_servers(tmp_path, "ann", "ben")

    result = run(config, "--once")

    assert result.exit_code == 0, result.output
    assert "2 running" in result.output
    assert "ann" in result.output
    assert "512 MiB" in result.output


def test_json_is_for_other_programs_and_knows_how_busy_the_cpus_are(tmp_path: Path, config: Path):
    start_servers(tmp_path, "ann")

    result = run(config, "--json")

    (row,) = json.loads(result.output)
    assert (row["user"], row["memory_bytes"], row["processes"]) == ("ann", 512 * 2**20, 7)
    assert row["cores"] == pytest.approx(0.5, abs=0.05)


def test_output_that_is_no_terminal_is_one_table(config: Path):
    result = run(config)

    assert result.exit_code == 0
    assert "No server is running" in result.output


def test_a_wrong_configuration_is_a_sentence(tmp_path: Path):
    path = tmp_path / "config.py"
    path.write_text("c = get_config()\nc.Labspawner.hub_id = 'Not Allowed'\n")

    result = run(path, "--once")

    assert result.exit_code == 1
    assert "hub_id" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_sort_is_refused_with_those_that_there_are(config: Path):
    result = run(config, "--sort", "colour")

    assert result.exit_code == 2
    assert "memory" in result.output


@pytest.fixture
def terminal():
    """Both ends of a terminal: what a person types into, and what the command reads."""
    person, command = pty.openpty()
    yield person, command
    os.close(person)
    os.close(command)


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Board]:
    store = Store.open(f"sqlite:///{tmp_path}/leases.sqlite")
    await store.migrate()
    await store.add(a_lease(user="ann", hub_id="h", phase=Phase.READY, provider="sim"))
    await store.add(a_lease(user="ben", hub_id="h", phase=Phase.READY, provider="sim"))
    book = LeaseBook(store, "h", utcnow)
    usages = Usages({}, book)
    yield Board(store, book, usages)
    await usages.close()
    await store.close()


async def watched(board: Board, terminal, **changes):
    out = io.StringIO()
    console = Console(file=out, width=120, height=30, force_terminal=True)
    task = asyncio.ensure_future(
        watch(board, console, sort="user", every_s=0.05, **{"keyboard": terminal[1], **changes})
    )
    return task, out


async def test_it_draws_until_q_and_leaves_the_terminal_as_it_was(board: Board, terminal):
    before = termios.tcgetattr(terminal[1])
    task, out = await watched(board, terminal)
    await eventually(lambda: out.getvalue().count("ann") >= 2)
    assert termios.tcgetattr(terminal[1]) != before

    os.write(terminal[0], b"q")

    await asyncio.wait_for(task, 120)
    assert termios.tcgetattr(terminal[1]) == before
    assert "q quit" in out.getvalue()


async def test_a_key_changes_the_order(board: Board, terminal):
    asked: list[str] = []

    class Asked(Board):
        async def rows(self, sort: str) -> list[Row]:
            asked.append(sort)
            return await super().rows(sort)

    task, _ = await watched(Asked(board.store, board.book, board.usages), terminal)

    await eventually(lambda: asked)
    os.write(terminal[0], b"xc")

    await eventually(lambda: asked[-1:] == ["cpu"])
    os.write(terminal[0], b"q")
    await asyncio.wait_for(task, 120)
    assert asked[0] == "user"


async def test_a_key_that_was_pressed_before_the_first_look_counts(board: Board, terminal):
    os.write(terminal[0], b"q")

    task, _ = await watched(board, terminal)

    await asyncio.wait_for(task, 120)


async def test_a_database_that_does_not_answer_is_said_and_asked_again(board: Board, terminal):
    class Flaky(Board):
        async def rows(self, sort: str) -> list[Row]:
            looks.append(sort)
            if len(looks) == 2:
                raise StoreUnavailable(Sentence("The database takes a nap."))
            return await super().rows(sort)

    looks: list[str] = []
    task, out = await watched(Flaky(board.store, board.book, board.usages), terminal)

    await eventually(lambda: len(looks) >= 4)
    os.write(terminal[0], b"q")
    await asyncio.wait_for(task, 120)

    assert "The database takes a nap." in out.getvalue()


async def test_without_a_keyboard_it_runs_until_it_is_interrupted(board: Board):
    task, out = await watched(board, (None, None))
    await eventually(lambda: "ann" in out.getvalue())

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert "q quit" not in out.getvalue()


async def test_a_terminal_that_is_closed_ends_it(board: Board):
    person, command = pty.openpty()
    task, out = await watched(board, (person, command))
    await eventually(lambda: "ann" in out.getvalue())

    os.close(person)

    await asyncio.wait_for(task, 120)
    os.close(command)
