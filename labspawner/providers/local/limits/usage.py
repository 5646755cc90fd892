"""What servers use: from their control groups where they have one, else from a walk over their processes. Blocking."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from logging import getLogger

from labspawner.errors import ProviderUnavailable
from labspawner.model import Handle, LeaseId, Usage
from labspawner.providers.consumption import measure
from labspawner.providers.local.limits.groups import GroupMaker
from labspawner.providers.local.limits.quota import Disk, Quotas
from labspawner.providers.processes import HostProcess, HostProcesses

log = getLogger(__name__)

_FRESH_S = 2.0  # a walk this old is good enough for figures


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
        if not _whole(usage):
            usage = _merged(usage, measure(processes.get(lease_id, ())))
        if usage is not None:
            found[lease_id] = _with_disk(usage, disks.get((owners or {}).get(lease_id, -1)))
    return found


async def usage_now(
    handles: Sequence[Handle],
    *,
    host: HostProcesses,
    hub_id: str,
    groups: GroupMaker | None,
    quotas: Quotas | None = None,
    owners: Mapping[LeaseId, int] | None = None,
) -> dict[LeaseId, Usage]:
    """`usage_of` for a provider: blocks nobody, and walks the machine's processes only where a group does not tell."""
    asked = [handle.lease_id for handle in handles]
    found = await host.in_thread(usage_of, asked, groups=groups, processes={}, quotas=quotas, owners=owners)
    lacking = [lease_id for lease_id in asked if not _whole(found.get(lease_id))]
    if not lacking:
        return found
    try:
        listing = await host.listing(max_age_s=_FRESH_S)
    except ProviderUnavailable as exc:
        log.warning("cannot tell all usage: %s", exc)
        return found
    processes = {lease_id: listing.of_lease(lease_id, hub_id) for lease_id in lacking}
    seen = await host.in_thread(usage_of, lacking, groups=groups, processes=processes, quotas=quotas, owners=owners)
    return {**found, **seen}


def _whole(usage: Usage | None) -> bool:
    return usage is not None and usage.memory_bytes is not None and usage.cpu_s is not None


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
