"""A course as the console knows it, wherever it stands: in a file, in the hub's configuration, or written here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from labspawner.courses import Course, Loaded
from labspawner.courses import Problem as Flaw
from labspawner.courses.loader import read_text
from labspawner.courses.origin import Commit
from labspawner.courses.porting import as_text
from labspawner.courses.yamltree import Unreadable
from labspawner.model import CourseState
from labspawner.service.console.house import House
from labspawner.service.console.rights import Caller, Standing, standing
from labspawner.store import Written

FILE, HUB, WRITTEN = "file", "hub", "written"


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseRecord:
    """A course as the console shows it.

    origin: `file`, `hub` (its configuration) or `written`. state: `draft`, `published` or `archived`; what is not written
    here is always published. text: YAML as it was saved. course: what the hub would make of it; None while it has `flaws`.
    file: where it stands, below the folder of the courses; the whole path for administrators. shadowed: written here, but a
    file of the same name wins.
    """

    slug: str
    title: Mapping[str, str]
    summary: Mapping[str, str]
    origin: str
    state: str
    text: str
    course: Course | None
    flaws: tuple[Flaw, ...] = ()
    etag: str = ""
    revision: int = 0
    changed_by: str = ""
    changed_at: datetime | None = None
    file: str = ""
    commit: Commit | None = None
    shadowed: bool = False
    standing: Standing = Standing.NONE


async def of_row(house: House, caller: Caller, written: Written, *, at_least: Standing = Standing.NONE) -> CourseRecord:
    """A course that is written here. at_least: what the caller is in it, where the hub does not know that yet."""
    found = await house.parsed(written)
    course = found.course if isinstance(found, Loaded) else None
    role = standing(caller, house.groups(written.slug))
    return CourseRecord(
        slug=written.slug,
        title=dict(course.title) if course else {"en": written.slug},
        summary=dict(course.summary or {}) if course else {},
        origin=WRITTEN,
        state=written.state.value,
        text=written.text,
        course=course,
        flaws=found if not isinstance(found, Loaded) else (),
        etag=written.etag,
        revision=written.revision,
        changed_by=written.changed_by,
        changed_at=written.changed_at,
        shadowed=house.file_course(written.slug) is not None,
        standing=at_least if role is Standing.NONE else role,
    )


async def whole(house: House, caller: Caller, loaded: Loaded) -> CourseRecord:
    """A course that is not written here, with its text and the commit of its file."""
    record = of_loaded(house, caller, loaded)
    if record.origin == HUB:
        return replace(record, text=await asyncio.to_thread(as_text, loaded.course))

    async def look(file: str) -> tuple[str, Commit | None]:
        return await asyncio.to_thread(_text_of, file), await house.origins.of(Path(file))

    files = house.shared("files", look, at_most_s=house.settings.courses_refresh_s, rests_on=lambda: house.read_at)
    text, commit = (await files.get(loaded.file)).value
    if commit is None:
        return replace(record, text=text)
    return replace(record, text=text, commit=commit, changed_by=commit.author, changed_at=commit.at)


def of_loaded(house: House, caller: Caller, loaded: Loaded) -> CourseRecord:
    """The same without its text, as lists show it."""
    course = loaded.course
    return CourseRecord(
        slug=course.course,
        title=dict(course.title),
        summary=dict(course.summary or {}),
        origin=origin_of(house, loaded),
        state=CourseState.PUBLISHED.value,
        text="",
        course=course,
        flaws=tuple(flaw for flaw in house.catalog.problems if flaw.file == loaded.file),
        file=loaded.file if caller.admin else _below(house.catalog.folder, loaded.file),
        standing=standing(caller, house.groups(course.course)),
    )


def origin_of(house: House, loaded: Loaded) -> str:
    """Where a course that is not written here stands: `file` or `hub`."""
    return HUB if loaded in house.catalog.given else FILE


def _below(folder: Path, file: str) -> str:
    """A file's path as its folder has it: where that folder is on the machine concerns administrators alone."""
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def _text_of(file: str) -> str:
    try:
        return read_text(Path(file))
    except (OSError, Unreadable):
        return ""
