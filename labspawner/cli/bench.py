"""`labspawner bench`: measurements that print a table."""

from __future__ import annotations

import click


@click.group()
def bench() -> None:
    """Measure, and print a table. Each command says what it compares with."""
