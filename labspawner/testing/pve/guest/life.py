"""The life of guests: power, agent, network, programs, memory and disk. What their server is, is left to a subclass."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from labspawner.guest import HELPER
from labspawner.testing.addresses import Addresses
from labspawner.testing.pve.guest import answers
from labspawner.testing.pve.guest.behaviour import Behaviour
from labspawner.testing.pve.guest.shell import Files, Shell
from labspawner.testing.pve.seams import Exited, GuestFault, Host, NoSuchProgram
from labspawner.testing.pve.world import GIB, Vm, properties

Json = dict[str, Any]
_FIRST_PID = 400


class Helper(Protocol):
    """labspawner-guest in one guest, and the server that it keeps."""

    async def run(self, verb: Sequence[str], stdin: bytes) -> Exited: ...
    async def call_home(self, user_data: str) -> Exited:
        """`labspawner-guest call-home`, where cloud-init keeps this user data."""

    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def shutdown(self) -> None:
        """Let the server end in order."""

    async def kill(self) -> None:
        """All that runs is gone."""

    def saved(self) -> Any: ...
    async def restored(self, memory: Any) -> None: ...


@dataclass(slots=True)
class Guest:
    """One guest. agent_at, network_at, cloud_init_at: from when on, by the double's clock."""

    vmid: int
    behaviour: Behaviour
    files: Files = field(default_factory=Files)
    on: bool = False
    paused: bool = False
    agent_at: float = 0.0
    network_at: float = 0.0
    cloud_init_at: float = 0.0
    address: str = ""
    prefix: int = 24
    hostname: str = ""
    windows: bool = False
    programs: dict[int, Exited] = field(default_factory=dict)
    pids: itertools.count[int] = field(default_factory=lambda: itertools.count(_FIRST_PID, 7))
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    helper: Helper | None = None
    saves: dict[str, tuple[Files, Any]] = field(default_factory=dict)
    boots: int = 0


class LivingGuests:
    """`seams.GuestsLike`, but for `helper_of`. Use it from the double's loop, but `set` and `behaviour` from anywhere."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self._own: dict[int, Behaviour] = {}
        self._guests: dict[int, Guest] = {}
        self._addresses: Addresses | None = None
        self._host: Host | None = None

    # for tests

    def set(self, vmid: int, **changes: Any) -> None:
        """Let one VM behave otherwise, from now on where that is still to come. vmid: also of one that is not there yet."""
        found = replace(self._own.get(vmid, self.behaviour), **changes)
        self._own[vmid] = found
        guest = self._guests.get(vmid)
        if guest is not None:
            guest.behaviour = found

    def set_all(self, **changes: Any) -> None:
        """Let all VMs that boot from now on behave otherwise, where nothing was said of them alone."""
        self.behaviour = replace(self.behaviour, **changes)

    def guest(self, vmid: int) -> Guest:
        """The guest of a VM as it is now. Raises LookupError where it never was switched on."""
        return self._guests[vmid]

    # GuestsLike

    def begin(self, host: Host) -> None:
        self._host = host

    @property
    def host(self) -> Host:
        assert self._host is not None
        return self._host

    def helper_of(self, guest: Guest) -> Helper:
        raise NotImplementedError

    def _of(self, vm: Vm) -> Guest:
        if vm.vmid not in self._guests:
            self._guests[vm.vmid] = Guest(vm.vmid, self._own.get(vm.vmid, self.behaviour))
        return self._guests[vm.vmid]

    def _in(self, span: tuple[float, float], after: float | None = None) -> float:
        return (self.host.clock.now() if after is None else after) + self.host.rng.uniform(*span)

    async def boot(self, vm: Vm) -> None:
        guest = self._of(vm)
        await self._off(guest)
        guest.behaviour = self._own.get(vm.vmid, self.behaviour)
        guest.on, guest.paused, guest.boots = True, False, guest.boots + 1
        guest.agent_at = self._in(guest.behaviour.boot_s)
        guest.network_at = self._in(guest.behaviour.network_s, guest.agent_at)
        guest.cloud_init_at = self._in(guest.behaviour.cloud_init_s, guest.agent_at)
        guest.address, guest.prefix = self._address(guest, vm)
        guest.hostname, guest.windows = vm.name, str(vm.config.get("ostype") or "").startswith("win")
        if guest.behaviour.calls_home and not guest.windows:
            self.in_guest(guest, self._call_home(guest, vm))

    async def _call_home(self, guest: Guest, vm: Vm) -> None:
        """What the unit of a template without an agent does at each boot."""
        password = vm.config.get("cipassword")
        user_data = f"#cloud-config\nhostname: {vm.name}\n" + (f"password: {password}\n" if password else "")
        ready = max(guest.network_at, guest.cloud_init_at)
        await self.host.clock.sleep(max(0.0, ready - self.host.clock.now()))
        if guest.helper is None:
            guest.helper = self.helper_of(guest)
        await guest.helper.call_home(user_data)

    def _address(self, guest: Guest, vm: Vm) -> tuple[str, int]:
        given = properties(vm.config.get("ipconfig0")).get("ip", "")
        if given not in ("", "dhcp"):
            address, _, prefix = given.partition("/")
            return address, int(prefix or 24)
        if guest.address:  # the DHCP server remembers
            return guest.address, guest.prefix
        if self._addresses is None:
            self._addresses = Addresses()
        return self._addresses.take(), 10

    async def shutdown(self, vm: Vm, *, timeout_s: float) -> bool:
        guest = self._of(vm)
        if not guest.on:
            return True
        wait_s = self.host.rng.uniform(*guest.behaviour.shutdown_s)
        if guest.behaviour.deaf or guest.paused or wait_s > timeout_s:
            await self.host.clock.sleep(timeout_s)
            return False
        if guest.helper is not None:
            await guest.helper.shutdown()
        await self.host.clock.sleep(wait_s)
        await self._off(guest)
        return True

    async def power_off(self, vm: Vm) -> None:
        await self._off(self._of(vm))

    async def _off(self, guest: Guest) -> None:
        for task in [*guest.tasks]:
            task.cancel()
        guest.on = guest.paused = False
        guest.programs.clear()
        guest.files.memory.clear()
        helper, guest.helper = guest.helper, None
        if helper is not None:
            await helper.kill()

    async def pause(self, vm: Vm) -> None:
        guest = self._of(vm)
        guest.paused = True
        if guest.helper is not None:
            await guest.helper.pause()

    async def resume(self, vm: Vm) -> None:
        guest = self._of(vm)
        guest.on, guest.paused = True, False
        again = self._in(guest.behaviour.resume_s)
        guest.agent_at = max(again, guest.agent_at)
        if guest.helper is not None:
            await guest.helper.resume()

    async def save(self, vm: Vm, name: str) -> None:
        guest = self._of(vm)
        memory = guest.helper.saved() if guest.helper is not None else None
        guest.saves[name] = (copy.deepcopy(guest.files), memory)

    async def restore(self, vm: Vm, name: str) -> None:
        guest = self._of(vm)
        files, memory = guest.saves.get(name, (guest.files, None))
        await self._off(guest)
        guest.files, guest.on, guest.paused = copy.deepcopy(files), True, True
        guest.network_at = guest.cloud_init_at = guest.agent_at = 0.0
        if memory is not None:
            guest.helper = self.helper_of(guest)
            await guest.helper.restored(memory)

    async def destroyed(self, vm: Vm) -> None:
        guest = self._guests.pop(vm.vmid, None)
        self._own.pop(vm.vmid, None)
        if guest is not None:
            await self._off(guest)
            if self._addresses is not None:
                self._addresses.give_back(guest.address)

    async def cloned(self, source: Vm, vm: Vm) -> None:
        of = self._guests.get(source.vmid)
        guest = self._of(vm)
        if of is not None:
            guest.files.disk = dict(of.files.disk)
        if source.vmid in self._own and vm.vmid not in self._own:
            self.set(vm.vmid, **{name: getattr(self._own[source.vmid], name) for name in Behaviour.__slots__})

    async def ping(self, vm: Vm) -> bool:
        guest = self._of(vm)
        up = guest.on and not guest.paused and guest.behaviour.agent
        return up and self.host.clock.now() >= guest.agent_at

    async def exec(self, vm: Vm, command: Sequence[str], stdin: bytes) -> int:
        guest = self._of(vm)
        if guest.behaviour.exec_blocked:
            raise GuestFault("Command guest-exec has been disabled")
        program = self._program(guest, command, stdin)
        pid = next(guest.pids)
        guest.programs[pid] = Exited(running=True)
        self.in_guest(guest, self._run(guest, pid, program))
        return pid

    def in_guest(self, guest: Guest, work: Coroutine[Any, Any, None]) -> None:
        """Work that ends with the guest's power."""
        task = asyncio.get_running_loop().create_task(work)
        guest.tasks.add(task)
        task.add_done_callback(guest.tasks.discard)

    def _program(self, guest: Guest, command: Sequence[str], stdin: bytes) -> Callable[[], Awaitable[Exited]]:
        """The work of a program. Raises NoSuchProgram."""
        if guest.windows:
            if not command[0].lower().endswith((".exe", "powershell", "cmd")):
                raise NoSuchProgram(command[0])
            return _nothing
        if command[0] == HELPER:
            if not guest.behaviour.helper:
                raise NoSuchProgram(HELPER)
            if guest.helper is None:
                guest.helper = self.helper_of(guest)
            return partial(guest.helper.run, command[1:], stdin)
        shell = Shell(guest.files, self.host.clock, guest.hostname, lambda: self.cloud_init(guest))
        if not shell.has(command[0]):
            raise NoSuchProgram(command[0])
        return partial(shell.run, command, stdin)

    async def _run(self, guest: Guest, pid: int, program: Callable[[], Awaitable[Exited]]) -> None:
        await self.host.clock.sleep(self.host.rng.uniform(*guest.behaviour.exec_s))
        guest.programs[pid] = await program()

    async def exec_status(self, vm: Vm, pid: int) -> Exited | None:
        return self._of(vm).programs.get(pid)

    async def interfaces(self, vm: Vm) -> list[Json]:
        guest = self._of(vm)
        there = self.host.clock.now() >= guest.network_at
        kind = guest.behaviour.network
        address = guest.address if there else ""
        return answers.interfaces(kind, vm.mac, address, guest.prefix, windows=guest.windows)

    async def ask(self, vm: Vm, command: str, params: Mapping[str, Any]) -> Any:
        guest = self._of(vm)
        name = answers.plain(params, "file")
        if command == "file-read":
            found = guest.files.read(name)
            if found is None:
                raise GuestFault(f"failed to open file '{name}' (mode: 'r'): No such file or directory")
            return {"content": found.decode("utf-8", "replace"), "bytes-read": len(found)}
        if command == "file-write":
            content = params.get("content", b"")
            if not guest.files.write(name, content if isinstance(content, bytes) else str(content).encode()):
                raise GuestFault(f"failed to open file '{name}' (mode: 'wb'): No such file or directory")
            return None
        said: dict[str, Any] = {
            "get-osinfo": answers.os_info(str(vm.config.get("ostype") or "")),
            "get-host-name": {"host-name": guest.hostname},
            "info": answers.info(exec_blocked=guest.behaviour.exec_blocked),
            "get-time": int(self.host.clock.now() * 1e9),
            "get-timezone": {"zone": "UTC", "offset": 0},
            "get-users": [],
            "get-fsinfo": answers.file_system(3 * GIB, GIB),
        }
        return said.get(command)

    def cloud_init(self, guest: Guest) -> str:
        """What cloud-init's status is now."""
        kind = guest.behaviour.cloud_init
        return kind if kind == "absent" or self.host.clock.now() >= guest.cloud_init_at else "running"

    async def close(self) -> None:
        for guest in [*self._guests.values()]:
            await self._off(guest)
        if self._addresses is not None:
            self._addresses.close()
            self._addresses = None


async def _nothing() -> Exited:
    return Exited()
