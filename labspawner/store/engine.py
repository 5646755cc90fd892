"""From a database URL to an engine, and from a database's errors to ours."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from labspawner.errors import BadConfig, StoreUnavailable
from labspawner.sentences import Sentence
from labspawner.store.sqlite import tune

_WRITES = "labspawner_writes"
POSTGRESQL_THREADS = 4
LOCK_TIMEOUT_S = 10.0


def make_engine(text: str) -> Engine:
    """An engine that has not connected yet. Raises BadConfig for a URL that cannot work: its form, or its driver."""
    url = parse_url(text)
    try:
        return _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _postgresql_engine(url)
    except ImportError as exc:
        raise BadConfig(
            Sentence(
                "The database {url} needs the driver psycopg, which is not installed: "
                "run pip install 'labspawner[postgresql]'.",
                url=shown(url),
            ),
            detail=f"missing driver cause={exc}",
        ) from exc


def parse_url(text: str) -> URL:
    """Read a database URL. Raises BadConfig unless it names SQLite or PostgreSQL with psycopg."""
    advice = "Write sqlite:////path/to/file.sqlite or postgresql+psycopg://user:password@host/database."
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as exc:  # the text may hold a password, so it is not repeated
        raise BadConfig(Sentence("The database URL cannot be read. " + advice)) from exc
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise BadConfig(
            Sentence(
                "The database URL begins with {driver}://, which labspawner does not work with. " + advice,
                driver=url.drivername,
            )
        )
    return url


def shown(url: URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None in memory, or on PostgreSQL."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or not name or ":memory:" in name or name.startswith("file:"):
        return None
    return Path(name)


def make_private_file(url: URL) -> None:
    """Make the SQLite file readable by its owner only, if there is none yet: names of students stand in it."""
    if path := sqlite_file(url):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return


@contextmanager
def transaction(engine: Engine, *, writes: bool) -> Iterator[Connection]:
    """One transaction, committed at the end. Raises StoreUnavailable when the database does not answer.

    writes: takes SQLite's write lock at once. A transaction that reads first and asks for it later fails without
    waiting when another process wrote in between.
    """
    with translated(), engine.connect() as connection:
        connection.execution_options(**{_WRITES: writes})
        with connection.begin():
            yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Raise SQLAlchemy's errors as ours, where they say something of the database and not of our own statements."""
    try:
        yield
    except sa.exc.StatementError as exc:
        if isinstance(exc, (sa.exc.OperationalError, sa.exc.InterfaceError)) or type(exc) is sa.exc.DatabaseError:
            raise _unavailable(exc.orig) from exc
        if isinstance(exc.orig, (TypeError, ValueError)):
            raise exc.orig from None
        raise


def cannot_use(url: URL, cause: BaseException) -> BadConfig:
    """What an administrator has to do, when the database cannot be opened or set up."""
    words = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    path = sqlite_file(url)
    if path is None:
        sentence = Sentence(
            "The database {url} cannot be used: {cause}. Check host, port, user, password and database name, that "
            "the server runs, and that the user may create tables.",
            url=shown(url),
            cause=words.rstrip("."),
        )
    elif not path.parent.is_dir():
        sentence = Sentence(
            "The database file {file} cannot be made, because there is no folder {folder}: create the folder, or "
            "change the database URL.",
            file=str(path),
            folder=str(path.parent),
        )
    else:
        sentence = Sentence(
            "The database file {file} cannot be used: {cause}. The hub must be able to write the file and its folder; "
            "if it is not labspawner's database, change the database URL.",
            file=str(path),
            cause=words.rstrip("."),
        )
    return BadConfig(sentence, detail=f"database cannot be used url={shown(url)} cause={words}")


def _sqlite_engine(url: URL) -> Engine:
    options: dict[str, Any] = {}
    if not url.database or ":memory:" in url.database:
        # One connection, whichever thread asks: a second one would see another, empty database.
        options = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}}
    engine = sa.create_engine(url, hide_parameters=True, **options)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the module's own BEGIN comes too late, and never before DDL; see _begin_sqlite
    connection.execute("PRAGMA foreign_keys = ON")
    tune(connection)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_engine(url: URL) -> Engine:
    # A host that vanished must not hold a thread for the two hours that TCP would wait.
    patience = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "20000"}
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=POSTGRESQL_THREADS,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={key: value for key, value in patience.items() if key not in url.query},
    )
    sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _begin_postgresql(connection: Connection) -> None:
    """As on SQLite, a process that stands still in mid-write must not hold all the others; for one transaction only,
    because a pooler may hand the session to somebody else afterwards."""
    if connection.get_execution_options().get(_WRITES, True):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}")


def _unavailable(cause: BaseException | None) -> StoreUnavailable:
    return StoreUnavailable(
        Sentence("The lab cannot reach its records right now. Try again in a minute, or tell your administrator."),
        detail=f"database does not answer cause={str(cause).strip()}",
    )
