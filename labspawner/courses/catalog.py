"""The courses in force: read from a folder, the last good version of each kept while its file is broken."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from labspawner.courses.fields import shown
from labspawner.courses.loader import Loaded, Problem, check_providers, parse_course, read_text, unreadable
from labspawner.courses.models import Course, Profile, next_opening, open_at
from labspawner.courses.yamltree import Unreadable
from labspawner.errors import NotAllowed
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".yaml", ".yml"})
Visible = list[tuple[Course, list[Profile]]]


def is_staff(course: Course, groups: Collection[str], admin: bool) -> bool:
    """Whether a user in `groups` may start the course's profiles at any hour."""
    return admin or not set(course.access.staff).isdisjoint(groups)


def may_see(course: Course, groups: Collection[str], admin: bool) -> bool:
    """Whether a user in `groups` may pick the course's profiles at all."""
    access = course.access
    return access.everyone or is_staff(course, groups, admin) or not set(access.groups).isdisjoint(groups)


class Snapshot:
    """The courses at one moment. Immutable: a request that began with one ends with it."""

    def __init__(self, loaded: Iterable[Loaded] = (), problems: Iterable[Problem] = ()) -> None:
        self.loaded = tuple(loaded)
        self.problems = tuple(problems)
        self._profiles = {
            entry.course.key(profile): (entry.course, profile)
            for entry in self.loaded
            for profile in entry.course.profiles
        }

    def courses(self) -> tuple[Course, ...]:
        """All courses, in the order of their files' names."""
        return tuple(entry.course for entry in self.loaded)

    def profile(self, key: str) -> tuple[Course, Profile] | None:
        """The profile called `<course>/<slug>`, whoever may see it; None if there is none."""
        return self._profiles.get(key)

    def visible_to(self, groups: Collection[str], admin: bool = False) -> Visible:
        """What a user in `groups` may pick, by course; an administrator sees all."""
        return [(course, list(course.profiles)) for course in self.courses() if may_see(course, groups, admin)]

    def require(self, key: str, groups: Collection[str], admin: bool, now: datetime) -> tuple[Course, Profile]:
        """The profile, if this user may start it now: membership and hours. Limits are the caller's to count.

        Raises NotAllowed: in the same words whether there is no such profile or it is somebody else's.
        """
        found = self._profiles.get(key)
        if found is None or not may_see(found[0], groups, admin):
            raise NotAllowed(
                Sentence("You have no profile {profile}. Pick one from the list.", profile=shown(key)),
                detail=f"not allowed profile={shown(key)} exists={found is not None}",
            )
        course, profile = found
        if not open_at(profile, now) and not is_staff(course, groups, admin):
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
class _File:
    """What is known of one file: when it was read, the last good course, and what is wrong now."""

    stamp: tuple[int, ...] | None
    good: Loaded | None
    problems: tuple[Problem, ...]


class Catalog:
    """The course files of one folder (`*.yaml`, `*.yml`; names that begin with a dot are left out).

    Starts empty: call `refresh` in a thread, once before use and then every few seconds. Reading is free of locks.
    given: courses that stand in no file, for example from the hub's configuration.
    """

    def __init__(self, folder: Path, *, given: Iterable[Loaded] = ()) -> None:
        self.folder = folder
        self.snapshot = Snapshot()
        self._given = tuple(given)
        self._files: dict[str, _File] = {}
        self._refreshing = threading.Lock()

    def refresh(self) -> Snapshot:
        """Read what changed since the last call, and put it in force at once. Blocking; may be called concurrently.

        A broken file leaves the last good version of its course in force; a removed file removes the course; a folder
        that cannot be listed changes nothing. All of it is in `problems`. Never raises for a file's sake.
        """
        with self._refreshing:
            try:
                paths = sorted(entry.path for entry in os.scandir(self.folder) if _is_course_file(entry.name))
            except OSError as exc:
                self.snapshot = Snapshot(self.snapshot.loaded or self._given, (unreadable(self.folder, exc),))
                return self.snapshot
            read = {path: self._read(path, self._files.get(path)) for path in paths}
            self._files = {path: file for path, file in read.items() if file is not None}
            self.snapshot = _assemble(self._files, self._given)
            return self.snapshot

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


def _assemble(files: dict[str, _File], given: Iterable[Loaded] = ()) -> Snapshot:
    """The snapshot of all files: of two with the same course, the first by name is in force; before them, what is given."""
    first: dict[str, Loaded] = {entry.course.course: entry for entry in given}
    problems: list[Problem] = []
    for file in files.values():
        problems.extend(file.problems)
        if file.good is None:
            continue
        winner = first.setdefault(file.good.course.course, file.good)
        if winner is not file.good:
            slug = file.good.course.course
            message = f"the course {slug!r} is already in {winner.file}: write another short name, or remove one file"
            problems.append(file.good.problem(("course",), message))
    return Snapshot(first.values(), problems)
