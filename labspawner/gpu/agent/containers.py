"""Which slice a process of the host is in: its control group names its container, whose mounts name the slice.

The control group cannot be left by a program. The mounts are those of any process of the container that still has them: a
program may hide them from itself, in a mount namespace of its own, but not those of its container's first process. What is
found is remembered for as long as the container lives. Needs the host's PID namespace, and the right to look at processes of
others (CAP_SYS_PTRACE).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from labspawner.gpu.folder import INSIDE
from labspawner.gpu.watchdog import Identity

_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})")
_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_SHOWN = f"{INSIDE}/slice"


@dataclass(frozen=True, slots=True)
class ContainerKey:
    """A container of a pod. pod_uid: with hyphens, where the path says it."""

    pod_uid: str
    container_id: str


def container_in(cgroup: str) -> ContainerKey | None:
    """The container that the text of a `/proc/<pid>/cgroup` names, for cgroup v1 and v2, systemd's names and others; None:
    none of a pod. Pure."""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        pod, container = _POD.search(path), None
        for match in _CONTAINER.finditer(path):
            container = match[1]  # the innermost
        if pod is not None and container is not None:
            return ContainerKey(pod[1].replace("_", "-"), container)
    return None


def slice_in(mountinfo: str, names: Iterable[str]) -> str | None:
    """The slice whose limits the text of a `/proc/<pid>/mountinfo` shows; one of `names`, or None. Pure."""
    known = set(names)
    for line in mountinfo.splitlines():
        words = line.split(" ")
        if len(words) > 4 and words[4] == _SHOWN:
            # `//deleted` where the folder was put aside; there it has another name, with a random end.
            parts = words[3].removesuffix("//deleted").split("/")
            if len(parts) >= 2 and parts[-1] == "slice":
                name = parts[-2] if parts[-2] in known else parts[-2].rsplit(".", 1)[0]
                return name if name in known else None
    return None


@dataclass
class Containers:
    """What was found about the containers of this node. proc: of the host."""

    proc: Path = Path("/proc")
    _slices: dict[ContainerKey, str] = field(default_factory=dict)

    def look(self, names: Iterable[str]) -> None:
        """Look at all processes: which containers there are, and the slice of each. Blocks for some milliseconds."""
        known, alive = set(names), set()
        for folder in self.proc.glob("[0-9]*"):
            key = container_in(_text(folder / "cgroup"))
            if key is None:
                continue
            alive.add(key)
            if key not in self._slices and (name := slice_in(_text(folder / "mountinfo"), known)) is not None:
                self._slices[key] = name
        self._slices = {key: name for key, name in self._slices.items() if key in alive}

    def slice_of(self, pid: int) -> str | None:
        """The slice of a process; None: it is in none that we know."""
        key = container_in(_text(self.proc / str(pid) / "cgroup"))
        return None if key is None else self._slices.get(key)


def identify(pid: int) -> Identity | None:
    """The process behind a pid of this host; None: it is gone."""
    try:
        return pid, float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
