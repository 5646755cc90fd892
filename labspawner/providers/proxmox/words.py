"""What the cluster answers, and how far a start is, in words for students; the cluster's own words go to the log. Pure.

No sentence names a machine, a number or a storage: these stand in the error's detail, for the administrator.
"""

from __future__ import annotations

from labspawner.errors import LabError, NoRoom, ProviderUnavailable, SetupError, StartFailed
from labspawner.providers.proxmox.answers import PveRefused, PveSilent, PveUntrusted, TaskEnd
from labspawner.providers.proxmox.faults import Fault
from labspawner.sentences import Sentence

# How far a start is.
RESERVING = Sentence("Looking for a place for your virtual machine")
CLONING = Sentence("Making your virtual machine")
PREPARING = Sentence("Preparing your virtual machine")
STARTING = Sentence("Starting your virtual machine")
WAKING = Sentence("Waking your virtual machine up, with everything that was open")
BOOTING = Sentence("Your virtual machine is booting")
BOOTING_AGAIN = Sentence("Your virtual machine does not answer, so it is started once more")
AGENT_ANSWERS = Sentence("Your virtual machine is up")
SETTING_UP = Sentence("Your virtual machine is being set up")
WAITING_FOR_CALL = Sentence("Waiting for your virtual machine to call")
WAITING_FOR_NETWORK = Sentence("Waiting for the network of your virtual machine")
CONFIGURING = Sentence("Handing over to JupyterLab")
STARTING_JUPYTER = Sentence("Starting JupyterLab in your virtual machine")

# How it may end.
DIED = Sentence(
    "JupyterLab ended while it was starting in your virtual machine. Try again; if it ends again, show the last lines of "
    "its log to your instructor."
)
NO_QUORUM = Sentence(
    "The cluster starts and stops nothing just now, since it lost some of its machines. Try again later."
)
NO_ANSWER = Sentence("The cluster does not answer. Try again in a few minutes.")
GONE = Sentence("Your virtual machine was deleted. Start your server again.")
NO_AGENT = Sentence(
    "Your virtual machine was started, and nothing in it answers. Try again; if it happens again, tell your instructor: "
    "the guest agent may be missing from its template."
)
NO_CALL = Sentence(
    "Your virtual machine was started, and did not call this hub. Try again; if it happens again, tell your instructor: "
    "its template may not be made ready for that."
)
NO_CALLS = Sentence(
    "This profile's virtual machines are to call this hub, and cannot: they need static addresses, and the hub an address "
    "that they reach. Tell your instructor."
)
KEPT_NO_MEMORY = Sentence(
    "What was open in your server could not be brought back. Tell your administrator; the files on its disk are still there."
)


def cloning(percent: int | None) -> Sentence:
    """How far the copy is; a linked one does not tell."""
    if percent is None:
        return CLONING
    return Sentence("Making your virtual machine: {percent} % copied", percent=percent)


def WAITING_FOR_CLONE(ahead: int) -> Sentence:  # noqa: N802 - reads as the others do
    """In line for a clone: many at once would fail."""
    if ahead <= 0:
        return Sentence("Your virtual machine is made next")
    return Sentence("Waiting until {count} other virtual machines are made", count=ahead)


def refused(exc: PveRefused, *, doing: str = "") -> LabError:
    """The error for an answer that was no."""
    fault, right = exc.fault, exc.right
    if fault is Fault.GONE_OR_FORBIDDEN and right is not None and right.privilege in _OF_NO_STUDENTS_VM:
        fault = Fault.FORBIDDEN
    return error_of(fault, detail=_detail(doing, str(exc)), lock=exc.lock)


def error_of_task(end: TaskEnd, *, doing: str = "") -> LabError:
    """The error for a task that failed; the last lines of its log stand in the detail, which only administrators see."""
    log = " | ".join(end.log[-20:])
    detail = _detail(doing, f"{end.exitstatus}{f' [{log}]' if log else ''}")
    return error_of(end.fault or Fault.OTHER, detail=detail, lock=end.lock)


def silent(exc: PveSilent, *, doing: str = "") -> LabError:
    """The error for no answer at all."""
    if isinstance(exc, PveUntrusted):
        return ProviderUnavailable(_UNTRUSTED, detail=_detail(doing, str(exc)), retry_after_s=300.0)
    return ProviderUnavailable(NO_ANSWER, detail=_detail(doing, str(exc)), retry_after_s=30.0)


def stuck(lock: str, *, detail: str) -> ProviderUnavailable:
    """The error for a VM that only an administrator can free: PVE lets nobody else take such a lock away."""
    return ProviderUnavailable(
        STUCK_SENTENCES.get(lock, _STUCK), detail=f"stuck lock={lock}: {advice(lock)}; {detail}", retry_after_s=600.0
    )


def advice(lock: str) -> str:
    """What an administrator does about a VM that stays locked. For the log and `labspawner doctor`."""
    if lock in {"suspending", "suspended"}:
        return "its memory was not written to the end. Look whether it still runs, then on its node: qm unlock ID, qm stop ID"
    if lock == "rollback":
        return "going back to a snapshot failed half-way. On its node: qm unlock ID, then roll back again or restore it"
    if lock == "clone":
        return "a clone died with its node. If no clone of it runs: qm unlock ID, qm destroy ID"
    return "look at the node's tasks; if none works on it any more: qm unlock ID"


def error_of(fault: Fault, *, detail: str, lock: str | None = None, log_tail: str = "") -> LabError:
    """The error for a fault: may the same be tried again, and what is read."""
    if fault is Fault.VM_LOCKED and lock is not None and lock in STUCK_SENTENCES:
        return stuck(lock, detail=detail)
    kind, message = _TABLE[fault]
    if fault is Fault.VM_LOCKED and lock is not None:
        message = _LOCKS.get(lock, message)
    if kind is NoRoom:
        return NoRoom(message, detail=detail, log_tail=log_tail, retry_after_s=60.0)
    if kind is ProviderUnavailable:
        pause_s = 30.0 if fault in _SOON else 60.0
        return ProviderUnavailable(message, detail=detail, log_tail=log_tail, retry_after_s=pause_s)
    return kind(message, detail=detail, log_tail=log_tail)


def _detail(doing: str, said: str) -> str:
    return f"{doing}: {said}" if doing else said


_STUCK = Sentence(
    "Your virtual machine is blocked, and only an administrator can free it. Tell your administrator; its disk is intact."
)
STUCK_SENTENCES = {
    "suspending": Sentence(
        "Pausing your virtual machine failed half-way, so it can neither go on nor start. Only an administrator can free "
        "it; tell them. Its disk is intact."
    ),
    "rollback": Sentence(
        "Setting your virtual machine back failed half-way. Only an administrator can free it; tell them."
    ),
}
"""By the lock that stays."""

_LOCKS = {
    "backup": Sentence("Your virtual machine is being backed up. Try again in a few minutes."),
    "migrate": Sentence("Your virtual machine is being moved to another machine. Try again in a few minutes."),
    "snapshot": Sentence("A snapshot of your virtual machine is being made. Try again in a minute."),
    "snapshot-delete": Sentence("A snapshot of your virtual machine is being deleted. Try again in a minute."),
    "clone": Sentence("Your virtual machine is still being made. Try again in a minute."),
    "create": Sentence("Your virtual machine is still being made. Try again in a minute."),
    "suspended": Sentence("Your virtual machine is paused. Start your server to go on."),
}
_UNTRUSTED = Sentence(
    "The cluster does not show the certificate that this hub knows, so nothing was asked of it. Tell your administrator."
)
_BUSY = Sentence("The cluster is busy making other servers. Try again in a minute.")
_MEANWHILE = Sentence("Your virtual machine was changed by somebody else meanwhile. Try again in a minute.")
_LOST = Sentence("The cluster does not say what came of your virtual machine. Try again in a minute.")
_RIGHTS = Sentence(
    "This hub may not do that in the cluster. Tell your administrator: `labspawner doctor` shows which right is missing."
)
_PROFILE = Sentence("This profile asks for something that the cluster does not accept. Tell your instructor.")
_TEMPLATE = Sentence("The template of this profile cannot be used as it is. Tell your instructor.")
_HELPER = Sentence("The template of this profile is not made ready for JupyterHub. Tell your instructor.")
_BROKEN_VM = Sentence(
    "Your virtual machine cannot be started. Try again; if it happens again, tell your administrator."
)
_GUEST = Sentence(
    "Your virtual machine does not do what it is told. Try again; if it happens again, tell your instructor."
)
_FAILED = Sentence("The cluster could not do that. Try again; if it happens again, tell your administrator.")

_OF_NO_STUDENTS_VM = frozenset({"VM.Clone", "VM.Allocate", "VM.Config.HWType"})
"""Rights on a template, or that this hub needs for certain profiles only: where one of these is refused, nothing is gone."""
_SOON = frozenset({Fault.LOCK_TIMEOUT, Fault.STORAGE_LOCK, Fault.ID_TAKEN, Fault.MOVED, Fault.CHANGED, Fault.BROKEN})

_TABLE: dict[Fault, tuple[type[LabError], Sentence]] = {
    Fault.LOCK_TIMEOUT: (ProviderUnavailable, _BUSY),
    Fault.STORAGE_LOCK: (ProviderUnavailable, _BUSY),
    Fault.ID_TAKEN: (ProviderUnavailable, _BUSY),
    Fault.GONE_OR_FORBIDDEN: (
        StartFailed,
        Sentence(
            "The cluster does not let this hub at your virtual machine: it was deleted, or a right is missing. Start your "
            "server again; if that does not help, tell your administrator."
        ),
    ),
    Fault.FORBIDDEN: (SetupError, _RIGHTS),
    Fault.ROOT_ONLY: (SetupError, _RIGHTS),
    Fault.BAD_CREDENTIALS: (
        ProviderUnavailable,
        Sentence("The cluster does not know this hub any more: its access has expired. Tell your administrator."),
    ),
    Fault.NO_QUORUM: (ProviderUnavailable, NO_QUORUM),
    Fault.VM_LOCKED: (
        ProviderUnavailable,
        Sentence("Somebody works on your virtual machine just now. Try again in a few minutes."),
    ),
    Fault.NODE_AWAY: (
        ProviderUnavailable,
        Sentence("The machine that your virtual machine is on does not answer. Try again in a few minutes."),
    ),
    Fault.NODE_UNKNOWN: (ProviderUnavailable, Sentence("The cluster has changed meanwhile. Try again in a minute.")),
    Fault.MOVED: (ProviderUnavailable, _MEANWHILE),
    Fault.NO_AGENT: (StartFailed, NO_AGENT),
    Fault.AGENT_OFF: (SetupError, _HELPER),
    Fault.AGENT_BLOCKED: (SetupError, _HELPER),
    Fault.AGENT_PID: (StartFailed, _GUEST),
    Fault.AGENT_ERROR: (StartFailed, _GUEST),
    Fault.HELPER_MISSING: (SetupError, _HELPER),
    Fault.ALREADY_RUNNING: (ProviderUnavailable, _MEANWHILE),
    Fault.STILL_RUNNING: (ProviderUnavailable, _MEANWHILE),
    Fault.NOT_RUNNING: (ProviderUnavailable, _MEANWHILE),
    Fault.LOCAL_STORAGE: (
        SetupError,
        Sentence("The template of this profile is not on all machines that it may run on. Tell your administrator."),
    ),
    Fault.STORAGE_FULL: (
        NoRoom,
        Sentence("There is too little disk space left for a new server. Tell your administrator."),
    ),
    Fault.STORAGE_MISSING: (
        ProviderUnavailable,
        Sentence(
            "A disk of the cluster is not there just now. Try again in a few minutes, or tell your administrator."
        ),
    ),
    Fault.VOLUME_MISSING: (
        StartFailed,
        Sentence("A disk of your virtual machine is missing. Tell your administrator before you delete anything."),
    ),
    Fault.NO_DEVICE: (NoRoom, Sentence("All GPUs of this kind are in use. Try again in a few minutes.")),
    Fault.NO_LINK: (SetupError, _TEMPLATE),
    Fault.IS_TEMPLATE: (SetupError, _TEMPLATE),
    Fault.TEMPLATE_IN_USE: (
        SetupError,
        Sentence("Other virtual machines still need this one's disk. Tell your administrator."),
    ),
    Fault.SNAPSHOT_MISSING: (StartFailed, _FAILED),
    Fault.SNAPSHOT_TAKEN: (StartFailed, _FAILED),
    Fault.DISK_MISSING: (SetupError, _TEMPLATE),
    Fault.SHRINKS: (
        SetupError,
        Sentence("This profile asks for a disk that is smaller than its template's. Tell your instructor."),
    ),
    Fault.PROTECTED: (
        SetupError,
        Sentence("Your virtual machine is protected from being deleted. Tell your administrator."),
    ),
    Fault.CHANGED: (ProviderUnavailable, _MEANWHILE),
    Fault.START_TIMEOUT: (
        StartFailed,
        Sentence("Your virtual machine did not start in time. The cluster may be busy: try again in a minute."),
    ),
    Fault.SHUTDOWN_TIMEOUT: (
        ProviderUnavailable,
        Sentence("Your virtual machine does not shut down. It is tried again."),
    ),
    Fault.QEMU_FAILED: (StartFailed, _BROKEN_VM),
    Fault.INTERRUPTED: (
        StartFailed,
        Sentence("Somebody stopped the work on your virtual machine. Try again in a minute."),
    ),
    Fault.LOST: (ProviderUnavailable, _LOST),
    Fault.NO_SUCH_TASK: (ProviderUnavailable, _LOST),
    Fault.CONSOLE_TIMEOUT: (ProviderUnavailable, _LOST),
    Fault.BAD_PARAMETER: (SetupError, _PROFILE),
    Fault.NOT_IMPLEMENTED: (
        SetupError,
        Sentence("This version of Proxmox VE cannot do what is asked of it. Tell your administrator."),
    ),
    Fault.BROKEN: (ProviderUnavailable, NO_ANSWER),
    Fault.OTHER: (StartFailed, _FAILED),
}
"""What each fault is for who waits for a server."""
