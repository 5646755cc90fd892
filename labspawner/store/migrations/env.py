"""What Alembic runs around the scripts in `versions/`; the connection and its transaction are the caller's."""

from __future__ import annotations

from alembic import context

from labspawner.store.migrate import VERSION_TABLE
from labspawner.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # true for SQLite as well: engine.py begins the transaction itself
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
