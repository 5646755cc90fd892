"""What things are called: ids, handles, and the closed lists of phases, states, ways to release, roles and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, TypeAlias, Union

Json: TypeAlias = Union[None, bool, int, float, str, "list[Json]", "dict[str, Json]"]
LeaseId = NewType("LeaseId", str)


class Phase(str, Enum):
    """Where a lease is in its life.

    QUEUED -> LAUNCHING -> READY -> STOPPING -> ENDED, or STOPPING -> PARKED -> QUEUED again. STOPPING is entered from
    every phase but PARKED, and is left only when the provider said that nothing is held any more. What is parked stays
    PARKED until it is destroyed: its server may run another profile meanwhile.
    """

    QUEUED = "queued"
    LAUNCHING = "launching"
    READY = "ready"
    STOPPING = "stopping"
    PARKED = "parked"
    ENDED = "ended"


LIVE_PHASES = frozenset(Phase) - {Phase.ENDED}


class ServerState(Enum):
    """What a provider's listing says of one server. UNKNOWN: the host did not answer."""

    RUNNING = "running"
    GONE = "gone"
    UNKNOWN = "unknown"


class ReleaseMode(str, Enum):
    """STOP keeps the home (and a VM's disk), HIBERNATE keeps memory too, DESTROY keeps only the home."""

    STOP = "stop"
    HIBERNATE = "hibernate"
    DESTROY = "destroy"


class CourseState(str, Enum):
    """Who sees a course that is written in the console: its staff, those whom it names, or nobody any more."""

    DRAFT = "draft"
    PUBLISHED = "published"
    ARCHIVED = "archived"


class CourseRole(str, Enum):
    """What somebody is in a course. An assistant helps: sees all of it, and changes neither profiles nor roster."""

    MEMBER = "member"
    ASSISTANT = "assistant"
    INSTRUCTOR = "instructor"


class Feature(str, Enum):
    """What a provider can do beyond starting and stopping."""

    GPU_SLICES = "gpu-slices"
    PARK = "park"  # STOP keeps something of the server that a later launch resumes (a VM's disk)
    HIBERNATE = "hibernate"  # HIBERNATE keeps its memory too
    LOGS = "logs"
    CONSOLE = "console"
    ACTIVITY = "activity"
    REPORTS = "reports"  # its servers carry our extension, so that they report their use to the hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """All that is needed to find what a lease holds on a host, in any later hub process.

    data: JSON, the provider's own; at most a few KiB; no secrets.
    """

    lease_id: LeaseId
    provider: str
    data: Mapping[str, Json] = field(default_factory=dict)
