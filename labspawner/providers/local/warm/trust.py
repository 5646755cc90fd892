"""Whether a hub that is root may run an interpreter outside a sandbox. A profile names interpreters; root must not run
what somebody else can write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def distrust(interpreter: str, *, uid: int) -> str | None:
    """Why the hub's user `uid` should not run this interpreter's packages; None where nothing is against it.

    Looks at the interpreter, its prefix, its base, their folders of packages, and the folders above. Blocks.
    """
    for path in _paths(Path(interpreter)):
        try:
            status = path.lstat()
        except OSError:
            return f"{path} cannot be looked at"
        if status.st_uid not in {0, uid}:
            return f"{path} belongs to uid {status.st_uid}"
        open_to_all = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode)
        if open_to_all and not status.st_mode & stat.S_ISVTX:
            return f"{path} can be written by others"
    return None


def _paths(interpreter: Path) -> Iterator[Path]:
    wanted = [interpreter, Path(os.path.realpath(interpreter))]
    prefixes = {path.parent.parent for path in wanted} | set(_base(interpreter.parent.parent))
    for prefix in prefixes:
        wanted.append(prefix)
        wanted.extend(path for path in prefix.glob("lib*/python3*") if path.is_dir())
        wanted.extend(prefix.glob("lib*/python3*/*-packages"))
        wanted.extend(prefix.glob("lib*/python3*/*-packages/*"))
    seen: set[Path] = set()
    for path in wanted:
        for one in (path, *path.parents):
            if one not in seen:
                seen.add(one)
                yield one


def _base(prefix: Path) -> Iterator[Path]:
    try:
        text = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip():
            yield Path(value.strip()).parent
