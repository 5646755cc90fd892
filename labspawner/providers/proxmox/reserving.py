"""The id and the address of a VM: taken in the hub's records before the VM is made, so that no two starts want the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from logging import getLogger

from labspawner.errors import NoRoom, ProviderUnavailable
from labspawner.model import LeaseId
from labspawner.providers.contract import Reserving
from labspawner.providers.proxmox import addresses, ids
from labspawner.providers.proxmox.job import Job
from labspawner.providers.proxmox.marks import address_of_tags
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.views import View
from labspawner.sentences import Sentence

log = getLogger(__name__)

VMID, ADDRESS = "vmid", "address"
"""Pools of the reservations."""

LOST = "lost:"
"""Begins the owner of an id that may belong to half a VM, which a token with the least rights does not see."""

LEFT_FOR = timedelta(days=7)
DISKS_LEFT = "disks are left of it: "
"""Begins why an id is set aside whose VM is gone, and some of its disks are not."""

_TAKEN_BY = "somebody else took it"
_ADDRESS_TRIES = 8
_FOREIGN_FOR = timedelta(hours=1)
_KNOCK_S = 1.0
_KNOCK_PORTS = (22, 3389)


class Reserver:
    """Takes ids and addresses for starts."""

    def __init__(self, reservations: Reserving, settings: ProxmoxSettings) -> None:
        self._reservations = reservations
        self._settings = settings

    async def take_id(self, job: Job, seen: Collection[int]) -> None:
        """Take a number that nobody was seen with. Raises NoRoom where all are taken."""
        vmids, lease_id = self._settings.vmids, job.request.lease_id
        tried = ids.candidates(vmids, seen=seen, seed=lease_id)
        value = await self._reservations.take(VMID, (str(vmid) for vmid in tried), lease_id, _now())
        if value is None:
            raise NoRoom(
                Sentence("All {count} places for virtual machines are taken. Try again later.", count=len(vmids)),
                detail=f"no id left in {vmids}",
                retry_after_s=60.0,
            )
        job.record = job.record.with_(vmid=int(value))

    async def take_address(self, job: Job, view: View) -> None:
        """Take an address that nobody answers at. Raises LabError where the pool has none."""
        pool = job.addresses
        if pool is None:
            return
        lease_id = job.request.lease_id
        for _ in range(_ADDRESS_TRIES):
            taken = {address for vm in view.vms.values() if (address := address_of_tags(vm.tags))}
            tried = addresses.candidates(pool, taken=taken, seed=lease_id)
            value = await self._reservations.take(ADDRESS, tried, lease_id, _now())
            if value is None:
                held = await self._reservations.held(_now(), ADDRESS)
                raise addresses.none_left(pool, taken={each.value for each in held} | taken)
            if not self._settings.probe_addresses or not await answers_already(value, job.variant.port):
                ssh = f"{job.variant.user}@{value}" if job.variant.ssh else ""
                job.record = job.record.with_(address=value, ssh=ssh)
                return
            log.warning("address %s answers before its VM has booted, and is left alone for an hour %s", value, job)
            await self._reservations.set_aside(
                ADDRESS, value, _now() + _FOREIGN_FOR, why="answered before its VM had booted"
            )
        raise ProviderUnavailable(
            Sentence("Other machines use the network addresses of this course. Tell your administrator."),
            detail=f"{_ADDRESS_TRIES} addresses of pool {pool.name!r} answer before their VM has booted",
            retry_after_s=60.0,
        )

    async def take_other_id(self, job: Job, view: View, *, lost: bool) -> None:
        """Leave the id to whoever has it, and take another. lost: what has it may be half a clone."""
        if lost:
            await self.lose(job.vmid)
        else:
            until = _now() + max(self._settings.cool_down, timedelta(minutes=1))
            await self._reservations.set_aside(VMID, str(job.vmid), until, why=_TAKEN_BY)
        await self.take_id(job, frozenset({*view.ids, job.vmid}))

    async def lose(self, vmid: int) -> None:
        """Keep an id for the half of a VM that may have it. It is no lease's any more, and is listed until it is free."""
        await self._reservations.set_aside(VMID, str(vmid), _now() + LEFT_FOR)
        await self._reservations.adopt(VMID, str(vmid), lost_lease(vmid), _now())


def lost_lease(vmid: int) -> LeaseId:
    """What stands for a lease where only half a clone is left."""
    return LeaseId(f"{LOST}{vmid}")


async def answers_already(address: str, port: int) -> bool:
    """Whether something accepts connections at an address that should be nobody's."""

    async def knock(at: int) -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, at), _KNOCK_S)
        except (OSError, asyncio.TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    return any(await asyncio.gather(*(knock(at) for at in (port, *_KNOCK_PORTS))))


def _now() -> datetime:
    return datetime.now(timezone.utc)
