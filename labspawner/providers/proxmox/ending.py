"""The end of a VM: parked or destroyed, each verified by its task's end and by a listing.

A VM is touched only after a look at its own configuration: its id alone says nothing, since PVE gives freed ids out at once.
Nothing is deleted unless the cluster was quorate a moment ago: without a quorum PVE removes disks and keeps the config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any

from labspawner.errors import LabError, ProviderUnavailable
from labspawner.model import ReleaseMode
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent
from labspawner.providers.proxmox.doing import STUCK_LOCKS, Doing, TaskFailed, Vanished
from labspawner.providers.proxmox.machines import Machine, Machines
from labspawner.providers.proxmox.options import ProxmoxSettings
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.tasks import Tasks
from labspawner.sentences import Sentence

log = getLogger(__name__)

SHUTDOWN_S = 60.0
"""What a VM that is kept gets at least to shut down, before its plug is pulled."""

_LEFT = re.compile(r"Could not remove disk '?([^', ]+)")
_POWER_S, _SUSPEND_S, _DELETE_S = 300.0, 1800.0, 900.0
_SEEN_GONE_TRIES, _SEEN_GONE_EVERY_S = 10, 2.0
_WITH_ALL: Any = {"purge": True, "destroy-unreferenced-disks": True}


class Ending:
    """Parks and destroys VMs."""

    def __init__(
        self,
        machines: Machines,
        doing: Doing,
        tasks: Tasks,
        snapshots: Snapshots,
        settings: ProxmoxSettings,
        *,
        pace: Pace,
        stopped: Callable[[int], None],
    ) -> None:
        """stopped: told of each VM that was switched off, since listings show that late."""
        self._machines = machines
        self._doing = doing
        self._tasks = tasks
        self._snapshots = snapshots
        self._settings = settings
        self._pace = pace
        self._stopped = stopped

    async def park(self, machine: Machine, mode: ReleaseMode, *, grace_s: float) -> None:
        """The VM is off and kept afterwards, with its memory where `mode` is HIBERNATE and that can be. Raises LabError,
        Vanished, PveRefused, PveSilent, TaskFailed."""
        now = await self._machines.look(machine)
        check_not_stuck(machine, now.lock)
        if now.running and mode is ReleaseMode.HIBERNATE and await self._hibernated(machine):
            return
        if now.running:  # its disk is kept, so it is given the time to come down in order
            await self.switch_off(machine, grace_s=max(grace_s, SHUTDOWN_S))
        self._stopped(machine.vmid)

    async def destroy(self, machine: Machine, *, grace_s: float) -> tuple[str, ...]:
        """The VM is gone afterwards, and its disks: those that are not, are returned. Raises as `park` does."""
        now = await self._machines.look(machine)
        check_not_stuck(machine, now.lock)
        if now.running:
            await self.switch_off(machine, grace_s=grace_s)
        self._stopped(machine.vmid)
        await self._check_quorum(machine, lock=now.lock)
        left = await self._delete(machine)
        await self._see_gone(machine)
        return left

    async def switch_off(self, machine: Machine, *, grace_s: float) -> None:
        """The VM is off afterwards; it had `grace_s` to shut down. Raises TaskFailed, PveRefused, PveSilent, Vanished."""
        grace = math.ceil(grace_s)
        if grace > 1:
            try:
                await self._doing.task(
                    machine.vmid,
                    "POST",
                    "status/shutdown",
                    kind="qmshutdown",
                    within_s=_POWER_S + grace,
                    timeout=grace,
                    forceStop=True,
                )
            except (TaskFailed, PveRefused, PveSilent) as exc:
                log.info("shutdown failed, pulling the plug vm=%s: %s", machine.vmid, exc)
            else:
                return
        await self._doing.task(machine.vmid, "POST", "status/stop", kind="qmstop", within_s=_POWER_S)

    async def _hibernated(self, machine: Machine) -> bool:
        """Whether the VM's memory was saved; False where that cannot be, so that it is stopped instead."""
        why = await self._machines.why_not_hibernated(machine)
        if why is not None:
            log.warning("stopped instead of hibernated vm=%s lease=%s: %s", machine.vmid, machine.lease_id, why)
            return False
        try:
            await self._doing.task(
                machine.vmid,
                "POST",
                "status/suspend",
                kind="qmsuspend",
                within_s=_SUSPEND_S,
                todisk=True,
                statestorage=self._settings.hibernate_storage,
            )
        except (TaskFailed, PveRefused) as exc:
            now = await self._machines.look(machine)
            check_not_stuck(machine, now.lock)
            if exc.fault in {Fault.NO_QUORUM, Fault.NODE_AWAY}:
                raise
            log.warning("stopped instead of hibernated vm=%s lease=%s: %s", machine.vmid, machine.lease_id, exc)
            return False
        self._stopped(machine.vmid)
        return True

    async def _check_quorum(self, machine: Machine, *, lock: str) -> None:
        """Raises ProviderUnavailable unless the cluster can write now: as it says itself, and by a small change that needs a
        quorum. What is locked cannot be changed, so there its word has to do."""
        if await self._snapshots.quorate(max_age_s=2.0) is False:
            raise no_quorum(f"vm {machine.vmid} is not deleted: the cluster is not quorate")
        if not lock:
            await self._machines.mark_ending(machine)

    async def _delete(self, machine: Machine) -> tuple[str, ...]:
        """The disks that PVE could not remove: it says so in the log of a task that ends well."""
        try:
            end = await self._doing.task(
                machine.vmid,
                "DELETE",
                "",
                kind="qmdestroy",
                within_s=_DELETE_S,
                **_WITH_ALL,
            )
        except Vanished:
            return ()
        except TaskFailed as exc:
            if exc.fault is Fault.MOVED:  # "does not exist": somebody else deleted it
                return ()
            raise
        left = disks_left(await self._tasks.log(end.upid) if end.upid else ())
        if left:
            log.error(
                "disks of a deleted VM are left, remove them by hand vm=%s lease=%s: %s",
                machine.vmid,
                machine.lease_id,
                ", ".join(left),
            )
        return left

    async def _see_gone(self, machine: Machine) -> None:
        """Return when a listing does not have the VM any more. Raises ProviderUnavailable where it stays."""
        for _ in range(_SEEN_GONE_TRIES):
            if machine.vmid not in (await self._snapshots.now(0.0)).vms:
                return
            if not await self._machines.is_still(machine):
                return  # the id is somebody else's already
            await self._pace.sleep(_SEEN_GONE_EVERY_S)
        raise ProviderUnavailable(
            Sentence("The cluster deleted your virtual machine, and still shows it. It is looked at again."),
            detail=f"vm {machine.vmid} is still listed after its deletion ended well",
            retry_after_s=60.0,
        )


def disks_left(lines: Sequence[str]) -> tuple[str, ...]:
    """The disks that the log of a deletion says are left. Pure."""
    return tuple(found[1] for line in lines if (found := _LEFT.search(line)))


def no_quorum(detail: str) -> LabError:
    """The cluster cannot be changed now."""
    return ProviderUnavailable(words.NO_QUORUM, detail=detail, retry_after_s=60.0)


def check_not_stuck(machine: Machine, lock: str) -> None:
    """Raises ProviderUnavailable for a VM that only an administrator can free."""
    if lock in STUCK_LOCKS:
        raise words.stuck(lock, detail=f"vm {machine.vmid} lease={machine.lease_id} on node {machine.node}")
