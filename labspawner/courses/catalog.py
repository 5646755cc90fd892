"""The courses in force: read from a folder and from what instructors wrote in the console. The last good version of each is
kept while its file, or its text, is broken."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from labspawner.courses.bounds import Bounds
from labspawner.courses.fields import shown
from labspawner.courses.loader import Loaded, Problem, check_providers, parse_course, read_text, unreadable
from labspawner.courses.models import ASSISTANT_GROUP, Course, Profile, next_opening, open_at
from labspawner.courses.written import check_written, name_of
from labspawner.courses.yamltree import Unreadable
from labspawner.errors import NotAllowed
from labspawner.model import CourseState
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".yaml", ".yml"})
Visible = list[tuple[Course, list[Profile]]]


def is_staff(course: Course, groups: Collection[str], admin: bool) -> bool:
    """Whether a user in `groups` is an instructor of the course."""
    return admin or not set(course.access.staff).isdisjoint(groups)


def helps(course: Course, groups: Collection[str], admin: bool) -> bool:
    """Whether a user in `groups` is an instructor or an assistant of the course: they see drafts, and start at any hour."""
    return is_staff(course, groups, admin) or ASSISTANT_GROUP.format(slug=course.course) in groups


def may_see(course: Course, groups: Collection[str], admin: bool) -> bool:
    """Whether a user in `groups` may pick the course's profiles at all, once it is published."""
    access = course.access
    return access.everyone or helps(course, groups, admin) or not set(access.groups).isdisjoint(groups)


class Snapshot:
    """The courses at one moment. Immutable: a request that began with one ends with it."""

    def __init__(
        self,
        loaded: Iterable[Loaded] = (),
        problems: Iterable[Problem] = (),
        states: Mapping[str, CourseState] | None = None,
    ) -> None:
        """states: of the courses that are written in the console; all others are published files."""
        self.loaded = tuple(loaded)
        self.problems = tuple(problems)
        self._states = dict(states or {})
        self._profiles = {
            entry.course.key(profile): (entry.course, profile)
            for entry in self.loaded
            for profile in entry.course.profiles
        }

    def courses(self) -> tuple[Course, ...]:
        """All courses, drafts too: those in files in the order of the files' names, then those of the console."""
        return tuple(entry.course for entry in self.loaded)

    def course(self, slug: str) -> Course | None:
        """The course of this name, whoever may see it; None if none is in force."""
        return next((entry.course for entry in self.loaded if entry.course.course == slug), None)

    def state(self, slug: str) -> CourseState | None:
        """PUBLISHED, or DRAFT for one that only its staff sees; None where no such course is in force."""
        if self.course(slug) is None:
            return None
        return self._states.get(slug, CourseState.PUBLISHED)

    def written(self, slug: str) -> bool:
        """Whether the course is written in the console, and not in a file."""
        return slug in self._states

    def sees(self, course: Course, groups: Collection[str], admin: bool) -> bool:
        """Whether a user in `groups` may pick the course's profiles: a draft's only those who help to run the course."""
        if self._states.get(course.course) is CourseState.DRAFT:
            return helps(course, groups, admin)
        return may_see(course, groups, admin)

    def profile(self, key: str) -> tuple[Course, Profile] | None:
        """The profile called `<course>/<slug>`, whoever may see it; None if there is none."""
        return self._profiles.get(key)

    def visible_to(self, groups: Collection[str], admin: bool = False) -> Visible:
        """What a user in `groups` may pick, by course; an administrator sees all."""
        return [(course, list(course.profiles)) for course in self.courses() if self.sees(course, groups, admin)]

    def require(self, key: str, groups: Collection[str], admin: bool, now: datetime) -> tuple[Course, Profile]:
        """The profile, if this user may start it now: membership and hours. Limits are the caller's to count.

        Raises NotAllowed: in the same words whether there is no such profile or it is somebody else's.
        """
        found = self._profiles.get(key)
        if found is None or not self.sees(found[0], groups, admin):
            raise NotAllowed(
                Sentence("You have no profile {profile}. Pick one from the list.", profile=shown(key)),
                detail=f"not allowed profile={shown(key)} exists={found is not None}",
            )
        course, profile = found
        if not open_at(profile, now) and not helps(course, groups, admin):
            opens = next_opening(profile, now)
            when = f"{opens:%Y-%m-%d %H:%M} ({opens.tzinfo})" if opens else ""
            raise NotAllowed(
                Sentence(
                    "{profile} can be started only at class hours. It opens next at {when}.",
                    profile=shown(key),
                    when=when,
                ),
                detail=f"not allowed profile={key} outside its hours",
            )
        return found

    def may_start(self, key: str, groups: Collection[str], admin: bool, now: datetime) -> bool:
        """Whether `require` would give the profile."""
        try:
            self.require(key, groups, admin, now)
        except NotAllowed:
            return False
        return True

    def check_providers(self, names: Collection[str]) -> tuple[Problem, ...]:
        """Each variant in any course whose provider is not among `names`, those that the hub has."""
        return tuple(problem for entry in self.loaded for problem in check_providers(entry, names))


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A course as it is written in the console. etag: another one after each change. everyone: whether an administrator
    lets it be open to all who can log in."""

    slug: str
    text: str
    state: CourseState
    etag: str
    everyone: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of one file: when it was read, the last good course, and what is wrong now."""

    stamp: tuple[int, ...] | None
    good: Loaded | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """What is known of one written course: which text that is, the last good course, and what is wrong now."""

    row: WrittenText
    good: Loaded | None
    problems: tuple[Problem, ...]


class Catalog:
    """The course files of one folder (`*.yaml`, `*.yml`; names that begin with a dot are left out), and written courses.

    Starts empty: call `refresh` in a thread, once before use and then every few seconds. Reading is free of locks.
    given: courses that stand in no file, for example from the hub's configuration. bounds: what written courses may ask for.
    """

    def __init__(self, folder: Path, *, given: Iterable[Loaded] = (), bounds: Bounds | None = None) -> None:
        self.folder = folder
        self.snapshot = Snapshot()
        self._given = tuple(given)
        self._bounds = bounds or Bounds()
        self._files: dict[str, _File] = {}
        self._rows: dict[str, _Row] = {}
        self._listed = False
        self._refreshing = threading.Lock()

    def refresh(self) -> Snapshot:
        """Read what changed since the last call, and put it in force at once. Blocking; may be called concurrently.

        A broken file leaves the last good version of its course in force; a removed file removes the course; a folder
        that cannot be listed changes nothing. All of it is in `problems`. Never raises for a file's sake. The snapshot is
        the same object as before where nothing changed.
        """
        with self._refreshing:
            try:
                paths = sorted(entry.path for entry in os.scandir(self.folder) if _is_course_file(entry.name))
            except OSError as exc:
                self._listed = False
                self.snapshot = _assemble(self._files, self._given, self._rows, [unreadable(self.folder, exc)])
                return self.snapshot
            read = {path: self._read(path, self._files.get(path)) for path in paths}
            files = {path: file for path, file in read.items() if file is not None}
            if files != self._files or not self._listed:
                self._files, self._listed = files, True
                self.snapshot = _assemble(files, self._given, self._rows)
            return self.snapshot

    def set_written(self, rows: Iterable[WrittenText]) -> Snapshot:
        """Put all courses of the console in force at once, as they are written now; one that is left out is no more.

        Each is checked here, whoever wrote it. A broken text leaves the last good version of its course in force; a draft
        is seen by its staff alone, and an archived one by nobody. Blocking; may be called concurrently. Never raises for
        a text's sake.
        """
        with self._refreshing:
            checked = {row.slug: self._checked(row, self._rows.get(row.slug)) for row in rows}
            if checked != self._rows:
                self._rows = checked
                self.snapshot = _assemble(self._files, self._given, self._rows)
            return self.snapshot

    def _checked(self, row: WrittenText, known: _Row | None) -> _Row:
        if known is not None and known.row == row:
            return known
        good = known.good if known else None
        if row.state is CourseState.ARCHIVED:
            return _Row(row, good, ())
        if known is not None and (known.row.text, known.row.everyone) == (row.text, row.everyone) and good is not None:
            return replace(known, row=row)  # published, or back from the archive
        bounds = self._bounds.for_admin() if row.everyone else self._bounds
        result = check_written(row.text, slug=row.slug, bounds=bounds, providers=None)
        if isinstance(result, Loaded):
            log.info("course loaded course=%s state=%s etag=%s", row.slug, row.state.value, row.etag)
            return _Row(row, result, ())
        log.warning("written course refused course=%s problems=%d", row.slug, len(result))
        return _Row(row, good, result)

    @staticmethod
    def _read(path: str, known: _File | None) -> _File | None:
        """The file as it is now; None if it went away."""
        try:
            info = Path(path).stat()
            stamp = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino, info.st_dev)
            if known is not None and known.stamp == stamp:
                return known
            result = parse_course(read_text(Path(path)), path)
        except FileNotFoundError:
            return None
        except (OSError, Unreadable) as exc:
            stamp, result = None, (unreadable(Path(path), exc),)
        good = known.good if known else None
        if isinstance(result, Loaded):
            log.info("course loaded course=%s file=%s", result.course.course, path)
            return _File(stamp, result, ())
        if known is None or known.problems != result:
            kept = f"course {good.course.course} stays as it was" if good else "no course from it"
            log.warning("course file refused file=%s problems=%s: %s", path, len(result), kept)
        return _File(stamp, good, result)

    @property
    def given(self) -> tuple[Loaded, ...]:
        """The courses that stand in no file."""
        return self._given

    def set_given(self, given: Iterable[Loaded]) -> Snapshot:
        """Put these in the place of the courses that stand in no file. Blocking; may be called concurrently."""
        with self._refreshing:
            wanted = tuple(given)
            if [(one.file, one.course) for one in wanted] != [(one.file, one.course) for one in self._given]:
                self._given = wanted
                self.snapshot = _assemble(self._files, self._given, self._rows)
            return self.snapshot

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the files now."""
        return self.snapshot.problems

    def courses(self) -> tuple[Course, ...]:
        """See `Snapshot.courses`."""
        return self.snapshot.courses()

    def profile(self, key: str) -> tuple[Course, Profile] | None:
        """See `Snapshot.profile`."""
        return self.snapshot.profile(key)

    def visible_to(self, groups: Collection[str], admin: bool = False) -> Visible:
        """See `Snapshot.visible_to`."""
        return self.snapshot.visible_to(groups, admin)

    def require(self, key: str, groups: Collection[str], admin: bool, now: datetime) -> tuple[Course, Profile]:
        """See `Snapshot.require`."""
        return self.snapshot.require(key, groups, admin, now)

    def may_start(self, key: str, groups: Collection[str], admin: bool, now: datetime) -> bool:
        """See `Snapshot.may_start`."""
        return self.snapshot.may_start(key, groups, admin, now)


def _is_course_file(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix in SUFFIXES


def _beside(file: str, other: str) -> str:
    """How `other` is called to somebody who looks at `file`: by its name, where both are in one folder."""
    return Path(other).name if Path(other).parent == Path(file).parent else other


def _assemble(
    files: Mapping[str, _File],
    given: Iterable[Loaded] = (),
    rows: Mapping[str, _Row] | None = None,
    problems: Iterable[Problem] = (),
) -> Snapshot:
    """The snapshot of all there is: of two with the same course, the first file by name is in force; before them, what is
    given, and after them, what is written in the console."""
    first: dict[str, Loaded] = {entry.course.course: entry for entry in given}
    problems = list(problems)
    for file in files.values():
        problems.extend(file.problems)
        if file.good is None:
            continue
        winner = first.setdefault(file.good.course.course, file.good)
        if winner is not file.good:
            slug = file.good.course.course
            message = Sentence(
                "the course {slug} is already in {file}: write another short name, or remove one file",
                slug=repr(slug),
                file=_beside(file.good.file, winner.file),
            )
            problems.append(file.good.problem(("course",), message))
    states: dict[str, CourseState] = {}
    for slug, row in (rows or {}).items():
        if row.row.state is CourseState.ARCHIVED:
            continue
        problems.extend(row.problems)
        if slug in first:
            message = Sentence(
                "the course {slug} is also in {file}, and files win: archive this one",
                slug=repr(slug),
                file=Path(first[slug].file).name,
            )
            problems.append(Problem(name_of(slug), 1, 1, "course", message))
        elif row.good is not None:
            first[slug], states[slug] = row.good, row.row.state
    return Snapshot(first.values(), problems, states)
