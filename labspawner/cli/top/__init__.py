"""`labspawner top`: who runs what, and what it uses."""

from labspawner.cli.top.command import top

__all__ = ["top"]
