"""What breaks, and what somebody else does to the cluster: switched by tests, from any thread."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labspawner.testing.pve.double import PveDouble
    from labspawner.testing.pve.inside import Inside

FOREVER = -1


@dataclass(slots=True)
class Plan:
    """One planned fault of requests. status 0: the connection ends without an answer. times: -1 for always."""

    method: str
    path: re.Pattern[str]
    kind: str
    status: int = 500
    text: str = ""
    seconds: float = 0.0
    times: int = 1
    after_effect: bool = False

    def fits(self, method: str, path: str) -> bool:
        return self.times != 0 and self.method in ("", method) and self.path.search(path) is not None

    def use(self) -> None:
        if self.times > 0:
            self.times -= 1


@dataclass(slots=True)
class TaskPlan:
    kind: str
    text: str
    times: int
    vmid: int


@dataclass(slots=True)
class FaultBoard:
    """What the double itself reads, in its loop."""

    plans: list[Plan] = field(default_factory=list)
    task_plans: list[TaskPlan] = field(default_factory=list)
    agent_down: set[int] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    stuck: list[str] = field(default_factory=list)

    def sticks(self) -> str | None:
        """How the next hibernation fails when it should."""
        return self.stuck.pop(0) if self.stuck else None

    def take(self, kind: str, method: str, path: str) -> Plan | None:
        """The first plan of this kind that fits, counted as used."""
        for plan in self.plans:
            if plan.kind == kind and plan.fits(method, path):
                plan.use()
                return plan
        return None

    def task_text(self, kind: str, ident: str) -> str | None:
        for plan in self.task_plans:
            if plan.times != 0 and plan.kind == kind and plan.vmid in (0, int(ident) if ident.isdigit() else 0):
                plan.times -= 1 if plan.times > 0 else 0
                return plan.text
        return None


class Faults:
    """The switches. A path is a regular expression searched in the path below `/api2/json`, e.g. `/clone$`.

    `times`: how often, -1 for always.
    """

    def __init__(self, double: PveDouble) -> None:
        self._double = double

    # requests

    def fail(
        self,
        method: str,
        path: str,
        status: int = 500,
        text: str = "got timeout",
        *,
        times: int = 1,
        after_effect: bool = False,
    ) -> None:
        """Answer with this status and text instead. after_effect: what was asked for is done all the same.

        status 0: the connection is reset without an answer. 595 and 596 are how PVE tells of its own proxy's faults.
        """
        self._plan(Plan(method, re.compile(path), "fail", status, text, 0.0, times, after_effect))

    def hang(self, method: str, path: str, *, times: int = 1, after_effect: bool = False) -> None:
        """Give no answer at all until the client goes away (or the double closes)."""
        self._plan(Plan(method, re.compile(path), "hang", 0, "", 0.0, times, after_effect))

    def slow(self, method: str, path: str, seconds: float, *, times: int = FOREVER) -> None:
        """Answer that much later, by the double's clock."""
        self._plan(Plan(method, re.compile(path), "slow", 0, "", seconds, times))

    def task_fails(self, kind: str, text: str, *, times: int = 1, vmid: int = 0, after_effect: bool = False) -> None:
        """Let the next tasks of this kind (`qmclone`, `qmstart`, ...) end with this text, before they did anything.

        after_effect: when all is done. A text `WARNINGS: 2` is always after the effect. vmid: what the task is about;
        for a clone that is the template.
        """
        shown = f"after:{text}" if after_effect else text
        self._do(lambda inside: inside.board.task_plans.append(TaskPlan(kind, shown, times, vmid)))

    def hold(self, kind: str = "", *, vmid: int = 0) -> None:
        """Let tasks of this kind ("" for all) stand still as soon as they would take time, until `release`.

        A clone then has its config with `lock: clone` (a full one not all of its disks), a start is not running yet, a
        hibernation is `suspending`. vmid: what the task is about; for a clone that is the template.
        """
        self._do(lambda inside: inside.tasks.hold(kind, str(vmid) if vmid else ""))

    def release(self, kind: str = "", *, vmid: int = 0) -> None:
        """Let held tasks go on."""
        self._do(lambda inside: inside.tasks.release(kind, str(vmid) if vmid else ""))

    def clear(self) -> None:
        """Take back all plans for requests and tasks."""

        def do(inside: Inside) -> None:
            inside.board.plans.clear()
            inside.board.task_plans.clear()

        self._do(do)

    # nodes and cluster

    def node_down(self, name: str, *, power: bool = False, silent: bool = False) -> None:
        """Cut a node off. Its own port refuses; requests for it through others are 595; peers see it 8 s later.

        power: it lost its power too, so its VMs are off and tasks on it are gone. silent: its port accepts and never
        answers, instead of refusing.
        """
        self._double.wait(self._double.inside.take_down(name, power=power, silent=silent))

    def node_seen(self, name: str) -> None:
        """What peers think of a node that was cut off or came back is true from now on."""
        self._do(lambda inside: inside.cluster.notice(name))

    def node_up(self, name: str) -> None:
        """The node is back and answers on its own port; its peers see it 3 s later."""
        self._do(lambda inside: inside.bring_up(name))

    def quorum(self, there: bool) -> None:
        """False: no quorum at once; each node sees the others offline, though they still answer. True: as they really are."""
        self._do(lambda inside: inside.cluster.force_quorum(None if there else False))

    def unknown(self, node: str, *, on: bool = True) -> None:
        """The node's pvestatd hangs: all its VMs turn `unknown` in the cluster's view, and run on."""
        self._do(lambda inside: setattr(inside.world.nodes[node], "silent", on))

    def storage_full(self, name: str, *, on: bool = True, left_bytes: int = 0) -> None:
        """Nothing fits on the storage any more but `left_bytes`; what is removed makes room again."""
        self._do(lambda inside: inside.volumes.fill(name, left_bytes if on else None))

    def storage_locked(self, name: str, *, on: bool = True) -> None:
        """Somebody holds the storage's lock: every allocation waits for it and times out."""
        self._do(lambda inside: inside.locks.hold_storage(name, on=on))

    def vm_file_locked(self, vmid: int, *, on: bool = True) -> None:
        """Somebody holds the lock file of the VM: `can't lock file ... got timeout`."""
        self._do(lambda inside: inside.locks.hold_vm(vmid, on=on))

    def hibernate_sticks(self, text: str = "savevm-start failed: got timeout", *, times: int = 1) -> None:
        """The next hibernations fail half-way: the VM runs on with `lock: suspending`, which only root takes away."""
        self._do(lambda inside: inside.board.stuck.extend([text] * times))

    # rights and certificates

    def revoke(self, token: str) -> None:
        """The token (`user@realm!name` or with its secret) is answered 401 from now on."""
        self._do(lambda inside: inside.board.revoked.add(token.split("=", maxsplit=1)[0]))

    def restore(self, token: str) -> None:
        self._do(lambda inside: inside.board.revoked.discard(token.split("=", maxsplit=1)[0]))

    def drop_privilege(self, privilege: str, *, on: bool = True) -> None:
        """The privilege is taken out of the least-privilege role (on=False: put back)."""
        self._do(lambda inside: inside.access.drop_privilege(privilege, on=on))

    def new_certificate(self) -> None:
        """All nodes have another certificate, of another authority; `fingerprint` and `ca_file` follow."""
        self._double.renew_certificate()

    # what an administrator does behind our back

    def lock(self, vmid: int, kind: str = "backup") -> None:
        """Set the VM's lock (backup, migrate, snapshot, suspending, rollback, clone); "" takes it away."""

        def do(inside: Inside) -> None:
            vm = inside.world.vms[vmid]
            vm.config.pop("lock", None)
            if kind:
                vm.config["lock"] = kind

        self._do(do)

    def delete(self, vmid: int) -> None:
        """The VM is gone with its disks, at once, running or not."""
        self._double.wait(self._double.inside.power.erase(vmid))

    def stop(self, vmid: int) -> None:
        """The VM is off, without a task: as from inside of it, or by an administrator in a shell."""
        self._double.wait(self._double.inside.power.off(vmid))

    def migrate(self, vmid: int, node: str) -> None:
        """The VM is on another node, as after HA or a migration; it runs on if it ran."""
        self._do(lambda inside: inside.power.move(vmid, node))

    def agent_down(self, vmid: int, *, on: bool = True) -> None:
        """The guest's agent does not answer (on=False: as the guest says again). vmid 0: of all VMs."""
        self._do(lambda inside: (inside.board.agent_down.add if on else inside.board.agent_down.discard)(vmid))

    def _plan(self, plan: Plan) -> None:
        self._do(lambda inside: inside.board.plans.append(plan))

    def _do(self, act: Callable[[Inside], Any]) -> None:
        self._double.call(act)
