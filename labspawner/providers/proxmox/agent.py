"""The guest agent of each VM. The daemons that serve it are few and each call holds one: two calls at a time for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labspawner.providers.proxmox.client import Client
from labspawner.providers.proxmox.pace import CLOCK, Pace

MOST_STDIN_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program in the guest ended. exitcode: None where a signal ended it. truncated: not all of its output is here."""

    exitcode: int | None
    signal: int | None
    out: str
    err: str
    truncated: bool

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.exitcode == 0


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface in the guest. mac: lower case. addresses: without prefix, loopback and link-local ones too."""

    name: str
    mac: str
    addresses: tuple[str, ...]


class GuestAgent:
    """The agents of one cluster's VMs. A VM that is gone, stopped or locked is a PveRefused, as everywhere."""

    def __init__(self, client: Client, *, pace: Pace = CLOCK, at_once: int = 2) -> None:
        raise NotImplementedError

    async def ping(self, node: str, vmid: int) -> bool:
        """Whether it answers; False while the guest boots, and for ever without an agent. Raises PveRefused, PveSilent."""
        raise NotImplementedError

    async def run(
        self, node: str, vmid: int, command: Sequence[str], *, stdin: str = "", within_s: float = 60.0
    ) -> Ran:
        """Run a program to its end. command[0]: a path that is known to be there. stdin: at most 64 KiB, in no log.

        Raises PveRefused (HELPER_MISSING: no such program; NO_AGENT), and PveSilent(sent=True) when it has not ended after
        `within_s` or its end was lost."""
        raise NotImplementedError

    async def interfaces(self, node: str, vmid: int) -> tuple[Interface, ...]:
        """Its network interfaces. Raises PveRefused, PveSilent."""
        raise NotImplementedError

    async def osinfo(self, node: str, vmid: int) -> dict[str, str]:
        """What it says of its system: id, version-id, pretty-name ... Raises PveRefused, PveSilent."""
        raise NotImplementedError
