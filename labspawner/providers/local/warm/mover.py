"""Bytes across the border of a sandbox: connections accepted on one side go on to a socket on the other.

Standard library only, Python 3.9 and later, one thread: the keeper of a server runs it beside its own work.

    mover = Mover(plan)       # rights still held: listens outside, takes hold of the folders of unix sockets
    ...                       # the process enters the sandbox's network namespace, for good
    mover.listen_inside()     # may drop all rights now
    mover.attach(loop)        # asyncio; or: select on `mover.fileno()`, call `mover.turn()`, obey `mover.wait_s()`
    mover.close()

A socket belongs to the network namespace in which it was made, wherever its process goes later. So what listens on the
host is made before the process moves, everything inside after it, and what is made for one connection must lie inside,
or be a unix socket, which knows no network namespace.

One pump, as JSON: `{"in": "host" | "sandbox", "listen": END, "to": END, "limit": 512}`, with
END = `{"tcp": [ip, port]}` or `{"unix": path}`; `listen` may also be `{"fd": n}`, a socket that listens already.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

End = dict[str, Any]
Pump = dict[str, Any]

CHUNK_BYTES = 256 * 1024
TURN_CHUNKS = 4  # of one direction of one connection, then the others have their turn
LIMIT = 512  # connections of one pump at once; more wait in the kernel's queue
AGAIN_S = 0.02  # until the next try, where the kernel has no event for it
_RESERVED_FDS = 64
_BACKLOG = 1024
_ACCEPTS = 64
# Edge-triggered: each direction is moved until the kernel says that it would block, so no edge is lost.
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_WOULD_BLOCK = (BlockingIOError, InterruptedError)
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = struct.pack("ii", 1, 0)


class Mover:
    """All pumps of one sandbox. Opens nothing that an execve keeps."""

    def __init__(self, plan: Sequence[Pump]) -> None:
        """Listen outside, and take hold of the folders of unix sockets. Raises OSError (EADDRINUSE: take another port)."""
        self._epoll = select.epoll()
        self._buffer = bytearray(CHUNK_BYTES)
        self._listeners: dict[int, _Listener] = {}
        self._halves: dict[int, _Half] = {}
        self._full: set[_Listener] = set()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._detach: Callable[[], None] = lambda: None
        self._inside: list[_Listener] = []
        try:
            for pump in plan:
                listener = _Listener(pump)
                if pump["in"] == "host":
                    self._open(listener)
                else:
                    self._inside.append(listener)
        except BaseException:
            self.close()
            raise

    def listen_inside(self) -> None:
        """Open what listens inside; the process is in the sandbox's network namespace now. Raises OSError."""
        while self._inside:
            self._open(self._inside.pop(0))
        _raise_descriptor_limit()

    def __len__(self) -> int:
        """How many connections there are now."""
        return len(self._halves) // 2

    # -- the loop --------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Readable when `turn` has something to do."""
        return self._epoll.fileno()

    def wait_s(self) -> float | None:
        """Seconds after which `turn` wants to be called even though nothing is readable; None: never."""
        return max(0.0, min(at for at, _ in self._later) - time.monotonic()) if self._later else None

    def turn(self) -> None:
        """Do what can be done without waiting, at most some megabytes of it."""
        now = time.monotonic()
        due = [do for at, do in self._later if at <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for do in due:
            do()
        for fd, event in self._epoll.poll(0):
            if fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd in self._halves:
                self._serve(self._halves[fd], event)

    def attach(self, loop: Any) -> None:
        """Let an asyncio loop call `turn`, until `close`."""
        timer: list[Any] = []

        def step() -> None:
            while timer:
                timer.pop().cancel()
            self.turn()
            wait_s = self.wait_s()
            if wait_s is not None:
                timer.append(loop.call_later(wait_s, step))

        def detach() -> None:
            loop.remove_reader(self.fileno())
            while timer:
                timer.pop().cancel()

        loop.add_reader(self.fileno(), step)
        self._detach = detach
        step()

    def close(self) -> None:
        """Close every socket, and remove the unix sockets that it listened on. May be repeated."""
        if self._epoll.closed:
            return
        self._detach()
        for half in list(self._halves.values()):
            half.sock.close()
        self._halves.clear()
        self._later.clear()
        for listener in [*self._listeners.values(), *self._inside, *self._full]:
            listener.close()
        self._listeners.clear()
        self._epoll.close()

    # -- connections -----------------------------------------------------------------------------------------------

    def _open(self, listener: _Listener) -> None:
        try:
            listener.open()
        except BaseException:
            listener.close()
            raise
        self._listeners[listener.sock.fileno()] = listener
        self._epoll.register(listener.sock.fileno(), select.EPOLLIN)

    def _accept(self, listener: _Listener) -> None:
        for _ in range(_ACCEPTS):
            if listener.connections >= listener.limit:
                self._pause(listener)
                return
            try:
                accepted, _ = listener.sock.accept()
            except _WOULD_BLOCK:
                return
            except OSError as exc:
                if exc.errno in _NO_MORE:
                    self._pause(listener)
                    self._again(lambda: self._resume(listener))
                    return
                continue  # that one connection broke before it was accepted
            self._connect(listener, accepted)

    def _pause(self, listener: _Listener) -> None:
        if listener not in self._full:
            self._full.add(listener)
            self._epoll.unregister(listener.sock.fileno())

    def _resume(self, listener: _Listener) -> None:
        if listener in self._full:
            self._full.discard(listener)
            self._epoll.register(listener.sock.fileno(), select.EPOLLIN)

    def _connect(self, listener: _Listener, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            onward, connected = listener.connect()
        except OSError as exc:
            if exc.errno == errno.EAGAIN:  # a unix socket with a full queue; the kernel tells nobody when it is not
                listener.connections += 1
                self._again(lambda: self._retry(listener, accepted))
            else:
                _reset(accepted)
            return
        listener.connections += 1
        near, far = _Half(accepted, listener), _Half(onward, listener)
        near.other, far.other = far, near
        far.connecting = not connected
        for half in (near, far):
            _without_delay(half.sock)
            self._halves[half.sock.fileno()] = half
            self._epoll.register(half.sock.fileno(), _EDGES)

    def _retry(self, listener: _Listener, accepted: socket.socket) -> None:
        listener.connections -= 1
        self._connect(listener, accepted)

    def _again(self, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + AGAIN_S, do))

    def _serve(self, half: _Half, event: int) -> None:
        near, far = (half.other, half) if half.connecting else (half, half.other)
        if far.connecting:
            if half is not far:  # nothing is read before there is somebody to give it to
                return
            if far.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                self._drop(half, reset=True)
                return
            if not event & select.EPOLLOUT:
                return
            far.connecting = False
        try:
            self._move(near, far)
            self._move(far, near)
        except OSError:
            self._drop(half, reset=True)
            return
        half.hung |= bool(event & select.EPOLLHUP)
        for one in (near, far):
            if one.hung and one.ended:  # it neither speaks nor listens any more
                one.other.finished, one.other.unsent = True, b""
        if near.finished and far.finished and not (near.unsent or far.unsent):
            self._drop(half)

    def _move(self, source: _Half, target: _Half) -> None:
        """Move what `source` says until one of them would block. Raises OSError where `source` is broken."""
        for _ in range(TURN_CHUNKS):
            if source.finished:
                return
            if source.unsent:
                source.unsent = source.unsent[self._send(source, target, source.unsent) :]
                if source.unsent:
                    return
            if source.ended:
                source.finished = True
                with contextlib.suppress(OSError):  # it is gone: then it has no use for an end
                    target.sock.shutdown(socket.SHUT_WR)
                return
            try:
                count = source.sock.recv_into(self._buffer)
            except _WOULD_BLOCK:
                return
            if count == 0:
                source.ended = True
                continue
            with memoryview(self._buffer)[:count] as view:
                sent = self._send(source, target, view)
                source.unsent = b"" if sent == count else bytes(view[sent:])
        # There may be more: ask for the edge again, so that the other connections come first.
        self._epoll.modify(source.sock.fileno(), _EDGES)

    def _send(self, source: _Half, target: _Half, data: Any) -> int:
        """How much of `data` is dealt with: all of it where `target` does not listen any more."""
        try:
            return target.sock.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError:
            source.finished = True  # what `target` said before may still be on its way back
            return len(data)

    def _drop(self, half: _Half, *, reset: bool = False) -> None:
        for one in (half, half.other):
            self._halves.pop(one.sock.fileno(), None)
            if reset:
                _reset(one.sock)
            else:
                one.sock.close()
        half.listener.connections -= 1
        self._resume(half.listener)


class _Half:
    """One socket of a connection. ended: it will say nothing more. finished: and the other one knows. hung: it is
    closed on both ways."""

    __slots__ = ("connecting", "ended", "finished", "hung", "listener", "other", "sock", "unsent")

    other: _Half

    def __init__(self, sock: socket.socket, listener: _Listener) -> None:
        self.sock = sock
        self.listener = listener
        self.unsent = b""
        self.connecting = self.ended = self.finished = self.hung = False


class _Listener:
    """Where connections come in, and where each goes on to."""

    def __init__(self, pump: Pump) -> None:
        self._listen: End = pump["listen"]
        self._to: End = pump["to"]
        self.limit: int = pump.get("limit") or LIMIT
        self.connections = 0
        self.sock: socket.socket = None  # type: ignore[assignment]
        self._folder = -1
        if "unix" in self._to:
            # The folder, not the socket: it stays when the socket is made anew, and who holds it needs no rights to
            # the way there. O_PATH takes no rights to open but those to walk.
            self._folder = os.open(self._to["unix"].rpartition("/")[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self) -> None:
        if "fd" in self._listen:
            self.sock = socket.socket(fileno=self._listen["fd"])
            self.sock.set_inheritable(False)
        else:
            family, address = _family(self._listen)
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
                sock.listen(_BACKLOG)
            except OSError:
                sock.close()
                raise
            self.sock = sock
        self.sock.setblocking(False)

    def connect(self) -> tuple[socket.socket, bool]:
        """A socket to where it goes on, and whether it is connected already. Raises OSError when refused at once."""
        family, address = _family(self._to)
        if family == socket.AF_UNIX:
            address = f"/proc/self/fd/{self._folder}/{self._to['unix'].rpartition('/')[2]}"
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            error = sock.connect_ex(address)
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except BaseException:
            sock.close()
            raise
        return sock, error == 0

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        if self.sock is not None:
            self.sock.close()
            if "unix" in self._listen:
                with contextlib.suppress(OSError):
                    os.unlink(self._listen["unix"])


def _family(end: End) -> tuple[int, Any]:
    if "unix" in end:
        return socket.AF_UNIX, end["unix"]
    ip, port = end["tcp"]
    return (socket.AF_INET6 if ":" in ip else socket.AF_INET), (ip, port)


def _without_delay(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(sock: socket.socket) -> None:
    """Close so that the other side sees an error, not an orderly end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def _raise_descriptor_limit() -> None:
    """Two descriptors a connection are soon more than the 1024 that a process gets by habit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * LIMIT + _RESERVED_FDS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
