"""A folder for each lease, on the host: where its server's socket is. Blocking.

    <base>/hub.sock                 the hub's API, see `labspawner.hubsocket`; keepers hold the folder to get there
    <base>/<lease>/                 the hub's user's alone
    <base>/<lease>/in/              seen inside as /run/labspawner, read-only
    <base>/<lease>/slice/, verdict  of its GPU slice, where it has one; see `labspawner.providers.local.slices`
    <base>/<lease>/server.sock      where its keeper listens, and hub and proxy connect to
    <base>/<lease>/server.sock:80   a link to it: JupyterHub 6 adds the port to every URL that it stores

No path that a student can change is ever connected to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from labspawner.model import LeaseId
from labspawner.naming import safe_name
from labspawner.providers.local.network.address import SOCKET_NAME

_LONGEST = 100 - len(f"/{LeaseId('l' + 15 * 'x')}/{SOCKET_NAME}:80")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HUB_SOCKET_NAME = "hub.sock"
_INSIDE = "in"


def default_base(hub_id: str, *, environment: Mapping[str, str], uid: int) -> Path:
    """The base for a hub: below /run for root, else below $XDG_RUNTIME_DIR, or in /tmp where that will not do.

    Its path is short, and in lower case, because JupyterHub lowers it in URLs.
    """
    name = safe_name(hub_id)
    given = environment.get("XDG_RUNTIME_DIR", "")
    base = Path("/run/labspawner" if uid == 0 else f"{given}/labspawner") / name
    text = str(base)
    if not (uid == 0 or given.startswith("/")) or text != text.lower() or not text.isascii() or len(text) > _LONGEST:
        return Path(f"/tmp/labspawner-{uid}") / name  # noqa: S108 - looked at before it is used
    return base


class RunDirs:
    """The run folders of one hub. Every method raises OSError, and may be repeated."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @property
    def hub_socket(self) -> Path:
        """Where the hub serves its API for sandboxes; `make_base` before."""
        return self.base / HUB_SOCKET_NAME

    def socket(self, lease_id: LeaseId) -> Path:
        """Where the server's keeper listens, and hub and proxy find it: in a folder that nobody in a sandbox sees."""
        return self._of(lease_id) / SOCKET_NAME

    def inside(self, lease_id: LeaseId) -> Path:
        """What is bound into the sandbox."""
        return self._of(lease_id) / _INSIDE

    def private(self, lease_id: LeaseId) -> Path:
        """The folder of a lease, which nobody in a sandbox sees; `prepare` makes it."""
        return self._of(lease_id)

    def prepare(self, lease_id: LeaseId) -> Path:
        """Make the folder of a lease anew, empty; what to bind into the sandbox.

        JupyterHub appends `:80` to the address of a socket, so that name leads there too.
        """
        self.remove(lease_id)
        self.make_base()
        folder = self._of(lease_id)
        folder.mkdir(mode=0o700)
        inside = folder / _INSIDE
        inside.mkdir(mode=0o700)
        (folder / f"{SOCKET_NAME}:80").symlink_to(SOCKET_NAME)
        return inside

    def remove(self, lease_id: LeaseId) -> None:
        """Remove the folder and all that a student left in it."""
        folder = self._of(lease_id)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except (RecursionError, OSError):  # a thousand folders in one another
            subprocess.run(  # noqa: S603
                ["rm", "-rf", "--one-file-system", "--", str(folder)],  # noqa: S607
                check=False,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        if os.path.lexists(folder):
            raise OSError(errno.ENOTEMPTY, "cannot be removed", str(folder))
        with contextlib.suppress(OSError):  # others are still there
            self.base.rmdir()

    def leases(self) -> frozenset[LeaseId]:
        """The leases that have a folder."""
        with contextlib.suppress(FileNotFoundError):
            return frozenset(
                LeaseId(entry.name) for entry in os.scandir(self.base) if entry.is_dir(follow_symlinks=False)
            )
        return frozenset()

    def _of(self, lease_id: LeaseId) -> Path:
        return self.base / safe_name(lease_id)

    def make_base(self) -> None:
        """Make the base. Nobody else gets through the folder above it; who holds the base itself may pass."""
        for folder, mode in ((self.base.parent, 0o700), (self.base, 0o711)):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=mode)
            with self._opened(folder) as descriptor:
                seen = os.fstat(descriptor)
                if seen.st_uid != os.geteuid():
                    raise PermissionError(errno.EPERM, f"belongs to uid {seen.st_uid}", str(folder))
                if stat.S_IMODE(seen.st_mode) != mode:
                    os.fchmod(descriptor, mode)

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: Path | str, *, dir_fd: int | None = None) -> Iterator[int]:
        descriptor = os.open(path, _FOLDER, dir_fd=dir_fd)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
