"""`PveDouble`: the cluster as a test holds it, running in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from labspawner.testing.pve.addresses import Net
from labspawner.testing.pve.clock import ClockKind
from labspawner.testing.pve.faults import Faults
from labspawner.testing.pve.inside import Inside, Plan
from labspawner.testing.pve.invariants import Owner, broken_rules, owner_in
from labspawner.testing.pve.requests import RequestLog
from labspawner.testing.pve.seams import Console, GuestsLike
from labspawner.testing.pve.tasks import Task
from labspawner.testing.pve.tls import Authority
from labspawner.testing.pve.world import GIB, Config, Device, Mapping, Storage, Vm, Volume

T = TypeVar("T")
_CALL_S = 120.0  # a call into the double's thread; a deadline against a hang, no promise


class PveDouble:
    """A small Proxmox VE cluster. See the package's docstring for how it is used.

    profile: "8.4" or "9" ("7.4" to be refused). clock, pace: how time passes. seed: of all that is random. guests, console:
    what runs in the VMs and what shows their screens. pool, user, storage, local_storage, template, local_template: names
    and ids. plan: how long things take, see `inside.Plan`. port: of the first node, 0 for the kernel's choice.
    """

    def __init__(
        self,
        nodes: Sequence[str] = ("pve1", "pve2", "pve3"),
        *,
        profile: str = "8.4",
        seed: int = 1,
        clock: ClockKind = "virtual",
        pace: float | None = None,
        guests: GuestsLike | None = None,
        console: Console | None = None,
        pool: str = "labs",
        user: str = "labs@pve",
        storage: str = "shared",
        local_storage: str = "local",
        template: int = 9100,
        local_template: int = 9000,
        plan: Plan | None = None,
        port: int = 0,
    ) -> None:
        self.profile, self.seed = profile, seed
        self.pace = pace if pace is not None else (1.0 if clock == "real" else 1000.0)
        self.pool, self.user, self.storage, self.local_storage = pool, user, storage, local_storage
        self.template, self.local_template = template, local_template
        self.bridge = "vmbr0"
        self.plan = plan or Plan()
        self._nodes, self._port = tuple(nodes), port
        self.guests = guests if guests is not None else _scripted()
        self.screens = console if console is not None else _screens()
        self._folder = tempfile.TemporaryDirectory(prefix="pve-double-")
        self.folder = Path(self._folder.name)
        self._authority = Authority(self.folder)
        self.net = Net()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inside: Inside | None = None
        self.faults = Faults(self)

    # from start to end

    def start(self) -> PveDouble:
        """Run; returns when all nodes answer. `with PveDouble() as pve` does it, and closes."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="pve-double", daemon=True)
        self._thread.start()
        try:
            self.wait(self._begin())
        except BaseException:
            self.close()
            raise
        return self

    async def _begin(self) -> None:
        inside = self._inside = Inside(self)
        await inside.start(self._nodes, self._authority, self._port)

    def close(self) -> None:
        """End all guests, tasks and listeners. Safe to repeat. Raises if the double itself failed."""
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            self._give_back()
            return
        try:
            if self._inside is not None:
                asyncio.run_coroutine_threadsafe(self._finish(self._inside), loop).result(_CALL_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_CALL_S)
            loop.close()
            self._give_back()
        self._raise_own_fault()

    def _give_back(self) -> None:
        self.net.close()
        self._folder.cleanup()

    @staticmethod
    async def _finish(inside: Inside) -> None:
        await inside.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    def _raise_own_fault(self) -> None:
        if self._inside is not None and self._inside.broken:
            raise RuntimeError("the double itself failed") from self._inside.broken[0]

    def __enter__(self) -> PveDouble:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # how it is reached from other threads

    @property
    def inside(self) -> Inside:
        """The parts, for who reads them by `call`; touch them only in the double's thread."""
        if self._inside is None:
            raise RuntimeError("the double has not been started")
        return self._inside

    def call(self, act: Callable[[Inside], T]) -> T:
        """What `act` gives when it is called with the parts, in the double's thread."""

        async def do() -> T:
            self._raise_own_fault()  # so that nobody waits for what can no longer come
            return act(self.inside)

        return self.wait(do())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives when it is run in the double's thread."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the double is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(_CALL_S)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def set_pace(self, pace: float) -> None:
        """Let the double's time pass so many times as fast from now on; 0: it stands still.

        Requests take real time: at 1000 one of a few milliseconds takes some of the double's seconds, so what is to happen
        at once wants a slower pace, or none, while it is asked for.
        """
        self.call(lambda inside: inside.clock.set_pace(pace))

    def now(self) -> float:
        """The double's time, in seconds since 1970."""
        return self.call(lambda inside: inside.clock.now())

    # where it is and who may ask

    @property
    def node_names(self) -> tuple[str, ...]:
        return self._nodes

    @property
    def urls(self) -> list[str]:
        """One URL for each node, in their order."""
        return [f"https://127.0.0.1:{door.port}" for door in self.inside.doors.values()]

    @property
    def url(self) -> str:
        return ",".join(self.urls)

    def url_of(self, node: str) -> str:
        return f"https://127.0.0.1:{self.inside.doors[node].port}"

    @property
    def ca_file(self) -> Path:
        return self._authority.ca_file

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate of all nodes, as PVE's pages show it: `AB:CD:...`."""
        return self._authority.fingerprint

    @property
    def token(self) -> str:
        """The least rights: `labs@pve!hub=secret`."""
        return self.inside.access.secret_of(f"{self.user}!hub")

    @property
    def admin_token(self) -> str:
        """Of root@pam, without privilege separation; not root itself, as PVE has it."""
        return self.inside.access.secret_of("root@pam!lab")

    @property
    def password(self) -> str:
        """Of root@pam, for a ticket."""
        return self.inside.access.password

    @property
    def address_pool(self) -> str:
        """Addresses for guests on this machine, `first-last`; nobody else's until `close`."""
        return self.net.pool

    @property
    def gateway(self) -> str:
        return self.net.gateway

    def add_token(self, user: str, name: str, *, pool: str = "", privileges: Iterable[str] | None = None) -> str:
        """A user with a privilege-separated token and what the least-privilege role has in `pool`; `user!name=secret`."""
        return self.call(lambda inside: inside.access.add_hub(user, name, pool or self.pool, privileges))

    def add_pool(self, name: str) -> None:
        self.call(lambda inside: inside.add_pool(name))

    # what is in it

    @property
    def requests(self) -> RequestLog:
        """What the API was asked, by everybody."""
        return self.inside.requests

    def vms(self) -> list[Vm]:
        """All VMs, templates too, by vmid; copies."""
        return self.call(lambda inside: [copy.deepcopy(inside.world.vms[key]) for key in sorted(inside.world.vms)])

    def vm(self, vmid: int) -> Vm:
        """One VM as it is now. Raises LookupError when there is none."""
        return self.call(lambda inside: copy.deepcopy(inside.world.vms[vmid]))

    def tasks(self, kind: str = "", vmid: int | None = None) -> list[Task]:
        """Tasks, oldest first. A clone's vmid is the template's."""
        ident = "" if vmid is None else str(vmid)
        return self.call(lambda inside: list(inside.tasks.matching(kind, ident)))

    def volumes(self, storage: str = "", vmid: int | None = None) -> list[Volume]:
        def find(inside: Inside) -> list[Volume]:
            return [
                copy.copy(one)
                for one in inside.world.volumes.values()
                if storage in ("", one.storage) and vmid in (None, one.vmid)
            ]

        return self.call(find)

    def invariants(self, owner: Callable[[Vm], Owner | None] = owner_in) -> list[str]:
        """What is wrong: a VM without an owner's marker, an address or a server twice, a volume without a VM, ..."""
        return self.call(lambda inside: broken_rules(inside.world, self.pool, owner))

    # what an administrator does

    def add_vm(self, vmid: int, node: str = "", *, pool: str = "", running: bool = False, **config: Any) -> None:
        """A VM that is simply there, with a disk of 3 GiB unless it says `scsi0=""`; no task, no rights."""

        async def do() -> None:
            await self.inside.add_vm(vmid, node or self._nodes[0], pool, config, running=running)

        self.wait(do())

    def set_config(self, vmid: int, **values: Any) -> None:
        """Change a config as root with an editor; None takes a key away."""

        def do(inside: Inside) -> None:
            config: Config = inside.world.vms[vmid].config
            for key, value in values.items():
                config.pop(key, None)
                if value is not None:
                    config[key] = value

        self.call(do)

    def add_storage(
        self, name: str, *, shared: bool = True, total_bytes: int = 500 * GIB, nodes: Sequence[str] = (), **other: Any
    ) -> None:
        """Another storage for images; a member of the pool with `in_pool=True`. kind: dir, lvm, rbd, ..."""
        in_pool = bool(other.pop("in_pool", False))
        storage = Storage(name, shared, ("images",), total_bytes, nodes=tuple(nodes), **other)

        def do(inside: Inside) -> None:
            inside.world.storages[name] = storage
            if in_pool:
                inside.world.pools[self.pool].storages.add(name)

        self.call(do)

    def add_mapping(self, name: str, devices: Iterable[tuple[str, str]], *, mdev: Sequence[str] = ()) -> None:
        """A PCI mapping of (node, address) pairs; the token may use it. mdev: the vGPU types it offers."""

        def do(inside: Inside) -> None:
            inside.world.mappings[name] = Mapping(name, [Device(*one) for one in devices], tuple(mdev))
            inside.access.allow(self.user, f"/mapping/pci/{name}", ("Mapping.Use", "Mapping.Audit"))

        self.call(do)

    def renew_certificate(self) -> None:
        """Another authority and certificate from now on; open connections are reset."""
        self._authority.renew()
        self.wait(self.inside.new_certificate(self._authority))


def _scripted() -> GuestsLike:
    from labspawner.testing.pve.guest import Guests  # noqa: PLC0415 - its rooms import ours

    return Guests.scripted()


def _screens() -> Console:
    from labspawner.testing.pve.console import Screens  # noqa: PLC0415 - its rooms import ours

    return Screens()
