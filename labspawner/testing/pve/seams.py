"""What runs inside a VM, and what shows its screen: the two things of the double that others write.

All of it is called in the double's event loop. Times are the double's (`host.clock`), never asyncio's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.world import Vm

Json = dict[str, Any]


class GuestFault(Exception):
    """The guest's agent answers with an error: `Agent error: {text}`."""


class NoSuchProgram(Exception):
    """The program to run is not in the guest. PVE turns this into 596 after 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """What a program left behind. `running`: it has not ended, and the rest says nothing."""

    running: bool = False
    exitcode: int | None = 0
    signal: int | None = None
    out: str = ""
    err: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What a guest may use of the machine below it.

    powered_off: to be called with a vmid when a guest turned itself off. folder: the double's, gone when it closes.
    """

    clock: Clock
    folder: Path
    rng: random.Random
    powered_off: Callable[[int], None]


class GuestsLike(Protocol):
    """What runs in the VMs. `vm.config` says what the guest finds: ipconfig0, ciuser, sshkeys, ostype, agent, net0.

    `labspawner.testing.pve.guest.Guests` has the makers `scripted(...)` and `real(...)`. A VM that is not known is one
    whose disk was never used: no method raises for that.
    """

    def begin(self, host: Host) -> None:
        """Called once, before anything else, in the double's loop."""

    async def boot(self, vm: Vm) -> None:
        """The VM is switched on. Returns at once; the guest comes up in its own time. Raises nothing."""

    async def shutdown(self, vm: Vm, *, timeout_s: float) -> bool:
        """Ask the guest to go down: True when it is off, False when it had not reacted in the (virtual) time given."""

    async def power_off(self, vm: Vm) -> None:
        """The plug is pulled; all that ran in it is gone, its disk stays."""

    async def pause(self, vm: Vm) -> None:
        """The VM's CPUs stop (suspend, or a hibernation that goes to disk): memory is kept."""

    async def resume(self, vm: Vm) -> None:
        """The CPUs go on, with the memory that `pause` or `restore` left."""

    async def save(self, vm: Vm, name: str) -> None:
        """A snapshot with memory (`vmstate=1`) is taken; the guest goes on. Without memory: not called."""

    async def restore(self, vm: Vm, name: str) -> None:
        """Memory and disk become what they were at `save(name)`; `resume` follows."""

    async def destroyed(self, vm: Vm) -> None:
        """The VM's disks are gone."""

    async def cloned(self, source: Vm, vm: Vm) -> None:
        """`vm` has a copy of the disks of `source`."""

    async def ping(self, vm: Vm) -> bool:
        """Whether the agent in the guest answers. Asked of running VMs only (paused ones never answer)."""

    async def exec(self, vm: Vm, command: Sequence[str], stdin: bytes) -> int:
        """Run a program, not waiting for it; its pid. Raises NoSuchProgram or GuestFault."""

    async def exec_status(self, vm: Vm, pid: int) -> Exited | None:
        """What became of a program; None when there is none such. The double sees to it that an end is read once."""

    async def interfaces(self, vm: Vm) -> list[Json]:
        """The answer of guest-network-get-interfaces: name, hardware-address, ip-addresses (absent when none)."""

    async def ask(self, vm: Vm, command: str, params: Mapping[str, Any]) -> Any:
        """Any other agent command: get-osinfo, get-host-name, info, get-time, get-fsinfo, get-users, get-timezone,
        file-read {file} -> {"content", "bytes-read"}, file-write {file, content: bytes} -> None, set-user-password
        {username, password, crypted} -> None. Raises GuestFault with the agent's own text."""

    async def close(self) -> None:
        """End all that still runs. Safe to repeat."""


class Stream(Protocol):
    """A websocket that was upgraded, as the console sees it: raw bytes both ways."""

    async def read(self) -> bytes | None:
        """The next bytes of the client; None when it has gone."""

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Console(Protocol):
    """Shows the screen of a VM: RFB 3.8 with VNC authentication, over vncwebsocket.

    The double has the rest: rights, ports, tickets, the task with its 10 s window, used tickets.
    """

    async def serve(self, vm: Vm, password: str, stream: Stream) -> None:
        """Speak RFB with a client until it goes or the VM stops; `password` is the 8 characters of VNC authentication."""

    async def close(self) -> None: ...
