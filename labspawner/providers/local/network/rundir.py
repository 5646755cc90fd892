"""A folder for each lease, on the host: where its server's socket is. Blocking.

    <base>/hub.sock                 the hub's API, see `labspawner.hubsocket`; keepers hold the folder to get there
    <base>/<lease>/                 the hub's user's alone
    <base>/<lease>/in/              seen inside as /run/labspawner; the server makes its socket here
    <base>/<lease>/server.sock      the same socket, linked by the hub: what hub and proxy connect to
    <base>/<lease>/server.sock:80   a link to it: JupyterHub 6 adds the port to every URL that it stores

A student can put whatever they like into `in`, for example a symbolic link to a socket of the host that hub and proxy
may use and they may not. So nothing is ever connected to there: a hard link outside of their reach names the very
socket that was looked at.
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
_DRAFT = ".new"
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
        """Where hub and proxy find the server's socket, once `publish` has said so."""
        return self._of(lease_id) / SOCKET_NAME

    def inside(self, lease_id: LeaseId) -> Path:
        """What is bound into the sandbox."""
        return self._of(lease_id) / _INSIDE

    def prepare(self, lease_id: LeaseId, *, gid: int | None = None) -> Path:
        """Make the folder of a lease anew, empty; what to bind into the sandbox.

        gid: the group of the server, which may write there until `publish`; None: nobody but the hub's user.
        """
        self.remove(lease_id)
        self.make_base()
        folder = self._of(lease_id)
        folder.mkdir(mode=0o700)
        inside = folder / _INSIDE
        inside.mkdir(mode=0o700)
        if gid is not None and os.geteuid() == 0:
            os.chown(inside, 0, gid)
            inside.chmod(0o770)
        return inside

    def publish(self, lease_id: LeaseId) -> bool:
        """Let hub and proxy reach the socket that the server has made; False while there is none.

        After it the student can put nothing more into the folder, where the hub is root.
        """
        with self._opened(self._of(lease_id)) as folder, self._opened(_INSIDE, dir_fd=folder) as inside:
            if not _is_socket(SOCKET_NAME, inside):
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_DRAFT, dir_fd=folder)
            try:
                os.link(SOCKET_NAME, _DRAFT, src_dir_fd=inside, dst_dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            # What was looked at may be something else by now; what is in our own folder stays what it is.
            if not _is_socket(_DRAFT, folder):
                os.unlink(_DRAFT, dir_fd=folder)
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SOCKET_NAME, dir_fd=folder)  # a rename onto the same socket would do nothing
            os.rename(_DRAFT, SOCKET_NAME, src_dir_fd=folder, dst_dir_fd=folder)
            with contextlib.suppress(FileExistsError):
                os.symlink(SOCKET_NAME, f"{SOCKET_NAME}:80", dir_fd=folder)
            if os.geteuid() == 0:
                os.fchmod(inside, 0o750)
            return True

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


def _is_socket(name: str, folder: int) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
