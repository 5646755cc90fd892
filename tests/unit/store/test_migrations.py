"""Setting a database up: from nothing, from an older form, and what an administrator reads when it cannot be done."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from builders import NOW, a_lease
from sqlalchemy.engine import Engine
from unit.store.clock import SHARED

from labspawner.errors import BadConfig
from labspawner.store import Store, leases, migrate
from labspawner.store.engine import make_engine, transaction
from labspawner.store.schema import courses, metadata, reservations


@pytest.fixture
def engine(db_url: str) -> Iterator[Engine]:
    engine = make_engine(db_url)
    yield engine
    engine.dispose()


def _tables(engine: Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def test_migrations_lead_to_the_tables_that_the_code_knows(engine: Engine):
    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)

    with transaction(engine, writes=False) as connection:
        options = {"version_table": migrate.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        assert migrate.current(connection) == {"r0005"}
        live = [index for index in sa.inspect(connection).get_indexes("leases") if index["name"] == "leases_one_active"]
        assert live[0]["unique"]
        assert live[0]["dialect_options"]


def test_leases_of_the_first_form_are_kept_when_evidence_is_added(engine: Engine):
    lease = a_lease()
    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)
        leases.insert(connection, lease)
        migrate.downgrade(connection, "r0001")
    assert _tables(engine) == {migrate.VERSION_TABLE, "leases", "decisions"}

    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)

    with transaction(engine, writes=False) as connection:
        assert leases.fetch(connection, lease.id) == lease


def test_a_lab_of_the_third_form_keeps_its_rows_when_courses_are_added(engine: Engine):
    lease = a_lease()
    held = {"hub_id": "hub", "scope": "pve", "pool": "vmid", "value": "9001", "owner": lease.id, "why": ""}
    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)
        leases.insert(connection, lease)
        connection.execute(sa.insert(reservations).values(**held, taken_at=NOW))
        migrate.downgrade(connection, "r0003")
    assert "courses" not in _tables(engine)

    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)

    with transaction(engine, writes=False) as connection:
        assert leases.fetch(connection, lease.id) == lease
        assert connection.scalar(sa.select(reservations.c.value)) == "9001"
        assert connection.scalar(sa.select(sa.func.count()).select_from(courses)) == 0


def test_a_downgrade_takes_everything_away_again_and_can_be_undone(engine: Engine):
    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)

    with transaction(engine, writes=True) as connection:
        migrate.downgrade(connection)
    assert _tables(engine) == {migrate.VERSION_TABLE}

    with transaction(engine, writes=True) as connection:
        migrate.upgrade(connection)
    assert _tables(engine) == {migrate.VERSION_TABLE, *metadata.tables}


def test_a_migration_that_is_interrupted_leaves_nothing_behind(engine: Engine):
    def break_off():
        with transaction(engine, writes=True) as connection:
            migrate.upgrade(connection)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()

    assert _tables(engine) == set()


async def test_migrating_again_keeps_what_is_stored(store: Store):
    lease = a_lease()
    await store.add(lease)

    await store.migrate()

    assert await store.get(lease.id) == lease


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_stores_that_migrate_at_the_same_time_all_succeed(make_store: Callable[[], Store]):
    stores = [make_store() for _ in range(4)]

    await asyncio.gather(*(store.migrate() for store in stores))

    assert all([await store.db_ok() for store in stores])


async def test_a_database_of_a_newer_labspawner_is_refused_and_left_alone(store: Store, make_store, engine: Engine):
    await store.migrate()
    if engine.url.database is None:
        engine = store._engine
    with transaction(engine, writes=True) as connection:
        connection.execute(sa.text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = 'r9999'"))

    with pytest.raises(BadConfig, match="r9999"):
        await store.migrate()

    with transaction(engine, writes=False) as connection:
        assert migrate.current(connection) == {"r9999"}


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_jupyterhub_may_use_the_same_database(store: Store, db_url: str):
    from jupyterhub import orm

    lease = a_lease()
    await store.add(lease)
    factory = orm.new_session_factory(db_url)
    with factory() as session:
        session.add(orm.User(name="ann"))
        session.commit()
    factory.kw["bind"].dispose()

    await store.migrate()

    assert await store.get(lease.id) == lease


async def test_a_database_file_is_readable_by_its_owner_only(tmp_path: Path):
    store = Store.open(f"sqlite:///{tmp_path}/a.sqlite")
    await store.migrate()
    await store.add(a_lease())

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    await store.close()

    assert modes == {"a.sqlite": 0o600, "a.sqlite-wal": 0o600, "a.sqlite-shm": 0o600}
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite"]


async def _refusal(url: str) -> str:
    """What an administrator reads when a store at `url` is opened and set up."""
    with pytest.raises(BadConfig) as refused:  # noqa: PT012 - either may be the one that notices
        store = Store.open(url)
        try:
            await store.migrate()
        finally:
            await store.close()
    assert "hunter2" not in refused.value.message + str(refused.value)
    return str(refused.value.message)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "cannot be read"),
        ("/var/lib/lab.sqlite", "sqlite:////path"),
        ("postgresql://user:hunter2@host:port/db", "cannot be read"),
        ("mysql+pymysql://root:hunter2@localhost/lab", "begins with mysql+pymysql://"),
        ("postgresql+psycopg2://root:hunter2@localhost/lab", "postgresql+psycopg://user"),
        ("sqlite+aiosqlite:///x", "begins with sqlite+aiosqlite://"),
    ],
)
async def test_a_url_that_cannot_work_is_refused_with_one_that_can(url: str, says: str):
    refusal = await _refusal(url)

    assert says in refusal
    assert "Write sqlite:////path/to/file.sqlite or postgresql+psycopg://" in refusal


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
async def test_a_server_that_does_not_answer_is_named_without_the_password(scheme: str, tmp_path: Path):
    pytest.importorskip("psycopg")

    refusal = await _refusal(f"{scheme}://ann:hunter2@/lab?host={tmp_path}&connect_timeout=2")

    assert "postgresql+psycopg://ann:***@/lab" in refusal
    assert "that the server runs" in refusal


async def test_a_missing_driver_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    assert "pip install 'labspawner[postgresql]'" in await _refusal("postgresql+psycopg://ann:hunter2@host/lab")


@pytest.mark.postgresql
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_a_postgresql_user_who_may_not_create_tables_is_told_so(db_url: str):
    url = sa.make_url(db_url).update_query_dict({"options": "-cdefault_transaction_read_only=on"})

    refusal = await _refusal(url.render_as_string(hide_password=False))

    assert "may create tables" in refusal


async def test_a_missing_folder_is_named(tmp_path: Path):
    refusal = await _refusal(f"sqlite:///{tmp_path}/missing/lab.sqlite")

    assert f"there is no folder {tmp_path}/missing: create the folder" in refusal


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes\n" * 100)

    refusal = await _refusal(f"sqlite:///{path}")

    assert "file is not a database" in refusal
    assert path.read_text().startswith("not a database")


async def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path):
    assert "unable to open database file" in await _refusal(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("there", [False, True], ids=["new file", "old file"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, there: bool):
    path = tmp_path / "lab.sqlite"
    if there:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE old (x)")
        connection.close()
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    script = "import asyncio, sys; from labspawner.store import Store; asyncio.run(Store.open(sys.argv[1]).migrate())"
    # Root writes everywhere: drop the capability that lets it.
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []

    done = subprocess.run(
        [*drop, sys.executable, "-c", script, f"sqlite:///{path}"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )

    tmp_path.chmod(0o755)
    assert done.returncode == 1
    assert "BadConfig: database cannot be used" in done.stderr
