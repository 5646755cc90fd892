"""One row for each live server: its lease, how it stands, and what it uses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from labspawner.lifecycle.usages import Use
from labspawner.model import Json, Lease, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.store.evidence import Standing

_EVER = datetime(9999, 1, 1, tzinfo=timezone.utc)
_WHERE = ("rung", "host", "node")  # what providers call it in their handles
_NOT_SEEN = frozenset({Phase.PARKED, Phase.ENDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What an administrator sees of one server. None: it cannot be told. cores: how many it keeps busy now."""

    lease_id: LeaseId
    user: str
    server_name: str
    profile: str
    provider: str
    where: str
    phase: Phase
    since: datetime
    last_activity: datetime | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    cores: float | None = None
    cpu_limit: float | None = None
    processes: int | None = None
    disk_bytes: int | None = None
    disk_limit_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_limit_bytes: int | None = None
    gpu_time_s: float | None = None
    verdict: str | None = None
    reason: Sentence | None = None
    ends_at: datetime | None = None

    def to_json(self) -> dict[str, Json]:
        """For other programs: bytes, cores, and instants in ISO 8601."""
        return {
            "lease": self.lease_id,
            "user": self.user,
            "server": self.server_name,
            "profile": self.profile,
            "provider": self.provider,
            "where": self.where,
            "phase": self.phase.value,
            "since": self.since.isoformat(),
            "last_activity": _iso(self.last_activity),
            "memory_bytes": self.memory_bytes,
            "memory_limit_bytes": self.memory_limit_bytes,
            "cores": None if self.cores is None else round(self.cores, 3),
            "cpu_limit": self.cpu_limit,
            "processes": self.processes,
            "disk_bytes": self.disk_bytes,
            "disk_limit_bytes": self.disk_limit_bytes,
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "gpu_memory_limit_bytes": self.gpu_memory_limit_bytes,
            "gpu_time_s": None if self.gpu_time_s is None else round(self.gpu_time_s, 3),
            "verdict": self.verdict,
            "reason": None if self.reason is None else str(self.reason),
            "ends_at": _iso(self.ends_at),
        }


SORTS: Mapping[str, Callable[[Row], tuple[object, ...]]] = {
    "memory": lambda row: (-(row.memory_bytes or 0),),
    "cpu": lambda row: (-(row.cores or 0.0),),
    "processes": lambda row: (-(row.processes or 0),),
    "gpu": lambda row: (-(row.gpu_memory_bytes or 0),),
    "user": lambda row: (),
    "since": lambda row: (row.since,),
    "activity": lambda row: (row.last_activity or _EVER,),
    "ends": lambda row: (row.ends_at or _EVER,),
}
"""What comes first: the most of it, the oldest, or who ends soonest; then by user and server."""


def rows_of(
    leases: Iterable[Lease], standings: Mapping[LeaseId, Standing], uses: Mapping[LeaseId, Use], *, sort: str = "memory"
) -> list[Row]:
    """A row for each server that is there or on its way; what is parked has no process to look at."""
    rows = [
        _row(lease, standings.get(lease.id), uses.get(lease.id)) for lease in leases if lease.phase not in _NOT_SEEN
    ]
    return sorted(rows, key=lambda row: (SORTS[sort](row), row.user, row.server_name))


def _row(lease: Lease, standing: Standing | None, use: Use | None) -> Row:
    usage = None if use is None else use.usage
    gpu = None if usage is None else usage.gpu
    report = None if standing is None else standing.evidence.report
    ready = lease.phase is Phase.READY
    return Row(
        lease_id=lease.id,
        user=lease.user,
        server_name=lease.server_name,
        profile=lease.profile,
        provider=lease.provider,
        where=_where(lease),
        phase=lease.phase,
        since=(lease.ready_at if ready else None) or lease.phase_at,
        last_activity=report.last_activity if report else None,
        memory_bytes=usage.memory_bytes if usage else None,
        memory_limit_bytes=usage.memory_limit_bytes if usage else None,
        cores=use.cores if use else None,
        cpu_limit=usage.cpu_limit if usage else None,
        processes=usage.processes if usage else None,
        disk_bytes=usage.disk_bytes if usage else None,
        disk_limit_bytes=usage.disk_limit_bytes if usage else None,
        gpu_memory_bytes=gpu.memory_bytes if gpu else None,
        gpu_memory_limit_bytes=gpu.memory_limit_bytes if gpu else None,
        gpu_time_s=gpu.time_s if gpu else None,
        verdict=standing.verdict if standing and ready else None,
        reason=standing.reason if standing and ready else None,
        ends_at=standing.ends_at if standing and ready else None,
    )


def _where(lease: Lease) -> str:
    data = lease.handle.data if lease.handle else {}
    return next((str(data[key]) for key in _WHERE if data.get(key)), "")


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
