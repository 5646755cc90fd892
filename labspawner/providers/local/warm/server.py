"""The server: from a fork of the keeper to a program in its sandbox, with no right that it was not given.

Standard library only.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import resource
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

from . import fresh, linux, seccomp

_FAILED = 1


class Unable(Exception):
    """The server cannot be started; the text says why."""


class Job:
    """What is left to do in the server's own process. pipe: written to on failure, closed when the program runs."""

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self.request = request
        self.pipe = pipe


def adopt(request: dict[str, Any], pipe: int, inside: linux.Namespaces | None) -> Job:
    """In the fork: enter the sandbox and drop every right. Ends the process where that fails."""
    try:
        join(request["inside_files"])
        apply_limits(request)
        if inside is not None:
            inside.enter("cgroup", "ipc", "uts", "net", "mnt", "user")
            inside.close()
            linux.drop_bounding_set()
        become(request)
        if inside is not None:
            seccomp.confine()
        else:  # no kernel's promise stands behind the keeper's end
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
        os.setsid()
        os.umask(request["umask"])
        os.chdir(request["cwd"])
        _clear_signals()
        linux.close_all(3, keep=[pipe])
        return Job(request, pipe)
    except Exception as exc:
        _give_up(pipe, exc)


def in_words(exc: BaseException) -> str:
    """What went wrong, without the number that travels beside it."""
    if not isinstance(exc, OSError) or not exc.strerror:
        return str(exc) or type(exc).__name__
    return exc.strerror if exc.filename is None else f"{exc.strerror}: {exc.filename}"


def join(files: list[str]) -> None:
    """Move this process into the control groups of these `cgroup.procs` files."""
    for path in files:
        with open(path, "w") as file:
            file.write("0")


def apply_limits(request: dict[str, Any]) -> None:
    """Resource limits and priority, while we may still raise them. Raises ValueError for an unknown one."""
    for name, (soft, hard) in request["rlimits"].items():
        number = getattr(resource, name, None)
        if not name.startswith("RLIMIT_") or number is None:
            raise ValueError(f"no such limit: {name}")
        resource.setrlimit(number, (soft, hard))
    if request["nice"]:
        os.nice(request["nice"])
    if request["oom_score_adj"] is not None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(request["oom_score_adj"]))


def become(request: dict[str, Any]) -> None:
    """Take the account's uid and gid and no groups, where the hub is root; without a sandbox and an account, nothing.

    No capability is left afterwards. In a user namespace of its own, a process is its account already.
    """
    account = request["account"]
    if account is not None and not request["user_namespace"]:
        os.setgroups([])
        os.setresgid(account["gid"], account["gid"], account["gid"])
        os.setresuid(account["uid"], account["uid"], account["uid"])
    if account is not None or request["sandbox"] is not None:
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # so that the hub, as the same user, may read what the process shows


def run(job: Job) -> NoReturn:
    """Be the program of the request: a server in this interpreter, or another program in this process's place."""
    request, argv = job.request, job.request["argv"]
    if not request["warm"]:
        try:
            _restore_for_exec()
            os.execvpe(argv[0], argv, request["environment"])  # noqa: S606 - the administrator's command
        except (OSError, ValueError) as exc:
            _give_up(job.pipe, exc)
    fresh.renew(request["environment"], argv[request["words"] - 1 :], list(sys.path))
    linux.show_environment(request["marks"])
    linux.show_command(argv, "jupyterhub-sing")
    pipe = job.pipe
    job.request.clear()
    os.close(pipe)
    _leave(_call())


def _call() -> int:
    """Run the server; its exit status."""
    try:
        importlib.import_module("jupyterhub.singleuser").main()
    except SystemExit as exc:
        if exc.code is None or isinstance(exc.code, int):
            return exc.code or 0
        print(exc.code, file=sys.stderr)
        return _FAILED
    except BaseException:
        traceback.print_exc()
        return _FAILED
    return 0


def _leave(code: int) -> NoReturn:
    """End as an interpreter ends, but without visiting every object: that would copy all the memory that is shared."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF)


def _clear_signals() -> None:
    for number in range(1, signal.NSIG):
        try:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            if number not in {signal.SIGPIPE, getattr(signal, "SIGXFSZ", 0)}:  # ignored, as Python has them
                signal.signal(number, default)
        except (OSError, ValueError):  # SIGKILL, SIGSTOP and the C library's own
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _restore_for_exec() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _give_up(pipe: int, exc: Exception) -> NoReturn:
    number = exc.errno if isinstance(exc, OSError) and exc.errno else errno.EINVAL
    os.write(pipe, f"{number} {in_words(exc)}".encode(errors="replace")[:4000])
    os._exit(127)
