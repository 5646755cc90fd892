"""`labspawner bench`: measurements that print a table. One file each; upstream stands beside ours in the same run."""

from __future__ import annotations

import click

from labspawner.cli.bench.console import command as console_command
from labspawner.cli.bench.cull import cull
from labspawner.cli.bench.engine import engine
from labspawner.cli.bench.gpu import command as gpu
from labspawner.cli.bench.kube import command as kube
from labspawner.cli.bench.poll import command as poll
from labspawner.cli.bench.pve import command as pve
from labspawner.cli.bench.start import start
from labspawner.cli.bench.storm import command as storm


@click.group()
def bench() -> None:
    """Measure, and print a table. Times depend on the machine: compare rows of one run."""


for command in (console_command, cull, engine, gpu, kube, poll, pve, start, storm):
    bench.add_command(command)
