"""Who a student's processes are. Where the hub is root every student has a uid of an own range, and the owner of the
student's home is the record of it: there is no second file to lose, or to disagree. Blocking, and by descriptors only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import stat
from collections.abc import Collection, Iterator
from itertools import chain
from logging import getLogger

from labspawner.naming import safe_name

log = getLogger(__name__)

HANDING_OVER = 0o000
"""The mode of a home between two owners: a later claim finishes what a killed hub began."""

_POSIX_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_TAKEN_NAMES = frozenset({"root", "nobody", "tty", "nogroup", "daemon", "labspawner"})
_GIVEN = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK, stat.S_ISFIFO, stat.S_ISSOCK)  # never a device


def account_name(user: str) -> str:
    """`user` as a POSIX user name, for one sandbox: safe in /etc/passwd and in a path; different users may share it."""
    name = safe_name(user)
    if name not in _TAKEN_NAMES and _POSIX_NAME.fullmatch(name):
        return name
    return f"u-{name}"[:32].rstrip("-")


@contextlib.contextmanager
def locked(folder_fd: int) -> Iterator[None]:
    """Alone among all threads and processes that lock the same folder; other descriptors of it are not locked out."""
    own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        fcntl.flock(own, fcntl.LOCK_EX)
        yield
    finally:
        os.close(own)


def claim(homes_fd: int, name: str, uids: range) -> int:
    """The uid whose home is `name`, a folder of `homes_fd`: its owner, or, for one that root owns, a free uid of `uids`,
    to whom it is handed over with all that it holds.

    Raises OSError: for a home that is no plain folder, that is another account's or several students', and ENOSPC-like
    EAGAIN when every uid is given.
    """
    home = _open_folder(homes_fd, name)
    try:
        with locked(homes_fd):
            seen = os.fstat(home)
            uid = seen.st_uid
            if uid in uids:
                _check_alone(homes_fd, name, uid)
            elif uid in {0, os.geteuid()}:
                uid = _free_uid(_owners(homes_fd).values(), uids)
                os.fchmod(home, HANDING_OVER)
                os.fchown(home, uid, uid)
            else:
                raise OSError(errno.EPERM, f"owned by uid {uid}, which is not of uid_range", name)
        if stat.S_IMODE(os.fstat(home).st_mode) == HANDING_OVER:
            with locked(home):
                hand_over(home, uid)
        if stat.S_IMODE(os.fstat(home).st_mode) != 0o700:
            os.fchmod(home, 0o700)
    finally:
        os.close(home)
    return uid


def hand_over(home_fd: int, uid: int) -> None:
    """Make `uid` the owner of all below `home_fd`. No link is followed; devices, and files that have a second name (it may
    stand outside the home), stay whose they are, and the log says so. Raises OSError."""
    kept = 0
    for _, folders, files, folder_fd in os.fwalk(".", dir_fd=home_fd, follow_symlinks=False):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                seen = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                if seen.st_uid == uid:
                    continue
                if not any(is_kind(seen.st_mode) for is_kind in _GIVEN) or (
                    stat.S_ISREG(seen.st_mode) and seen.st_nlink > 1
                ):
                    kept += 1
                    continue
                os.chown(name, uid, uid, dir_fd=folder_fd, follow_symlinks=False)
    if kept:
        log.warning("home handed over to uid=%s, but for %s devices and files with several names", uid, kept)


def _open_folder(parent_fd: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)


def _owners(homes_fd: int) -> dict[str, int]:
    with os.scandir(homes_fd) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_uid for entry in entries}


def _check_alone(homes_fd: int, name: str, uid: int) -> None:
    others = sorted(other for other, owner in _owners(homes_fd).items() if owner == uid and other != name)
    if others:
        raise OSError(errno.EPERM, f"uid {uid} also owns {others[:3]}; give each home an owner of its own", name)


def _free_uid(taken: Collection[int], uids: range) -> int:
    """The next after the highest that is taken, so that the uid of a removed home is not soon somebody else's."""
    used = frozenset(taken)
    highest: int = max((uid for uid in used if uid in uids), default=uids[0] - 1)
    for uid in chain(range(highest + 1, uids[-1] + 1), uids):
        if uid not in used and not _is_an_account(uid):
            return uid
    raise OSError(errno.EAGAIN, f"all {len(uids)} uids of uid_range are given")


def _is_an_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
