"""The command line of bubblewrap around a command that keeps this whole machine and gets a slice. Pure, but for `look`.

Nothing is hidden: it is the user's own command, with the user's files. What the sandbox adds is that /etc/ld.so.preload and
the limits stand there read-only, so no variable undoes them, and that whatever the command leaves behind ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labspawner.gpu.folder import INSIDE, PRELOAD_INSIDE, Place

PROGRAM = "bwrap"
_OURS = frozenset({Path(INSIDE).name, Path(PRELOAD_INSIDE).name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What of the machine matters. etc: names in /etc, with the target of those that are links. hidden: device nodes
    of cards that the command does not get. root: whether we are."""

    etc: tuple[tuple[str, str | None], ...]
    cwd: str
    hidden: tuple[str, ...] = ()
    root: bool = False


def look(hidden: Iterable[str] = ()) -> Surroundings:
    """This machine and this process, now."""
    etc = tuple(
        (entry.name, os.readlink(entry.path) if entry.is_symlink() else None)  # noqa: PTH115 - as it is written
        for entry in sorted(os.scandir("/etc"), key=lambda entry: entry.name)
    )
    return Surroundings(etc=etc, cwd=str(Path.cwd()), hidden=tuple(hidden), root=os.geteuid() == 0)


def preload_text(ours: str, path: Path = Path(PRELOAD_INSIDE)) -> str:
    """What stands as /etc/ld.so.preload inside: our library after what this machine has there already."""
    try:
        theirs = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        theirs = ""
    return "\n".join(filter(None, [theirs, ours.strip()])) + "\n"


def around(
    command: Sequence[str], *, places: Iterable[Place], surroundings: Surroundings, info_fd: int | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is executed, and the arguments that bubblewrap reads from a descriptor (they are too many for a table of
    processes that people read): `(program, "--args", "{fd}", command...)` and the arguments."""
    words = ["--die-with-parent", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc", "--tmpfs", "/etc"]
    if surroundings.root:
        # As root before, but for what would take the slice off again.
        words += ["--cap-add", "ALL", "--cap-drop", "CAP_SYS_ADMIN", "--cap-drop", "CAP_SYS_MODULE"]
    for name, target in surroundings.etc:
        if name in _OURS:
            continue
        words += ["--symlink", target, f"/etc/{name}"] if target is not None else _bind(f"/etc/{name}")
    for place in places:
        words += ["--bind" if place.writable else "--ro-bind", str(place.source), place.target]
    for device in surroundings.hidden:
        words += ["--ro-bind", "/dev/null", device]
    words += ["--remount-ro", "/etc", "--chdir", surroundings.cwd]
    if info_fd is not None:
        words += ["--info-fd", str(info_fd)]
    return (PROGRAM, "--args", "{fd}", *command), tuple(words)


def _bind(path: str) -> list[str]:
    return ["--bind-try", path, path]
