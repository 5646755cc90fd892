"""The two generations of control groups, saying the same things in their own words. Blocking.

A name is a path below the groups' parent. Each lease's group has two leaves: `outside` for our own helpers, without
limits, and `inside` for the server, with them. Only CPU weight stands on the group itself: it is a share among leases.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.cgroupfs import CgroupFs

INSIDE, OUTSIDE = "inside", "outside"
WANTED = ("memory", "cpu", "pids")
WELCOME = ("dmem",)  # limits the memory of devices (Linux 6.14); a machine without it is shared as well as before
PERIOD_US = 100_000
LEAST_QUOTA_US = 1_000  # the kernel takes no less
UNLIMITED_V1 = 2**62  # v1 says "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the counters of one group say. None: this machine does not count it."""

    memory_bytes: int | None = None
    cpu_s: float | None = None


class Dialect(ABC):
    """One generation. controllers: those of memory, cpu and pids that it can use here."""

    version: int
    controllers: frozenset[str]

    def __init__(self, fs: CgroupFs) -> None:
        self.fs = fs

    @property
    @abstractmethod
    def parents(self) -> tuple[Path, ...]:
        """The folders below which every name stands, one for each hierarchy."""

    @abstractmethod
    def make(self, name: PurePosixPath) -> None:
        """Make a group and all above it, with the controllers that its leaves need. Raises OSError."""

    @abstractmethod
    def limit(self, name: PurePosixPath, limits: Limits) -> None:
        """Set what `inside` may use; for what this machine cannot limit, nothing is done. Raises OSError."""

    @abstractmethod
    def limits(self, name: PurePosixPath) -> Limits:
        """What is in force for `inside`."""

    @abstractmethod
    def reading(self, name: PurePosixPath) -> Reading:
        """What `inside` uses now."""

    @abstractmethod
    def oom_kills(self, name: PurePosixPath) -> int:
        """How many processes of `inside` the kernel killed for want of memory."""

    @abstractmethod
    def kill_at_once(self, name: PurePosixPath) -> bool:
        """Kill the whole group in one step, where the kernel has one; False where it has not."""

    @abstractmethod
    def freeze(self, name: PurePosixPath, frozen: bool) -> None:
        """Let nobody in the group run, or all; without effect where the machine cannot."""

    def device_memory(self, name: PurePosixPath) -> Path | None:
        """The folder whose `dmem` files hold `inside`; None where this machine does not limit the memory of devices."""
        return None

    def folders(self, name: PurePosixPath) -> tuple[Path, ...]:
        return tuple(parent / name for parent in self.parents)

    def _number(self, path: Path) -> int | None:
        """The number in a file; None for `max`, and where there is no such file."""
        try:
            return int(self.fs.read(path).strip())
        except (OSError, ValueError):
            return None

    def _table(self, path: Path) -> dict[str, int]:
        """A file of `key number` lines; empty where there is none."""
        with contextlib.suppress(OSError, ValueError):
            return {key: int(value) for key, value in (line.split() for line in self.fs.read(path).splitlines())}
        return {}

    def _try(self, path: Path, text: str) -> bool:
        with contextlib.suppress(OSError):
            self.fs.write(path, text)
            return True
        return False

    def _set(self, path: Path, text: str) -> None:
        """Write, where the machine has such a file. Raises OSError for what the kernel refuses."""
        if self.fs.exists(path):
            self.fs.write(path, text)


class V2(Dialect):
    """The unified hierarchy, below `parent`, which is ours to change."""

    version = 2

    def __init__(self, fs: CgroupFs, parent: Path) -> None:
        super().__init__(fs)
        self._parent = parent
        try:
            found = frozenset(fs.read(parent / "cgroup.controllers").split())
        except OSError:
            found = frozenset()
        self.controllers, self._welcome = found & frozenset(WANTED), found & frozenset(WELCOME)

    @property
    def parents(self) -> tuple[Path, ...]:
        return (self._parent,)

    def make(self, name: PurePosixPath) -> None:
        folder = self._parent
        for part in name.parts:
            self._pass_on(folder)
            folder /= part
            self.fs.make(folder)
        self._pass_on(folder)
        self.fs.make(folder / INSIDE)
        self.fs.make(folder / OUTSIDE)

    def _pass_on(self, folder: Path) -> None:
        passed_on = set(self.fs.read(folder / "cgroup.subtree_control").split())
        for controller in sorted(self.controllers - passed_on):
            self.fs.write(folder / "cgroup.subtree_control", f"+{controller}")
        for controller in sorted(self._welcome - passed_on):
            self._try(folder / "cgroup.subtree_control", f"+{controller}")

    def device_memory(self, name: PurePosixPath) -> Path | None:
        inside = self._parent / name / INSIDE
        return inside if self.fs.exists(inside / "dmem.max") else None

    def limit(self, name: PurePosixPath, limits: Limits) -> None:
        inside = self._parent / name / INSIDE
        self._set(inside / "memory.max", _or_max(limits.memory_bytes))
        self._set(inside / "memory.swap.max", "max" if limits.memory_bytes is None else "0")
        self._set(inside / "pids.max", _or_max(limits.processes))
        self._set(inside / "cpu.max", f"{_or_max(_quota_us(limits.cpu))} {PERIOD_US}")
        if limits.cpu is not None:
            self._set(self._parent / name / "cpu.weight", str(min(10_000, max(1, round(100 * limits.cpu)))))

    def limits(self, name: PurePosixPath) -> Limits:
        inside = self._parent / name / INSIDE
        cpu = None
        with contextlib.suppress(OSError, ValueError):
            quota, period = self.fs.read(inside / "cpu.max").split()
            cpu = int(quota) / int(period)
        return Limits(
            cpu=cpu,
            memory_bytes=self._number(inside / "memory.max"),
            processes=self._number(inside / "pids.max"),
        )

    def reading(self, name: PurePosixPath) -> Reading:
        inside = self._parent / name / INSIDE
        charged = self._number(inside / "memory.current")
        droppable = self._table(inside / "memory.stat").get("inactive_file", 0)
        used_us = self._table(inside / "cpu.stat").get("usage_usec")
        return Reading(
            memory_bytes=None if charged is None else max(0, charged - droppable),
            cpu_s=None if used_us is None else used_us / 1e6,
        )

    def oom_kills(self, name: PurePosixPath) -> int:
        return self._table(self._parent / name / INSIDE / "memory.events").get("oom_kill", 0)

    def kill_at_once(self, name: PurePosixPath) -> bool:
        return self._try(self._parent / name / "cgroup.kill", "1")

    def freeze(self, name: PurePosixPath, frozen: bool) -> None:
        self._try(self._parent / name / "cgroup.freeze", "1" if frozen else "0")


class V1(Dialect):
    """The older hierarchies, one folder for each controller; the group stands in all of them under the same name.

    cpuacct, which counts, and freezer, which makes killing certain, are used where they are, and not needed.
    """

    version = 1

    def __init__(self, fs: CgroupFs, parents: Mapping[str, Path]) -> None:
        super().__init__(fs)
        self._of = dict(parents)
        self.controllers = frozenset(parents) & frozenset(WANTED)

    @property
    def parents(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._of.values()))  # cpu and cpuacct are often one

    def make(self, name: PurePosixPath) -> None:
        for parent in self.parents:
            folder = parent
            for part in name.parts:
                folder /= part
                self.fs.make(folder)
            self.fs.make(folder / INSIDE)
            self.fs.make(folder / OUTSIDE)

    def limit(self, name: PurePosixPath, limits: Limits) -> None:
        if (inside := self._file("memory", name, INSIDE)) is not None:
            self._limit_memory(inside, -1 if limits.memory_bytes is None else limits.memory_bytes)
        if (inside := self._file("pids", name, INSIDE)) is not None:
            self._set(inside / "pids.max", _or_max(limits.processes))
        if (inside := self._file("cpu", name, INSIDE)) is not None:
            quota_us = _quota_us(limits.cpu)
            self._set(inside / "cpu.cfs_period_us", str(PERIOD_US))
            self._set(inside / "cpu.cfs_quota_us", "-1" if quota_us is None else str(quota_us))
            if limits.cpu is not None:
                self._set(inside.parent / "cpu.shares", str(max(2, round(1024 * limits.cpu))))

    def _limit_memory(self, inside: Path, memory_bytes: int) -> None:
        with_swap = inside / "memory.memsw.limit_in_bytes"
        self._set(with_swap, "-1")  # it may never be below the other one
        self._set(inside / "memory.limit_in_bytes", str(memory_bytes))
        self._set(with_swap, str(memory_bytes))

    def limits(self, name: PurePosixPath) -> Limits:
        memory = self._in("memory", name, "memory.limit_in_bytes")
        quota, period = self._in("cpu", name, "cpu.cfs_quota_us"), self._in("cpu", name, "cpu.cfs_period_us")
        return Limits(
            cpu=quota / period if quota is not None and period and quota > 0 else None,
            memory_bytes=memory if memory is not None and memory < UNLIMITED_V1 else None,
            processes=self._in("pids", name, "pids.max"),
        )

    def reading(self, name: PurePosixPath) -> Reading:
        charged = self._in("memory", name, "memory.usage_in_bytes")
        inside = self._file("memory", name, INSIDE)
        droppable = 0 if inside is None else self._table(inside / "memory.stat").get("total_inactive_file", 0)
        used_ns = self._in("cpuacct", name, "cpuacct.usage")
        return Reading(
            memory_bytes=None if charged is None else max(0, charged - droppable),
            cpu_s=None if used_ns is None else used_ns / 1e9,
        )

    def oom_kills(self, name: PurePosixPath) -> int:
        inside = self._file("memory", name, INSIDE)
        return 0 if inside is None else self._table(inside / "memory.oom_control").get("oom_kill", 0)

    def kill_at_once(self, name: PurePosixPath) -> bool:
        return False

    def freeze(self, name: PurePosixPath, frozen: bool) -> None:
        if (folder := self._file("freezer", name)) is not None:
            self._try(folder / "freezer.state", "FROZEN" if frozen else "THAWED")

    def _file(self, controller: str, name: PurePosixPath, *parts: str) -> Path | None:
        parent = self._of.get(controller)
        return None if parent is None else parent.joinpath(name, *parts)

    def _in(self, controller: str, name: PurePosixPath, file: str) -> int | None:
        path = self._file(controller, name, INSIDE, file)
        return None if path is None else self._number(path)


def _or_max(value: int | None) -> str:
    return "max" if value is None else str(value)


def _quota_us(cpu: float | None) -> int | None:
    return None if cpu is None else max(LEAST_QUOTA_US, round(cpu * PERIOD_US))
