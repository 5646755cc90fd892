"""Ends what a double's pods have started when the double is gone, however it went. Standard library only.

Run by path with the double's mark and folder: it waits until its standard input is closed, which the kernel does when the
creator dies. Then it ends every process that carries the mark in its environment, children of children included, and
removes the folder. The functions are the double's own as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

MARK = "KUBE_DOUBLE_POD"  # <double>/<pod uid>/<container>/, in the environment of everything that a pod starts
_PATIENCE_S = 20.0


def marked(mark: str, *, name: str = MARK) -> list[int]:
    """The processes whose environment says that `name` begins with `mark`. Those of other users are not seen."""
    wanted, found = f"{name}={mark}".encode(), []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is wanted
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as source:  # noqa: PTH123
                variables = source.read()
            if (b"\0" + variables).find(b"\0" + wanted) >= 0 and not _is_dead(entry):
                found.append(int(entry))
        except OSError:
            continue  # it ended, or is not ours
    return found


def _is_dead(entry: str) -> bool:
    with open(f"/proc/{entry}/stat", "rb") as source:  # noqa: PTH123
        return source.read().rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"])


def end(mark: str, patience_s: float = _PATIENCE_S, *, name: str = MARK) -> list[int]:
    """Kill all that carry the mark, until there are none; those that are left when patience is over."""
    until = time.monotonic() + patience_s
    while left := marked(mark, name=name):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    return left


def main() -> None:  # pragma: no cover - runs with -I, out of coverage's sight
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    end(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
