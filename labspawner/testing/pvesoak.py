"""Many starts and stops on the double while all kinds of things break, and a look at what is left: nothing may be lost,
duplicated or leaked, and every failure has a sentence. Seeded: the same seed breaks the same things in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from labspawner.errors import LabError
from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.model import Lease, Phase, ReleaseMode
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.providers.proxmox.record import record_of
from labspawner.reconciler import Rules
from labspawner.store import Store
from labspawner.testing.pve import PveDouble, Vm
from labspawner.testing.waiting import eventually

_BREAK_EVERY_S = 0.4
_BROKEN_FOR_S = (0.05, 0.4)
_TRY_AGAIN_S = (0.1, 0.5)
_SETTLED_S = 300.0
_NOT_REMOVED = re.compile(r"Could not remove disk '([^']+)'")
_STATE = "-state-suspend"
"""In the name of a memory that was being saved when the quorum was lost: only who may administer the storage sees it."""


@dataclass(slots=True)
class Report:
    """What came of a soak.

    words: the sentences that students read, with how often. unsaid: failures without one. lost: servers that are gone and
    that nobody deleted. left: what is there after everything was ended. broke: the faults, with how often. corpses: VMs
    that only an administrator can delete (a clone that died with the quorum); unseen: those that no listing of ours named.
    manual: disks that the cluster itself could not remove with their VM, as its task's log says; nor may the hub's token.
    """

    spawns: int = 0
    ready: int = 0
    words: Counter[str] = field(default_factory=Counter)
    unsaid: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    broke: Counter[str] = field(default_factory=Counter)
    corpses: int = 0
    unseen: list[str] = field(default_factory=list)
    manual: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing was lost or leaked, and every failure was told."""
        return not (self.unsaid or self.lost or self.left or self.unseen)


def open_engine(provider: ProxmoxProvider, store: Path, hub_id: str) -> Engine:
    """An engine that reconciles all the time, as a hub's does every minute by the double's clock."""
    return Engine(
        store=Store.open(f"sqlite:///{store}"),
        providers={provider.name: provider},
        settings=EngineSettings(
            hub_id=hub_id,
            observe_interval_s=0.25,
            reconcile_interval_s=0.5,
            release_grace_s=2.0,
            rules=Rules(orphan_grace=timedelta(seconds=5), forgotten_grace=timedelta(seconds=5), brake_share=1.0),
        ),
    )


def order_of(user: str, pve: PveDouble, action: str) -> Order:
    """What a student orders."""
    return Order(
        user=user,
        server_name="",
        profile="soak/vm",
        variants=(
            Variant(provider="proxmox", settings={"template": str(pve.template)}, ready_timeout_s=120.0),
        ),
        base_url=f"/user/{user}/",
        command=("jupyterhub-singleuser",),
        environment={"JUPYTERHUB_API_TOKEN": "not-a-secret", "JUPYTERHUB_SERVICE_PREFIX": f"/user/{user}/"},
        pinned={"cull": {"action": action}},
    )  # fmt: skip


class Mischief:
    """Breaks one thing after the other on a double, and mends it again. Everything it does to VMs is remembered."""

    def __init__(self, pve: PveDouble, rng: random.Random, report: Report) -> None:
        self._pve, self._rng, self._report = pve, rng, report
        self.deleted: set[int] = set()
        self._away = False

    async def run(self) -> None:
        """Until cancelled; then all is mended."""
        mending: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(self._rng.uniform(0.2, 1.8) * _BREAK_EVERY_S)
                task = asyncio.ensure_future(self._one())
                mending.add(task)
                task.add_done_callback(mending.discard)
        finally:
            if mending:
                await asyncio.wait(mending)
            self.mend()

    def mend(self) -> None:
        """Nothing is broken any more, but what was done to VMs; an administrator has unlocked those that were stuck."""
        faults = self._pve.faults
        faults.clear()
        faults.quorum(True)
        faults.restore(self._pve.token)
        faults.agent_down(0, on=False)
        faults.storage_full(self._pve.storage, on=False)
        faults.storage_locked(self._pve.storage, on=False)
        faults.vm_file_locked(self._pve.template, on=False)
        for vm in self._pve.vms():
            if vm.lock not in {"", "suspended", "clone"}:
                with contextlib.suppress(LookupError):
                    faults.lock(vm.vmid, "")

    async def _one(self) -> None:
        name, act = self._rng.choice(self._all())
        self._report.broke[name] += 1
        with contextlib.suppress(LookupError):  # the VM that was chosen is gone meanwhile
            undo = await asyncio.to_thread(act)
            await asyncio.sleep(self._rng.uniform(*_BROKEN_FOR_S))
            if undo is not None:
                await asyncio.to_thread(undo)

    def _all(self) -> list[tuple[str, Callable[[], Callable[[], None] | None]]]:
        return [
            ("1 a task fails", self._task_fails),
            ("2 a task has warnings", lambda: self._plan_task("qmclone", "WARNINGS: 2")),
            ("3 storage locked", lambda: self._switch("storage_locked", self._pve.storage)),
            ("3 template locked", lambda: self._switch("vm_file_locked", self._pve.template)),
            ("4 an id is taken", self._id_taken),
            ("6 storage full", lambda: self._switch("storage_full", self._pve.storage)),
            ("7, 8, 25 a node is away", self._node_away),
            ("9 a start times out", lambda: self._plan_task("qmstart", "start failed: got timeout", after=True)),
            ("10 no agent", lambda: self._switch("agent_down", 0)),
            ("14 token revoked", self._revoked),
            ("15 a privilege is missing", self._privilege),
            ("17 an administrator deletes a VM", self._delete),
            ("18 a VM goes off", self._stop),
            ("19 a VM is moved", self._move),
            ("20 no quorum", self._no_quorum),
            ("21 a node tells nothing", self._unknown),
            ("22 a VM is locked", self._lock),
            ("23 hibernation fails", lambda: self._plan_task("qmsuspend", "no space left on device")),
            ("24 a memory cannot be read", lambda: self._plan_task("qmstart", "start failed: QEMU exited with code 1")),
            ("26 no answer to an order", self._no_answer),
            ("27 deletion fails", lambda: self._plan_task("qmdestroy", "can't remove volume: Device or resource busy")),
            ("29 slow answers", self._slow),
        ]

    def _plan_task(self, kind: str, text: str, *, after: bool = False) -> None:
        self._pve.faults.task_fails(kind, text, after_effect=after)

    def _task_fails(self) -> None:
        kind = self._rng.choice(["qmclone", "qmstart", "resize", "qmconfig"])
        self._plan_task(kind, "command 'qemu-img' failed: exit code 1", after=False)

    def _switch(self, name: str, what: str | int) -> Callable[[], None]:
        switch = getattr(self._pve.faults, name)
        switch(what)
        return lambda: switch(what, on=False)

    def _id_taken(self) -> None:
        self._pve.faults.fail("POST", "/clone$", text="unable to create VM 20000: config file already exists")

    def _node_away(self) -> Callable[[], None] | None:
        if self._away:  # two at once are no quorum, which is another fault
            return None
        self._away = True
        name = self._rng.choice(["pve1", "pve2", "pve3"])
        self._pve.faults.node_down(name)

        def back() -> None:
            self._pve.faults.node_up(name)
            self._away = False

        return back

    def _revoked(self) -> Callable[[], None]:
        self._pve.faults.revoke(self._pve.token)
        return lambda: self._pve.faults.restore(self._pve.token)

    def _privilege(self) -> Callable[[], None]:
        name = self._rng.choice(["VM.PowerMgmt", "VM.Clone", "VM.Monitor", "VM.Config.Options"])
        self._pve.faults.drop_privilege(name)
        return lambda: self._pve.faults.drop_privilege(name, on=False)

    def _victim(self) -> Vm | None:
        ours = [vm for vm in self._pve.vms() if not vm.template and vm.lock != "clone"]
        return self._rng.choice(ours) if ours else None

    def _delete(self) -> None:
        """One that is set up, and that nobody works on: PVE's own deletion waits for its lock."""
        vm = self._victim()
        if vm is not None and "ls-lease" in str(vm.config.get("tags")) and not vm.lock and vm.running:
            self.deleted.add(vm.vmid)
            self._pve.faults.delete(vm.vmid)

    def _stop(self) -> None:
        if (vm := self._victim()) is not None:
            self._pve.faults.stop(vm.vmid)

    def _move(self) -> None:
        if (vm := self._victim()) is not None:
            self._pve.faults.migrate(vm.vmid, self._rng.choice(["pve1", "pve2", "pve3"]))

    def _no_quorum(self) -> Callable[[], None]:
        self._pve.faults.quorum(False)
        return lambda: self._pve.faults.quorum(True)

    def _unknown(self) -> Callable[[], None]:
        name = self._rng.choice(["pve1", "pve2", "pve3"])
        self._pve.faults.unknown(name)
        return lambda: self._pve.faults.unknown(name, on=False)

    def _lock(self) -> Callable[[], None] | None:
        vm = self._victim()
        if vm is None or vm.lock:
            return None
        self._pve.faults.lock(vm.vmid, self._rng.choice(["backup", "snapshot", "migrate"]))

        return lambda: self._pve.faults.lock(vm.vmid, "")

    def _no_answer(self) -> None:
        path = self._rng.choice(
            ["/clone$", "/config$", "/status/start$", "/status/stop$", "/agent/exec$", "/resources$"]
        )
        self._pve.faults.fail("", path, status=self._rng.choice([0, 596]), after_effect=self._rng.random() < 0.5)

    def _slow(self) -> None:
        self._pve.faults.slow("", "", 3.0, times=20)


class Soak:
    """Students who start and stop servers, on one engine and one double."""

    def __init__(self, pve: PveDouble, engine: Engine, *, seed: int) -> None:
        self._pve, self._engine = pve, engine
        self._provider = engine.providers["proxmox"]
        self._rng = random.Random(seed)  # noqa: S311 - a schedule, no secret
        self.report = Report()
        self._mischief = Mischief(pve, random.Random(seed + 1), self.report)  # noqa: S311

    async def run(self, spawns: int, *, students: int = 12) -> Report:
        """So many starts by so many students, with things breaking; afterwards all is mended, ended and looked at."""
        left = iter(range(spawns))
        breaking = asyncio.ensure_future(self._mischief.run())
        try:
            await asyncio.gather(*(self._student(f"student{number}", left) for number in range(students)))
        finally:
            breaking.cancel()
            await asyncio.wait({breaking})
        await self._look_for_lost()
        await self._bury()
        await self.end_all()
        await self._look_for_left()
        return self.report

    async def _student(self, user: str, left: Iterator[int]) -> None:
        for _ in left:
            await self._until_free(user)
            action = self._rng.choice(["stop", "hibernate", "destroy"])
            if not await self._said(self._start(user, action)):
                await asyncio.sleep(self._rng.uniform(*_TRY_AGAIN_S))
                continue
            await asyncio.sleep(self._rng.uniform(0.0, 0.1))
            await self._said(self._engine.stop(user, ""))
            if self._rng.random() < 0.3:
                await self._said(self._engine.forget(user, ""))

    async def _until_free(self, user: str) -> None:
        """Return when the last server is over, or does not end: then the start says so."""
        for _ in range(200):
            if self._engine.book.active(user, "") is None:
                return
            await asyncio.sleep(0.05)

    async def _start(self, user: str, action: str) -> None:
        self.report.spawns += 1
        await self._engine.launch(order_of(user, self._pve, action), lambda _progress: None)
        self.report.ready += 1

    async def _said(self, work: Awaitable[object]) -> bool:
        """Whether it was done; a failure is noted with its sentence, and one without a sentence is a fault of ours."""
        try:
            await work
        except LabError as exc:
            self.report.words[str(exc.message)] += 1
            if not str(exc.message).strip():
                self.report.unsaid.append(repr(exc))
        except Exception as exc:
            self.report.unsaid.append(repr(exc))
        else:
            return True
        return False

    async def _look_for_lost(self) -> None:
        """Leases that were ready and are parked, and whose VM nobody deleted or wants deleted, have their VM."""
        there = {vm.vmid for vm in self._pve.vms()}
        for lease in self._engine.book.all():
            vmid = record_of(lease.handle).vmid if lease.handle is not None else None
            if (
                lease.phase is Phase.PARKED
                and lease.release_mode is not ReleaseMode.DESTROY  # its student wants it gone, and part of that is done
                and lease.ready_at is not None
                and vmid not in there | self._mischief.deleted
            ):
                self.report.lost.append(f"lease {lease.id} of {lease.user}: VM {vmid} is not there")

    async def _bury(self) -> None:
        """What an administrator does about clones that died half-way: deletes those that a listing of ours names."""
        await eventually(lambda: not any(task.running for task in self._pve.tasks("qmclone")), 60.0, "clones are over")
        corpses = {vm.vmid for vm in self._pve.vms() if vm.lock == "clone"}
        self.report.corpses = len(corpses)
        if not corpses:
            return
        named = {record_of(each.handle).vmid for each in await self._provider.owned()}
        self.report.unseen += [f"VM {vmid}, a clone that died" for vmid in sorted(corpses - named)]
        for vmid in corpses:
            with contextlib.suppress(LookupError):
                await asyncio.to_thread(self._pve.faults.delete, vmid)

    async def end_all(self) -> None:
        """End everything, as an administrator does who closes the lab."""
        until = asyncio.get_running_loop().time() + _SETTLED_S
        while asyncio.get_running_loop().time() < until:
            self._mischief.mend()
            for user in sorted({lease.user for lease in self._engine.book.all()}):
                await self._said(self._engine.forget(user, ""))
            await self._engine.reconciler.pass_once()
            if not await self.remains():
                return
            await asyncio.sleep(0.2)

    async def remains(self) -> list[str]:
        """What is there that nobody uses, as it is called."""
        try:
            owned = await self._provider.owned()
        except LabError as exc:
            return [f"the cluster cannot be listed: {exc}"]
        leases: list[Lease] = self._engine.book.all()
        return [
            *(f"lease {lease.id} is {lease.phase.value}" for lease in leases),
            *(f"{each.handle.data} of lease {each.lease_id}" for each in owned),
        ]

    async def _look_for_left(self) -> None:
        self.report.left += await self.remains()
        told = {volid for task in self._pve.tasks() for line in task.log for volid in _NOT_REMOVED.findall(str(line))}
        for rule in self._pve.invariants():
            manual = any(volid in rule for volid in told) or _STATE in rule
            (self.report.manual if manual else self.report.left).append(rule)
        templates = {self._pve.template, self._pve.local_template}
        self.report.left += [f"VM {vm.vmid} ({vm.name})" for vm in self._pve.vms() if vm.vmid not in templates]
