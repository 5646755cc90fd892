"""The filter of system calls, as a value; that it holds is tested from inside sandboxes (tests/isolation)."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from labspawner.providers.local import warm
from labspawner.providers.local.warm import seccomp

ALLOW = 0x7FFF0000
X86, ARM = 0xC000003E, 0xC00000B7


def verdict(machine: str, arch: int, number: int, first: int = 0) -> int:
    """What the kernel would answer to a call: 0, or the number of the error. Runs the filter as the kernel does."""
    code = seccomp.program(machine)
    assert code is not None
    words = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    data = struct.pack("=IIQQ", number, arch, 0, first)
    at = value = 0
    while True:
        op, yes, no, operand = words[at]
        at += 1
        if op == 0x06:
            return 0 if operand == ALLOW else operand & 0xFFFF
        if op == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        else:
            true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[op]
            at += yes if true else no


@pytest.mark.parametrize(
    ("number", "first", "answer"),
    [
        (0, 0, 0),  # read
        (59, 0, 0),  # execve
        (101, 16, 0),  # ptrace
        (56, 17, 0),  # fork
        (56, 0x3D0F00, 0),  # a thread
        (56, 0x10000011, errno.EPERM),  # a user namespace
        (435, 0, errno.ENOSYS),  # clone3
        (272, 0x400, 0),  # unshare: its own table of files
        (272, 0x10000000, errno.EPERM),
        (272, 0x80, errno.EPERM),  # a time namespace
        (308, 0, errno.EPERM),  # setns
        (250, 0, errno.EPERM),  # keyctl
        (321, 0, errno.EPERM),  # bpf
        (425, 0, errno.ENOSYS),  # io_uring_setup
        (41, 1, 0),  # a unix socket
        (41, 2, 0),
        (41, 10, 0),
        (41, 16, 0),  # netlink
        (41, 40, errno.EAFNOSUPPORT),  # vsock
        (41, 17, errno.EAFNOSUPPORT),  # packet
        (0x40000000 | 250, 0, errno.ENOSYS),  # keyctl, by the x32 interface
    ],
)
def test_what_a_call_is_answered(number: int, first: int, answer: int) -> None:
    assert verdict("x86_64", X86, number, first) == answer


def test_the_interface_of_another_processor_is_not_there() -> None:
    assert verdict("x86_64", 0x40000003, 250) == errno.ENOSYS  # 32-bit programs
    assert verdict("aarch64", ARM, 219) == errno.EPERM
    assert verdict("aarch64", ARM, 250) == 0


def test_a_machine_whose_numbers_are_not_known_has_no_filter() -> None:
    assert seccomp.program("s390x") is None


def test_a_process_that_is_confined_and_its_children_cannot_ask_for_what_is_refused() -> None:
    ask = (
        "import ctypes, os, subprocess, sys, types\n"
        "package = types.ModuleType('w')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['w'] = package\n"
        "from w import linux, seccomp\n"
        "linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n"
        "if not seccomp.confine():\n"
        "    sys.exit(77)\n"
        "sys.exit(subprocess.run([sys.executable, '-c', 'import socket; socket.socket(40, 1)'],\n"
        "                        stderr=subprocess.DEVNULL).returncode)\n"
    )

    done = subprocess.run([sys.executable, "-I", "-c", ask, str(Path(warm.__file__).parent)], check=False)

    if done.returncode == 77:
        pytest.skip("this kernel, or this processor, has no filter")
    assert done.returncode == 1
