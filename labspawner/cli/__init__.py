"""The `labspawner` command."""

from __future__ import annotations

import click

from labspawner import __version__
from labspawner.cli.bench import bench
from labspawner.cli.course import course
from labspawner.cli.doctor import doctor
from labspawner.cli.gpu import gpu
from labspawner.cli.hold import hold
from labspawner.cli.profiles import profiles
from labspawner.cli.pve_sim import pve_sim
from labspawner.cli.run import run
from labspawner.cli.servers import down, reconcile
from labspawner.cli.top import top
from labspawner.cli.up import up
from labspawner.cli.vm import vm


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labspawner")
def main() -> None:
    """Give every student of a course an own environment on a few shared servers."""


for command in (up, down, profiles, course, doctor, reconcile, top, gpu, vm, pve_sim, run, bench, hold):
    main.add_command(command)
