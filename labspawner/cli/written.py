"""The courses that are written in a hub's console, read from its database without a hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from labspawner.cli.servers import settings_from
from labspawner.config import Settings, course_of_profile_list
from labspawner.courses import Catalog, Loaded, Problem, check_written
from labspawner.errors import LabError
from labspawner.model import CourseState
from labspawner.store import Store, Written

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WrittenCourses:
    """What stands in the database, as the hub would read it. folder, providers: of that hub."""

    loaded: tuple[Loaded, ...]
    problems: tuple[Problem, ...]
    folder: Path
    providers: tuple[str, ...]


def read_written(config: Path, data_dir: Path | None) -> WrittenCourses:
    """The courses of the console that are not archived, and what is wrong with them. Raises ClickException."""
    settings, rows = rows_of(config, data_dir)
    listed = course_of_profile_list(settings)
    files = Catalog(settings.courses_dir, given=[listed] if listed else []).refresh().courses()
    loaded: list[Loaded] = []
    problems: list[Problem] = []
    for row in rows:
        if row.state is CourseState.ARCHIVED:
            continue
        bounds = settings.bounds.beside(files)
        bounds = bounds.for_admin() if row.everyone_by is not None else bounds
        found = check_written(row.text, slug=row.slug, bounds=bounds, providers=settings.providers)
        if isinstance(found, Loaded):
            loaded.append(found)
        else:
            problems.extend(found)
    return WrittenCourses(tuple(loaded), tuple(problems), settings.courses_dir, tuple(settings.providers))


def rows_of(config: Path, data_dir: Path | None) -> tuple[Settings, list[Written]]:
    """The settings of a hub, and every course that is written in its console. Raises ClickException."""
    try:
        settings = settings_from(config, data_dir)
        return settings, asyncio.run(_with_store(settings, lambda store: store.coursebook.all()))
    except LabError as exc:
        raise click.ClickException(str(exc.message)) from exc


async def _with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    store = Store.open(settings.database_url, hub_id=settings.hub_id)
    try:
        await store.migrate()
        return await work(store)
    finally:
        await store.close()
