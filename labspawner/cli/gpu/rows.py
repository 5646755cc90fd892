"""One row for each card and for each slice: what they are, and what they hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.cli.run.choosing import held_by
from labspawner.gpu.cards import Inventory, capacities
from labspawner.gpu.limits import CorePolicy
from labspawner.gpu.region import Reading
from labspawner.gpu.register import Registered
from labspawner.model import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """A place for slices: a card, or a MIG device. promised: to slices, whatever they use of it; used: physically, by all.

    outside_bytes: what processes hold that are in no slice. slices: how many. utilisation_pct: None: not known.
    """

    number: str
    uuid: str
    name: str
    total_bytes: int
    promised_bytes: int
    used_bytes: int | None
    outside_bytes: int
    compute_free_pct: int
    slices: int
    utilisation_pct: int | None

    @property
    def free_bytes(self) -> int:
        """What a new slice can have."""
        return max(0, self.total_bytes - self.promised_bytes - self.outside_bytes)

    def to_json(self) -> dict[str, Json]:
        """For other programs: bytes and percent."""
        return {
            "number": self.number,
            "uuid": self.uuid,
            "name": self.name,
            "total_bytes": self.total_bytes,
            "promised_bytes": self.promised_bytes,
            "free_bytes": self.free_bytes,
            "used_bytes": self.used_bytes,
            "outside_bytes": self.outside_bytes,
            "compute_free_pct": self.compute_free_pct,
            "slices": self.slices,
            "utilisation_pct": self.utilisation_pct,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """A slice on one device. busy_pct: of the card's time, lately; None: it cannot be told yet. number: of the card.

    used_bytes and all after it: None or 0 where its region cannot be read.
    """

    name: str
    user: str
    number: str
    uuid: str
    limit_bytes: int
    cores_pct: int
    policy: CorePolicy
    started: datetime
    command: str
    sandboxed: bool
    used_bytes: int | None = None
    physical_bytes: int | None = None
    processes: int = 0
    refusals: int = 0
    gpu_time_s: float = 0.0
    busy_pct: float | None = None
    last_launch: datetime | None = None

    def to_json(self) -> dict[str, Json]:
        """For other programs: bytes, percent, and instants in ISO 8601."""
        return {
            "slice": self.name,
            "user": self.user,
            "gpu": self.number,
            "uuid": self.uuid,
            "limit_bytes": self.limit_bytes,
            "used_bytes": self.used_bytes,
            "physical_bytes": self.physical_bytes,
            "cores_pct": self.cores_pct,
            "policy": self.policy.value,
            "busy_pct": None if self.busy_pct is None else round(self.busy_pct, 1),
            "processes": self.processes,
            "refusals": self.refusals,
            "gpu_time_s": round(self.gpu_time_s, 3),
            "started": self.started.isoformat(),
            "last_launch": self.last_launch.isoformat() if self.last_launch else None,
            "sandboxed": self.sandboxed,
            "command": self.command,
        }


SORTS: Mapping[str, Callable[[SliceRow], tuple[object, ...]]] = {
    "memory": lambda row: (-(row.used_bytes or 0),),
    "busy": lambda row: (-(row.busy_pct or 0.0),),
    "gpu": lambda row: (row.number,),
    "user": lambda row: (row.user,),
    "since": lambda row: (row.started,),
}
"""What comes first: the most of it, or the oldest; then by name."""


def card_rows(
    inventory: Inventory, slices: Sequence[Registered], slice_of: Callable[[int], str | None]
) -> list[CardRow]:
    """A row for each place. slice_of: the name of the slice that a pid is in, or None."""
    known = {one.limits.name for one in slices}
    free = {card.uuid: card for card in capacities(inventory, held_by(slices))}
    numbers = numbers_of(inventory)
    rows = []
    for device in inventory.devices():
        outside = sum(
            process.memory_bytes or 0 for process in device.processes or () if slice_of(process.pid) not in known
        )
        on_it = [limit for one in slices for limit in one.limits.devices if limit.uuid == device.uuid]
        rows.append(
            CardRow(
                number=numbers[device.uuid],
                uuid=device.uuid,
                name=device.name,
                total_bytes=device.memory_total_bytes,
                promised_bytes=sum(limit.memory_bytes for limit in on_it),
                used_bytes=device.memory_used_bytes,
                outside_bytes=outside,
                compute_free_pct=free[device.uuid].compute_free_pct,
                slices=len(on_it),
                utilisation_pct=device.utilisation_pct,
            )
        )
    return rows


def slice_rows(
    inventory: Inventory,
    slices: Iterable[Registered],
    *,
    reading_of: Callable[[Registered], Reading | None],
    user_of: Callable[[int], str],
    before: Mapping[tuple[str, str], tuple[datetime, float]] | None = None,
    now: datetime,
    sort: str = "memory",
) -> list[SliceRow]:
    """A row for each slice and device that is in `inventory`. before: see `sample`."""
    numbers = numbers_of(inventory)
    rows = []
    for one in slices:
        reading = reading_of(one)
        for index, limit in enumerate(one.limits.devices):
            if limit.uuid not in numbers:
                continue
            use = reading.devices[index] if reading and index < len(reading.devices) else None
            gpu_time_s = use.gpu_time_s if use else 0.0
            rows.append(
                SliceRow(
                    name=one.limits.name,
                    user=user_of(one.about.uid),
                    number=numbers[limit.uuid],
                    uuid=limit.uuid,
                    limit_bytes=limit.memory_bytes,
                    cores_pct=limit.cores_pct,
                    policy=one.limits.policy,
                    started=one.about.started,
                    command=" ".join(one.about.command),
                    sandboxed=one.about.sandboxed,
                    used_bytes=use.used_bytes if use else None,
                    physical_bytes=use.physical_bytes if use else None,
                    processes=len(reading.processes) if reading else 0,
                    refusals=use.refusals if use else 0,
                    gpu_time_s=gpu_time_s,
                    busy_pct=_busy((before or {}).get((one.limits.name, limit.uuid)), gpu_time_s, now),
                    last_launch=use.last_launch if use else None,
                )
            )
    return sorted(rows, key=lambda row: (SORTS[sort](row), row.name, row.number))


def sample(rows: Iterable[SliceRow], now: datetime) -> dict[tuple[str, str], tuple[datetime, float]]:
    """What a later look needs to say how busy slices were meanwhile."""
    return {(row.name, row.uuid): (now, row.gpu_time_s) for row in rows}


def numbers_of(inventory: Inventory) -> dict[str, str]:
    """How people call each device: `0`, or `0:1` for the second MIG device of card 0."""
    found = {}
    for card in inventory.cards:
        if card.mig:
            found.update({part.uuid: f"{card.index}:{index}" for index, part in enumerate(card.parts)})
        else:
            found[card.uuid] = str(card.index)
    return found


def _busy(before: tuple[datetime, float] | None, gpu_time_s: float, now: datetime) -> float | None:
    if before is None or now - before[0] < timedelta(milliseconds=100):
        return None
    return max(0.0, 100 * (gpu_time_s - before[1]) / (now - before[0]).total_seconds())
