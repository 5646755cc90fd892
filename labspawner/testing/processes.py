"""Whether a process lives, for tests that end some: one may go between any two looks at it."""

from __future__ import annotations

import psutil


def lives(process: psutil.Process) -> bool:
    """Whether this very process is there and no zombie; not another one that was given its number."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def alive(pid: int) -> bool:
    """Whether there is a process of this number, and it is no zombie."""
    try:
        return lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
