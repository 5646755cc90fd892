"""The life of one server, outside its sandbox: made before it, ended with it. Standard library only.

The keeper alone holds the pipe that the sandbox reads: when the keeper ends, however that happens, the kernel ends all
that is in the sandbox. It outlives the hub.

A request (JSON): argv, environment, cwd, umask, warm; account ({"uid", "gid"} or null: who this process is already);
sandbox (bubblewrap's command line without the command, or null), user_namespace; outside_files, inside_files (control
groups to join, by writing "0"); rlimits ({"RLIMIT_CORE": [soft, hard]}), nice, oom_score_adj (or null); marks; title;
log_bytes (how long the log may get; on the plain rung the server writes to it itself);
network (a plan for pumps.py, or null); words (how many words of argv name the single-user server).
Descriptors: the log.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NoReturn

from . import linux, wire
from .server import Job, Unable, adopt, become, in_words, join
from .talk import Talk

# Says when it is inside, then lives until its stdin ends. A shell that waits, as process 1, buries the orphans it inherits.
_HOLDER = "echo; exec >/dev/null 2>&1; cat; exit 0"
_SANDBOX_S = 60.0
_AFTERMATH_S = 5.0
_FORWARDED = (signal.SIGTERM, signal.SIGINT)


def keep(connection: socket.socket) -> Job:
    """Make the sandbox and the server, and stay until the server ends. Comes back in the server only."""
    try:
        os.setsid()
        request, descriptors = wire.receive_request(connection)
        _take_over(request, descriptors)
    except (OSError, ValueError, KeyError, wire.Broken) as exc:
        _give_up(connection, exc)
    if not wire.say(connection, keeper=os.getpid()):
        os._exit(1)
    keeper = _Keeper(connection, request)
    try:
        job = keeper.start()
    except (OSError, ValueError, Unable) as exc:
        keeper.take_down()
        _give_up(connection, exc)
    return job if job is not None else keeper.stay()


def _take_over(request: dict[str, Any], descriptors: list[int]) -> None:
    """Show whose keeper this is, and write to the server's log from now on."""
    os.environ.clear()  # before its texts are overwritten: the C library looks for names in them
    os.environ.update({"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **request["marks"]})
    linux.show_environment(request["marks"])
    linux.show_command(["labspawner-keeper", request["title"]], "lab-keeper")
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, descriptors[0]), (2, descriptors[0])):
        os.dup2(source, target)
    for descriptor in (null, *descriptors):
        os.close(descriptor)


def _give_up(connection: socket.socket, exc: BaseException) -> NoReturn:
    wire.say(connection, failed=in_words(exc), errno=getattr(exc, "errno", None))
    os._exit(1)


class _Keeper:
    def __init__(self, connection: socket.socket, request: dict[str, Any]) -> None:
        self._connection = connection
        self._request = request
        self._holder: subprocess.Popen[bytes] | None = None
        self._inside: linux.Namespaces | None = None
        self._pumps: Any = None
        self._talk: Talk | None = None
        self._server = 0

    def start(self) -> Job | None:
        """The job in the server; None in the keeper, once the server runs and the hub has noted it."""
        request = self._request
        join(request["outside_files"])
        if request["sandbox"] is not None:
            pid = self._hold(request["sandbox"])
            self._inside = linux.Namespaces(pid)
            self._open_network(pid)
            self._inside.enter("pid")  # for children: the server is this process's own child, and counts from inside
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGCHLD, *_FORWARDED}
        )  # after the helpers, who would inherit it
        reading, writing = os.pipe()
        if self._pumps is not None:  # else nobody would listen
            self._talk = Talk(1, request["log_bytes"])
        self._server = os.fork()
        if self._server == 0:
            if self._talk is not None:
                new_uid = request["account"] is not None and not request["user_namespace"]
                self._talk.speak(request["account"]["uid"] if new_uid else None)
            self._connection.close()
            os.close(reading)
            return adopt(request, writing, self._inside)
        os.close(writing)
        if self._talk is not None:
            self._talk.listen()
        if self._inside is not None:
            self._inside.close()
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()  # ends when the server runs
        if said:
            raise _unable(said)
        become(request)
        self._await_go()
        return None

    def _hold(self, command: list[str]) -> int:
        """Start the process that keeps the sandbox alive, and the first one in it; the latter's pid outside."""
        info, info_end = os.pipe()
        errors = os.memfd_create("bwrap-errors", os.MFD_CLOEXEC)
        argv = [command[0], "--info-fd", str(info_end), *command[1:]]
        self._holder = subprocess.Popen(  # noqa: S603 - the provider's own layout
            [*argv, "--", "/bin/sh", "-c", "echo; exec >/dev/null 2>&1; cat; exit 0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[info_end],
        )
        os.close(info_end)
        try:
            ready = _read_until(self._holder.stdout.fileno(), b"\n")  # type: ignore[union-attr]
            if not ready:
                os.lseek(errors, 0, os.SEEK_SET)
                raise Unable(f"sandbox: {os.read(errors, 4096).decode(errors='replace').strip() or 'no answer'}")
            return int(json.loads(os.read(info, 65536))["child-pid"])
        finally:
            os.close(info)
            os.close(errors)
            self._holder.stdout.close()  # type: ignore[union-attr]

    def _open_network(self, pid: int) -> None:
        assert self._inside is not None
        plan = self._request["network"]
        if plan is not None:
            from .pumps import Pumps

            self._pumps = Pumps(plan)
            self._pumps.open_outside(pid)
        self._inside.enter("net")
        if self._pumps is not None:
            self._pumps.open_inside()

    def _await_go(self) -> None:
        """Say which process the server is, and return when the hub has noted it. Raises Unable when it has not."""
        wire.say(self._connection, server=self._server)
        try:
            answer = self._connection.recv(1)
        except OSError:
            answer = b""
        if answer != wire.GO:
            raise Unable("the hub went away during the start")

    def stay(self) -> NoReturn:
        """Until the server ends; then end with its status, when nothing of it is left."""
        if self._pumps is None:
            while not self._ended(signal.sigwait({signal.SIGCHLD, *_FORWARDED})):
                pass
        else:
            asyncio.run(self._stay_with_pumps())
        code = self._code
        self.take_down()
        wire.say(self._connection, exited=code)
        os._exit(code if code >= 0 else 128 - code)

    def _ended(self, number: int) -> bool:
        if number in _FORWARDED:
            _signal(self._server, number)
            return False
        pid, status = os.waitpid(self._server, os.WNOHANG)
        if pid == 0:
            return False
        self._server, self._code = 0, os.waitstatus_to_exitcode(status)
        return True

    async def _stay_with_pumps(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def on(number: int) -> None:
            if self._server and self._ended(number):
                ended.set()

        for number in (signal.SIGCHLD, *_FORWARDED):
            loop.add_signal_handler(number, on, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *_FORWARDED})
        on(signal.SIGCHLD)  # what was blocked until now may have been lost on the way to the loop
        pumping = asyncio.ensure_future(self._pumps.run())
        if self._talk is not None:
            self._talk.attach(loop)
        await ended.wait()
        pumping.cancel()
        await asyncio.wait([pumping], timeout=_AFTERMATH_S)
        self._pumps = None

    def take_down(self) -> None:
        """End the server and all that is in its sandbox."""
        if self._server:
            _signal(self._server, signal.SIGKILL)
            os.waitpid(self._server, 0)
            self._server = 0
        if self._pumps is not None:
            self._pumps.close()
        if self._holder is not None:
            self._holder.stdin.close()  # type: ignore[union-attr]
            try:
                self._holder.wait(timeout=_AFTERMATH_S)
            except subprocess.TimeoutExpired:
                self._holder.kill()
                self._holder.wait()
        if self._talk is not None:
            self._talk.drain()


def _unable(said: bytes) -> OSError:
    number, _, text = said.decode(errors="replace").partition(" ")
    return OSError(int(number), text)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as exc:
        print(f"labspawner keeper: cannot signal the server: {exc}", file=sys.stderr, flush=True)


def _read_until(descriptor: int, end: bytes) -> bytes:
    """What is read up to `end`; nothing when the other side closes before, or time is up."""
    until, data = time.monotonic() + _SANDBOX_S, b""
    while not data.endswith(end):
        left = until - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b""
        some = os.read(descriptor, 4096)
        if not some:
            return b""
        data += some
    return data
