"""What the standard library does not reach: namespaces, capabilities, prctl, and what `ps` shows of a process.

Standard library only. Every function raises OSError as the system call does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable, Mapping

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_NS_GET_USERNS = 0xB701

NAMESPACES = {
    "pid": 0x20000000,
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "net": 0x40000000,
    "mnt": 0x00020000,
    "user": 0x10000000,
}


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int = 0, third: int = 0) -> None:
    """prctl(2)."""
    _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), 0, 0), f"prctl({option})")


def setns(descriptor: int, kind: str) -> None:
    """Enter the namespace behind `descriptor`."""
    _checked(_libc.setns(descriptor, NAMESPACES[kind]), f"setns({kind})")


class Namespaces:
    """The namespaces of a process, held by descriptors, and the way into them.

    owner: the user namespace that the others belong to, which may be the parent of the process's own (bubblewrap makes
    a second one to forbid more of them).
    """

    def __init__(self, pid: int) -> None:
        self._held: dict[str, int] = {}
        try:
            for kind in NAMESPACES:
                self._held[kind] = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            self._held["owner"] = fcntl.ioctl(self._held["mnt"], _NS_GET_USERNS)
            os.set_inheritable(self._held["owner"], False)
        except BaseException:
            self.close()
            raise

    def enter(self, *kinds: str) -> None:
        """Enter these, in this order, and first the user namespace that owns them; one in which we are is skipped.

        `user` is the process's own user namespace; it comes last.
        """
        self._into("owner", "user")
        for kind in kinds:
            self._into(kind, kind)

    def _into(self, held: str, kind: str) -> None:
        there = os.fstat(self._held[held])
        here = os.stat(f"/proc/self/ns/{'pid_for_children' if kind == 'pid' else kind}")
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            setns(self._held[held], kind)

    def close(self) -> None:
        """Let go of them; may be repeated."""
        while self._held:
            os.close(self._held.popitem()[1])


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def drop_bounding_set() -> None:
    """No program that this process executes gets a capability from its file. Needs CAP_SETPCAP."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # past the last that this kernel knows
                return
            raise


def drop_capabilities() -> None:
    """No capability is left to this process, and none comes back."""
    try:
        prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a kernel without ambient capabilities
            raise
    header = _Header(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.byref(header), (_Sets * 2)()), "capset")


def close_all(first: int, keep: Iterable[int] = ()) -> None:
    """Close every descriptor from `first` on, but those in `keep`."""
    kept = frozenset(keep)
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the one that listed the folder
                continue


def _region(first_field: int) -> tuple[int, int] | None:
    """Start and length of what /proc/<pid>/cmdline or environ shows. Fields as in proc(5), /proc/pid/stat."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[first_field - 3]), int(fields[first_field - 2])
    return (start, end - start) if 0 < start < end else None


def _overwrite(first_field: int, data: bytes, last: bytes) -> bool:
    region = _region(first_field)
    if region is None:
        return False
    start, length = region
    ctypes.memset(start, 0, length)
    ctypes.memmove(start, data, min(len(data), length - 1))
    ctypes.memmove(start + length - 1, last, 1)
    return len(data) < length


def show_environment(environment: Mapping[str, str]) -> bool:
    """Let /proc/<pid>/environ show exactly this, whatever the process was started with; False when it did not fit."""
    return _overwrite(
        50, b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items()), b"\0"
    )


def show_command(argv: list[str], name: str) -> None:
    """Let `ps` show this command line (cut where it does not fit), and `top` this name of up to 15 bytes.

    The last byte tells the kernel that this is one text, which ends at its first NUL (fs/proc/base.c, setproctitle).
    """
    _overwrite(48, os.fsencode(" ".join(argv)), b"-")
    text = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _libc.prctl(PR_SET_NAME, text, 0, 0, 0)


def threads() -> int:
    """How many threads this process has, those of libraries in C included."""
    return len(os.listdir("/proc/self/task"))
