"""What terminals do, from the kernel of the machine: which command is in the foreground, and when keys were last typed.

Programs in the background (`&`, tmux, nohup) are not seen as work: `labspawner hold` is for them.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_TIOCGPTN = 0x80045430  # which /dev/pts/N belongs to a master; os.ptsname() came with Python 3.13
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh"})
_SECRET = re.compile(r"((?:token|password|passwd|secret|api[-_]?key)[= ])\S+", re.IGNORECASE)
_LONGEST = 120
_PROC = Path("/proc")


@dataclass(frozen=True)
class Terminal:
    """One terminal now. foreground: the command that runs in it; None while its shell waits for one.

    since: when that command began. last_input: when what somebody typed was last read.
    """

    name: str
    foreground: str | None
    since: datetime | None
    last_input: datetime | None


def look(manager: Any) -> list[Terminal]:
    """The terminals of a Jupyter server's terminal manager; none where it has no terminals."""
    named: Mapping[str, Any] = getattr(manager, "terminals", None) or {}
    return [_look_at(name, terminal.ptyproc) for name, terminal in list(named.items())]


def foregrounds(terminals: Iterable[Terminal]) -> list[str]:
    """The terminals in which something runs."""
    return sorted(terminal.name for terminal in terminals if terminal.foreground)


def _look_at(name: str, pty: Any) -> Terminal:
    try:
        group, shell = os.tcgetpgrp(pty.fd), os.getpgid(pty.pid)
    except (OSError, ValueError):  # it was closed meanwhile
        return Terminal(name=name, foreground=None, since=None, last_input=None)
    command = command_line(group) if group > 0 and group != shell else None
    return Terminal(
        name=name,
        foreground=command,
        since=begun(group) if command else None,
        last_input=last_input(pty.fd),
    )


def last_input(master: int) -> datetime | None:
    """When the program in a terminal last read what was typed (`w` tells idle users so); the access time of its
    device, which output does not move. It is exact to eight seconds."""
    try:
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
        return datetime.fromtimestamp(Path(f"/dev/pts/{number}").stat().st_atime, timezone.utc)
    except OSError:
        return None


def command_line(group: int) -> str | None:
    """What the process group's leader was called with, short and without what looks like a secret.

    None for a bare shell, which waits for a command itself. A pipe whose leader has ended is `…`.
    """
    try:
        words = (_PROC / str(group) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "…"
    words = [word for word in words if word]
    if not words:
        return "…"
    program = words[0].rsplit("/", 1)[-1].lstrip("-")
    if program in _SHELLS and all(_gives_no_command(word) for word in words[1:]):
        return None
    text = _SECRET.sub(r"\g<1>…", " ".join([program, *words[1:]]))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _gives_no_command(word: str) -> bool:
    """Whether this word of a shell's is an option that gives it nothing to run: not `-c`, nor fish's `--command=make`."""
    return not word.startswith("--command") if word.startswith("--") else word.startswith("-") and "c" not in word


def begun(pid: int) -> datetime | None:
    """When a process began; None when it is gone."""
    try:
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime "))
        ticks = int(after_name[19])  # the 22nd field of the line, of which this begins with the third
    except (OSError, StopIteration, LookupError, ValueError):
        return None
    return datetime.fromtimestamp(int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK"), timezone.utc)
