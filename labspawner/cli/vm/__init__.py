"""`labspawner vm`: what administrators and instructors do around virtual machines on Proxmox VE."""

from __future__ import annotations

import click

from labspawner import guest
from labspawner.cli.vm.drain import drain
from labspawner.cli.vm.template import template

__all__ = ["vm"]


@click.group()
def vm() -> None:
    """Templates of virtual machines, and the nodes that they run on."""


@click.command("guest-helper")
def guest_helper() -> None:
    """Print the helper that a Linux template needs: put it at /usr/local/sbin/labspawner-guest, executable, owned by root."""
    click.echo(guest.helper_source(), nl=False)


for command in (template, drain, guest_helper):
    vm.add_command(command)
