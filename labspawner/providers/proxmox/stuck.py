"""What only a person can put right, for `labspawner doctor`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from labspawner.model import Reservation
from labspawner.providers.findings import Finding, error, ok, warning
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.doing import STUCK_LOCKS
from labspawner.providers.proxmox.homecalls import POOL as CALLS
from labspawner.providers.proxmox.machines import Machine
from labspawner.providers.proxmox.marks import QUARANTINE
from labspawner.providers.proxmox.reserving import DISKS_LEFT, LOST, VMID

_WHAT = "stuck VMs"


def findings(machines: Sequence[Machine], held: Sequence[Reservation]) -> list[Finding]:
    """Each VM of this hub that is locked for good, is a second one of its lease, or may be half a clone; and each call home
    that somebody else may have made."""
    found = [
        error(_WHAT, f"VM {each.vmid} of lease {each.lease_id} on {each.node} is locked ({lock})", words.advice(lock))
        for each in machines
        if (lock := each.vm.lock) in STUCK_LOCKS
    ]
    found += [
        warning(
            _WHAT,
            f"VM {each.vmid} is a second one of lease {each.lease_id}, switched off and tagged {QUARANTINE}",
            "look whether anything on its disk is needed; it is deleted when its lease ends",
        )
        for each in machines
        if QUARANTINE in each.vm.tags
    ]
    ids = [each for each in held if each.pool == VMID]
    found += [
        error(_WHAT, f"VM {each.value} may be half a clone, in no pool", words.advice("clone"))
        for each in ids
        if each.owner is not None and each.owner.startswith(LOST)
    ]
    found += [
        error(_WHAT, f"VM {each.value} is gone, and {each.why}", "remove them on the storage: pvesm free VOLUME")
        for each in ids
        if each.why.startswith(DISKS_LEFT)
    ]
    found += [
        error(
            "calls home",
            f"the server of lease {each.value}: {each.why}",
            "look who has that address; docs/proxmox.md, A template without a guest agent",
        )
        for each in held
        if each.pool == CALLS
    ]
    return found or [ok(_WHAT, "none")]
