"""Bringing a database to the form that this code knows. Alembic's scripts travel inside the package."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from labspawner.errors import BadConfig
from labspawner.sentences import Sentence

VERSION_TABLE = "labspawner_version"  # not Alembic's own name: JupyterHub uses that one, maybe in the same database
_ADVISORY_LOCK = 0x6C61627370  # "labsp"
_ONE_AT_A_TIME = threading.Lock()  # alembic.context is one per process


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest form, all or nothing, inside the caller's transaction.

    Raises BadConfig for a database that a newer labspawner has changed; it is left as it is.
    """
    with _ONE_AT_A_TIME:
        _lock(connection)
        config = _config(connection)
        scripts = ScriptDirectory.from_config(config)
        now = current(connection)
        newer = now - {revision.revision for revision in scripts.walk_revisions()}
        if newer:
            raise BadConfig(
                Sentence(
                    "The database was written by a newer labspawner (revision {revision}). Install that version again, "
                    "or restore the backup made before the upgrade.",
                    revision=", ".join(sorted(newer)),
                )
            )
        if now != set(scripts.get_heads()):
            command.upgrade(config, "head")


def downgrade(connection: Connection, revision: str = "base") -> None:
    """Take the database back to an older form, inside the caller's transaction. What only newer ones hold is lost."""
    with _ONE_AT_A_TIME:
        _lock(connection)
        command.downgrade(_config(connection), revision)


def current(connection: Connection) -> set[str]:
    """The revisions that the database is at; empty for a new one."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return set(context.get_current_heads())


def _config(connection: Connection) -> Config:
    config = Config()
    # A percent sign in the folder's name would be read as the start of a variable.
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _lock(connection: Connection) -> None:
    """Make the other processes wait that want to migrate now; on SQLite the transaction itself does."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL lock_timeout = '2min'"))  # a migration may take longer than a write
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
