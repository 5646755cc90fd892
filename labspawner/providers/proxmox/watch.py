"""What is true of each server, from the listing and from what was done here since; and who hears of it.

The daemons of a node tell the cluster every 10 s what runs, so a listing is late. What was started or stopped here is known
at once; where the listing says otherwise, the VM is asked itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from logging import getLogger

from labspawner.model import Handle, LeaseId, ServerState, Usage
from labspawner.providers.contract import Ear
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.doing import Doing, Vanished
from labspawner.providers.proxmox.machines import Machine, is_tagged
from labspawner.providers.proxmox.marks import lease_of_tags
from labspawner.providers.proxmox.record import record_of
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.state import Look, look_at
from labspawner.providers.proxmox.views import View, VmView
from labspawner.sentences import Sentence

log = getLogger(__name__)

MOST_ASKED = 8
"""VMs that are asked themselves for one answer: where a whole node tells nothing, it is not asked for each."""

_ASK_S = 10.0

_OFF = Sentence("Your virtual machine was switched off. Start your server again: its disk is as you left it.")
_DELETED = Sentence("Your virtual machine was deleted by an administrator. Start your server again.")


class Watch:
    """Knows which VMs run. ear: whoever wants to hear of ends that nobody here asked for."""

    def __init__(self, doing: Doing, snapshots: Snapshots, *, hub_id: str) -> None:
        self._doing = doing
        self._snapshots = snapshots
        self._hub_id = hub_id
        self._runs: dict[int, bool] = {}
        self._deleted: set[int] = set()
        self._last: dict[LeaseId, ServerState] = {}
        self._asked_off: set[int] = set()
        self._asked: dict[LeaseId, int] = {}
        self._asks = 0
        self.ear: Ear | None = None

    def runs(self, vmid: int) -> None:
        """It was switched on just now."""
        self._runs[vmid] = True
        self._deleted.discard(vmid)
        self._asked_off.discard(vmid)

    def stopped(self, vmid: int) -> None:
        """It was switched off, as somebody here wished."""
        self._runs[vmid] = False
        self._asked_off.add(vmid)

    def deleted(self, vmid: int) -> None:
        """It was deleted, as somebody here wished."""
        self._runs.pop(vmid, None)
        self._deleted.add(vmid)
        self._asked_off.add(vmid)

    def made(self, vmid: int) -> None:
        """There is a VM with this id again, or soon."""
        self._runs.pop(vmid, None)
        self._deleted.discard(vmid)
        self._asked_off.discard(vmid)

    def running(self, machines: Sequence[Machine]) -> frozenset[LeaseId]:
        """Leases whose VM runs, by the listing and by what was done here since."""
        return frozenset(
            machine.lease_id for machine in machines if self._runs.get(machine.vmid, machine.vm.status == "running")
        )

    async def states(self, handles: Sequence[Handle], view: View) -> Mapping[LeaseId, ServerState]:
        """What is true of each. UNKNOWN where the listing does not tell, and the VM itself neither."""
        looks = {handle.lease_id: self._look(handle, view) for handle in handles}
        doubtful = [handle for handle in handles if looks[handle.lease_id] is Look.DOUBTFUL]
        doubtful.sort(key=lambda handle: self._asked.get(handle.lease_id, 0))  # where there are many, each has its turn
        self._asks += 1
        self._asked = {handle.lease_id: self._asked.get(handle.lease_id, 0) for handle in doubtful}
        self._asked.update({handle.lease_id: self._asks for handle in doubtful[:MOST_ASKED]})
        asked = await asyncio.gather(*(self._ask(handle) for handle in doubtful[:MOST_ASKED]))
        states = {lease_id: _STATES[look] for lease_id, look in looks.items()}
        states.update({handle.lease_id: state for handle, state in zip(doubtful, asked, strict=False)})
        self._tell(handles, looks, states)
        return states

    def usage(self, handles: Sequence[Handle], view: View) -> Mapping[LeaseId, Usage]:
        """Memory of each running VM as its node measures it, and what it may use at most."""
        now, found = datetime.now(timezone.utc), {}
        for handle in handles:
            vm = self._vm_of(handle, view)
            if vm is not None and vm.status == "running" and vm.mem is not None:
                found[handle.lease_id] = Usage(
                    taken_at=now,
                    memory_bytes=vm.mem,
                    memory_limit_bytes=vm.maxmem,
                    cpu_limit=float(vm.maxcpu) if vm.maxcpu is not None else None,
                )
        return found

    def _vm_of(self, handle: Handle, view: View) -> VmView | None:
        """The VM of a handle; None where there is none with its id, or that is another lease's by now."""
        vmid = record_of(handle).vmid
        vm = view.vms.get(vmid) if vmid is not None else None
        if vm is None:
            return None
        if is_tagged(vm) and lease_of_tags(vm.tags, self._hub_id) != handle.lease_id:
            return None
        return vm

    def _look(self, handle: Handle, view: View) -> Look:
        vmid = record_of(handle).vmid
        if vmid is None:
            return Look.GONE
        if vmid in self._deleted and not self._runs.get(vmid):
            return Look.GONE
        vm = self._vm_of(handle, view)
        another = vm is None and vmid in view.vms
        gone = another or self._snapshots.gone(vmid)
        return look_at(vm, view, gone=gone, known=self._runs.get(vmid))

    async def _ask(self, handle: Handle) -> ServerState:
        vmid = record_of(handle).vmid
        assert vmid is not None
        try:
            status = await self._doing.get(vmid, "status/current", within_s=_ASK_S)
        except Vanished:
            return ServerState.GONE if self._snapshots.gone(vmid) else ServerState.UNKNOWN
        except (PveRefused, PveSilent) as exc:
            log.debug("cannot tell of vm %s: %s", vmid, exc)
            return ServerState.UNKNOWN
        running = isinstance(status, Mapping) and status.get("status") == "running"
        self._runs[vmid] = running
        return ServerState.RUNNING if running else ServerState.GONE

    def _tell(
        self, handles: Sequence[Handle], looks: Mapping[LeaseId, Look], states: Mapping[LeaseId, ServerState]
    ) -> None:
        """Pass on what ended since the last look, and was not ended here."""
        before, self._last = self._last, {**self._last, **states}
        for handle in handles:
            lease_id, vmid = handle.lease_id, record_of(handle).vmid
            ended = before.get(lease_id) is ServerState.RUNNING and states[lease_id] is ServerState.GONE
            if states[lease_id] is ServerState.GONE:
                self._last.pop(lease_id, None)
            if not ended or self.ear is None or vmid in self._asked_off:
                continue
            reason = _DELETED if looks[lease_id] is Look.GONE else _OFF
            log.info("server ended by itself lease=%s vm=%s: %s", lease_id, vmid, reason)
            self.ear.ended(lease_id, reason)


_STATES = {
    Look.RUNNING: ServerState.RUNNING,
    Look.OFF: ServerState.GONE,
    Look.GONE: ServerState.GONE,
    Look.DOUBTFUL: ServerState.UNKNOWN,
    Look.SILENT: ServerState.UNKNOWN,
    Look.MISSING: ServerState.UNKNOWN,
}
