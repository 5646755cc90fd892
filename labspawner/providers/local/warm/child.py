"""One zygote process, as the hub that is its parent sees it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from labspawner.deadlines import finished, within
from labspawner.providers.local.warm.preload import state_of
from labspawner.providers.processes import adopt

Watched: TypeAlias = Mapping[str, "list[int] | None"]
"""Paths that an environment is made of, each with what changes when it does."""

PROGRAM = Path(__file__).parent / "program.py"
ROOM_BYTES = 8192
"""How much of its keepers' and servers' visible environment and command line has room: as much as its own has."""

_READY_S = 180.0
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_END_S = 5.0


class Refused(Exception):
    """This interpreter cannot be a zygote; the text says why. watched: until this changes, as far as is known."""

    def __init__(self, why: str, watched: Watched | None = None) -> None:
        super().__init__(why)
        self.watched: Watched = watched or {}


class Child:
    """A zygote that is ready. watched: what its environment was made of before it imported anything."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, watched: Watched) -> None:
        self.process = process
        self.watched = watched
        self._control = control

    @classmethod
    async def make(cls, interpreter: str, *, environment: Mapping[str, str], path: list[str], warm: bool) -> Child:
        """Start one, and wait until it is ready. Raises Refused; a caller that is cancelled leaves none."""
        ours, theirs = socket.socketpair()
        settings = {"control": theirs.fileno(), "warm": warm, "path": path}
        made: list[Child] = []

        async def run() -> None:
            process = await asyncio.to_thread(_popen, interpreter, settings, environment, theirs.fileno(), warm)
            made.append(cls(process, ours, {}))

        try:
            with theirs:
                await finished(run())
            answer = await within(_READY_S, made[0]._first_line())
            if not answer.get("ready"):
                raise Refused(str(answer.get("why", "it ended without a word")), answer.get("watched"))
        except BaseException as exc:
            ours.close()
            if made:
                await finished(made[0].end())
            if isinstance(exc, asyncio.TimeoutError):
                raise Refused(f"not ready after {_READY_S:g} s") from exc
            if isinstance(exc, OSError):
                raise Refused(f"cannot run {interpreter}: {exc}") from exc
            raise
        (child,) = made
        child.watched = answer["watched"]
        return child

    async def _first_line(self) -> dict[str, Any]:
        self._control.setblocking(False)
        loop, data = asyncio.get_running_loop(), b""
        while not data.endswith(b"\n"):
            some = await loop.sock_recv(self._control, 65536)
            if not some:
                return {}
            data += some
        answer: dict[str, Any] = json.loads(data)
        return answer

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def hand_over(self, connection: socket.socket) -> None:
        """Have a keeper forked for the other end of `connection`. Raises OSError where the zygote is gone."""
        socket.send_fds(self._control, [b"k"], [connection.fileno()])

    async def end(self) -> None:
        """End the zygote, and no server; may be repeated."""
        self._control.close()
        if not self.watched:  # still importing, so nobody is its child yet, and it would not look up for seconds
            self.process.kill()
        try:
            await asyncio.to_thread(self.process.wait, _END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)


def environment_changed(watched: Watched) -> str | None:
    """What an environment is made of that has changed since; None where nothing has. Blocks for a moment."""
    return next((path for path, state in watched.items() if state_of(path) != state), None)


def _popen(
    interpreter: str, settings: Mapping[str, Any], environment: Mapping[str, str], control: int, warm: bool
) -> subprocess.Popen[bytes]:
    options = ["-I"] if warm else ["-I", "-S"]
    real = os.path.realpath(interpreter)
    sealed = _sealed_copy(real) if warm and os.geteuid() != 0 and os.access(real, os.W_OK) else None
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - an administrator's interpreter
            [interpreter, *options, str(PROGRAM), json.dumps(settings), " " * ROOM_BYTES],
            executable=None if sealed is None else f"/proc/self/fd/{sealed}",
            env={**environment, "HOME": "/nonexistent", "LABSPAWNER_ROOM": "-" * ROOM_BYTES},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[control] if sealed is None else [control, sealed],
            start_new_session=True,
        )
    finally:
        if sealed is not None:
            os.close(sealed)
    adopt(process)
    return process


def _sealed_copy(path: str) -> int:
    """A descriptor of a copy that nobody can change.

    A fork's /proc/<pid>/exe leads to the file that was executed, past the sandbox's read-only mounts. Where the hub's
    user, whom its students are outside, owns that file, a student could write to it as soon as nobody executes it.
    """
    descriptor = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb") as source, os.fdopen(os.dup(descriptor), "wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
