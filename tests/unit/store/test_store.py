"""The door: the loop never waits, a cancelled write is over, errors are ours."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from builders import NOW, a_lease
from sqlalchemy.engine import Connection
from unit.store.clock import SHARED

from labspawner.errors import StoreUnavailable
from labspawner.model import Decision, Phase
from labspawner.sentences import Sentence
from labspawner.store import Store, engine, leases
from labspawner.store.engine import make_engine, sqlite_file, transaction
from labspawner.store.rows import decision_to_row
from labspawner.store.schema import decisions
from labspawner.store.store import utcnow
from labspawner.testing.stopwatch import Stopwatch

FILE = pytest.mark.parametrize("db_url", ["sqlite-file"], indirect=True)


class Gate:
    """Work that stays in its thread until it is let through."""

    def __init__(self, then: Callable[[Connection], None] = lambda _: None) -> None:
        self.entered, self.opened, self.then = threading.Event(), threading.Event(), then

    def __call__(self, connection: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(120)
        self.then(connection)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 120)


def test_opening_a_store_touches_nothing(tmp_path: Path):
    before = set(threading.enumerate())

    Store.open(f"sqlite:///{tmp_path}/a.sqlite")

    assert list(tmp_path.iterdir()) == []
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if thread.name.startswith("labspawner-store")]


def test_the_default_clock_has_a_timezone():
    assert utcnow().utcoffset() is not None


async def test_the_loop_turns_while_the_database_works(store: Store):
    gate = Gate()
    write = asyncio.create_task(store._write(gate))
    await gate.reached()

    turns = 0
    for _ in range(100):
        await asyncio.sleep(0)
        turns += 1
    gate.opened.set()
    await write

    assert turns == 100


async def test_a_cancelled_write_is_over_before_the_cancellation_arrives(store: Store):
    lease = a_lease()
    gate = Gate(lambda c: store_lease(c, lease))
    write = asyncio.create_task(store._write(gate))
    await gate.reached()

    write.cancel()
    await asyncio.sleep(0)
    write.cancel()
    await asyncio.sleep(0)
    assert not write.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await write

    assert await store.get(lease.id) == lease


@FILE
async def test_a_write_that_is_cancelled_while_it_waits_in_line_is_made(store: Store):
    gate, lease = Gate(), a_lease()
    first = asyncio.create_task(store._write(gate))
    await gate.reached()
    second = asyncio.create_task(store.add(lease))
    await asyncio.sleep(0)

    second.cancel()
    gate.opened.set()
    await asyncio.wait({first, second})

    assert second.cancelled()
    assert await store.get(lease.id) == lease


async def test_a_cancelled_write_that_fails_is_logged(store: Store, caplog: pytest.LogCaptureFixture):
    def fail(_: Connection) -> None:
        raise ValueError("no such thing")

    gate = Gate(fail)
    write = asyncio.create_task(store._write(gate))
    await gate.reached()
    write.cancel()
    gate.opened.set()

    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await write

    assert "no such thing" in caplog.text


async def test_a_cancelled_read_returns_at_once(store: Store):
    gate = Gate()
    read = asyncio.create_task(store._read(gate))
    await gate.reached()

    read.cancel()
    await asyncio.wait({read}, timeout=120)

    assert read.cancelled()
    gate.opened.set()


async def test_a_failure_in_the_middle_of_a_transaction_leaves_nothing(store: Store):
    def work(connection: Connection) -> None:
        store_lease(connection, a_lease())
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        await store._write(work)

    assert await store.live("test-hub") == []


async def test_what_breaks_the_tables_own_rules_is_refused_by_the_database(store: Store):
    orphan = decision_to_row(
        Decision(lease_id="lgone", user="", server_name="", verdict="keep", reason=Sentence("?"), at=NOW), hub_id="h"
    )

    with pytest.raises(sa.exc.IntegrityError):
        await store._write(lambda c: c.execute(sa.insert(decisions).values(**orphan)))


async def test_closing_waits_for_what_is_being_written_and_may_be_repeated(make_store: Callable[[], Store]):
    store = make_store()
    await store.migrate()
    gate = Gate(lambda c: store_lease(c, a_lease()))
    write = asyncio.create_task(store._write(gate))
    await gate.reached()

    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.opened.set()
    await asyncio.gather(write, closing)
    await store.close()

    assert not [thread for thread in store._threads._threads if thread.is_alive()]


async def test_a_healthy_database_is_ok(store: Store):
    assert await store.db_ok() is True


async def test_a_database_without_our_tables_is_not_ok(
    make_store: Callable[[], Store], caplog: pytest.LogCaptureFixture
):
    store = make_store()

    assert await store.db_ok() is False
    assert "database check failed" in caplog.text


@FILE
async def test_a_broken_file_is_not_ok_and_not_the_students_fault(make_store: Callable[[], Store], db_url: str):
    sqlite_file(sa.make_url(db_url)).write_bytes(b"not a database" * 1000)
    store = make_store()

    assert await store.db_ok() is False
    with pytest.raises(StoreUnavailable) as refused:
        await store.add(a_lease(user="secret-name"))

    assert "tell your administrator" in refused.value.message
    assert "not a database" in str(refused.value)
    assert "secret-name" not in str(refused.value)


@FILE
async def test_a_database_that_stays_locked_is_unavailable_and_then_works(
    store: Store, db_url: str, monkeypatch: pytest.MonkeyPatch
):
    await store._write(lambda c: c.exec_driver_sql("PRAGMA busy_timeout = 50"))
    other = make_engine(db_url)

    with transaction(other, writes=True):
        with Stopwatch() as watch, pytest.raises(StoreUnavailable, match="locked"):
            await store.add(a_lease())
        assert watch.seconds < 5
        assert await store.live("test-hub") == []
    other.dispose()

    await store.add(a_lease())


@FILE
async def test_a_write_waits_for_another_process_that_is_soon_done(store: Store, db_url: str):
    other = make_engine(db_url)
    lease = a_lease()

    with transaction(other, writes=True) as connection:
        store_lease(connection, a_lease(user="other"))
        write = asyncio.create_task(store.add(lease))
        done, _ = await asyncio.wait({write}, timeout=0.1)
        assert not done
    other.dispose()
    await write

    assert len(await store.live("test-hub")) == 2


@pytest.mark.postgresql
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_a_lease_that_another_process_keeps_locked_is_unavailable_and_then_works(
    store: Store, db_url: str, monkeypatch: pytest.MonkeyPatch
):
    lease = a_lease()
    await store.add(lease)
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 0.05)
    other = make_engine(db_url)

    with transaction(other, writes=True) as connection:
        leases.fetch(connection, lease.id, lock=True)
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await store.update(lease.id, attempts=1)
        assert await store.get(lease.id) == lease
    other.dispose()

    assert (await store.update(lease.id, attempts=1)).attempts == 1


@pytest.mark.postgresql
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_a_lost_connection_is_replaced(store: Store):
    lease = a_lease()
    await store.add(lease)
    name = "SELECT current_schema()"
    schema = await store._read(lambda c: c.scalar(sa.text(name)))

    def end_my_connection(connection: Connection) -> None:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable):
        await store._write(end_my_connection)

    assert await store.get(lease.id) == lease
    assert await store._read(lambda c: c.scalar(sa.text(name))) == schema


@pytest.mark.postgresql
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_four_slow_calls_run_side_by_side_and_the_fifth_waits(store: Store):
    gates = [Gate() for _ in range(5)]
    calls = [asyncio.create_task(store._write(gate)) for gate in gates]

    for gate in gates[:4]:
        await gate.reached()
    assert not gates[4].entered.is_set()

    for gate in gates:
        gate.opened.set()
    await asyncio.gather(*calls)


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_a_storm_of_starts_and_stops_ends_with_every_lease_ended(store: Store, make_store):
    stores = [store, make_store()]

    async def one(number: int) -> None:
        lease = a_lease(user=f"student{number}")
        mine = stores[number % 2]
        await mine.add(lease)
        for phase in (Phase.LAUNCHING, Phase.READY, Phase.STOPPING, Phase.ENDED):
            await mine.update(lease.id, phase=phase)

    await asyncio.gather(*(one(number) for number in range(50)))

    assert await store.live("test-hub") == []
    assert await store.median_session_s("test-hub", "py101/base") == 0.0


def store_lease(connection: Connection, lease) -> None:
    leases.insert(connection, lease)
