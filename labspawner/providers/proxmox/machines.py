"""The VMs of this hub, as listings and their own configurations show them.

A listing has ids, tags and names; what counts is the marker in a VM's description. It is read once for each VM whose tags
do not say whose it is, and again before anything is done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any

from labspawner.model import LeaseId
from labspawner.providers.proxmox.answers import Fault, PveRefused
from labspawner.providers.proxmox.checking import passed_through
from labspawner.providers.proxmox.doing import Doing, Vanished
from labspawner.providers.proxmox.marks import Marker, lease_of_tags, read_marker, same_vm
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.rooms import has_space_for_state
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.views import View, VmView

log = getLogger(__name__)

ENDING = "ls-ending"
"""The tag of a VM that is being deleted."""

_ASK_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A VM of this hub. uuid: as it was made, where that is known."""

    vmid: int
    node: str
    lease_id: LeaseId
    uuid: str | None = None
    vm: VmView


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What a VM's node says of it this moment."""

    running: bool
    lock: str
    config: Mapping[str, Any]


class NotOurs(Exception):
    """The VM with this id is not the one that was meant: another hub's, another lease's, or an administrator's."""


class Machines:
    """The VMs of one hub on one cluster."""

    def __init__(
        self, doing: Doing, snapshots: Snapshots, settings: ProxmoxSettings, *, hub_id: str, now: Callable[[], float]
    ) -> None:
        self._doing = doing
        self._snapshots = snapshots
        self._settings = settings
        self._hub_id = hub_id
        self._now = now
        self._markers: dict[tuple[int, str], tuple[float, Marker | None]] = {}

    async def all(self, view: View) -> list[Machine]:
        """Every VM of this hub in `view`. Raises PveRefused and PveSilent rather than leaving one out."""
        found = []
        for vm in view.vms.values():
            machine = await self.of(vm)
            if machine is not None:
                found.append(machine)
        known = {(vm.vmid, vm.name) for vm in view.vms.values()}
        self._markers = {key: value for key, value in self._markers.items() if key in known}
        return found

    async def of(self, vm: VmView) -> Machine | None:
        """What this VM is to us; None where it is not ours. Raises PveRefused and PveSilent."""
        if vm.template:
            return None
        if is_tagged(vm):
            lease_id = lease_of_tags(vm.tags, self._hub_id)
            return Machine(vmid=vm.vmid, node=vm.node, lease_id=lease_id, vm=vm) if lease_id is not None else None
        if vm.vmid not in self._settings.vmids:
            return None
        marker = await self.marker(vm)
        if marker is None or marker.hub_id != self._hub_id:
            return None
        return Machine(vmid=vm.vmid, node=vm.node, lease_id=marker.lease_id, vm=vm)

    async def of_lease(self, lease_id: LeaseId, view: View, *, vmid: int | None = None) -> list[Machine]:
        """Those of this lease; normally one. vmid: of one that may have the tags of its template still; its marker tells."""
        found = [machine for machine in await self.all(view) if machine.lease_id == lease_id]
        vm = view.vms.get(vmid) if vmid is not None else None
        if vm is None or any(machine.vmid == vmid for machine in found):
            return found
        marker = await self.marker(vm)
        if marker is not None and (marker.hub_id, marker.lease_id) == (self._hub_id, lease_id):
            found.append(Machine(vmid=vm.vmid, node=vm.node, lease_id=lease_id, vm=vm))
        return found

    async def look(self, machine: Machine) -> Now:
        """What is true of it this moment, after a look at its marker. Raises NotOurs, Vanished, PveRefused, PveSilent."""
        config = await self.config(machine.vmid)
        if not same_vm(config, hub_id=self._hub_id, lease_id=machine.lease_id, uuid=machine.uuid):
            raise NotOurs(f"vm {machine.vmid} is not, or not any more, that of lease={machine.lease_id}")
        status = await self._doing.get(machine.vmid, "status/current")
        said = status if isinstance(status, Mapping) else {}
        return Now(
            running=said.get("status") == "running",
            lock=str(said.get("lock") or config.get("lock") or ""),
            config=config,
        )

    async def config(self, vmid: int) -> Mapping[str, Any]:
        """Its configuration. Raises Vanished, PveRefused, PveSilent."""
        config = await self._doing.get(vmid, "config")
        return config if isinstance(config, Mapping) else {}

    async def is_still(self, machine: Machine) -> bool:
        """Whether the VM with this id is still the one that was meant."""
        try:
            await self.look(machine)
        except (NotOurs, Vanished):
            return False
        return True

    async def mark_ending(self, machine: Machine) -> None:
        """Tag it as one that is being deleted; needs a quorum, and so proves one. Raises as `Doing.put`."""
        await self._doing.put(machine.vmid, "config", tags=";".join(sorted({*machine.vm.tags, ENDING})))

    async def why_not_hibernated(self, machine: Machine) -> str | None:
        """What stands against saving its memory; None: nothing that is known. Raises PveRefused, PveSilent."""
        config = await self.config(machine.vmid)
        if passed_through(config):
            return "it has a device of its own"
        view = await self._snapshots.now(2.0)
        vm = view.vms.get(machine.vmid, machine.vm)
        memory = vm.maxmem or int(str(config.get("memory") or 512)) * 2**20
        if not has_space_for_state(view, vm.node, memory, self._settings):
            return "there is too little space for its memory"
        return None

    async def marker(self, vm: VmView) -> Marker | None:
        """The marker of this VM, read once; None where it has none, or is not ours to read. Raises PveRefused, PveSilent."""
        key = (vm.vmid, vm.name)
        known = self._markers.get(key)
        if known is not None and (known[1] is not None or self._now() - known[0] < _ASK_AGAIN_S):
            return known[1]
        try:
            config = await self.config(vm.vmid)
        except Vanished:
            return None
        except PveRefused as exc:
            if exc.fault is not Fault.GONE_OR_FORBIDDEN:
                raise
            return None  # in our range, and not ours to read
        marker = read_marker(config.get("description"))
        self._markers[key] = (self._now(), marker)
        return marker

    def forget(self, vmid: int) -> None:
        """What was read of this VM is old."""
        self._markers = {key: value for key, value in self._markers.items() if key[0] != vmid}


def is_tagged(vm: VmView) -> bool:
    """Whether its tags say whose it is; those of a template that a clone still has may not. Pure."""
    return any(tag.startswith("ls-lease-") for tag in vm.tags)


def duplicates(machines: Sequence[Machine]) -> Mapping[LeaseId, tuple[Machine, ...]]:
    """Leases with more than one VM. Pure."""
    by_lease: dict[LeaseId, list[Machine]] = {}
    for machine in machines:
        by_lease.setdefault(machine.lease_id, []).append(machine)
    return {lease_id: tuple(each) for lease_id, each in by_lease.items() if len(each) > 1}
