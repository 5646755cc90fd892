"""Verbs for a running class: who does what, and what is done to many at once."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labspawner.cli.course.api import Api, printable

Opened = Callable[[], Api]
F = TypeVar("F", bound=Callable[..., Any])
_LOOK_S = 1.0


@click.command()
@click.argument("slug")
@click.pass_obj
def wall(opened: Opened, slug: str) -> None:
    """Everybody in the course, and what each of them runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("user", "role", "state", "profile", "provider", "last activity", "ends"):
        table.add_column(title)
    for place in opened().get("courses", slug, "wall")["places"]:
        row = place["server"] or {}
        state = row.get("phase") or ("-" if place["known"] else "not logged in yet")
        cells = (row.get(key) or "" for key in ("profile", "provider", "last_activity", "ends_at"))
        table.add_row(*(Text(printable(cell)) for cell in (place["user"], place["role"], state, *cells)))
    Console(soft_wrap=True).print(table)


def _people(command: F) -> F:
    for option in (
        click.option("--no-wait", is_flag=True, help="Do not wait for the end: it goes on by itself."),
        click.option("--everybody", is_flag=True, help="All members of the course."),
        click.argument("users", nargs=-1),
        click.argument("slug"),
    ):
        command = option(command)
    return command


@click.command()
@_people
@click.option("--profile", required=True, help="The short name of the profile.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An answer of the profile's form.")
@click.pass_obj
def start(
    opened: Opened,
    slug: str,
    users: tuple[str, ...],
    everybody: bool,
    no_wait: bool,
    profile: str,
    options: tuple[str, ...],
) -> None:
    """Start the servers of USERS, with their own rights."""
    chosen = dict(_pair(option) for option in options)
    _run(
        opened(),
        slug,
        "start",
        users,
        everybody,
        no_wait,
        {"profile": profile, **({"options": chosen} if chosen else {})},
    )


@click.command()
@_people
@click.option("--reason", default="", help="What the student reads.")
@click.pass_obj
def stop(opened: Opened, slug: str, users: tuple[str, ...], everybody: bool, no_wait: bool, reason: str) -> None:
    """Stop the servers of USERS."""
    _run(opened(), slug, "stop", users, everybody, no_wait, {"reason": reason} if reason else {})


@click.command()
@_people
@click.pass_obj
def extend(opened: Opened, slug: str, users: tuple[str, ...], everybody: bool, no_wait: bool) -> None:
    """Put off the stop of the servers of USERS by one step of their profile."""
    _run(opened(), slug, "extend", users, everybody, no_wait, {})


@click.command()
@_people
@click.option("--text", required=True, help="Plain text, at most 500 letters.")
@click.pass_obj
def message(opened: Opened, slug: str, users: tuple[str, ...], everybody: bool, no_wait: bool, text: str) -> None:
    """Tell USERS something, on their home page and in JupyterLab."""
    _run(opened(), slug, "message", users, everybody, no_wait, {"text": text})


@click.command()
@_people
@click.option("--reason", default="", help="What the student reads.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def reset(
    opened: Opened, slug: str, users: tuple[str, ...], everybody: bool, no_wait: bool, reason: str, yes: bool
) -> None:
    """Stop the servers of USERS and take away all that is kept of them, but for the home folder."""
    if not yes:
        click.confirm("What is not in their home folders is lost. Do that?", abort=True)
    _run(opened(), slug, "reset", users, everybody, no_wait, {"reason": reason} if reason else {})


@click.command()
@click.argument("slug")
@click.argument("user")
@click.pass_obj
def visit(opened: Opened, slug: str, user: str) -> None:
    """Ask USER to let you open their server; say it again when they have agreed."""
    found = opened().ask("POST", ("courses", slug, "visits"), {"user": user}).json()
    click.echo(printable(found["sentence"]))
    if found["path"]:
        click.echo(printable(found["path"]))


@click.command()
@click.argument("slug")
@click.option("--cancel", metavar="ID", help="Begin no further step of this one.")
@click.pass_obj
def jobs(opened: Opened, slug: str, cancel: str | None) -> None:
    """The last class actions."""
    api = opened()
    if cancel:
        api.ask("DELETE", ("courses", slug, "jobs", cancel))
    for job in api.get("courses", slug, "jobs")["jobs"]:
        click.echo(
            f"{job['id']}  {job['begun_at']}  {job['verb']:<8} {job['state']:<10} "
            f"{job['done']}/{job['total']}, {job['failed']} failed  by {job['actor']}"
        )


@click.command()
@click.argument("slug")
@click.option("--weeks", type=click.IntRange(1, 30), default=8, show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="Each person and week, as a table for a spreadsheet.")
@click.pass_obj
def usage(opened: Opened, slug: str, weeks: int, as_csv: bool) -> None:
    """Hours of servers by week."""
    found = opened().get("courses", slug, "usage", weeks=weeks)["weeks"]
    if not as_csv:
        for week in found:
            click.echo(
                f"{week['begins']}  {week['hours']:>8.1f} h  {week['gpu_hours']:>8.1f} GPU h  {week['people']} people"
            )
        return
    writer = csv.writer(sys.stdout)
    writer.writerow(["week", "user", "hours", "gpu_hours"])
    for week in found:
        for one in week["users"]:
            user = f"'{one['user']}" if one["user"][:1] in "=+-@\t\r" else one["user"]
            writer.writerow([week["begins"], user, one["hours"], one["gpu_hours"]])


@click.command()
@click.argument("slug")
@click.argument("profile")
@click.option("--repo", default="", help="A git repository that nbgitpuller brings into the home folder.")
@click.option("--branch", default="")
@click.option("--path", default="", help="What is opened, as a path in the repository.")
@click.pass_obj
def links(opened: Opened, slug: str, profile: str, repo: str, branch: str, path: str) -> None:
    """A link that opens PROFILE, to hand out: a path on the hub's host."""
    found = opened().get("courses", slug, "links", profile=profile, repo=repo, branch=branch, path=path)
    click.echo(found["path"])


def _run(
    api: Api, slug: str, verb: str, users: tuple[str, ...], everybody: bool, no_wait: bool, args: dict[str, Any]
) -> None:
    """Begin a class action and, unless asked not to, follow it to its end. Exits with 1 where something failed."""
    if everybody == bool(users):
        raise click.UsageError("Name the people, or say --everybody.")
    if everybody:
        people = api.get("courses", slug, "roster")["people"]
        users = tuple(person["name"] for person in people if person["role"] == "member" and person["known"])
    begun = api.ask("POST", ("courses", slug, "jobs"), {"verb": verb, "users": list(users), "args": args}).json()
    if no_wait:
        click.echo(begun["id"])
        return
    told: set[tuple[str, str]] = set()
    while True:
        job = api.get("courses", slug, "jobs", begun["id"])
        for step in job["steps"]:
            if step["state"] in {"ok", "failed", "skipped"} and (step["user"], step["server"]) not in told:
                told.add((step["user"], step["server"]))
                click.echo(
                    printable(f"{step['user']}: {step['sentence'] or step['state']}"), err=step["state"] == "failed"
                )
        if job["state"] != "running":
            break
        time.sleep(_LOOK_S)
    if job["failed"] or job["state"] == "cancelled":
        raise SystemExit(1)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{text!r}: write --option NAME=VALUE")
    return name, value


VERBS = (wall, start, stop, extend, message, reset, visit, jobs, usage, links)
