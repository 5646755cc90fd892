"""SQLite as a server's database: a log beside the file, so that readers and one writer do not wait for each other."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0


def tune_all_sqlite() -> None:
    """Set WAL, synchronous=NORMAL and a busy timeout for every SQLite file that this process opens through SQLAlchemy.

    For `jupyterhub_config.py`: JupyterHub's own database is opened after its configuration was read, and commits on
    the event loop; 500 starts at once took 44 s before and 20 s after (two cores). Call it as often as you like. Other
    databases and `:memory:` are left alone. The cost: after a power cut the last commits may be missing; the file
    itself stays whole.
    """
    if not event.contains(Engine, "connect", _on_connect):
        event.listen(Engine, "connect", _on_connect)


def tune(connection: sqlite3.Connection) -> None:
    """Set the pragmas on one connection, if its database is a file. A file that cannot have them still works."""
    if not _is_file(connection):
        return
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    try:
        _use_wal(connection, deadline=time.monotonic() + BUSY_TIMEOUT_S)
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as exc:
        log.warning("SQLite without a write-ahead log, starts will be slower cause=%s", exc)


def _on_connect(connection: Any, _record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        tune(connection)


def _is_file(connection: sqlite3.Connection) -> bool:
    return any(name == "main" and path for _, name, path in connection.execute("PRAGMA database_list"))


def _use_wal(connection: sqlite3.Connection, *, deadline: float) -> None:
    """Switch the file to WAL. SQLite answers `locked` at once, without its busy timeout, while another process is
    switching too, so wait here; the mode is kept in the file, so this happens once in its life."""
    if _journal_mode(connection, "PRAGMA journal_mode") == "wal":
        return
    while True:
        try:
            mode = _journal_mode(connection, "PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise sqlite3.OperationalError(f"journal_mode stays {mode}")
        return


def _journal_mode(connection: sqlite3.Connection, pragma: str) -> str:
    return str(connection.execute(pragma).fetchone()[0]).lower()
