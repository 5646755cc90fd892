"""Courses: which there are for somebody, and every change of one. A course in a file is read-only here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from labspawner.courses import Course, Loaded, editing, parse_course
from labspawner.courses import Problem as Flaw
from labspawner.courses.bounds import Bounds
from labspawner.courses.diffing import Difference, compare
from labspawner.courses.editing import NotEditable
from labspawner.courses.seats import Seats, seats_of
from labspawner.courses.written import check_slug, check_written
from labspawner.errors import Conflict, CourseExists, UnknownCourse
from labspawner.model import CourseRole, CourseState
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.doing import rosters
from labspawner.service.console.doing.recording import entry
from labspawner.service.console.doing.records import FILE, CourseRecord, of_loaded, of_row, origin_of, whole
from labspawner.service.console.house import House
from labspawner.service.console.problems import Exists, Invalid, Missing, Problem, Stale
from labspawner.service.console.rights import Caller, Standing, Verb, may
from labspawner.store import CourseRevision, Written
from labspawner.store.rosters import Seat, Source

T = TypeVar("T")

MAX_COMMENT = 500

CANNOT_SAVE = Sentence("This cannot be saved yet: {count} problems, the first in line {line}: {message}")
FIX_FIRST = Sentence("This course has problems. Mend them and save, then publish it.")
MANAGED = Sentence(
    "On this hub, groups come with the log-in. Ask your administrator to make the group {group} there and to put you "
    "into it; then make the course."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lint:
    """What the loader says of a text. seats: for each profile, what each variant would hold of so many students."""

    flaws: tuple[Flaw, ...]
    course: Course | None
    seats: Sequence[tuple[str, tuple[Seats | None, ...]]] = field(default_factory=tuple)


# -- reading -----------------------------------------------------------------------------------------------------------


async def mine(house: House, caller: Caller) -> list[CourseRecord]:
    """The courses that the caller may see here, by name; archived ones too, for whoever may write them."""
    await house.read_files()
    found: dict[str, CourseRecord] = {}
    for written in await house.store.coursebook.all():
        if may(caller, Verb.READ, house.groups(written.slug)):
            found[written.slug] = await of_row(house, caller, written)
    for loaded in house.catalog.snapshot.loaded:
        if may(caller, Verb.READ, house.groups(loaded.course.course)):
            found[loaded.course.course] = of_loaded(house, caller, loaded)
    return [found[slug] for slug in sorted(found)]


async def get(house: House, caller: Caller, slug: str) -> CourseRecord:
    """One course. Raises Missing for one that is not there or not the caller's."""
    await house.read_files()
    house.require(caller, Verb.READ, slug)
    loaded = next((one for one in house.catalog.snapshot.loaded if one.course.course == slug), None)
    if loaded is not None:
        return await whole(house, caller, loaded)
    written = await house.written(slug)
    if written is None:
        raise Missing(Sentence(words.NO_COURSE.template, course=slug))
    return await of_row(house, caller, written)


async def history(house: House, caller: Caller, slug: str, *, before: int | None = None) -> list[CourseRevision]:
    """What the course was, newest first, 50 at a time; none for a course in a file, whose history git has."""
    await house.require_course(caller, Verb.READ, slug)
    return await house.store.coursebook.revisions(slug, before=before)


async def revision(house: House, caller: Caller, slug: str, number: int) -> CourseRevision:
    """One text that the course had. Raises Missing."""
    await house.require_course(caller, Verb.READ, slug)
    return await _done(house, slug, house.store.coursebook.revision(slug, number))


async def diff(house: House, caller: Caller, slug: str, old: int, new: int) -> Difference:
    """What changed from one revision to another. Raises Missing."""
    before, after = await revision(house, caller, slug, old), await revision(house, caller, slug, new)
    return await asyncio.to_thread(compare, before.text, after.text)


async def lint(house: House, caller: Caller, slug: str, text: str, *, students: int = 0) -> Lint:
    """What would be wrong with this text as the course's, and what so many students would need. Changes nothing."""
    await house.require_course(caller, Verb.READ, slug)
    written = await house.written(slug)
    loaded = await _checked(house, caller, slug, text, written)
    return await _linted(house, loaded, students)


async def lint_new(house: House, caller: Caller, slug: str, text: str, *, students: int = 0) -> Lint:
    """The same for a course that is not there yet."""
    house.require(caller, Verb.CREATE)
    await house.read_files()
    return await _linted(house, await _checked(house, caller, slug, text, None, new=True), students)


async def _linted(house: House, loaded: Loaded | tuple[Flaw, ...], students: int) -> Lint:
    if not isinstance(loaded, Loaded):
        return Lint(flaws=loaded, course=None)
    if not students:
        return Lint(flaws=(), course=loaded.course)
    capacities = await house.capacities()
    found = [(profile.slug, seats_of(profile, students, capacities)) for profile in loaded.course.profiles]
    return Lint(flaws=(), course=loaded.course, seats=tuple(found))


# -- writing -----------------------------------------------------------------------------------------------------------


async def create(house: House, caller: Caller, slug: str, text: str, *, comment: str = "") -> CourseRecord:
    """Make a course, as a draft, with the caller as its first instructor. Raises Refused, Exists, and Invalid with what is
    wrong with the text."""
    house.require(caller, Verb.CREATE)
    await house.read_files()
    about = await house.about()
    if about.manages_groups and not caller.admin and f"course-{slug}-instructors" not in caller.groups:
        raise Exists(Sentence(MANAGED.template, group=f"course-{slug}-instructors"))
    loaded = _good(await _checked(house, caller, slug, text, None, new=not about.manages_groups))
    creating = house.store.coursebook.create(
        slug,
        text,
        by=caller.name,
        now=house.now(),
        comment=comment[:MAX_COMMENT],
        everyone_by=_everyone_by(caller, loaded.course),
        audit=entry(house, caller, "course.create", course=slug),
    )
    await _done(house, slug, creating)
    if not caller.service:
        seat = Seat(
            course=slug,
            user=caller.name,
            role=CourseRole.INSTRUCTOR,
            source=Source.HAND,
            added_by=caller.name,
            added_at=house.now(),
        )
        await house.store.rosters.put(slug, [seat])
        house.enrolled()
    await rosters.keep_in_step(house, slug)
    await house.changed()
    written = await house.store.coursebook.get(slug)
    assert written is not None
    return await of_row(house, caller, written, at_least=Standing.INSTRUCTOR)


async def save(house: House, caller: Caller, slug: str, text: str, *, if_match: str, comment: str = "") -> CourseRecord:
    """Write the course's new text. Raises Invalid with what is wrong with it, and Stale where somebody else was first."""
    written = await _to_write(house, caller, slug)
    loaded = _good(await _checked(house, caller, slug, text, written))
    audit = entry(house, caller, "course.save", course=slug, detail={"comment": comment[:MAX_COMMENT]})
    saving = house.store.coursebook.save(
        slug,
        text,
        if_match=if_match,
        by=caller.name,
        now=house.now(),
        comment=comment[:MAX_COMMENT],
        everyone_by=_everyone_by(caller, loaded.course),
        audit=audit,
    )
    return await _saved(house, caller, await _done(house, slug, saving))


async def set_state(house: House, caller: Caller, slug: str, state: str, *, if_match: str = "") -> CourseRecord:
    """Publish a course, take it back to a draft, or archive it; servers that run go on. if_match left out: as it is now."""
    written = await _to_write(house, caller, slug)
    try:
        wanted = CourseState(state)
    except ValueError as exc:
        raise Problem(words.UNREADABLE) from exc
    if wanted is CourseState.PUBLISHED and not isinstance(
        await _checked(house, caller, slug, written.text, written), Loaded
    ):
        raise Invalid(FIX_FIRST)
    audit = entry(house, caller, f"course.{_STATE_VERBS[wanted]}", course=slug, detail={"was": written.state.value})
    setting = house.store.coursebook.set_state(
        slug, wanted, if_match=if_match or written.etag, by=caller.name, now=house.now(), audit=audit
    )
    return await _saved(house, caller, await _done(house, slug, setting))


_STATE_VERBS = {CourseState.PUBLISHED: "publish", CourseState.DRAFT: "unpublish", CourseState.ARCHIVED: "archive"}


async def rollback(house: House, caller: Caller, slug: str, number: int, *, if_match: str) -> CourseRecord:
    """Give the course the text that it had; that is a new revision. Raises Missing, Stale, and Invalid where today's rules
    refuse that text."""
    written = await _to_write(house, caller, slug)
    old = await revision(house, caller, slug, number)
    _good(await _checked(house, caller, slug, old.text, written))
    audit = entry(house, caller, "course.rollback", course=slug, about=str(number))
    going_back = house.store.coursebook.rollback(
        slug, number, if_match=if_match, by=caller.name, now=house.now(), comment=f"as revision {number}", audit=audit
    )
    return await _saved(house, caller, await _done(house, slug, going_back))


async def duplicate(house: House, caller: Caller, slug: str, new_slug: str) -> CourseRecord:
    """Make a new course with this one's profiles, as a draft; its people do not come along."""
    found = await get(house, caller, slug)
    with _editing():
        text = editing.as_course(found.text, new_slug)
    return await create(house, caller, new_slug, text, comment=f"copied from {slug}")


async def save_profile(
    house: House, caller: Caller, slug: str, profile: str, form: Mapping[str, Any], *, if_match: str, comment: str = ""
) -> CourseRecord:
    """Change one profile by its form's values; the rest of the text, with its comments, stays as it is."""
    text = await with_profile(house, caller, slug, profile, form)
    return await save(house, caller, slug, text, if_match=if_match, comment=comment)


async def with_profile(house: House, caller: Caller, slug: str, profile: str, form: Mapping[str, Any]) -> str:
    """The course's text with one profile as a form has it; nothing is saved."""
    written = await _to_write(house, caller, slug)
    with _editing():
        return editing.with_profile(written.text, profile, editing.form_as_profile(dict(form)))


# -- below it ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _editing() -> Iterator[None]:
    """What a form cannot say, as a problem."""
    try:
        yield
    except NotEditable as exc:
        raise Invalid(exc.message) from exc


async def _to_write(house: House, caller: Caller, slug: str) -> Written:
    await house.read_files()
    house.require(caller, Verb.WRITE, slug)
    loaded = next((one for one in house.catalog.snapshot.loaded if one.course.course == slug), None)
    written = await house.store.coursebook.get(slug)
    if loaded is not None:
        template = words.FILE_COURSE if origin_of(house, loaded) == FILE else words.HUBS_COURSE
        raise Exists(Sentence(template.template, file=Path(loaded.file).name), kind="read-only")
    if written is None:
        raise Missing(Sentence(words.NO_COURSE.template, course=slug))
    return written


async def _checked(
    house: House, caller: Caller, slug: str, text: str, written: Written | None, *, new: bool = False
) -> Loaded | tuple[Flaw, ...]:
    """The text as the hub will read it. new: no group of the course may be there yet."""
    bounds = await _bounds(house, caller, slug, written, new=new)
    if new and (taken := check_slug(slug, bounds)) is not None:
        return (Flaw("", 1, 1, "course", taken),)
    return await asyncio.to_thread(check_written, text, slug=slug, bounds=bounds, providers=house.provider_names)


async def _bounds(house: House, caller: Caller, slug: str, written: Written | None, *, new: bool) -> Bounds:
    others = [course for course in house.catalog.courses() if course.course != slug or new]
    bounds = house.settings.bounds.beside(others, await house.hub.groups() if new else ())
    opened = written is not None and written.everyone_by is not None and _is_open(written.text)
    return bounds.for_admin() if caller.admin or opened else bounds


def _is_open(text: str) -> bool:
    found = parse_course(text)
    return isinstance(found, Loaded) and found.course.access.everyone


def _everyone_by(caller: Caller, course: Course) -> str | None:
    return caller.name if caller.admin and course.access.everyone else None


def _good(found: Loaded | tuple[Flaw, ...]) -> Loaded:
    if isinstance(found, Loaded):
        return found
    first = found[0]
    message = Sentence(CANNOT_SAVE.template, count=len(found), line=first.line, message=first.message)
    raise Invalid(message, found)


async def _saved(house: House, caller: Caller, saved: Written) -> CourseRecord:
    await house.changed()
    return await of_row(house, caller, saved)


async def _done(house: House, slug: str, work: Awaitable[T]) -> T:
    """What the records answer, with their errors as problems."""
    try:
        return await work
    except Conflict as exc:
        now = await house.store.coursebook.get(slug)
        raise Stale(exc.message, by=exc.by, at=exc.at, etag=exc.etag, current=now.text if now else "") from exc
    except CourseExists as exc:
        raise Exists(exc.message) from exc
    except UnknownCourse as exc:
        raise Missing(exc.message) from exc
    except ValueError as exc:
        raise Problem(Sentence("A short name has 1 to 40 of a-z, 0-9 and -, and begins with a letter.")) from exc
