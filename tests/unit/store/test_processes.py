"""Several processes at one database: hub, culler, a command; and one of them killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from builders import NOW, a_lease
from unit.store.clock import SHARED
from unit.store.worker import STARTS

from labspawner.store import Store
from labspawner.store.engine import sqlite_file

TESTS = Path(__file__).parents[2]


@pytest.fixture
def worker(db_url: str) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts worker processes at the same database; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "unit.store.worker", what, db_url],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_two_processes_that_start_one_server_exactly_one_wins(
    worker: Callable[[str], subprocess.Popen[str]], make_store: Callable[[], Store]
):
    racers = [worker("race"), worker("race")]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"

    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outcomes = [line.split() for racer in racers for line in racer.communicate(timeout=120)[0].splitlines()]

    assert [racer.returncode for racer in racers] == [0, 0]
    winners = {user: lease_id for outcome, user, lease_id in outcomes if outcome == "won"}
    assert len(outcomes) == 2 * STARTS
    assert len(winners) == STARTS == sum(outcome == "won" for outcome, *_ in outcomes)
    assert {lease.id for lease in await make_store().live("test-hub")} == set(winners.values())


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_a_process_killed_while_it_writes_loses_nothing_that_it_was_told_is_stored(
    worker: Callable[[str], subprocess.Popen[str]], store: Store
):
    writer = worker("write")
    told = [writer.stdout.readline().strip() for _ in range(25)]

    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()  # not communicate(), which passes over what readline() has read ahead

    assert all([await store.get(lease_id) for lease_id in told])
    await store.add(a_lease(user="afterwards"))
    assert len(await store.live("test-hub")) in (len(told) + 1, len(told) + 2)


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_a_process_killed_while_it_saves_a_course_leaves_the_course_and_its_revision_or_neither(
    worker: Callable[[str], subprocess.Popen[str]], store: Store
):
    await store.coursebook.create("py101", "", by="ann", now=NOW)
    writer = worker("save")
    told = [writer.stdout.readline().strip() for _ in range(10)]

    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.read().split()

    now = await store.coursebook.get("py101")
    assert now is not None
    revisions = await store.coursebook.revisions("py101", limit=now.revision + 10)
    assert now.revision in (int(told[-1]), int(told[-1]) + 1)
    assert [each.revision for each in revisions] == list(range(now.revision, 0, -1))
    assert [each.text for each in revisions] == ["x" * (each.revision - 1) for each in revisions]
    assert now.text == revisions[0].text
    assert (await store.coursebook.save("py101", "", if_match=now.etag, by="bob", now=NOW)).revision == now.revision + 1


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_a_process_killed_in_mid_transaction_leaves_nothing_and_no_lock(
    worker: Callable[[str], subprocess.Popen[str]], store: Store, db_url: str
):
    writer = worker("hold")
    assert writer.stdout.readline() == "holding\n"

    writer.send_signal(signal.SIGKILL)
    writer.wait()

    await store.add(a_lease(user="half-made", server_name="again"))
    assert [lease.server_name for lease in await store.live("test-hub", user="half-made")] == ["again"]
    if file := sqlite_file(sa.make_url(db_url)):
        connection = sqlite3.connect(file)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_readers_do_not_wait_for_a_process_that_is_writing(
    worker: Callable[[str], subprocess.Popen[str]], store: Store
):
    lease = a_lease()
    await store.add(lease)
    writer = worker("hold")
    assert writer.stdout.readline() == "holding\n"

    assert await store.live("test-hub") == [lease]
    assert writer.poll() is None
