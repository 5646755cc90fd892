"""What there is of this hub on the cluster and in its records, so that nothing outlives its lease unseen; and second VMs of
one lease, which are switched off and marked until somebody ends them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from logging import getLogger

from labspawner.model import Handle, LeaseId, OwnedResource, Reservation
from labspawner.providers.contract import Reserving
from labspawner.providers.proxmox import marks
from labspawner.providers.proxmox.addresses import Use, merge
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.doing import Doing, TaskFailed, Vanished
from labspawner.providers.proxmox.machines import Machine, Machines, NotOurs, duplicates
from labspawner.providers.proxmox.record import Record, Stage
from labspawner.providers.proxmox.reserving import ADDRESS, VMID
from labspawner.providers.proxmox.views import View

log = getLogger(__name__)

_STOP_S = 300.0


class Janitor:
    """Lists everything, and keeps second VMs quiet."""

    def __init__(self, machines: Machines, doing: Doing, reservations: Reserving, *, provider: str) -> None:
        self._machines = machines
        self._doing = doing
        self._reservations = reservations
        self._provider = provider

    async def owned(self, view: View, starting: Collection[LeaseId]) -> Sequence[OwnedResource]:
        """Every VM of this hub in `view`, and every id or address that is held without one. starting: leases whose VM is
        being made. Raises PveRefused, PveSilent, StoreUnavailable."""
        machines = await self._machines.all(view)
        now = datetime.now(timezone.utc)
        held = await self._reservations.held(now)
        for pool, value, lease_id in missing(machines, held):  # of a database that was lost, or is older than the VMs
            log.warning("%s %s belongs to a VM of lease=%s and was not in the records: added", pool, value, lease_id)
            await self._reservations.adopt(pool, value, lease_id, now)
        _tell_of_strange_addresses(view, machines, held)
        found = [await self._resource(machine) for machine in machines]
        found += without_vm(held, {machine.lease_id for machine in machines}, provider=self._provider)
        await self._quarantine(machines, held, starting)
        return found

    async def _resource(self, machine: Machine) -> OwnedResource:
        marker = await self._machines.marker(machine.vm)
        record = Record(
            stage=Stage.MADE,
            vmid=machine.vmid,
            node=machine.node,
            name=machine.vm.name,
            address=marks.address_of_tags(machine.vm.tags),
        )
        return OwnedResource(
            lease_id=machine.lease_id,
            handle=record.handle(machine.lease_id, self._provider),
            user=marker.user if marker is not None else "",
        )

    async def _quarantine(
        self, machines: Sequence[Machine], held: Sequence[Reservation], starting: Collection[LeaseId]
    ) -> None:
        for machine in to_quarantine(machines, held):
            if machine.lease_id in starting:
                continue
            try:
                await self._machines.look(machine)
                tags = ";".join(sorted({*machine.vm.tags, marks.QUARANTINE}))
                await self._doing.put(machine.vmid, "config", tags=tags)
                if machine.vm.status == "running":
                    await self._doing.task(machine.vmid, "POST", "status/stop", kind="qmstop", within_s=_STOP_S)
            except (NotOurs, Vanished, TaskFailed, PveRefused, PveSilent) as exc:
                log.warning("second VM not put aside vm=%s lease=%s: %s", machine.vmid, machine.lease_id, exc)
            else:
                log.error(
                    "a second VM was switched off and tagged %s vm=%s lease=%s: look whether anything in it is needed; it "
                    "goes when its lease ends",
                    marks.QUARANTINE,
                    machine.vmid,
                    machine.lease_id,
                )


def to_quarantine(machines: Sequence[Machine], held: Sequence[Reservation]) -> tuple[Machine, ...]:
    """The second VMs of leases, each but the one whose id the lease holds; none where it holds neither. Pure."""
    ids = {reservation.owner: int(reservation.value) for reservation in held if reservation.pool == VMID}
    return tuple(
        machine
        for lease_id, several in duplicates(machines).items()
        if any(each.vmid == ids.get(lease_id) for each in several)
        for machine in several
        if machine.vmid != ids[lease_id] and marks.QUARANTINE not in machine.vm.tags
    )


def _tell_of_strange_addresses(view: View, machines: Sequence[Machine], held: Sequence[Reservation]) -> None:
    """Log addresses that several VMs have, and ours that somebody else's VM has: people have to look."""
    lease_of = {machine.vmid: machine.lease_id for machine in machines}
    uses = [
        Use(address=address, vmid=vm.vmid, lease_id=lease_of.get(vm.vmid))
        for vm in view.vms.values()
        if (address := marks.address_of_tags(vm.tags))
    ]
    merged = merge(uses, {each.value: each.owner for each in held if each.pool == ADDRESS})
    for address, vmids in (merged.twice or {}).items():
        log.error("the address %s is that of several VMs: %s", address, vmids)
    ours = {each.value for each in held if each.pool == ADDRESS and each.owner is not None}
    for address, vmid in (merged.foreign or {}).items():
        if address in ours:
            log.error("the address %s of ours is that of VM %s too, which is another hub's", address, vmid)


def missing(machines: Sequence[Machine], held: Sequence[Reservation]) -> list[tuple[str, str, LeaseId]]:
    """Ids and addresses that VMs have and the records do not know of: pool, value and lease. Second VMs of a lease do not
    count. Pure."""
    known = {(each.pool, each.value) for each in held if each.owner is not None}
    several = duplicates(machines)
    found = []
    for machine in machines:
        if machine.lease_id in several:
            continue
        address = marks.address_of_tags(machine.vm.tags)
        for pool, value in ((VMID, str(machine.vmid)), *(((ADDRESS, address),) if address else ())):
            if (pool, value) not in known:
                found.append((pool, value, machine.lease_id))
    return found


def without_vm(held: Sequence[Reservation], there: Collection[LeaseId], *, provider: str) -> list[OwnedResource]:
    """What leases hold that have no VM: a start is under way, or it is left of one. Pure."""
    by_lease: dict[LeaseId, Record] = {}
    since: dict[LeaseId, datetime] = {}
    for each in held:
        if each.pool not in {VMID, ADDRESS} or each.owner is None or each.owner in there:
            continue
        lease_id = LeaseId(each.owner)
        record = by_lease.get(lease_id, Record())
        changes: Mapping[str, object] = {"vmid": int(each.value)} if each.pool == VMID else {"address": each.value}
        by_lease[lease_id] = record.with_(**changes)
        since[lease_id] = min(since.get(lease_id, each.taken_at), each.taken_at)
    return [
        OwnedResource(lease_id=lease_id, handle=_handle(record, lease_id, provider), created_at=since[lease_id])
        for lease_id, record in by_lease.items()
    ]


def _handle(record: Record, lease_id: LeaseId, provider: str) -> Handle:
    return record.handle(lease_id, provider)
