"""What is known of a student's servers, as frozen values for the home page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from labspawner.model import Ending, GpuUsage, HeldSlice
from labspawner.sentences import Sentence


class ServerStatus(str, Enum):
    """What a server is doing, for its owner. PARKED: stopped, and the machine behind it is kept."""

    RUNNING = "running"
    STARTING = "starting"
    STOPPING = "stopping"
    PARKED = "parked"
    OFF = "off"


MOVING = frozenset({ServerStatus.RUNNING, ServerStatus.STARTING, ServerStatus.STOPPING})
"""What there is to do something about now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One click that puts off the stop. step_s: seconds that it adds. refused: why it cannot be clicked now."""

    step_s: float
    left_today: int
    refused: Sentence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """When the server ends by the rules of its profile, as they stand now. All instants carry a timezone.

    idle_since: its last use; idle_limit_s: seconds without use after which it is stopped; None: no such rule, or
    nothing is known of its use. idle_ends_at: when that rule stops it; None while something keeps it, which `kept`
    says. idle_cause: `idle`, or `gpu` where it is the GPU that does nothing. age_ends_at, age_limit_s: the end that no
    use puts off. held_until: its owner asked to keep it till then. hibernates: these rules put it to sleep, and its
    programs go on at the next start.
    """

    idle_since: datetime | None = None
    idle_limit_s: float | None = None
    idle_ends_at: datetime | None = None
    idle_cause: str = "idle"
    age_ends_at: datetime | None = None
    age_limit_s: float | None = None
    kept: Sentence | None = None
    held_until: datetime | None = None
    hibernates: bool = False
    extension: Extension | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What was last heard from inside the server. busy_since: of the kernel that is busy for longest.

    terminals: the commands that run in them. reported_at: None while the server never said anything.
    """

    reported_at: datetime | None = None
    busy_kernels: int = 0
    busy_since: datetime | None = None
    waiting_kernels: int = 0
    terminals: tuple[str, ...] = ()
    unsaved: int = 0
    watching: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the server uses of what it may use; None: it cannot be told, or there is no limit.

    cores: busy ones. measuring: how many is known from the next look on.
    """

    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cores: float | None = None
    cores_limit: float | None = None
    measuring: bool = False
    disk_bytes: int | None = None
    disk_limit_bytes: int | None = None
    gpu: GpuUsage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastEnd:
    """Why the last server of this name ended. title: text by language."""

    title: Mapping[str, str]
    ending: Ending
    at: datetime


@dataclass(frozen=True, slots=True)
class Said:
    """What course staff wrote to whoever uses a server: plain text, by whom, and when."""

    text: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The last choice. fields: what a form posts to start it; refused: why it cannot be started now."""

    title: Mapping[str, str]
    fields: tuple[tuple[str, str], ...] = ()
    refused: Sentence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Everything that is known of one server. since: when `status` began. title, course: text by language.

    held: its GPU slice. stage, percent: what its start does now. inside: None while nothing can be known of that.
    parked, kept_until: of a parked one, its lease and its end; free: nothing else runs under its name. desktop: it has a
      screen that may be opened. leaves_at: when the host under it is taken away.
      said: what course staff wrote, the oldest first.
    """

    name: str
    label: str
    status: ServerStatus
    title: Mapping[str, str] = field(default_factory=dict)
    course: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    held: HeldSlice | None = None
    stage: str | None = None
    percent: int = 0
    outlook: Outlook | None = None
    used: Used | None = None
    inside: Inside | None = None
    last_end: LastEnd | None = None
    again: Again | None = None
    parked: str = ""
    kept_until: datetime | None = None
    free: bool = False
    desktop: bool = False
    leaves_at: datetime | None = None
    said: tuple[Said, ...] = ()

    @property
    def key(self) -> str:
        """Tells the cards of a page apart: beside a parked server of a name another one may run."""
        return f"{self.name}.{self.parked}" if self.parked else self.name
