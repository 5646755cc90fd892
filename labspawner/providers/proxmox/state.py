"""What a listing says of one VM. Pure."""

from __future__ import annotations

from enum import Enum

from labspawner.providers.proxmox.views import View, VmView

_MOVING = frozenset({"backup", "migrate", "rollback", "snapshot", "suspending"})
"""Locks under which `stopped` may be a moment of something that ends running."""


class Look(Enum):
    """RUNNING, OFF: so it is told. DOUBTFUL: the node is asked for this VM itself. SILENT: nobody can be asked. GONE: there
    is no such VM, and the listing may be believed in that. MISSING: not in this listing, which proves nothing yet."""

    RUNNING = "running"
    OFF = "off"
    DOUBTFUL = "doubtful"
    SILENT = "silent"
    GONE = "gone"
    MISSING = "missing"


def look_at(vm: VmView | None, view: View, *, gone: bool, known: bool | None) -> Look:
    """What this listing says of a VM.

    gone: it was absent for long enough. known: whether it runs, as we know from what we did or asked ourselves, which is
    newer than what the daemons of its node tell every 10 s; None: we do not know.
    """
    if vm is None:
        return Look.GONE if gone else Look.MISSING
    if not view.online(vm.node):  # what it shows is what it showed last
        # Without a quorum each node takes the others for lost, while all of them may run, and can be asked.
        return Look.DOUBTFUL if view.quorate is False else Look.SILENT
    if vm.status == "unknown":
        return Look.DOUBTFUL
    if vm.status == "running":
        return Look.DOUBTFUL if known is False else Look.RUNNING
    if vm.lock in _MOVING:
        return Look.SILENT
    return Look.OFF if known is False else Look.DOUBTFUL
