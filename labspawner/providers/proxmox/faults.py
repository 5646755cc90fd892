"""What a refusal or a failed task of Proxmox VE means. Its text is the only discriminator: almost every failure is a 500,
and what one expects up front comes as the end of a task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Fault(Enum):
    """What was wrong, as far as the answer tells. The comment says what helps."""

    LOCK_TIMEOUT = "lock timeout"  # somebody works on the VM, its id or its template: the same again, later
    STORAGE_LOCK = "storage lock timeout"  # too many at once on one storage: the same again, later
    ID_TAKEN = "id taken"  # another VM has this id: take the next one
    GONE_OR_FORBIDDEN = "gone or forbidden"  # 403 for one VM: look it up in the snapshot
    FORBIDDEN = "forbidden"  # a right is missing: `right` names path and privilege
    ROOT_ONLY = "root only"  # no token may do that
    BAD_CREDENTIALS = "bad credentials"  # 401: token revoked or expired, wrong password
    NO_QUORUM = "no quorum"  # change nothing until the cluster is quorate again
    VM_LOCKED = "VM locked"  # `lock` says by what
    NODE_AWAY = "node away"  # the node cannot be reached; nothing was done there
    NODE_UNKNOWN = "node unknown"  # no such node in the cluster
    MOVED = "moved or gone"  # not on that node: look it up in the snapshot
    NO_AGENT = "no agent"  # the guest agent does not answer: not yet, or never
    AGENT_OFF = "agent off"  # the agent is switched off in the VM's configuration
    AGENT_BLOCKED = "agent blocked"  # the guest's own list forbids this command
    AGENT_PID = "agent pid"  # unknown to the agent, or its end was read before
    AGENT_ERROR = "agent error"  # another error inside the guest
    HELPER_MISSING = "helper missing"  # the program is not in the guest
    ALREADY_RUNNING = "already running"
    STILL_RUNNING = "still running"  # stop it first
    NOT_RUNNING = "not running"
    LOCAL_STORAGE = "local storage"  # its disks cannot be had on that node
    STORAGE_FULL = "storage full"
    STORAGE_MISSING = "storage missing"
    VOLUME_MISSING = "volume missing"  # a disk, a state or a snippet is not there
    NO_DEVICE = "no device"  # no free device of a mapping
    NO_LINK = "no link"  # not possible for linked clones
    IS_TEMPLATE = "is a template"
    TEMPLATE_IN_USE = "template in use"  # clones hang on its disks
    SNAPSHOT_MISSING = "snapshot missing"
    SNAPSHOT_TAKEN = "snapshot taken"
    DISK_MISSING = "disk missing"
    SHRINKS = "shrinks"  # disks only grow
    PROTECTED = "protected"  # an administrator protected it from removal
    CHANGED = "changed meanwhile"  # the digest is not that of the configuration
    START_TIMEOUT = "start timeout"  # it may run nevertheless: look
    SHUTDOWN_TIMEOUT = "shutdown timeout"
    QEMU_FAILED = "QEMU failed"  # why stands in the task's log
    INTERRUPTED = "interrupted"  # somebody stopped the task
    LOST = "lost"  # the task ended without a word: look at the VM itself
    NO_SUCH_TASK = "no such task"
    CONSOLE_TIMEOUT = "console timeout"
    BAD_PARAMETER = "bad parameter"  # `errors` says which
    NOT_IMPLEMENTED = "not implemented"
    BROKEN = "broken"  # 596 to 599: between two daemons, may have been done
    OTHER = "other"


class Right(NamedTuple):
    """What an answer says is missing. privilege: of several, any one is enough."""

    path: str
    privilege: str


_LOCKED = re.compile(r"VM is locked \((?P<kind>[a-z-]+)\)")
_LOCK_FILE = re.compile(r"/qemu-server/lock-(?P<vmid>\d+)\.conf'")
_RIGHT = re.compile(r"Permission check failed \((?P<path>[^,()]+), (?P<privilege>[^()]+)\)")
_OF_A_VM = re.compile(r"/vms/\d+")

_TEXTS: tuple[tuple[Fault, str], ...] = (
    # Storage before VM: both end in "got timeout", and either may come wrapped as "clone failed: ...".
    (Fault.STORAGE_LOCK, r"cfs-lock 'storage-[^']*' error: got lock request timeout"),
    (Fault.STORAGE_LOCK, r"can't lock file '[^']*/pve-storage-[^']*' - got timeout"),
    (Fault.LOCK_TIMEOUT, r"can't lock file '[^']*' - got timeout|cfs-lock '[^']*' error: got lock request timeout"),
    (Fault.ID_TAKEN, r"unable to create (?:VM|CT) \d+(?:: config file already exists| - (?:VM|CT) \d+ already exists)"),
    (Fault.ID_TAKEN, r"\b(?:VM|CT) \d+ already exists"),
    (Fault.NO_QUORUM, r"no quorum\b|unable to open file '/etc/pve/[^']*' - Permission denied"),
    (Fault.VM_LOCKED, _LOCKED.pattern),
    (Fault.NODE_UNKNOWN, r"no such cluster node|hostname lookup '[^']*' failed"),
    (Fault.LOCAL_STORAGE, r"VM uses local storage|can't migrate local"),
    (Fault.MOVED, r"Configuration file '[^']*' does not exist|unable to find configuration file for (?:VM|CT) \d+"),
    (Fault.NO_AGENT, r"guest agent is not running"),
    (Fault.AGENT_OFF, r"No QEMU guest agent configured"),
    (Fault.AGENT_PID, r"Agent error: Invalid parameter 'pid'"),
    (
        Fault.AGENT_BLOCKED,
        r"(?i)guest-\S+ has been disabled|command \S+ (?:is|has been) disabled|is not allowed in the guest",
    ),
    (Fault.HELPER_MISSING, r"(?i)Failed to execute child process"),
    (Fault.AGENT_ERROR, r"Agent error:"),
    (Fault.ALREADY_RUNNING, r"VM \d+ already running"),
    (Fault.STILL_RUNNING, r"VM \d+ is running|if VM is running"),
    (Fault.NOT_RUNNING, r"VM \d+ (?:is )?not running"),
    (
        Fault.STORAGE_FULL,
        r"(?i)no space left|out of space|not enough (?:free )?space|insufficient free space|disk quota exceeded",
    ),
    (
        Fault.NO_DEVICE,
        r"(?i)no (?:free|available|usable) .*(?:device|mdev|vgpu)|(?:pci|mapp?ed|hostpci\d*).* (?:already in use|in use by)",
    ),
    (Fault.NO_LINK, r"not allowed for linked clones|linked clone.* not supported"),
    (Fault.IS_TEMPLATE, r"if it's a template|is a template\b"),
    (Fault.TEMPLATE_IN_USE, r"still in use by linked clone"),
    (Fault.SNAPSHOT_TAKEN, r"snapshot name '[^']*' already used"),
    (Fault.SNAPSHOT_MISSING, r"snapshot '[^']*' does not exist"),
    (Fault.STORAGE_MISSING, r"storage '[^']*' does not exist|storage '[^']*' is not (?:available|online|active)"),
    (Fault.VOLUME_MISSING, r"volume '[^']*' does not exist|disk image '[^']*' does not exist"),
    (Fault.DISK_MISSING, r"disk '[^']*' does not exist"),
    (Fault.SHRINKS, r"shrinking disks is not supported"),
    (Fault.PROTECTED, r"protection mode enabled"),
    (Fault.CHANGED, r"checksum mismatch|detected modified configuration"),
    (Fault.ROOT_ONLY, r"(?i)\bonly root (?:can|may)\b"),
    (Fault.SHUTDOWN_TIMEOUT, r"powerdown failed - got timeout"),
    (Fault.INTERRUPTED, r"interrupted by (?:signal|user)|received interrupt"),
    (Fault.START_TIMEOUT, r"got timeout"),
    (Fault.QEMU_FAILED, r"QEMU exited with code|start failed"),
    (Fault.LOST, r"^unexpected status"),
    (Fault.NO_SUCH_TASK, r"no such task"),
    (Fault.CONSOLE_TIMEOUT, r"^connection timed out|vncproxy connection timed out|Failed to run vncproxy"),
)
_TABLE = tuple((fault, re.compile(pattern)) for fault, pattern in _TEXTS)
_BY_STATUS = {
    400: Fault.BAD_PARAMETER,
    401: Fault.BAD_CREDENTIALS,
    403: Fault.FORBIDDEN,
    501: Fault.NOT_IMPLEMENTED,
    595: Fault.NODE_AWAY,
    596: Fault.BROKEN,
    597: Fault.BROKEN,
    598: Fault.BROKEN,
    599: Fault.BROKEN,
}
_FIRST = frozenset({401, 501, 595, 596, 597, 598, 599})


def classify(status: int | None, text: str, errors: Mapping[str, str] | None = None) -> Fault:
    """What an answer or the end of a task means; OTHER where it is not known.

    status: of the HTTP answer; None for the exit status of a task, which is then `text`. errors: per parameter.
    """
    if status in _FIRST:
        return _BY_STATUS[status]
    if status == 403:
        right = right_of(text)
        return Fault.GONE_OR_FORBIDDEN if right and _OF_A_VM.fullmatch(right.path) else Fault.FORBIDDEN
    for said in (*(errors or {}).values(), text):
        for fault, pattern in _TABLE:
            if pattern.search(str(said)):
                return fault
    return Fault.OTHER if status is None else _BY_STATUS.get(status, Fault.OTHER)


def lock_of(text: str) -> str | None:
    """By what a VM is locked: backup, clone, migrate, rollback, snapshot, suspended, suspending ...; None: not said."""
    found = _LOCKED.search(text)
    return found["kind"] if found else None


def lock_vmid_of(text: str) -> int | None:
    """Whose lock was not had in time: the template's or the new id's; None: not said, or a storage's."""
    found = _LOCK_FILE.search(text)
    return int(found["vmid"]) if found else None


def right_of(text: str) -> Right | None:
    """The path and privilege that a 403 names; None where it names none."""
    found = _RIGHT.search(text)
    return Right(found["path"], found["privilege"]) if found else None
