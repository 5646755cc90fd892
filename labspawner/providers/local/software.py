"""Which Python a server runs on, and what of this machine it must see for that. Blocking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import labspawner
from labspawner.errors import SetupError
from labspawner.providers.local.warm.trust import distrust
from labspawner.sentences import Sentence

_ASK_S = 20.0
_QUESTION = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, getattr(sys, '_base_executable', '')]))"
_TOO_MUCH = frozenset({"/", "/home", "/root", "/var", "/etc", "/srv", "/tmp", "/run", "/proc", "/sys", "/dev", "/boot"})  # noqa: S108


@dataclass(frozen=True, slots=True)
class Software:
    """An environment. folder: of its commands, first on PATH; trees: to be seen, read-only, at their own places."""

    interpreter: str
    folder: str
    trees: tuple[str, ...]


def own_software() -> Software:
    """The environment that the hub itself runs in."""
    base = str(getattr(sys, "_base_executable", "") or "")
    return _software(sys.executable, (sys.prefix, sys.base_prefix, base))


def ask(interpreter: str, *, never: Sequence[Path]) -> Software:
    """The environment of another interpreter, which is run to tell. Raises SetupError, in words, where it may not be.

    The hub runs it with its own rights, so it must be beyond the reach of others: it and all folders above it belong to
    root or to the hub's user, nobody else may write there, and it is not in `never` (the homes).
    """
    path = Path(interpreter)
    problem = _problem(path, never)
    if problem is None:
        try:
            done = subprocess.run(  # noqa: S603 - looked at above
                [interpreter, "-I", "-c", _QUESTION],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASK_S,
                env={"PATH": os.defpath},
                cwd="/",
            )
            return _software(interpreter, json.loads(done.stdout))
        except (OSError, subprocess.SubprocessError, ValueError) as exc:
            problem = f"it does not answer: {exc}"
    raise SetupError(
        Sentence("The interpreter {name} of this profile cannot be used. Tell your instructor.", name=path.name),
        detail=f"interpreter {interpreter!r}: {problem}",
    )


def _problem(path: Path, never: Sequence[Path]) -> str | None:
    """Why the hub should not run the interpreter, in words."""
    homes = [folder.resolve() for folder in never]
    if any(start.resolve().is_relative_to(home) for start in (path, path.parent) for home in homes):
        return "it is in a student's home"
    return distrust(str(path), uid=os.geteuid())


def _software(interpreter: str, told: Sequence[str]) -> Software:
    """told: prefix, base prefix, and the interpreter that a virtual environment was made with."""
    prefix, base, base_interpreter = told
    wanted = [prefix, base]
    if base_interpreter:
        wanted += [
            str(PurePath(base_interpreter).parent.parent),
            str(PurePath(os.path.realpath(base_interpreter)).parent.parent),
        ]
    wanted += [os.path.realpath(path) for path in (prefix, base)]
    wanted.append(str(Path(labspawner.__file__).parent))
    trees = dict.fromkeys(os.path.normpath(path) for path in wanted if path)
    return Software(
        interpreter=interpreter,
        folder=str(PurePath(interpreter).parent),
        trees=tuple(path for path in trees if path not in _TOO_MUCH and Path(path).is_dir()),
    )
