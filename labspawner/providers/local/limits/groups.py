"""Control groups of leases: made, joined, read, killed and removed. Blocking; everything may be repeated.

A group's name is `labspawner/<hub id>/<provider>/<lease>`, so no hub ever touches another's. A process joins a leaf by
writing "0" into each of its `cgroup.procs` files. Out of memory kills the largest process of `inside`, not all: a
notebook's kernel dies and the server, which is small, goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from logging import getLogger
from pathlib import Path, PurePosixPath
from typing import Protocol

from labspawner.errors import SetupError
from labspawner.model import LeaseId, Usage
from labspawner.naming import safe_name
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.dialects import INSIDE, OUTSIDE, Dialect
from labspawner.sentences import Sentence

log = getLogger(__name__)

TREE = "labspawner"
EMPTY_S = 30.0  # from SIGKILL until the kernel has buried everybody; longer only in uninterruptible sleep
_LOOK_EVERY_S = 0.01
_TRIES = 10
_BUSY = {errno.EBUSY, errno.ENOTEMPTY}
_VANISHED = {errno.ENOENT, errno.ENODEV}


class Group:
    """One lease's control group, with a leaf for our helpers and a limited one for the server."""

    def __init__(self, dialect: Dialect, name: PurePosixPath) -> None:
        self._dialect = dialect
        self.name = name

    @property
    def outside_files(self) -> tuple[str, ...]:
        """Where to write "0" to join the leaf without limits."""
        return self._join_files(OUTSIDE)

    @property
    def inside_files(self) -> tuple[str, ...]:
        """Where to write "0" to join the limited leaf."""
        return self._join_files(INSIDE)

    @property
    def device_memory(self) -> Path | None:
        """The folder of the limited leaf, where the kernel limits the memory of devices there (`labspawner.gpu.dmem`)."""
        return self._dialect.device_memory(self.name)

    def joined(self) -> None:
        """A process that stays has joined, so the group needs nothing else to keep it. Call it once that is so."""

    def exists(self) -> bool:
        """Whether any of it is there."""
        return any(self._dialect.fs.exists(folder) for folder in self._folders())

    def pids(self) -> frozenset[int]:
        """All processes of the group, in both leaves; none where the group is gone."""
        return frozenset(pid for folder in self._all_folders() for pid in self._pids_in(folder))

    def pids_inside(self) -> frozenset[int]:
        """The processes of the server."""
        return frozenset(pid for folder in self._folders() for pid in self._pids_in(folder / INSIDE))

    def kill(self, *, deadline_s: float = EMPTY_S) -> bool:
        """Kill all processes of the group, also those that are just being forked; whether none is left."""
        until = time.monotonic() + deadline_s
        while self.pids():
            if not self._dialect.kill_at_once(self.name):
                self._kill_frozen()
            if time.monotonic() >= until:
                return not self.pids()
            time.sleep(_LOOK_EVERY_S)
        return True

    def remove(self, *, deadline_s: float = EMPTY_S) -> bool:
        """Remove the group, and what of the tree above it is empty; False while a process in it does not die.

        Whoever is still in it is not killed.
        """
        until = time.monotonic() + deadline_s
        while not self._removed():
            if self.pids() or time.monotonic() >= until:
                return False
            time.sleep(_LOOK_EVERY_S)
        for parent in self._dialect.parents:
            for above in self.name.parents[:-1]:
                with contextlib.suppress(OSError):
                    self._dialect.fs.remove(parent / above)
        return True

    def usage(self) -> Usage:
        """What the server uses now, and what is enforced. Memory that the kernel could drop at once (files read long
        ago) is not counted, nor is what was in memory before the server began and is only shared."""
        reading, limits = self._dialect.reading(self.name), self.limits_of()
        processes = len(self.pids_inside())
        return Usage(
            taken_at=datetime.now(timezone.utc),
            memory_bytes=reading.memory_bytes,
            memory_limit_bytes=limits.memory_bytes,
            cpu_s=reading.cpu_s,
            cpu_limit=limits.cpu,
            processes=processes if self.exists() else None,
        )

    def limits_of(self) -> Limits:
        """What the kernel enforces, read back. `processes` counts threads too."""
        return self._dialect.limits(self.name)

    def oom_kills(self) -> int:
        """How many processes of the server died because its memory was full."""
        return self._dialect.oom_kills(self.name)

    def _folders(self) -> tuple[Path, ...]:
        return self._dialect.folders(self.name)

    def _join_files(self, leaf: str) -> tuple[str, ...]:
        return tuple(str(folder / leaf / "cgroup.procs") for folder in self._folders())

    def _all_folders(self) -> Iterator[Path]:
        for folder in self._folders():
            yield from _deepest_first(folder, self._dialect.fs.groups_in)

    def _pids_in(self, folder: Path) -> list[int]:
        try:
            return [int(line) for line in self._dialect.fs.read(folder / "cgroup.procs").split()]
        except OSError:  # it is gone, or has only threads
            return []

    def _kill_frozen(self) -> None:
        """SIGKILL to each process. Who is frozen neither forks nor ends, so that no pid changes hands meanwhile."""
        self._dialect.freeze(self.name, True)
        try:
            for pid in self.pids():
                self._kill_member(pid)
        finally:
            self._dialect.freeze(self.name, False)

    def _kill_member(self, pid: int) -> None:
        if pid in {0, 1, os.getpid()}:
            return
        with contextlib.suppress(OSError):  # it ended first, or is another user's
            try:
                descriptor = os.pidfd_open(pid)
            except (AttributeError, PermissionError):  # this Python, or a container's filter, has no such call
                os.kill(pid, signal.SIGKILL)
                return
            try:
                if pid in self.pids():  # else the pid went to a stranger before we held on to it
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)

    def _removed(self) -> bool:
        gone = True
        for folder in self._all_folders():
            try:
                self._dialect.fs.remove(folder)
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno not in _BUSY:
                    log.warning("cannot remove a control group folder=%s: %s", folder, exc)
                gone = False
        return gone


class GroupMaker(Protocol):
    """What `Groups` and `Scopes` have in common. words: what they limit on this machine, and what not."""

    words: str
    limits_memory: bool
    limits_cpu: bool
    limits_processes: bool

    def create(self, name: str, limits: Limits) -> Group: ...

    def group(self, name: str) -> Group: ...

    def list_groups(self) -> dict[LeaseId, Group]: ...


@dataclass(frozen=True, slots=True)
class Probed:
    """What was found. groups: None where it does not work here. words: why, or what is limited and how."""

    groups: GroupMaker | None
    words: str


class Groups:
    """The control groups of one provider of one hub. words: what they limit on this machine, and what not."""

    def __init__(self, dialect: Dialect, *, hub_id: str, provider: str, words: str = "") -> None:
        self._dialect = dialect
        self._folder = PurePosixPath(TREE, safe_name(hub_id), safe_name(provider))
        self.words = words
        self.limits_memory = "memory" in dialect.controllers
        self.limits_cpu = "cpu" in dialect.controllers
        self.limits_processes = "pids" in dialect.controllers

    def create(self, name: str, limits: Limits) -> Group:
        """A group of this name with these limits; an existing one gets them too.

        Raises SetupError with what the kernel said; nothing is left behind then that was not there before.
        """
        group = self.group(name)
        existed = group.exists()
        try:
            make(self._dialect, group.name)
            self._dialect.limit(group.name, limits)
        except OSError as exc:
            if not existed:
                group.remove(deadline_s=0)
            raise SetupError(
                Sentence("The limits of your server could not be set on the machine. Tell your administrator."),
                detail=f"control group {group.name}: {exc}",
            ) from exc
        return group

    def group(self, name: str) -> Group:
        """The group of this name, whether it exists or not."""
        return Group(self._dialect, self._folder / safe_name(name))

    def list_groups(self) -> dict[LeaseId, Group]:
        """Every group of this provider and hub that is there, in whole or in part, by its lease."""
        found = {
            path.name for folder in self._dialect.folders(self._folder) for path in self._dialect.fs.groups_in(folder)
        }
        return {LeaseId(name): Group(self._dialect, self._folder / name) for name in sorted(found)}


def make(dialect: Dialect, name: PurePosixPath) -> None:
    """Make a group and all above it, though another lease's end may take the empty tree away under our feet.

    Raises OSError.
    """
    for left in range(_TRIES, 0, -1):
        try:
            dialect.make(name)
            break
        except OSError as exc:
            if exc.errno not in _VANISHED or left == 1:
                raise


def _deepest_first(folder: Path, below: Callable[[Path], list[Path]]) -> Iterator[Path]:
    for child in below(folder):
        yield from _deepest_first(child, below)
    yield folder
