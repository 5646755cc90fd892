"""`labspawner profiles`: check, show and describe course files, and with --config the courses of the console."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from labspawner.cli.porting import export, import_kubespawner
from labspawner.cli.servers import config_option, data_option
from labspawner.cli.written import read_written
from labspawner.courses import (
    Catalog,
    Course,
    Loaded,
    Problem,
    Profile,
    Variant,
    check_providers,
    course_schema,
    in_language,
    pin,
    read_course,
    revision,
)
from labspawner.units import human_bytes, human_duration

F = TypeVar("F", bound=Callable[..., Any])


def _courses_option(command: F) -> F:
    return click.option(
        "--courses",
        "folder",
        type=click.Path(path_type=Path),
        default=Path("courses"),
        show_default=True,
        metavar="DIR",
        help="The folder of course files.",
    )(command)


@click.group()
def profiles() -> None:
    """Course files and their profiles."""


@profiles.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="A provider the hub has; may be repeated.")
@_courses_option
@config_option
@data_option
def lint(
    paths: tuple[Path, ...], providers: tuple[str, ...], folder: Path, config: Path | None, data_dir: Path | None
) -> None:
    """Check course files, and say what to write instead.

    PATH is a file or a folder; the folder of --courses if left out. With --provider, a variant that names any other
    provider is a problem. With --config, the courses that are written in that hub's console are checked too, as the hub
    checks them; without PATH, with the course files of that hub. Exits with 1 if there are problems.
    """
    courses: list[Course] = []
    problems: list[Problem] = []
    if config is not None:
        hub = read_written(config, data_dir)
        folder, providers = hub.folder, providers or hub.providers
        courses.extend(entry.course for entry in hub.loaded)
        problems.extend(hub.problems)
    for path in paths or (folder,):
        loaded, wrong = _read(path)
        courses.extend(entry.course for entry in loaded)
        problems.extend(wrong)
        if providers:
            problems.extend(problem for entry in loaded for problem in check_providers(entry, providers))
    for problem in problems:
        click.echo(str(problem))
    if problems:
        click.echo(_count(len(problems), "problem"), err=True)
        raise SystemExit(1)
    profiles_seen = sum(len(course.profiles) for course in courses)
    click.echo(f"{_count(len(courses), 'course')} with {_count(profiles_seen, 'profile')}: all good")


@profiles.command()
@click.argument("name", required=False, default="", metavar="[COURSE[/SLUG]]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--lang", "language", default="en", show_default=True, help="Language of titles.")
@_courses_option
@config_option
@data_option
def show(name: str, as_json: bool, language: str, folder: Path, config: Path | None, data_dir: Path | None) -> None:
    """Show profiles as labspawner understood them: all, those of COURSE, or one.

    With --config, those of that hub: of its course files, and what is written in its console.
    """
    hub = read_written(config, data_dir) if config is not None else None
    loaded, problems = _read(hub.folder if hub else folder)
    if hub is not None:
        loaded, problems = (*loaded, *hub.loaded), (*problems, *hub.problems)
    for problem in problems:
        click.echo(str(problem), err=True)
    found = [
        (entry.course, profile)
        for entry in loaded
        for profile in entry.course.profiles
        if name in {"", entry.course.course, entry.course.key(profile)}
    ]
    if not found:
        known = ", ".join(sorted(entry.course.course for entry in loaded)) or "none"
        raise click.ClickException(f"no profile {name!r} in {folder}: the courses there are {known}")
    if as_json:
        click.echo(json.dumps([_as_json(*pair) for pair in found], ensure_ascii=False, indent=2))
    else:
        _print_table(found, language)


@profiles.command()
def schema() -> None:
    """Print the JSON Schema of a course file, for editors."""
    click.echo(json.dumps(course_schema(), ensure_ascii=False, indent=2))


profiles.add_command(export)
profiles.add_command(import_kubespawner)


def _read(path: Path) -> tuple[tuple[Loaded, ...], tuple[Problem, ...]]:
    if path.is_dir():
        catalog = Catalog(path)
        snapshot = catalog.refresh()
        return snapshot.loaded, snapshot.problems
    result = read_course(path)
    return ((result,), ()) if isinstance(result, Loaded) else ((), result)


def _as_json(course: Course, profile: Profile) -> dict[str, Any]:
    """The profile as it is in force, and what a lease would remember of each variant without a choice of options."""
    defaults = {name: option.default_choice for name, option in profile.options.items() if option.default_choice}
    return {
        "profile": course.key(profile),
        "revision": revision(profile),
        "access": course.access.model_dump(mode="json"),
        "definition": profile.model_dump(mode="json", by_alias=True, exclude_none=True),
        "pinned": [pin(course, profile, index, defaults) for index in range(len(profile.variants))],
    }


def _print_table(found: Iterable[tuple[Course, Profile]], language: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PROFILE", "TITLE", "VARIANTS", "OPTIONS", "IDLE", "AT MOST", "OPEN TO"):
        table.add_column(column, overflow="fold")
    for course, profile in found:
        access = course.access
        table.add_row(
            course.key(profile),
            in_language(profile.title, language),
            "\n".join(_variant(variant) for variant in profile.variants),
            "\n".join(f"{name}: {', '.join(option.choices) or 'typed'}" for name, option in profile.options.items()),
            f"{_span(profile.idle.after)} → {profile.idle.action}" if profile.idle.after else "never",
            _span(profile.limits.max_age),
            "everyone" if access.everyone else ", ".join(access.groups),
        )
    # A pipe has no width of its own; a table that is cut there would lose what a script looks for.
    width = None if sys.stdout.isatty() else 200
    Console(markup=False, highlight=False, width=width).print(table)


def _variant(variant: Variant) -> str:
    parts = [variant.provider]
    parts += [f"{variant.cpu:g} cpu"] if variant.cpu else []
    parts += [human_bytes(variant.memory)] if variant.memory else []
    parts += [f"GPU {human_bytes(variant.gpu.memory)} / {variant.gpu.cores} %"] if variant.gpu else []
    parts += [name for name in (variant.image, variant.template) if name]
    return " · ".join(parts)


def _span(span: timedelta | None) -> str:
    return human_duration(span) if span else "–"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
