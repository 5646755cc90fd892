"""System calls that a server in a sandbox does without: they lead past the namespaces, or to parts of the kernel that
nobody needs who runs notebooks. Standard library only.

Namespaces and mounts of one's own, the kernel's keys (shared by all processes of a uid), sockets of families that no
network namespace holds (vsock), io_uring (which gets past this filter), bpf, perf and userfaultfd. A debugger works.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_X86, _GENERIC = 0, 1
_MACHINES = {"x86_64": (0xC000003E, _X86), "aarch64": (0xC00000B7, _GENERIC), "riscv64": (0xC00000F3, _GENERIC)}
_SECCOMP = (317, 277)
_CLONE, _UNSHARE, _SOCKET = (56, 220), (272, 97), (41, 198)
_NOT_THERE = {"clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426)}
"""Answered as by an older kernel, so that libraries do without. What clone3 is asked for, no filter can read."""
_REFUSED = {
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
}
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_TIME = 0x80  # for unshare; for clone it is a part of the signal
_FAMILIES = (1, 2, 10, 16)  # unix, inet, inet6, netlink
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_AT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_FILTER, _SPECULATION_ALLOWED = 1, 4


def confine() -> bool:
    """Hold this process, and all that it starts, to the filter, for good; False on a machine that has none.

    It must have no_new_privs set. Raises OSError as the kernel does.
    """
    code = program(os.uname().machine)
    if code is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(room))
    call = _SECCOMP[_MACHINES[os.uname().machine][1]]
    for flags in (_SPECULATION_ALLOWED, 0):  # without the flag, old kernels slow the whole process down
        if libc.syscall(call, _SET_FILTER, flags, head) == 0:
            return True
    number = ctypes.get_errno()
    if number in {errno.ENOSYS, errno.EINVAL}:  # a kernel without filters
        return False
    raise OSError(number, f"seccomp: {os.strerror(number)}")


def program(machine: str) -> bytes | None:
    """The filter as the kernel reads it (struct sock_filter); None for a machine whose numbers are not known. Pure."""
    if machine not in _MACHINES:
        return None
    arch, column = _MACHINES[machine]
    code = [
        *_load(_ARCH_AT),
        *_unless(_EQUAL, arch, _no(errno.ENOSYS)),
        *_load(_NUMBER_AT),
        *_when(_AT_LEAST, _X32, _no(errno.ENOSYS)),
    ]
    for numbers in _NOT_THERE.values():
        code += _when(_EQUAL, numbers[column], _no(errno.ENOSYS))
    for numbers in _REFUSED.values():
        code += _when(_EQUAL, numbers[column], _no(errno.EPERM))
    forbid = _when(_ANY_BIT, _NEW_NAMESPACES, _no(errno.EPERM))
    code += _when(_EQUAL, _CLONE[column], [*_load(_FIRST_AT), *forbid, *_yes()])
    forbid = _when(_ANY_BIT, _NEW_NAMESPACES | _NEW_TIME, _no(errno.EPERM))
    code += _when(_EQUAL, _UNSHARE[column], [*_load(_FIRST_AT), *forbid, *_yes()])
    families = [word for family in _FAMILIES for word in _when(_EQUAL, family, _yes())]
    code += _when(_EQUAL, _SOCKET[column], [*_load(_FIRST_AT), *families, *_no(errno.EAFNOSUPPORT)])
    return b"".join([*code, *_yes()])


def _word(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> list[bytes]:
    return [_word(_LOAD, offset)]


def _when(test: int, value: int, then: list[bytes]) -> list[bytes]:
    return [_word(test, value, 0, len(then)), *then]


def _unless(test: int, value: int, then: list[bytes]) -> list[bytes]:
    return [_word(test, value, len(then), 0), *then]


def _no(number: int) -> list[bytes]:
    return [_word(_RETURN, _ERRNO | number)]


def _yes() -> list[bytes]:
    return [_word(_RETURN, _ALLOW)]
