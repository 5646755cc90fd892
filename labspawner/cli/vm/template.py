"""`labspawner vm template`: which templates there are, and whether students can work with one."""

from __future__ import annotations

from pathlib import Path

import click

from labspawner.cli.doctor import table as shown
from labspawner.cli.servers import config_option, data_option
from labspawner.cli.vm import looking, trying
from labspawner.cli.vm.opening import Bench, provider_option, with_provider
from labspawner.providers.findings import Finding, Level


@click.group()
def template() -> None:
    """See and check the templates that students' virtual machines are cloned from."""


@click.command("list")
@config_option
@data_option
@provider_option
def list_templates(config: Path | None, data_dir: Path | None, name: str | None) -> None:
    """Every template that the hub may see, where it is, and which profiles use it."""
    rows = with_provider(config, data_dir, name, looking.templates)
    if rows:
        looking.show(rows)
    else:
        click.echo("No template can be seen. Is it in the hub's pool, and converted to a template?")


@click.command()
@click.argument("wanted", metavar="TEMPLATE")
@click.option("--boot", is_flag=True, help="Clone it, boot the clone, look inside, delete it.")
@click.option("--os", "system", type=click.Choice(["linux", "windows"]), help="Default: as a profile says, or linux.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@config_option
@data_option
@provider_option
def check(
    wanted: str,
    boot: bool,
    system: str | None,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    name: str | None,
) -> None:
    """Say whether students can work with TEMPLATE (a name or an id), and what to do where they cannot.

    Without --boot only its configuration is read. With it a clone is made in the hub's own range of ids, started as a
    student's would be, and deleted whatever comes; should this command be killed, the hub deletes it in ten minutes.
    Exit status 1 where something is wrong.
    """

    async def work(bench: Bench) -> dict[str, list[Finding]]:
        subject = looking.subject_of(bench, wanted, system)
        found = {wanted: await looking.configuration(bench, subject)}
        if boot and not any(each.level is Level.ERROR for each in found[wanted]):
            say = None if as_json else lambda words: click.echo(words, err=True)
            found["inside"] = await trying.inside(bench, subject, say=say)
        return found

    found = with_provider(config, data_dir, name, work)
    if as_json:
        click.echo(shown.as_json(found))
    else:
        shown.show(found, summary=looking.summary)
    if shown.counts(found)[Level.ERROR]:
        raise SystemExit(1)


for command in (list_templates, check):
    template.add_command(command)
