"""`labspawner hold`: a student keeps a server although nothing seems to happen in it."""

from __future__ import annotations

import sys

import click

from labspawner.extension.hold import hold as ask_the_hub


@click.command()
@click.argument("length", required=False)
@click.argument("reason", nargs=-1)
@click.option("--release", is_flag=True, help="Let go of a server that is held.")
def hold(length: str | None, reason: tuple[str, ...], release: bool) -> None:
    """Keep this server for LENGTH (2h, 90m, 1h30m), although nothing seems to happen in it.

    For a terminal of your own server, before you leave something that runs in the background: what runs in a notebook,
    or in the foreground of a terminal, is seen as work anyway. REASON is for those who look after the servers.
    """
    if release == (length is not None):
        raise click.UsageError("Say how long (2h, 90m), or --release.")
    status, sentence = ask_the_hub(length, " ".join(reason))
    click.echo(sentence, err=status != 0)
    sys.exit(status)
