"""What servers print: one private file per lease, of bounded size, shown without secrets. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from labspawner.model import LeaseId
from labspawner.naming import safe_name
from labspawner.providers.redaction import redact

_TAIL_BYTES = 64 * 1024


class LogBook:
    """The logs of one provider, in one folder that only the hub's user may enter."""

    def __init__(self, folder: Path, *, limit_bytes: int, kept: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._kept = kept

    def path(self, lease_id: LeaseId) -> Path:
        """Where the log of `lease_id` is, or would be; always inside the folder."""
        return self._folder / f"{safe_name(lease_id)}.log"

    def open(self, lease_id: LeaseId) -> int:
        """A descriptor that appends to the log; the caller closes it. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path(lease_id), flags, 0o600)

    def tail(self, lease_id: LeaseId, lines: int, *, secrets: Iterable[str] = ()) -> str:
        """The last `lines` lines, at most 64 KiB, without `secrets`; empty where there is no log."""
        if lines <= 0:
            return ""
        try:
            descriptor = os.open(self.path(lease_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(redact(text, secrets).splitlines()[-lines:])

    def prune(self, live: Collection[LeaseId]) -> None:
        """Drop the oldest logs of ended servers beyond those kept, and the beginning of a live one over the limit."""
        living = {self.path(lease_id) for lease_id in live}
        ended = []
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.log"):
                seen = path.lstat()
                if seen.st_size > self._limit_bytes:
                    _shorten(path, keep_bytes=self._limit_bytes // 2)
                if path not in living:
                    ended.append((seen.st_mtime, path))
        for _, path in sorted(ended, reverse=True)[self._kept :]:
            path.unlink(missing_ok=True)


def _shorten(path: Path, *, keep_bytes: int) -> None:
    """Keep the end of a file that a process appends to: its descriptor stays good, because it is in append mode."""
    with path.open("r+b") as file:
        file.seek(-keep_bytes, os.SEEK_END)
        end = file.read(keep_bytes)
        file.truncate(0)
        file.seek(0)
        file.write(b"[the beginning was dropped]\n" + end.split(b"\n", 1)[-1])
