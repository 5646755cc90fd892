"""`labspawner gpu`: the cards of this machine, and the slices on them."""

from __future__ import annotations

import click

from labspawner.cli.gpu.agent import agent
from labspawner.cli.gpu.check import check
from labspawner.cli.gpu.looks import ls, top

__all__ = ["gpu"]


@click.group()
def gpu() -> None:
    """See this machine's GPUs, the slices on them, and whether slices hold here; share them on a Kubernetes node."""


for command in (ls, top, check, agent):
    gpu.add_command(command)
