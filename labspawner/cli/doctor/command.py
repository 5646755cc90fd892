"""The command: load the configuration, look at everything, say what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from labspawner.cli.doctor import table
from labspawner.cli.servers import config_option, data_option, settings_from
from labspawner.cli.up import find_config
from labspawner.doctor import looks
from labspawner.doctor.examination import HUB, of_hub
from labspawner.errors import LabError
from labspawner.providers.findings import Finding, Level, error, ok


@click.command()
@config_option
@data_option
@click.option("--provider", "only", metavar="NAME", help="Only this provider of the configuration.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def doctor(config: Path | None, data_dir: Path | None, only: str | None, as_json: bool) -> None:
    """Say whether servers will start, before the first class does.

    Looks at the hub's configuration, its databases and courses, and at each provider: the sandbox and cards of this
    machine, rights, nodes and cards of a cluster. Changes nothing. Exit status 1 where something is wrong.
    """
    found = _everything(config, data_dir, only)
    if as_json:
        click.echo(table.as_json(found))
    else:
        table.show(found)
    if table.counts(found)[Level.ERROR]:
        raise SystemExit(1)


def _everything(config: Path | None, data_dir: Path | None, only: str | None) -> Mapping[str, Sequence[Finding]]:
    try:
        path = config or find_config((Path(),))  # not the wheel's demo: nobody asked about that
    except click.ClickException:
        return {HUB: looks.homeless(Path().absolute())}
    try:
        settings = settings_from(path, data_dir)
    except LabError as exc:
        return {HUB: [error("configuration", str(exc))]}
    except (Exception, SystemExit) as exc:  # the file is a program of the administrator's: anything may happen in it
        return {HUB: [error("configuration", f"{path} cannot be read: {type(exc).__name__}: {exc}")]}
    if only is not None and only not in settings.providers:
        known = ", ".join(settings.providers)
        raise click.ClickException(f"there is no provider {only!r} in {path}; there are: {known}")
    found: dict[str, Sequence[Finding]] = {}
    if only is None:
        found[HUB] = [ok("configuration", str(path)), *of_hub(settings)]
    for name in [only] if only is not None else list(settings.providers):
        found[name] = asyncio.run(looks.provider(settings, name))
    return found
