"""One file in, a course or a list of problems out. Each problem says where it is and what to write instead."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from labspawner.courses import advice
from labspawner.courses.fields import shown
from labspawner.courses.models import Course
from labspawner.courses.yamltree import MAX_BYTES, Mark, Tree, Unreadable, read_tree
from labspawner.courses.yamltree import Path as TreePath
from labspawner.sentences import Sentence

_THEIR_WORDS = {
    "profiles": "profile_list",
    "title": "display_name",
    "summary": "description",
    "options": "profile_options",
    "variants": "kubespawner_override",
    "set": "kubespawner_override",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a course file. line, column: counted from 1. path: where in the data, `profiles[0].slug`."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A course, and where its parts stand in the file it comes from."""

    course: Course
    file: str
    tree: Tree

    def problem(self, path: TreePath, message: str) -> Problem:
        return _problem(self.file, self.tree, path, message, at_key=False)


def read_course(path: Path) -> Loaded | tuple[Problem, ...]:
    """Read the course file at `path`; what is wrong with it is the answer, not an exception. Blocking."""
    try:
        return parse_course(read_text(path), str(path))
    except (OSError, Unreadable) as exc:
        return (unreadable(path, exc),)


def parse_course(text: str, file: str = "course.yaml") -> Loaded | tuple[Problem, ...]:
    """Read a course from `text`; `file` is what the problems name."""
    try:
        tree = read_tree(text)
    except Unreadable as exc:
        return (Problem(file, exc.mark.line, exc.mark.column, "", exc.message),)
    if not isinstance(tree.data, dict):
        message = Sentence(
            "the file holds {data}: write course:, title: and profiles:, each on a line of its own",
            data=shown(tree.data),
        )
        return (_problem(file, tree, (), message, at_key=False),)
    try:
        return Loaded(Course.model_validate(tree.data), file, tree)
    except ValidationError as exc:
        errors = [error for error in exc.errors(include_url=False) if not advice.follows_from_another(error)]
        found = [_problem(file, tree, *advice.explain(error)) for error in errors]
        return tuple(sorted(set(found), key=lambda problem: (problem.line, problem.column, problem.message)))


def read_text(path: Path) -> str:
    """The text of a regular file. Raises Unreadable if it is none, too large or not UTF-8; OSError from the system."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable(Sentence("not a regular file: put the course file itself here"))
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Unreadable(Sentence("larger than {most} KiB: keep data out of the course file", most=MAX_BYTES // 1024))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = content[: exc.start]
        mark = Mark(before.count(b"\n") + 1, exc.start - before.rfind(b"\n"))
        raise Unreadable(Sentence("not UTF-8 text: save the file with the encoding UTF-8"), mark) from exc


def unreadable(path: Path, exc: OSError | Unreadable) -> Problem:
    """Why the file at `path` could not be read, as a problem."""
    if isinstance(exc, Unreadable):
        return Problem(str(path), exc.mark.line, exc.mark.column, "", exc.message)
    reason = exc.strerror or type(exc).__name__
    return Problem(
        str(path),
        1,
        1,
        "",
        Sentence("cannot be read ({reason}): check that it exists and its permissions", reason=reason),
    )


def check_providers(loaded: Loaded, names: Collection[str]) -> tuple[Problem, ...]:
    """Each variant whose provider is not among `names`, those that the hub has."""
    problems = []
    for number, profile in enumerate(loaded.course.profiles):
        for index, variant in enumerate(profile.variants):
            if variant.provider in names:
                continue
            near = get_close_matches(variant.provider, names, n=1)
            known = ", ".join(sorted(names)) or Sentence("none")
            instead = (
                Sentence("did you mean {name}?", name=repr(near[0]))
                if near
                else Sentence("write one of {names}", names=known)
            )
            message = Sentence(
                "the hub has no provider {provider}: {instead}", provider=repr(variant.provider), instead=instead
            )
            problems.append(loaded.problem(("profiles", number, "variants", index, "provider"), message))
    return tuple(problems)


def _problem(file: str, tree: Tree, path: TreePath, message: str, at_key: bool) -> Problem:
    mark = _locate(tree, path, at_key)
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return Problem(file, mark.line, mark.column, text, message)


def _locate(tree: Tree, path: TreePath, at_key: bool) -> Mark:
    """Where `path` stands; what is not in the file is found at the nearest thing around it."""
    known: TreePath = ()
    for part in path:
        names = (part, _THEIR_WORDS.get(part, part)) if isinstance(part, str) else (part,)
        step = next(((*known, name) for name in names if (*known, name) in tree.values), None)
        if step is not None:
            known = step
        elif not isinstance(part, int):  # their single override stands for our first variant
            return tree.values[known]
    return tree.keys[known] if at_key and known in tree.keys else tree.values[known]
