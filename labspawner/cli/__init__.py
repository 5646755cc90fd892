"""The `labspawner` command."""

from __future__ import annotations

import click

from labspawner import __version__
from labspawner.cli.lazy import LazyGroup

_COMMANDS = {
    "bench": "labspawner.cli.bench:bench",
    "course": "labspawner.cli.course:course",
    "doctor": "labspawner.cli.doctor:doctor",
    "down": "labspawner.cli.servers:down",
    "gpu": "labspawner.cli.gpu:gpu",
    "hold": "labspawner.cli.hold:hold",
    "profiles": "labspawner.cli.profiles:profiles",
    "pve-sim": "labspawner.cli.pve_sim:pve_sim",
    "reconcile": "labspawner.cli.servers:reconcile",
    "run": "labspawner.cli.run:run",
    "top": "labspawner.cli.top:top",
    "up": "labspawner.cli.up:up",
    "vm": "labspawner.cli.vm:vm",
}


@click.group(cls=LazyGroup, commands_at=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labspawner")
def main() -> None:
    """Give every student of a course an own environment on a few shared servers."""
