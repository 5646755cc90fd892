"""A mini guest's programs: the few that a hub, a recording or a test runs, in Python, without any process."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.seams import Exited, NoSuchProgram

_FOLDERS = ("/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/")
_KILLED = 9


@dataclass(slots=True)
class Files:
    """The files of a guest: disk outlives its power, memory (/run, /tmp, /dev/shm) does not."""

    disk: dict[str, bytes] = field(default_factory=dict)
    memory: dict[str, bytes] = field(default_factory=dict)

    def part(self, path: str) -> MutableMapping[str, bytes]:
        return self.memory if path.startswith(("/run/", "/tmp/", "/dev/shm/", "/var/run/")) else self.disk  # noqa: S108

    def read(self, path: str) -> bytes | None:
        return self.part(path).get(path)

    def write(self, path: str, content: bytes) -> bool:
        """False where there is no such folder: those that exist are the usual ones."""
        known = ("/home/", "/etc/", "/opt/", "/usr/", "/var/", "/srv/", "/run/", "/tmp/", "/dev/shm/")  # noqa: S108
        if not path.startswith(known):
            return False
        self.part(path)[path] = content
        return True


@dataclass(slots=True)
class _Streams:
    stdin: str
    out: str = ""
    err: str = ""


def _redirected(words: list[str]) -> tuple[list[str], str]:
    """The words without their redirection, and where the output goes; the errors stay errors."""
    for sign in (">", ">&"):
        if sign in words:
            at = words.index(sign)
            head, target = words[:at], words[at + 1]
            if head[-1:] == ["2"]:
                return head[:-1], ""
            return head, target if sign == ">" else "&2"
    return words, ""


class _Exit(Exception):
    def __init__(self, code: int | None, signal: int | None = None) -> None:
        super().__init__(code, signal)
        self.code, self.signal = code, signal


class Shell:
    """Runs programs of one guest. cloud_init: what `cloud-init status` says now."""

    def __init__(self, files: Files, clock: Clock, hostname: str, cloud_init: Callable[[], str]) -> None:
        self._files, self._clock, self._hostname, self._cloud_init = files, clock, hostname, cloud_init
        self._programs: dict[str, Callable[[Sequence[str], _Streams], Awaitable[int]]] = {
            "true": self._true, "false": self._false, "echo": self._echo, "cat": self._cat, "sleep": self._sleep,
            "date": self._date, "uname": self._uname, "hostname": self._say_hostname, "cloud-init": self._cloud,
            "test": self._test, "rm": self._rm, "id": self._id, "systemctl": self._true,
        }  # fmt: skip

    def has(self, path: str) -> bool:
        """Whether there is such a program; a path, or a name that PATH has."""
        name = path.rpartition("/")[2]
        inside = path == name or path[: -len(name)] in _FOLDERS
        return inside and (name in self._programs or name in ("sh", "bash"))

    async def run(self, command: Sequence[str], stdin: bytes) -> Exited:
        """What the program leaves behind. Raises NoSuchProgram."""
        if not self.has(command[0]):
            raise NoSuchProgram(command[0])
        name = command[0].rpartition("/")[2]
        streams = _Streams(stdin.decode("utf-8", "replace"))
        try:
            if name in ("sh", "bash"):
                script = command[2] if len(command) > 2 and command[1] == "-c" else streams.stdin
                code = await self._script(script, streams)
            else:
                code = await self._programs[name](command[1:], streams)
        except _Exit as over:
            return Exited(exitcode=over.code, signal=over.signal, out=streams.out, err=streams.err)
        return Exited(exitcode=code, out=streams.out, err=streams.err)

    async def _script(self, script: str, streams: _Streams) -> int:
        code = 0
        words = shlex.shlex(script.replace("\n", ";"), posix=True, punctuation_chars=";&|><")
        words.whitespace_split = True
        line: list[str] = []
        skip = False
        for word in [*words, ";"]:
            if word not in (";", "&&", "||"):
                line.append(word)
                continue
            if line and not skip:
                code = await self._line(line, streams)
            skip = (word == "&&" and code != 0) or (word == "||" and code == 0)
            line = []
        return code

    async def _line(self, words: list[str], streams: _Streams) -> int:
        words, target = _redirected(words)
        if words[0] == "exit":
            raise _Exit(int(words[1]) if len(words) > 1 else 0)
        if words[0] == "kill" and words[-1] == "$$":
            raise _Exit(None, _KILLED)
        program = self._programs.get(words[0].rpartition("/")[2])
        if program is None:
            streams.err += f"sh: 1: {words[0]}: not found\n"
            return 127
        inner = _Streams(streams.stdin)
        code = await program(words[1:], inner)
        streams.err += inner.err
        if target == "&2":
            streams.err += inner.out
        elif target and target != "/dev/null":
            self._files.write(target, inner.out.encode())
        else:
            streams.out += inner.out
        return code

    async def _true(self, words: Sequence[str], streams: _Streams) -> int:
        return 0

    async def _false(self, words: Sequence[str], streams: _Streams) -> int:
        return 1

    async def _echo(self, words: Sequence[str], streams: _Streams) -> int:
        streams.out += " ".join(words) + "\n"
        return 0

    async def _cat(self, words: Sequence[str], streams: _Streams) -> int:
        if not words:
            streams.out += streams.stdin
        for path in words:
            found = self._files.read(path)
            if found is None:
                streams.err += f"cat: {path}: No such file or directory\n"
                return 1
            streams.out += found.decode("utf-8", "replace")
        return 0

    async def _sleep(self, words: Sequence[str], streams: _Streams) -> int:
        await self._clock.sleep(float(words[0]) if words else 0.0)
        return 0

    async def _date(self, words: Sequence[str], streams: _Streams) -> int:
        now = self._clock.now()
        streams.out += f"{int(now)}{int(now % 1 * 1e9):09d}\n" if words[:1] == ["+%s%N"] else f"{int(now)}\n"
        return 0

    async def _uname(self, words: Sequence[str], streams: _Streams) -> int:
        streams.out += "6.1.0-50-cloud-amd64\n" if words[:1] == ["-r"] else "Linux\n"
        return 0

    async def _say_hostname(self, words: Sequence[str], streams: _Streams) -> int:
        streams.out += self._hostname + "\n"
        return 0

    async def _cloud(self, words: Sequence[str], streams: _Streams) -> int:
        while "--wait" in words and self._cloud_init() == "running":
            await self._clock.sleep(0.5)
        said = self._cloud_init()
        streams.out += f"status: {said}\n"
        return {"error": 1, "degraded": 2}.get(said, 0)

    async def _test(self, words: Sequence[str], streams: _Streams) -> int:
        path = words[-1] if words else ""
        return 0 if self.has(path) or self._files.read(path) is not None else 1

    async def _rm(self, words: Sequence[str], streams: _Streams) -> int:
        for path in words:
            self._files.part(path).pop(path, None)
        return 0

    async def _id(self, words: Sequence[str], streams: _Streams) -> int:
        streams.out += "uid=0(root) gid=0(root) groups=0(root)\n"
        return 0
