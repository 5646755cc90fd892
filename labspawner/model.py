"""What the rooms tell each other: frozen values, valid by construction, no behaviour beyond their own meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import ClassVar, NewType, TypeAlias, Union, cast
from urllib.parse import urlsplit

from labspawner.sentences import Sentence

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
class Slice:
    """A share of one GPU.

    memory_bytes: device memory the server may allocate; > 0.
    compute_pct: upper bound on kernel time, 1 to 100; best effort, not a reservation.
    Raises ValueError if out of range. Source for units: CUDA Driver API, `cuMemGetInfo` (bytes, not MiB).
    """

    memory_bytes: int
    compute_pct: int = 100

    def __post_init__(self) -> None:
        if self.memory_bytes <= 0 or not 1 <= self.compute_pct <= 100:
            raise ValueError(f"no such slice: memory_bytes={self.memory_bytes} compute_pct={self.compute_pct}")


class SliceTest(str, Enum):
    """What came of trying a slice out before its student got it. OFF: nobody wanted to know."""

    PASSED = "passed"
    FAILED = "failed"
    UNTESTED = "untested"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSlice:
    """The slice that a lease holds. A provider with `Feature.GPU_SLICES` keeps it in its handles, under `HeldSlice.KEY`.

    card: the UUID of the card, or MIG device. tested: the verdict on it, None until there is one; why: what it rests
    on, where it did not pass. pretended: there is no such card, and nothing is computed on it. courtesy: nothing but
    good manners keeps a program inside it.
    """

    KEY: ClassVar[str] = "gpu"

    card: str
    memory_bytes: int
    compute_pct: int = 100
    tested: SliceTest | None = None
    why: Sentence | None = None
    pretended: bool = False
    courtesy: bool = False

    def to_json(self) -> dict[str, Json]:
        return {
            "card": self.card,
            "memory_bytes": self.memory_bytes,
            "compute_pct": self.compute_pct,
            "tested": self.tested.value if self.tested else None,
            "why": cast(Json, self.why.to_json()) if self.why else None,
            "pretended": self.pretended,
            "courtesy": self.courtesy,
        }

    @classmethod
    def of(cls, handle: Handle | None) -> HeldSlice | None:
        """What a handle says; None where it says nothing of a slice that can be read."""
        data = handle.data.get(cls.KEY) if handle is not None else None
        if not isinstance(data, dict):
            return None
        why = data.get("why")
        try:
            return cls(
                card=str(data["card"]),
                memory_bytes=int(str(data["memory_bytes"])),
                compute_pct=int(str(data["compute_pct"])),
                tested=SliceTest(data["tested"]) if data.get("tested") else None,
                why=Sentence.from_json(why) if isinstance(why, dict) else None,
                pretended=data.get("pretended") is True,
                courtesy=data.get("courtesy") is True,
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one server needs on one host. None: the provider's default, not counted.

    cpu: cores, may be fractional. memory_bytes, disk_bytes: bytes.
    """

    cpu: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu: Slice | None = None

    def to_json(self) -> dict[str, Json]:
        gpu = self.gpu
        return {
            "cpu": self.cpu,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "gpu": {"memory_bytes": gpu.memory_bytes, "compute_pct": gpu.compute_pct} if gpu else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> Resources:
        gpu = data.get("gpu")
        values = {key: data.get(key) for key in ("cpu", "memory_bytes", "disk_bytes")}
        return cls(**values, gpu=Slice(**gpu) if isinstance(gpu, dict) else None)  # type: ignore[arg-type]


class CardPolicy(str, Enum):
    """Which of the cards with room a slice goes to.

    BINPACK: the fullest, so that large slices find whole cards. SPREAD: the emptiest, so that slices wait for each other
    the least. TOPOLOGY: several slices of one server go to cards near to each other; a single one goes where it takes
    least from such neighbours.
    """

    BINPACK = "binpack"
    SPREAD = "spread"
    TOPOLOGY = "topology"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCapacity:
    """One GPU, or one MIG device: a place for slices that shares nothing with other places.

    memory_total_bytes: as NVML reports it, which is less than what is printed on the box.
    slots_free, slots_total: how many more slices, and how many at most, the host lets share it, whatever their size; of a
      MIG device 0 or 1.
    distances: to other cards of the host, by UUID; larger is farther; cards that are not named are farthest.
    compute_total_pct: of a place of fixed size less than 100; where compute time is oversubscribed, more.
    leaves: sizes that have places of their own: a slice that one of them holds does not go here.
    """

    uuid: str
    memory_total_bytes: int
    memory_free_bytes: int
    compute_free_pct: int = 100
    slots_free: int | None = None
    compute_total_pct: int = 100
    leaves: tuple[Slice, ...] = ()
    distances: Mapping[str, int] = field(default_factory=dict)
    slots_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapacity:
    """One machine, as the provider sees it now. None: not limited, or not known, so not counted."""

    name: str
    servers_total: int | None = None
    servers_free: int | None = None
    cpu_total: float | None = None
    cpu_free: float | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    cards: tuple[CardCapacity, ...] = ()
    card_policy: CardPolicy = CardPolicy.BINPACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a provider can still hold, per host and per card, never summed.

    counted: the leases whose use is already subtracted from the free figures. A lease that was admitted a moment ago
    and is not listed here is subtracted by admission.
    """

    hosts: tuple[HostCapacity, ...]
    taken_at: datetime
    counted: frozenset[LeaseId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """All that is needed to find what a lease holds on a host, in any later hub process.

    data: JSON, the provider's own; at most a few KiB; no secrets.
    """

    lease_id: LeaseId
    provider: str
    data: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Everything a provider needs to start one server.

    user, server_name: as JupyterHub has them, any text; derive host names with `labspawner.naming`.
    settings: the variant's keys that only this provider reads (image, template, network, ...).
    environment: for the server process, secrets included; the provider adds `JUPYTERHUB_SERVICE_URL` through
      `environment_at` once it knows where the server listens.
    base_url: URL prefix of the server, starts and ends with a slash, percent-encoded.
    ready_timeout_s: seconds from the call of `launch` until `Ready`; the provider raises `StartFailed` after that.
    parked: what an earlier launch left when it was parked; resume it.
    """

    lease_id: LeaseId
    hub_id: str
    user: str
    server_name: str
    profile: str
    base_url: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    resources: Resources = Resources()
    settings: Mapping[str, Json] = field(default_factory=dict)
    ready_timeout_s: float = 120.0
    parked: Handle | None = None

    def environment_at(self, url: str) -> dict[str, str]:
        """The environment of a server that listens at `url` (`http://127.0.0.1:4711`, without the base URL)."""
        return {**self.environment, "JUPYTERHUB_SERVICE_URL": url.rstrip("/") + self.base_url}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Yielded before the provider makes the thing that `handle` can find; stored before the provider goes on."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage in words. percent: 0 to 100 of this launch, never decreasing."""

    percent: int
    message: Sentence


@dataclass(frozen=True, slots=True)
class Ready:
    """The server answers HTTP at `url` (scheme, host and port only). Nothing follows."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https", "http+unix"} or not parts.netloc:
            raise ValueError(f"not a server URL: {self.url!r}")


Event: TypeAlias = Checkpoint | Progress | Ready


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedResource:
    """Something on a host that carries a lease id and this hub's id, seen in a listing."""

    lease_id: LeaseId
    handle: Handle
    user: str = ""
    created_at: datetime | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a server ended. by: `user`, `culler`, `hub`, `reconciler`, `failure` or an administrator's name."""

    by: str
    reason: Sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The record that a server holds resources. It outlives a hub restart and the hub's own `state`.

    profile_rev, pinned: the profile as it was when the server was started; later edits do not change a running server.
    attempts: how often release was tried since the phase became STOPPING.
    """

    id: LeaseId
    hub_id: str
    user: str
    server_name: str
    provider: str
    profile: str
    profile_rev: str = ""
    pinned: Mapping[str, Json] = field(default_factory=dict)
    phase: Phase = Phase.QUEUED
    handle: Handle | None = None
    url: str | None = None
    reserves: Resources = Resources()
    release_mode: ReleaseMode = ReleaseMode.DESTROY
    created_at: datetime
    phase_at: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    ending: Ending | None = None
    attempts: int = 0

    def with_(self, **changes: object) -> Lease:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One thing of a list, such as an id or an address, that nobody else may have.

    owner: a lease's id, or another name of whoever holds it; None: it is set aside until `until`, because it cools down or
    for the reason `why`.
    """

    pool: str
    value: str
    owner: str | None
    taken_at: datetime
    until: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the culler decided about one server, and on what evidence; kept so that it can be explained later.

    verdict: `keep` or `cull`. applied: False for a dry run, or when the stop failed (the reason then says so).
    """

    lease_id: LeaseId
    user: str
    server_name: str
    verdict: str
    reason: Sentence
    evidence: Mapping[str, Json] = field(default_factory=dict)
    at: datetime
    applied: bool = True
