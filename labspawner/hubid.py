"""Which hub this is: an id that its data folder keeps for life, and that one hub process at a time uses on a machine.

The id marks all that a hub makes on hosts. A second hub with the same one would take the first one's servers for nobody's
and end them, so it does not start.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from labspawner.naming import ALPHABET

FILE = "hub_id"
SHAPE = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", re.ASCII)
_OLD_STORE = "labspawner.sqlite"
_LOOK_S = 0.2


def kept_hub_id(data_dir: Path) -> str:
    """The id that `data_dir` keeps in its file `hub_id`; made on the first call: the machine's name and six random letters.

    A folder with a lease database from before there was such a file keeps the machine's name alone, under which its servers
    run. Where the folder cannot be written, the machine's name: whoever needs the folder says so.
    """
    file = data_dir / FILE
    with suppress(OSError, UnicodeError):
        if SHAPE.fullmatch(found := file.read_text().strip()):
            return found
    name = machine_name()
    if not (data_dir / _OLD_STORE).exists():
        name = f"{name[:25].strip('-')}-{''.join(secrets.choice(ALPHABET) for _ in range(6))}"
    draft = data_dir / f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.write_text(f"{name}\n")
        try:
            os.link(draft, file)  # the first of several processes counts
        except FileExistsError:
            name = _first(file, draft, name)
        finally:
            draft.unlink()
    except OSError:
        return machine_name()
    return name


def _first(file: Path, draft: Path, name: str) -> str:
    """What another process has written meanwhile; a file that names nothing is replaced."""
    with suppress(UnicodeError):
        if SHAPE.fullmatch(found := file.read_text().strip()):
            return found
    draft.write_text(f"{name}\n")
    draft.replace(file)
    draft.touch()  # the caller removes it
    return name


def machine_name() -> str:
    """The machine's name as an id: 1 to 32 characters of a-z, 0-9 and '-'."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower())
    return name.strip("-")[:32].strip("-") or "hub"


class Claim:
    """That this process is the hub of an id on this machine, until `release` or its end, however that comes.

    Held as a lock on a folder: nothing is written, and the kernel gives it up with the process.
    """

    _mine: dict[str, Claim] = {}  # of this process: hubs in one, as tests have them, are one

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, *, make: Callable[[], None], wait_s: float) -> Claim | None:
        """Claim the id whose run folder this is; `make` makes it where it is missing. None where another process still has it
        after `wait_s` seconds: one that is just ending gets that long. Blocking. Raises OSError."""
        key = str(folder)
        if key in cls._mine:
            return cls._mine[key]
        deadline = time.monotonic() + wait_s
        while (descriptor := cls._lock(folder, make)) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_LOOK_S)
        return cls._mine.setdefault(key, cls(folder, descriptor))

    @staticmethod
    def _lock(folder: Path, make: Callable[[], None]) -> int | None:
        """The locked folder; None where another process has it, or has just removed it."""
        try:
            make()
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Give it up, and remove the folder where nothing is in it. Safe to repeat."""
        if self._mine.pop(str(self.folder), None) is not None:
            with suppress(OSError):
                self.folder.rmdir()
            os.close(self._descriptor)
