"""Verbs for who is in a course."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from labspawner.cli.course.api import Api, printable

Opened = Callable[[], Api]
_role = click.option(
    "--role", type=click.Choice(["member", "assistant", "instructor"]), default="member", show_default=True
)


@click.group()
def roster() -> None:
    """Who is in a course."""


@roster.command("show")
@click.argument("slug")
@click.pass_obj
def show_roster(opened: Opened, slug: str) -> None:
    """Everybody in the course, with their roles."""
    found = opened().get("courses", slug, "roster")
    for person in found["people"]:
        known = "" if person["known"] else "  (not logged in yet)"
        click.echo(f"{person['role']:<10}  {printable(person['name'])}{known}")
    if found["managed"]:
        click.echo("Groups come with the log-in here; nothing can be changed.", err=True)


@roster.command("set")
@click.argument("slug")
@click.argument("file", type=click.File("rb"))
@_role
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def set_roster(opened: Opened, slug: str, file: Any, role: str, yes: bool) -> None:
    """Make those of one role exactly the people in FILE: a list or a CSV table (UTF-8 or GBK, - for standard input)."""
    api, text = opened(), _text(file.read())
    found = api.ask("POST", ("courses", slug, "roster", "preview"), {"text": text, "role": role}).json()
    for line in found["refused"]:
        click.echo(f"line {line['number']} is left out: {printable(line['reason'])}", err=True)
    added, removed = found["added"], found["removed"]
    click.echo(f"{len(added)} to be added, {len(found['kept'])} stay, {len(removed)} to be removed")
    for name in removed:
        click.echo(f"  - {printable(name)}")
    if not added and not removed:
        return
    if not yes:
        click.confirm("Do that?", abort=True)
    api.ask("PUT", ("courses", slug, "roster"), {"text": text, "role": role}, match=found["etag"])
    click.echo("Done.")


@roster.command("add")
@click.argument("slug")
@click.argument("names", nargs=-1, required=True)
@_role
@click.pass_obj
def add(opened: Opened, slug: str, names: tuple[str, ...], role: str) -> None:
    """Put people into the course."""
    opened().ask("POST", ("courses", slug, "roster", "add"), {"names": list(names), "role": role})
    click.echo("Done.")


@roster.command("remove")
@click.argument("slug")
@click.argument("names", nargs=-1, required=True)
@_role
@click.pass_obj
def remove(opened: Opened, slug: str, names: tuple[str, ...], role: str) -> None:
    """Take people out of the course; servers that run go on."""
    opened().ask("POST", ("courses", slug, "roster", "remove"), {"names": list(names), "role": role})
    click.echo("Done.")


def _text(content: bytes) -> str:
    for encoding in ("utf-8-sig", "gbk"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise click.ClickException("This is neither UTF-8 nor GBK text.")


VERBS = (roster,)
