"""Where a lease's server is, as far as its handle says so; and when servers end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from labspawner.model import HeldSlice, Lease, LeaseId, Phase
from labspawner.placement import End

_HOST_KEYS = ("host", "node")


def spot_of(lease: Lease) -> tuple[str | None, str | None]:
    """(host, card) of a lease; None where its provider does not say."""
    if lease.handle is None:
        return None, None
    held = HeldSlice.of(lease.handle)
    named = (lease.handle.data.get(key) for key in _HOST_KEYS)
    host = next((name for name in named if isinstance(name, str) and name), None)
    return host, held.card if held is not None else None


def ends_of(leases: Iterable[Lease], ends_at: Mapping[LeaseId, datetime]) -> dict[str, list[End]]:
    """The known ends of running servers by provider, the next one first."""
    found: dict[str, list[End]] = {}
    for lease in leases:
        at = ends_at.get(lease.id)
        if at is not None and lease.phase is Phase.READY:
            host, card = spot_of(lease)
            end = End(at=at, lease_id=lease.id, resources=lease.reserves, host=host, card=card)
            found.setdefault(lease.provider, []).append(end)
    for ends in found.values():
        ends.sort(key=lambda end: end.at)
    return found
