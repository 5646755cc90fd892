"""What the provider asks for, and what it gets back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from labspawner.model import Json
from labspawner.providers.local.confinement import Account
from labspawner.providers.processes import Identity

SINGLEUSER = "jupyterhub-singleuser"
_MODULE = ("-m", "jupyterhub.singleuser")
_SHEBANG_BYTES = 512
_KILLED = -9


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """Everything about one start.

    environment: the server's whole environment, secrets included. marks: the part of it that may be seen in the process
    table; the process walk finds the server by it. title: whose server, for `ps`. cwd: as seen inside.
    output_fd: where the server writes; the caller closes its own after the start. log_bytes: how long that may get; in
    a sandbox only.
    account: whose the server becomes; None: the hub's own user, on the plain rung.
    user_namespace: as in `Confinement`. sandbox: bubblewrap's command line without the command; None: no sandbox.
    outside_files, inside_files: `cgroup.procs` files that keeper and server join.
    rlimits: name as in `resource`, soft and hard. network: a plan for pumps.py; only in a sandbox.
    warm: whether the server may be a fork of an interpreter that has imported JupyterLab already. Such a process has
    been through no `execve` in its sandbox: `/etc/ld.so.preload` works in what it starts, not in itself.
    loader: LD_PRELOAD and LD_LIBRARY_PATH that such an interpreter has to be started with, as paths of the host; it
    forgets LD_PRELOAD at once. What is executed instead of a fork gets none of this.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    marks: Mapping[str, str]
    title: str
    cwd: str
    output_fd: int
    account: Account | None = None
    user_namespace: bool = False
    sandbox: tuple[str, ...] | None = None
    outside_files: tuple[str, ...] = ()
    inside_files: tuple[str, ...] = ()
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    nice: int = 0
    oom_score_adj: int | None = None
    umask: int = 0o022
    network: Json = None
    log_bytes: int = 10 * 2**20
    warm: bool = True
    loader: Mapping[str, str] = field(default_factory=dict)

    def request(self, *, words: int) -> dict[str, object]:
        """As the keeper reads it. words: how many words of argv name the interpreter's program; 0: execute argv."""
        account = None if self.account is None else {"uid": self.account.uid, "gid": self.account.gid}
        return {
            "argv": list(self.argv),
            "words": words,
            "warm": words > 0,
            "environment": dict(self.environment),
            "marks": dict(self.marks),
            "title": self.title,
            "log_bytes": self.log_bytes,
            "cwd": self.cwd,
            "account": account,
            "user_namespace": self.user_namespace,
            "sandbox": None if self.sandbox is None else list(self.sandbox),
            "outside_files": list(self.outside_files),
            "inside_files": list(self.inside_files),
            "rlimits": {name: list(pair) for name, pair in self.rlimits.items()},
            "nice": self.nice,
            "oom_score_adj": self.oom_score_adj,
            "umask": self.umask,
            "network": self.network,
        }


@dataclass(kw_only=True)
class Started:
    """A server that was started. keeper: the process whose end is the server's. warm: it is a fork."""

    keeper: Identity
    server_pid: int
    warm: bool
    connection: socket.socket = field(repr=False)
    _status: int | None = None
    _said: bytes = b""

    def exit_status(self) -> int | None:
        """How the server ended, negative for a signal; None while it runs. -9 where its keeper was killed. Never blocks.

        Known to the hub that started it only.
        """
        if self._status is None:
            ended = self._read()
            for line in self._said.splitlines():
                with contextlib.suppress(ValueError):
                    self._status = json.loads(line).get("exited", self._status)
            if ended and self._status is None:
                self._status = _KILLED
            if self._status is not None:
                self.connection.close()
        return self._status

    def close(self) -> None:
        """Forget the server, which goes on; may be repeated."""
        self.connection.close()

    def _read(self) -> bool:
        try:
            while data := self.connection.recv(4096):
                self._said += data
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


@dataclass(frozen=True, slots=True)
class Program:
    """The single-user server of an interpreter. words: how many words of the command name it."""

    interpreter: str
    words: int


def program_of(argv: tuple[str, ...], path: str) -> Program | None:
    """Which interpreter's single-user server a command is; None for any other command. Reads a file."""
    if len(argv) >= 3 and argv[1:3] == _MODULE and PurePath(argv[0]).name.startswith("python"):
        found = shutil.which(argv[0], path=path)
        return None if found is None else Program(os.path.normpath(found), 3)
    if PurePath(argv[0]).name != SINGLEUSER:
        return None
    script = shutil.which(argv[0], path=path)
    interpreter = None if script is None else _interpreter_of(Path(script))
    return None if interpreter is None else Program(interpreter, 1)


def _interpreter_of(script: Path) -> str | None:
    """The interpreter that a script asks for; None where it is no Python, or asks in a way of its own."""
    try:
        with script.open("rb") as file:
            first = file.read(_SHEBANG_BYTES).partition(b"\n")[0].strip()
    except OSError:
        return None
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    if len(words) != 1 or not PurePath(words[0]).name.startswith("python") or not Path(words[0]).is_absolute():
        return None
    return os.path.normpath(words[0])
