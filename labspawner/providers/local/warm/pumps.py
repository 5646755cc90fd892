"""The network of one sandbox, as its keeper makes it: routes, the way to the world, pumps.

Standard library only, Python 3.9 and later. What the keeper calls, and when, is in the package's docstring. The plan,
as JSON, comes from `labspawner.providers.local.network`:

    {"pumps": [...], "deny": ["192.0.2.7/32", ...], "egress": null | {"argv": [...], "env": {...}}}

pumps: see mover.py. deny: networks that nobody inside can reach, put there before anybody is inside. egress: the
command of slirp4netns without its last words. It ends when this process does, however that ends: it watches a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterable
from typing import Any

from . import linux
from .mover import Mover

EGRESS_READY_S = 60.0
TAP = "tap0"

_NS_GET_USERNS = 0xB701
_NEWROUTE, _ERROR = 24, 2
_REQUEST_CREATE_REPLACE_ACK = 0x1 | 0x400 | 0x100 | 0x4
_MAIN_TABLE, _STATIC, _UNREACHABLE = 254, 4, 7
_DESTINATION = 1
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


class Pumps:
    """The network side of one keeper. Raises OSError where the kernel, or slirp4netns, refuses."""

    def __init__(self, plan: dict[str, Any] | None) -> None:
        self._plan: dict[str, Any] = plan or {}
        self._mover: Mover | None = None
        self._egress: subprocess.Popen[bytes] | None = None
        self._life = self._ready = self._said = -1

    def open_outside(self, pid: int) -> None:
        """Bind on the host, and start the way to the world. pid: a process inside, as the host counts.

        Raises OSError; EADDRINUSE: somebody else has the port.
        """
        try:
            self._mover = Mover(self._plan.get("pumps") or ())
            if self._plan.get("egress"):
                self._open_egress(self._plan["egress"], pid)
        except BaseException:
            self.close()
            raise

    def open_inside(self) -> None:
        """Put the routes and bind inside: the process is in the sandbox's network namespace, with CAP_NET_ADMIN.

        Returns when the way to the world is open.
        """
        try:
            deny(self._plan.get("deny") or ())
            if self._mover is not None:
                self._mover.listen_inside()
            if self._egress is not None:
                self._wait_for_egress(self._egress)
        except BaseException:
            self.close()
            raise

    def egress_pid(self) -> int | None:
        """The process that is the way to the world; None where there is none."""
        return None if self._egress is None else self._egress.pid

    async def run(self) -> None:
        """Move bytes until cancelled; then close everything."""
        try:
            if self._mover is not None:
                self._mover.attach(asyncio.get_running_loop())
            await asyncio.Event().wait()
        finally:
            self.close()

    def close(self) -> None:
        """Close every connection and the way to the world. May be repeated."""
        if self._mover is not None:
            self._mover.close()
            self._mover = None
        for fd in (self._life, self._ready, self._said):
            if fd >= 0:
                os.close(fd)
        self._life = self._ready = self._said = -1
        if self._egress is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._egress.wait(timeout=1)
            with contextlib.suppress(OSError):  # it may run as another user by now
                self._egress.kill()
                self._egress.wait()
            self._egress = None

    def _open_egress(self, egress: dict[str, Any], pid: int) -> None:
        with contextlib.ExitStack() as held:
            life, self._life = os.pipe2(os.O_CLOEXEC)
            held.callback(os.close, life)
            self._ready, told = os.pipe2(os.O_CLOEXEC)
            held.callback(os.close, told)
            netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, netns)
            owner = fcntl.ioctl(netns, _NS_GET_USERNS)
            held.callback(os.close, owner)
            # What it says is of interest when it fails, and nothing that a student's log should begin with.
            self._said = os.memfd_create("slirp4netns", os.MFD_CLOEXEC)
            argv = [*egress["argv"], f"--exit-fd={life}", f"--ready-fd={told}", "--netns-type=path"]
            self._egress = subprocess.Popen(  # noqa: S603 - the hub found the program
                [*argv, f"/proc/self/fd/{netns}", TAP],
                env=egress.get("env") or {},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(life, told, netns),
                start_new_session=True,
                preexec_fn=lambda: _be_owner(owner),  # noqa: PLW1509 - there is one thread
            )

    def _wait_for_egress(self, egress: subprocess.Popen[bytes]) -> None:
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        if not poll.poll(EGRESS_READY_S * 1000):
            raise OSError(errno.ETIMEDOUT, f"slirp4netns is not ready in time{self._last_words()}")
        if not os.read(self._ready, 1):
            raise OSError(errno.EPIPE, f"slirp4netns ended with status {egress.wait()}{self._last_words()}")
        os.close(self._ready)
        self._ready = -1

    def _last_words(self) -> str:
        words = os.pread(self._said, 4096, 0).decode(errors="replace").strip()
        return f": {words}" if words else ""


def _be_owner(user_namespace: int) -> None:
    """Enter the user namespace that owns the sandbox's network, where it is another: slirp4netns finds the way there
    only where nothing lies between, and bubblewrap makes two."""
    if not os.path.samestat(os.fstat(user_namespace), os.stat("/proc/self/ns/user")):
        linux.setns(user_namespace, "user")


def deny(networks: Iterable[str]) -> None:
    """Make each of `networks` unreachable in the network namespace of the caller. Raises OSError.

    A family that the kernel does not have cannot be reached anyway.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for sequence, network in enumerate(networks, 1):
            netlink.send(_route(sequence, network))
            reply = netlink.recv(65536)
            if struct.unpack_from("=H", reply, 4)[0] != _ERROR:
                raise OSError(errno.EPROTO, f"no answer for the route to {network}")
            number = -struct.unpack_from("=i", reply, 16)[0]
            if number and number not in _NO_SUCH_FAMILY:
                raise OSError(number, f"route to {network}: {os.strerror(number)}")


def _route(sequence: int, network: str) -> bytes:
    """RTM_NEWROUTE, type unreachable: struct nlmsghdr, struct rtmsg, one RTA_DST (linux/rtnetlink.h)."""
    address, _, length = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    message = struct.pack(
        "=BBBBBBBBI", family, int(length or 8 * len(packed)), 0, 0, _MAIN_TABLE, _STATIC, 0, _UNREACHABLE, 0
    ) + struct.pack("=HH", 4 + len(packed), _DESTINATION)
    message += packed
    return struct.pack("=IHHII", 16 + len(message), _NEWROUTE, _REQUEST_CREATE_REPLACE_ACK, sequence, 0) + message
