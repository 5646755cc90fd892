"""What servers use: from their control groups where they have one, else from a walk over their processes. Blocking."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from labspawner.model import LeaseId, Usage
from labspawner.providers.consumption import measure
from labspawner.providers.local.limits.groups import GroupMaker
from labspawner.providers.local.limits.quota import Disk, Quotas
from labspawner.providers.processes import HostProcess


def usage_of(
    leases: Collection[LeaseId],
    *,
    groups: GroupMaker | None,
    processes: Mapping[LeaseId, Sequence[HostProcess]],
    quotas: Quotas | None = None,
    owners: Mapping[LeaseId, int] | None = None,
) -> dict[LeaseId, Usage]:
    """What each lease uses now; one of which nothing can be told is left out. Never raises for a host's sake.

    processes: those with the lease's mark, from one walk of the machine; asked only where a control group does not
    tell. owners: for the disk, whose quota a lease counts against (the uid, or the project's number).
    """
    disks = quotas.usage() if quotas is not None and owners else {}
    found: dict[LeaseId, Usage] = {}
    for lease_id in leases:
        usage = _from_group(groups, lease_id)
        if usage is None or usage.memory_bytes is None or usage.cpu_s is None:
            usage = _merged(usage, measure(processes.get(lease_id, ())))
        if usage is not None:
            found[lease_id] = _with_disk(usage, disks.get((owners or {}).get(lease_id, -1)))
    return found


def _from_group(groups: GroupMaker | None, lease_id: LeaseId) -> Usage | None:
    usage = None if groups is None else groups.group(lease_id).usage()
    return usage if usage is not None and usage.processes else None


def _merged(counted: Usage | None, seen: Usage | None) -> Usage | None:
    """What a group counted, with what it did not count as seen in its processes."""
    if counted is None or seen is None:
        return counted or seen
    return replace(
        counted,
        memory_bytes=seen.memory_bytes if counted.memory_bytes is None else counted.memory_bytes,
        cpu_s=seen.cpu_s if counted.cpu_s is None else counted.cpu_s,
    )


def _with_disk(usage: Usage, disk: Disk | None) -> Usage:
    if disk is None:
        return usage
    return replace(usage, disk_bytes=disk.used_bytes, disk_limit_bytes=disk.limit_bytes)
