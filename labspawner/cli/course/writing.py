"""Verbs for the text of a course: see, make, change, publish, and go back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labspawner.cli.course.api import Answer, Api, Refused, printable

Opened = Callable[[], Api]


@click.command()
@click.pass_obj
def ls(opened: Opened) -> None:
    """Your courses."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("course", "title", "state", "you are", "profiles", "changed"):
        table.add_column(title)
    for one in opened().get("courses")["courses"]:
        state = {"file": "in a file", "hub": "the hub's"}.get(one["origin"], one["state"])
        changed = f"{one['changed_by']} {one['changed_at'] or ''}"[:40]
        cells = (one["slug"], _title(one), state, one["standing"], len(one["profiles"]), changed.strip())
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(soft_wrap=True).print(table)


@click.command()
@click.argument("slug")
@click.option("--yaml", "as_yaml", is_flag=True, help="The text alone, to keep in a file.")
@click.pass_obj
def show(opened: Opened, slug: str, as_yaml: bool) -> None:
    """One course: its text, and what is said of it."""
    found = opened().get("courses", slug)
    if as_yaml:
        click.echo(found["text"], nl=False)
        return
    click.echo(f"{found['slug']}: {_title(found)} ({found['state']}, revision {found['revision']})")
    if found["file"]:
        click.echo(f"file: {found['file']}")
    if found["commit"]:
        commit = found["commit"]
        said = f"{commit['hash'][:12]} {commit['at']} {commit['author']}: {commit['subject']}"
        click.echo(f"commit: {printable(said)}")
    click.echo(f"profiles: {', '.join(found['profiles']) or 'none'}")
    for flaw in found["flaws"]:
        click.echo(f"{flaw['line']}:{flaw['column']}: {printable(flaw['message'])}", err=True)


@click.command()
@click.argument("slug")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@click.option("--comment", default="", help="What the history says of it.")
@click.pass_obj
def create(opened: Opened, slug: str, file: Any, comment: str) -> None:
    """Make the course SLUG from the YAML in FILE (- for standard input). It is a draft until you publish it."""
    answer = opened().ask("POST", ("courses",), {"slug": slug, "text": file.read(), "comment": comment})
    click.echo(f"{slug} is made, as a draft. Put people into it: labspawner course roster add {slug} NAME...")
    _tell(answer)


@click.command()
@click.argument("slug")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"), required=False)
@click.option("--comment", default="", help="What the history says of it.")
@click.pass_obj
def edit(opened: Opened, slug: str, file: Any, comment: str) -> None:
    """Change the text of a course in your editor, or to what stands in FILE (- for standard input).

    Where the console finds something wrong, the editor opens again. Where somebody else was quicker, your text is kept in a
    file and nothing is changed.
    """
    api = opened()
    read = api.ask("GET", ("courses", slug))
    before = str(read.json()["text"])
    if file is not None:
        _tell(_save(api, slug, file.read(), read.etag, comment))
        return
    text = before
    while True:
        edited = click.edit(text, extension=".yaml")
        if edited is None or edited == before:
            click.echo("Nothing was changed.")
            return
        text = edited
        try:
            _tell(_save(api, slug, text, read.etag, comment))
        except Refused as exc:
            click.echo(exc.format_message(), err=True)
            if exc.status != 422 or not click.confirm("Edit again?", default=True):
                raise click.ClickException(f"Your text is kept in {_keep(slug, text)}; nothing was changed.") from exc
        else:
            return


def _save(api: Api, slug: str, text: str, etag: str, comment: str) -> Answer:
    return api.ask("PUT", ("courses", slug), {"text": text, "comment": comment}, match=etag)


def _keep(slug: str, text: str) -> Path:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=f"{slug}-", suffix=".yaml", delete=False) as kept:
        kept.write(text)
    return Path(kept.name)


def _state(name: str, state: str, about: str) -> click.Command:
    @click.command(name, help=about)
    @click.argument("slug")
    @click.pass_obj
    def change(opened: Opened, slug: str) -> None:
        api = opened()
        etag = api.ask("GET", ("courses", slug)).etag
        _tell(api.ask("PATCH", ("courses", slug), {"state": state}, match=etag))

    return change


publish = _state("publish", "published", "Let students see and start the course.")
unpublish = _state(
    "unpublish", "draft", "Take the course back to a draft: only its staff see it. Servers that run go on."
)
archive = _state("archive", "archived", "Put the course away: nobody sees it. Servers that run go on.")


@click.command()
@click.argument("slug")
@click.pass_obj
def history(opened: Opened, slug: str) -> None:
    """What the course was, newest first."""
    for one in opened().get("courses", slug, "revisions")["revisions"]:
        click.echo(printable(f"{one['revision']:>4}  {one['at']}  {one['by']}  {one['comment']}".rstrip()))


@click.command()
@click.argument("slug")
@click.argument("old", type=click.IntRange(1))
@click.argument("new", type=click.IntRange(1))
@click.pass_obj
def diff(opened: Opened, slug: str, old: int, new: int) -> None:
    """What changed from revision OLD to revision NEW."""
    for line in opened().get("courses", slug, "diff", old=old, new=new)["lines"]:
        click.secho(printable(f"{line['kind']} {line['text']}"), fg={"+": "green", "-": "red"}.get(line["kind"]))


@click.command()
@click.argument("slug")
@click.argument("revision", type=click.IntRange(1))
@click.pass_obj
def rollback(opened: Opened, slug: str, revision: int) -> None:
    """Give the course the text of an old REVISION; that is a new revision."""
    api = opened()
    etag = api.ask("GET", ("courses", slug)).etag
    _tell(api.ask("POST", ("courses", slug, "rollback"), {"revision": revision}, match=etag))


@click.command()
@click.argument("slug")
@click.argument("new_slug")
@click.pass_obj
def duplicate(opened: Opened, slug: str, new_slug: str) -> None:
    """Make the course NEW_SLUG with the profiles of SLUG, as a draft."""
    _tell(opened().ask("POST", ("courses", slug, "duplicate"), {"slug": new_slug}))


def _tell(answer: Answer) -> None:
    found = answer.json()
    click.echo(f"{found['slug']}: {found['state']}, revision {found['revision']}")


def _title(found: dict[str, Any]) -> str:
    titles = found["title"]
    return printable(titles.get("en") or next(iter(titles.values()), ""))


VERBS = (ls, show, create, edit, publish, unpublish, archive, history, diff, rollback, duplicate)
