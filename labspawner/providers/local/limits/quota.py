"""How much a home may hold on its disk, where the file system keeps quotas (ext4, xfs). Blocking.

Two kinds. A user's quota counts all files of a uid: students cannot escape it, so it is taken where every student has
a uid of their own. A project's quota counts the files below a folder; a student's program that knows how can move its
own files to another project, so that kind stops accidents only. Limits are set and read with the tools of the package
`quota`; a folder's project is set through a descriptor, so that no link in a home is ever followed.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from labspawner.sentences import Sentence, plain

log = getLogger(__name__)

USER, PROJECT = "user", "project"
_OPTIONS = {
    USER: {"usrquota", "uquota", "usrjquota", "quota"},
    PROJECT: {"prjquota", "pquota"},
}
_FLAG = {USER: "-u", PROJECT: "-P"}
_KNOWN = {"ext4", "xfs"}
_TOOL_S = 30.0
_KIB = 1024
# linux/fs.h: struct fsxattr is flags, extsize, nextents, projid, cowextsize, 8 bytes of padding
_FSXATTR = struct.Struct("=IIIII8x")
_GET_XATTR, _SET_XATTR = 0x801C581F, 0x401C5820
_INHERIT = 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What one home holds, and may hold; None: not limited."""

    used_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProbedQuota:
    """What was found. quotas: None where homes cannot be limited. words: why, or how."""

    quotas: Quotas | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """The file system that a folder is on."""

    point: str
    kind: str
    options: frozenset[str]


class Quotas:
    """The quotas of one file system. kind: `user` or `project`."""

    def __init__(self, point: str, kind: str) -> None:
        self.point, self.kind = point, kind
        self._said: set[str] = set()

    def limit(self, home: Path, owner: int, limit_bytes: int | None) -> Sentence | None:
        """Let what `owner` has in `home` take no more than this (None: any amount); why it could not be set, or None.

        owner: the uid of the student; also taken as the project's number. The same problem is logged only once.
        """
        problem = self._tag(home, owner) if self.kind == PROJECT else None
        if problem is None:
            kib = "0" if limit_bytes is None else str(max(1, limit_bytes // _KIB))
            _, problem = _run("setquota", _FLAG[self.kind], str(owner), kib, kib, "0", "0", self.point)
        if problem is None:
            return None
        if problem not in self._said:
            self._said.add(problem)
            log.warning("home quota not set home=%s: %s", home, problem)
        return Sentence("The quota of a home could not be set: {problem}", problem=plain(problem))

    def usage(self) -> dict[int, Disk]:
        """What every owner has on this file system, from one listing; empty where the tool does not answer."""
        text, problem = _run("repquota", _FLAG[self.kind], "-n", "-O", "csv", self.point)
        if problem is not None:
            if problem not in self._said:
                self._said.add(problem)
                log.warning("disk usage not read file_system=%s: %s", self.point, problem)
            return {}
        return dict(_disks(text))

    def _tag(self, home: Path, project: int) -> str | None:
        """Give a home its project, and with it all that will be made in it; what is wrong, or None.

        What is in the home already is tagged too, once: a home that has its project is left alone.
        """
        try:
            descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _set_project(descriptor, project):
                    for _, folders, files, at in os.fwalk(".", dir_fd=descriptor, follow_symlinks=False):
                        for name in (*folders, *files):
                            _tag_entry(at, name, project)
            finally:
                os.close(descriptor)
        except OSError as exc:
            return f"its project cannot be set: {exc.strerror}"
        return None


def probe_quota(
    folder: Path, *, own_uids: bool, root: bool | None = None, mounts: Path = Path("/proc/self/mounts")
) -> ProbedQuota:
    """Say whether homes in `folder` can have quotas. own_uids: every student has a uid of their own."""
    if not (os.geteuid() == 0 if root is None else root):
        return ProbedQuota(None, "no disk quota: only root may set one")
    mount = _mount_of(folder, mounts)
    if mount is None or mount.kind not in _KNOWN:
        kind = "unknown" if mount is None else mount.kind
        return ProbedQuota(None, f"no disk quota: homes are on a file system of type {kind}; ext4 and xfs have quotas")
    kinds = [kind for kind in (USER, PROJECT) if _OPTIONS[kind] & mount.options]
    if not own_uids:
        kinds = [kind for kind in kinds if kind != USER]
    if not kinds:
        wanted = "usrquota" if own_uids else "prjquota"
        return ProbedQuota(None, f"no disk quota: {mount.point} is not mounted with {wanted}")
    missing = [tool for tool in ("setquota", "repquota") if shutil.which(tool) is None]
    if missing:
        return ProbedQuota(None, f"no disk quota: {' and '.join(missing)} not found; install the package quota")
    _, problem = _run("repquota", _FLAG[kinds[0]], "-n", "-O", "csv", mount.point)
    if problem is not None:
        return ProbedQuota(None, f"no disk quota: {problem}")
    return ProbedQuota(Quotas(mount.point, kinds[0]), f"homes have {kinds[0]} quotas on {mount.point}")


def _mount_of(folder: Path, mounts: Path) -> Mount | None:
    """The mount that `folder`, or the nearest folder above it that exists, is on."""
    path = os.path.realpath(folder)
    found: Mount | None = None
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, point, kind, options, *_ = line.split(" ")
        point = point.replace(r"\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (
            found is None or len(point) >= len(found.point)
        ):  # of two on one point the later hides the first
            found = Mount(point=point, kind=kind, options=frozenset(word.split("=")[0] for word in options.split(",")))
    return found


def _run(tool: str, *words: str) -> tuple[str, str | None]:
    """What a tool prints, and what is wrong, or None."""
    try:
        result = subprocess.run(  # noqa: S603 - our own words
            (tool, *words), capture_output=True, timeout=_TOOL_S, check=False, env={"PATH": _path(), "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return "", f"{tool}: {exc}"
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        return "", said[0] if said else f"{tool} failed with status {result.returncode}"
    return result.stdout.decode(errors="replace"), None


def _path() -> str:
    return os.environ.get("PATH", os.defpath)


def _disks(text: str) -> Iterator[tuple[int, Disk]]:
    """The rows of `repquota -n -O csv`; sizes are in KiB, and 0 is no limit."""
    for row in csv.DictReader(text.splitlines()):
        owner = (row.get("User") or row.get("Project") or "").lstrip("#")
        used, limit = row.get("BlockUsed") or "", row.get("BlockHardLimit") or ""
        if owner.isdecimal() and used.isdecimal() and limit.isdecimal():
            yield int(owner), Disk(used_bytes=int(used) * _KIB, limit_bytes=int(limit) * _KIB or None)


def _set_project(descriptor: int, project: int, *, folder: bool = True) -> bool:
    """Whether the file behind a descriptor had another project before. Raises OSError."""
    seen = fcntl.ioctl(descriptor, _GET_XATTR, bytes(_FSXATTR.size))
    flags, extsize, nextents, had, cowextsize = _FSXATTR.unpack(seen)
    wanted = flags | _INHERIT if folder else flags
    if had == project and wanted == flags:
        return False
    fcntl.ioctl(descriptor, _SET_XATTR, _FSXATTR.pack(wanted, extsize, nextents, project, cowextsize))
    return True


def _tag_entry(at: int, name: str, project: int) -> None:
    """A file or folder in a home; links, sockets and devices hold nothing, and what vanishes meanwhile neither."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=at)
    except OSError as exc:
        if exc.errno not in {errno.ELOOP, errno.ENOENT, errno.ENXIO, errno.EACCES}:
            raise
        return
    try:
        mode = os.fstat(descriptor).st_mode
        if (mode & 0o170000) in {0o040000, 0o100000}:
            _set_project(descriptor, project, folder=(mode & 0o170000) == 0o040000)
    finally:
        os.close(descriptor)
