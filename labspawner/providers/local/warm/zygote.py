"""The parent of keepers: imports, then forks once for each connection that the hub hands over. Standard library only.

It never reads what is on a connection: that is done by the fork, so no student's secret is ever in its memory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

from . import linux, preload, wire


def serve(settings_json: str) -> socket.socket | None:
    """Fork for each connection until the hub is gone. In a fork: its connection; in the zygote, at the end: None.

    settings: {"control": descriptor, "warm": whether to import at all, "path": folders for the front of sys.path}.
    """
    os.environ.pop("LD_PRELOAD", None)  # what it names is mapped; nothing that a fork executes is to look for it
    settings = json.loads(settings_json)
    sys.argv[:] = [sys.argv[0]]
    control = socket.socket(fileno=settings["control"])
    os.set_inheritable(control.fileno(), False)
    linux.show_command(["labspawner-zygote", sys.executable], "lab-zygote")
    if settings["warm"] and not _warm_up(control, settings["path"]):
        return None
    if not settings["warm"]:
        _import_for_keepers()
        wire.say(control, ready=True, watched={"": None})
    waking, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        readable = select.select([control.fileno(), waking], [], [])[0]
        if waking in readable:
            os.read(waking, 4096)
            _reap()
        if control.fileno() not in readable:
            continue
        try:
            byte, descriptors = wire.receive_descriptors(control, 1)
        except OSError:
            byte, descriptors = b"", []
        if not byte:
            return None
        for descriptor in descriptors:
            if _fork() == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                linux.close_all(3, keep=descriptors)
                control.detach()
                return socket.socket(fileno=descriptor)
            os.close(descriptor)


def _warm_up(control: socket.socket, path: list[str]) -> bool:
    sys.path[:0] = path
    watched = preload.watched()
    _import_for_keepers()
    try:
        preload.preload()
    except preload.CannotFork as exc:
        wire.say(control, ready=False, why=str(exc), watched=watched)
        return False
    return wire.say(control, ready=True, watched=watched)


def _import_for_keepers() -> None:
    from . import fresh, keeper, server  # noqa: F401 - so that no fork imports them


def _fork() -> int:
    try:
        return os.fork()
    except OSError as exc:  # no room for another process: the hub sees its connection end
        print(f"labspawner zygote: cannot fork: {exc}", file=sys.stderr, flush=True)
        return -1


def _reap() -> None:
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
