"""Control groups as the kernel shows them: which are mounted where, and their files. Blocking; knows nothing of leases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROC_SELF = Path("/proc/self")


class CgroupFs:
    """The calls that this package makes to a control group file system."""

    def read(self, path: Path) -> str:
        """The text of a file. Raises OSError."""
        return path.read_text()

    def write(self, path: Path, text: str) -> None:
        """One write, as the kernel wants it; the file must exist. Raises OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except OSError as exc:
            raise OSError(exc.errno, f"{exc.strerror} for {text!r}", str(path)) from exc
        finally:
            os.close(descriptor)

    def make(self, path: Path) -> None:
        """A group, which may exist already; the one above it exists. Raises OSError."""
        path.mkdir(mode=0o755, exist_ok=True)

    def remove(self, path: Path) -> None:
        """A group without processes or groups below it. Raises OSError, EBUSY while it has some."""
        path.rmdir()

    def exists(self, path: Path) -> bool:
        return path.exists()

    def groups_in(self, path: Path) -> list[Path]:
        """The groups right below one; empty where there is none."""
        try:
            with os.scandir(path) as entries:
                return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def writable(self, path: Path) -> bool:
        return os.access(path, os.W_OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """The hierarchies of this machine.

    v2: where the unified one is mounted. v1: where each older controller is, by its name. own: the group that this
    process is in, by controller, and under "" in the unified one; as seen from the mount, so `/` is the mount itself.
    """

    v2: Path | None = None
    v1: Mapping[str, Path] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)


def find_mounts(proc_self: Path = PROC_SELF) -> Mounts:
    """What /proc says is mounted; empty where it cannot be read."""
    try:
        mountinfo = (proc_self / "mountinfo").read_text().splitlines()
        memberships = (proc_self / "cgroup").read_text().splitlines()
    except OSError:
        return Mounts()
    groups: dict[str, str] = {}
    for line in memberships:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        groups.update(dict.fromkeys(names.split(","), path))
    v2: Path | None = None
    v1: dict[str, Path] = {}
    own: dict[str, str] = {}
    for line in mountinfo:
        fields, _, source = line.partition(" - ")
        kind, *_, options = source.split(" ")
        root, point = (_unescaped(word) for word in fields.split(" ")[3:5])
        if kind == "cgroup2" and v2 is None:
            v2 = Path(point)
            own[""] = _below(root, groups.get("", "/"))
        elif kind == "cgroup":
            for name in set(options.split(",")) & groups.keys() - v1.keys():
                v1[name] = Path(point)
                own[name] = _below(root, groups[name])
    return Mounts(v2=v2, v1=v1, own=own)


def _below(root: str, group: str) -> str:
    """`group` as seen from a mount that shows only what is below `root`."""
    inside = group.removeprefix(root.rstrip("/"))
    return "/" + inside.lstrip("/")


def _unescaped(word: str) -> str:
    for code, letter in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        word = word.replace(code, letter)
    return word
