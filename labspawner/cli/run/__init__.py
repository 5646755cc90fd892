"""`labspawner run`: any command in a GPU slice."""

from labspawner.cli.run.command import run

__all__ = ["run"]
