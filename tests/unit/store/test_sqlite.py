"""The pragmas that make SQLite a server's database, on ours and on JupyterHub's."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labspawner.store import sqlite
from labspawner.store.engine import make_engine

ROOT = Path(__file__).parents[3]
ASK = """
def ask(run):
    return [run("PRAGMA " + name) for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")]
"""


def _in_a_process(script: str, *arguments: object) -> object:
    """What `script` prints, as JSON; a process of its own, because the listener stays for as long as one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_jupyterhubs_own_database_is_tuned(tmp_path: Path):
    script = """
import json, sys
from sqlalchemy import text
from jupyterhub import orm
from labspawner.store import tune_all_sqlite
tune_all_sqlite(), tune_all_sqlite()
factory = orm.new_session_factory("sqlite:///" + sys.argv[1])
with factory() as session:
    session.add(orm.User(name="ann"))
    session.commit()
    print(json.dumps(ask(lambda pragma: session.scalar(text(pragma)))))
factory.kw["bind"].dispose()
"""

    assert _in_a_process(script, tmp_path / "hub.sqlite") == ["wal", 1, 10000, 1]


def test_memory_and_other_uses_of_sqlite_are_left_alone(tmp_path: Path):
    script = """
import json, sqlite3, sys
import sqlalchemy as sa
from labspawner.store import tune_all_sqlite
with sa.create_engine("sqlite://").connect() as c:
    before = ask(lambda pragma: c.scalar(sa.text(pragma)))
tune_all_sqlite()
engine = sa.create_engine("sqlite://")
with engine.connect() as c:
    memory = ask(lambda pragma: c.scalar(sa.text(pragma)))
plain = sqlite3.connect(sys.argv[1])
print(json.dumps([before, memory, plain.execute("PRAGMA journal_mode").fetchone()[0]]))
plain.close()
engine.dispose()
"""

    before, memory, plain = _in_a_process(script, tmp_path / "plain.sqlite")

    assert before == memory
    assert memory[0] == "memory"
    assert plain == "delete"


def test_other_databases_are_left_alone():
    sqlite._on_connect(object(), None)  # what is no sqlite3 connection is not even looked at


def test_our_own_file_has_the_pragmas_and_foreign_keys(tmp_path: Path):
    engine = make_engine(f"sqlite:///{tmp_path}/lab.sqlite")

    with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    engine.dispose()

    assert found == ["wal", 1, 10000, 1]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    yield connection
    connection.close()


def test_a_file_that_cannot_be_written_still_opens(
    tmp_path: Path, connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
):
    connection.execute("CREATE TABLE t (x)")
    reader = sqlite3.connect(f"file:{tmp_path}/a.sqlite?mode=ro", uri=True)

    with caplog.at_level(logging.WARNING):
        sqlite.tune(reader)

    assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
    reader.close()
    assert "without a write-ahead log" in caplog.text


def test_a_file_that_another_connection_holds_is_waited_for(
    tmp_path: Path, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN IMMEDIATE")
    second = sqlite3.connect(tmp_path / "a.sqlite")

    with caplog.at_level(logging.WARNING):
        sqlite.tune(second)
    assert "locked" in caplog.text

    connection.execute("COMMIT")
    sqlite.tune(second)
    assert second.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    second.close()


def test_a_file_system_without_shared_memory_keeps_its_journal(
    monkeypatch: pytest.MonkeyPatch, connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
):
    # SQLite answers with the mode that it keeps, instead of an error, where it cannot map the -shm file.
    class Stubborn:
        def execute(self, statement: str) -> sqlite3.Cursor:
            return connection.execute("PRAGMA journal_mode" if "journal_mode" in statement else statement)

    with caplog.at_level(logging.WARNING):
        sqlite.tune(Stubborn())  # type: ignore[arg-type]

    assert "journal_mode stays delete" in caplog.text
