"""What a server is used for, and how much of its host it takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from labspawner.sentences import Sentence


class WorkKind(str, Enum):
    """What keeps a server busy: a cell that runs, or a program in the foreground of a terminal."""

    KERNEL = "kernel"
    TERMINAL = "terminal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One thing that a server is busy with. what: the notebook's path, or the command; as the student named it."""

    kind: WorkKind
    what: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Evidence of use, newest first known. None: whoever reports cannot tell; it is never read as idle.

    taken_at, valid_until: of a report from inside the server: when it was made, and how long it may be believed. None:
      a provider's own knowledge, which stands beside the hub's and does not replace it.
    last_activity: the newest real use: a cell begun or ended, terminal input, a saved file, keys or mouse. An open page
      is none.
    work: what runs, the longest first; a few of `work_count`. A cell that waits for input is no work: `waiting`.
    clients: open pages. unsaved: documents with changes. gpu_last_busy: the slice's last work. gpu_refusals: how often
      its programs were refused memory of it, as the server counts.
    """

    last_activity: datetime | None = None
    busy: bool | None = None
    evidence: str = ""
    taken_at: datetime | None = None
    valid_until: datetime | None = None
    work: tuple[Work, ...] = ()
    work_count: int = 0
    waiting: int = 0
    clients: int | None = None
    unsaved: int = 0
    gpu_last_busy: datetime | None = None
    gpu_refusals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLook:
    """What the host measured of a server's processes: looked at without a gap from `since` to `looked_at`.

    last_busy: the last look at which they had used the processor noticeably; None: at none of them.
    """

    since: datetime
    looked_at: datetime
    last_busy: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of the use of one server beside the hub's own `last_activity`.

    expected: its host starts servers with our extension, so a missing report is a gap and not its nature.
    report: the last one, or None. host: None where the host cannot be asked.
    extended_until, held_until: the student's wish; idleness does not end the server before.
    warned_at: when the last warning before the end was given to the server.
    """

    expected: bool = False
    report: Activity | None = None
    host: HostLook | None = None
    extended_until: datetime | None = None
    held_until: datetime | None = None
    warned_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRefusal:
    """Memory that a slice had not. count: how often that happened so far. words, hints: what the student reads of the
    last time, and may do."""

    at: datetime
    count: int
    words: Sentence
    hints: tuple[Sentence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUsage:
    """What a slice was used for. time_s: its time on the card, since its start. last_busy: the last work given to the
    card, or the slice's beginning. refused: what it could not give; None: it gave all."""

    memory_bytes: int
    memory_limit_bytes: int
    time_s: float = 0.0
    last_busy: datetime | None = None
    refused: GpuRefusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one server uses on its host now, all its processes together. None: it cannot be told.

    memory_bytes: memory of its own, and its part of what it shares. cpu_s: processor seconds since its start.
    memory_limit_bytes, cpu_limit (cores): what is enforced, not what was asked for. disk_bytes: what its home holds.
    gpu: of its slice, where it has one.
    """

    taken_at: datetime
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cpu_s: float | None = None
    cpu_limit: float | None = None
    processes: int | None = None
    disk_bytes: int | None = None
    disk_limit_bytes: int | None = None
    gpu: GpuUsage | None = None
