"""Waiting for tasks: a UPID means queued, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from labspawner.providers.proxmox.answers import TaskEnd, TaskSeen
from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace

Heard: TypeAlias = Callable[[float | None, str], None]
"""Told of what a task logs: percent, where it says one, and the line."""


class Tasks:
    """The tasks of one cluster."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, at_once: int = 2) -> None:
        raise NotImplementedError

    async def end(self, upid: str, *, within_s: float, heard: Heard | None = None) -> TaskEnd:
        """How it ended, which may be badly: no exception for that. heard: of progress; asking for it costs requests, so only
        for tasks that are worth it. Raises PveSilent(sent=True) when that is not known after `within_s`: the task may still
        run, or its node is away; look at the VM itself. Raises PveRefused where we may not ask."""
        raise NotImplementedError

    async def recent(self, node: str, vmid: int, kind: str, since: float) -> list[TaskSeen]:
        """Our tasks of one kind for one VM since an instant (epoch seconds), running ones too, the newest first. For a POST
        that may have been done. kind: "qmclone" (of the template's id), "qmstart" ... Raises PveRefused and PveSilent."""
        raise NotImplementedError

    async def log(self, upid: str, lines: int = 20) -> tuple[str, ...]:
        """Its last lines; none where they cannot be had."""
        raise NotImplementedError

    async def stop(self, upid: str) -> None:
        """Ask it to end; a clone cleans up after itself. Raises PveRefused and PveSilent."""
        raise NotImplementedError
