"""Students' homes: made on demand, kept for ever, never through a link. Blocking."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

_FULL = {errno.ENOSPC, errno.EDQUOT}


def prepare_home(home: Path, *, min_free_bytes: int) -> None:
    """Make `home` a private, writable folder of ours, with room on its disk.

    Raises SetupError, in words for the student, when it cannot be; a symbolic link in its place is refused.
    """
    try:
        home.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        _own(home)
        free_bytes = shutil.disk_usage(home).free
        if free_bytes < min_free_bytes:
            raise OSError(errno.ENOSPC, f"only {human_bytes(free_bytes)} free", str(home))
        with tempfile.TemporaryFile(dir=home, prefix=".labspawner-") as probe:
            probe.write(b"x")
    except OSError as exc:
        raise _setup_error(exc) from exc


def _own(home: Path) -> None:
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(descriptor)
        if seen.st_uid != os.geteuid():
            raise OSError(errno.EPERM, f"owned by uid {seen.st_uid}", str(home))
        if stat.S_IMODE(seen.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


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
