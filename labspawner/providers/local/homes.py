"""Students' homes: made on demand, kept for ever, never through a link. Blocking."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.providers.local.accounts import account_name, claim
from labspawner.providers.local.confinement import Account
from labspawner.sentences import Sentence

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home that can be entered. full: nothing can be written there, so only files can be deleted."""

    path: Path
    account: Account
    full: bool


def prepare_home(home: Path, user: str, *, min_free_bytes: int, uids: range | None) -> Home:
    """Make `home` a private, writable folder of its student.

    uids: who students are, each another one; None: all are the hub's own user. min_free_bytes: with less on its disk
    the home counts as full. Raises SetupError, in words for the student, when it cannot be; a link is refused.
    """
    try:
        home.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        homes = os.open(home.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(FileExistsError):
                os.mkdir(home.name, 0o700, dir_fd=homes)
            uid = os.geteuid() if uids is None else claim(homes, home.name, uids)
            gid = os.getegid() if uids is None else uid
            inside = os.open(home.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=homes)
        finally:
            os.close(homes)
        try:
            _own(inside, uid)
            full = _is_full(inside, min_free_bytes)
        finally:
            os.close(inside)
    except OSError as exc:
        raise _setup_error(exc) from exc
    return Home(path=home, account=Account(uid=uid, gid=gid, name=account_name(user)), full=full)


def _own(home_fd: int, uid: int) -> None:
    seen = os.fstat(home_fd)
    if seen.st_uid != uid:
        raise OSError(errno.EPERM, f"owned by uid {seen.st_uid}")
    if stat.S_IMODE(seen.st_mode) != 0o700:
        os.fchmod(home_fd, 0o700)


def _is_full(home_fd: int, min_free_bytes: int) -> bool:
    disk = os.fstatvfs(home_fd)
    if disk.f_bavail * disk.f_frsize < min_free_bytes or (disk.f_files and not disk.f_favail):
        return True
    name = f".labspawner-{secrets.token_hex(8)}"
    try:
        probe = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=home_fd
        )
        try:
            os.write(probe, b"x")
        finally:
            os.close(probe)
            os.unlink(name, dir_fd=home_fd)
    except OSError as exc:
        if exc.errno in _FULL:
            return True
        raise
    return False


def _setup_error(exc: OSError) -> SetupError:
    if exc.errno in _FULL:
        message = Sentence(
            "There is no disk space left for your files. Tell your administrator: space must be freed on the server."
        )
    elif exc.errno in {errno.ELOOP, errno.ENOTDIR, errno.EEXIST}:
        message = Sentence("Your home is not a plain folder on the server. Tell your administrator to repair it.")
    else:
        message = Sentence("Your home cannot be written to on the server. Tell your administrator to repair it.")
    return SetupError(message, detail=f"home: {exc}")
