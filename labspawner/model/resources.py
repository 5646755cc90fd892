"""What a server needs on a host, the slice that it holds, and what hosts have free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import ClassVar, cast

from labspawner.model.names import Handle, Json, LeaseId
from labspawner.sentences import Sentence


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
