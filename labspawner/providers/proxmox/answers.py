"""What Proxmox VE answers, where that is not what was asked for, and how a task ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from labspawner.providers.proxmox.faults import Fault, Right, classify, lock_of, lock_vmid_of, right_of

__all__ = [
    "Fault",
    "PveRefused",
    "PveSilent",
    "PveUntrusted",
    "Right",
    "TaskEnd",
    "TaskSeen",
    "classify",
    "lock_of",
    "lock_vmid_of",
    "node_of",
    "right_of",
]

_WARNINGS = re.compile(r"WARNINGS: (\d+)$")


class PveRefused(Exception):
    """Proxmox VE answered, and not with success: nothing was done. 595 is here too, since nothing reached the node.

    text: its message, without a line end. errors: parameter -> text. what: "POST /nodes/pve1/qemu/100/clone".
    held_back_s: the request was not even sent, because credentials were refused before; seconds until the next try.
    """

    def __init__(
        self,
        status: int,
        text: str,
        errors: Mapping[str, str] | None = None,
        what: str = "",
        *,
        fault: Fault | None = None,
        held_back_s: float | None = None,
    ) -> None:
        self.status = status
        self.text = text.strip()[:2000]
        self.errors = {str(key): str(value).strip() for key, value in (errors or {}).items()}
        self.what = what
        self.held_back_s = held_back_s
        self.fault = fault or classify(status, self.text, self.errors)
        more = "; ".join(f"{key}: {value}" for key, value in self.errors.items())
        held = f" (not asked again for {held_back_s:.0f} s)" if held_back_s is not None else ""
        super().__init__(f"{what}: {status} {self.text}{f' ({more})' if more else ''}{held}")

    @property
    def lock(self) -> str | None:
        """By what the VM is locked, where that is the fault."""
        return lock_of(self.text)

    @property
    def lock_vmid(self) -> int | None:
        """Whose lock was not had in time, where the answer names one."""
        return lock_vmid_of(self.text)

    @property
    def right(self) -> Right | None:
        """The right that is missing, where the answer names it."""
        return right_of(self.text)


class PveSilent(Exception):
    """There is no answer. sent: whether what was asked for may have been done: look before it is asked for again.

    status: 596 to 599 where a proxy in between said so.
    """

    def __init__(self, what: str, sent: bool, why: str = "", *, status: int | None = None) -> None:
        self.what = what
        self.sent = sent
        self.why = why
        self.status = status
        super().__init__(f"{what}: no answer{', may have been done' if sent else ''}{f': {why}' if why else ''}")


class PveUntrusted(PveSilent):
    """No endpoint shows a certificate that the configuration trusts; nothing was sent. The text is for administrators and
    names what was expected and what was shown.

    expected, shown: SHA-256 fingerprints; empty where a CA file is used.
    """

    def __init__(self, what: str, why: str, *, expected: str = "", shown: str = "") -> None:
        super().__init__(what, False, why)
        self.expected = expected
        self.shown = shown


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended.

    exitstatus: "OK", "WARNINGS: 3" or the error's text. log: its last lines, only where it did not end with "OK".
    """

    upid: str
    exitstatus: str
    ok: bool
    warnings: int = 0
    log: tuple[str, ...] = ()

    @classmethod
    def of(cls, upid: str, exitstatus: str, log: tuple[str, ...] = ()) -> TaskEnd:
        """Read an exit status. "WARNINGS: n" is success."""
        warned = _WARNINGS.match(exitstatus)
        return cls(upid, exitstatus, exitstatus == "OK" or warned is not None, int(warned[1]) if warned else 0, log)

    @property
    def fault(self) -> Fault | None:
        """What was wrong; None for success."""
        return None if self.ok else classify(None, self.exitstatus)

    @property
    def lock(self) -> str | None:
        """By what the VM is locked, where that is the fault."""
        return lock_of(self.exitstatus)

    @property
    def lock_vmid(self) -> int | None:
        """Whose lock was not had in time, where the text names one."""
        return lock_vmid_of(self.exitstatus)

    @property
    def node(self) -> str:
        """Where it ran."""
        return node_of(self.upid)


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """A task as a listing shows it. vmid: whose it is; for `qmclone` the template's, not the new VM's.

    started_at: seconds since the epoch, by the node's clock. end: None while it runs.
    """

    upid: str
    kind: str
    vmid: int | None
    node: str
    started_at: float
    end: TaskEnd | None


def node_of(upid: str) -> str:
    """The node that a task runs on. Raises ValueError for what is no UPID."""
    parts = upid.split(":")
    if len(parts) < 9 or parts[0] != "UPID" or not parts[1]:
        raise ValueError(f"no UPID: {upid[:80]!r}")
    return parts[1]
