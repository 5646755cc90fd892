"""What a server prints, on its way to its log: bounded, however much it is. Standard library only.

The server has a pipe, never the log itself, so it can neither cut nor inflate it, nor fill the hub's disk.
"""

from __future__ import annotations

import asyncio
import os

_CHUNK = 65536
_PAUSE_S = 0.002  # so that a flood costs the keeper, which no limit holds, next to nothing
_DROPPED = b"[the beginning was dropped]\n"


class Talk:
    """A pipe to a log. log: a descriptor in append mode; limit_bytes: when the log gets longer, its last part is kept."""

    def __init__(self, log: int, limit_bytes: int) -> None:
        self._log, self._limit_bytes = log, limit_bytes
        self._keep_bytes = max(1, min(_CHUNK, limit_bytes // 2))
        self._recent = b""
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading, False)

    def speak(self, uid: int | None) -> None:
        """In the server: print to the pipe from now on. uid: whose the pipe is to be, so that /dev/stderr can be opened."""
        if uid is not None:
            os.fchown(self._writing, uid, uid)
        for number in (1, 2):
            os.dup2(self._writing, number)

    def listen(self) -> None:
        """In the keeper, once the server has its end."""
        os.close(self._writing)
        self._writing = -1

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move what is printed from now on, by this event loop."""
        loop.add_reader(self._reading, self._move, loop)

    def drain(self) -> None:
        """Move what is in the pipe; when everybody who could print is gone, that is all there will be."""
        for _ in range(16):
            if not self._some():
                return

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._reading)
        if self._some():
            loop.call_later(_PAUSE_S, self.attach, loop)

    def _some(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._reading, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        self._recent = (self._recent + data)[-self._keep_bytes :]
        try:
            if os.fstat(self._log).st_size + len(data) > self._limit_bytes:
                os.ftruncate(self._log, 0)
                data = _DROPPED + self._recent.partition(b"\n")[2]
            while data:
                data = data[os.write(self._log, data) :]
        except OSError:  # a full disk: what is printed is lost, and the server goes on
            pass
        return True
