"""Switching VMs on and off, pausing them, and what else happens to their power."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labspawner.testing.pve import hibernating, starting
from labspawner.testing.pve.call import Call, Refused, invalid
from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.world import Vm

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

HA_S = 10.0  # until the node's resource manager looks again


class Power:
    """The calls below `/status/`, and what an administrator or the guest itself does without a call."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    # calls

    async def start(self, call: Call) -> str:
        _only_root_skips(call)
        self._inside.cluster.need_quorum()
        return self._wanted(call, "hastart", "qmstart", self._starting(call))

    async def resume(self, call: Call) -> str:
        _only_root_skips(call)
        vm = call.vm()
        if not vm.running and vm.lock != "suspended":
            raise Refused(500, f"VM {vm.vmid} not running")
        return self._task(call, "qmresume", self._starting(call) if vm.lock == "suspended" else self._going_on(call))

    async def stop(self, call: Call) -> str:
        _only_root_skips(call)
        return self._wanted(call, "hastop", "qmstop", self._stopping(call))

    async def shutdown(self, call: Call) -> str:
        _only_root_skips(call)
        return self._wanted(call, "hastop", "qmshutdown", self._shutting_down(call))

    async def reboot(self, call: Call) -> str:
        self._must_run(call)

        async def work(task: Task) -> None:
            await self._shutting_down(call)(task)
            await self._starting(call)(task)

        return self._task(call, "qmreboot", work)

    async def reset(self, call: Call) -> str:
        self._must_run(call)

        async def work(task: Task) -> None:
            vm = self._of_task(call)
            await self._inside.guests.power_off(vm)
            await self._inside.guests.boot(vm)

        return self._task(call, "qmreset", work)

    async def suspend(self, call: Call) -> str:
        _only_root_skips(call)
        vm = self._must_run(call)
        if call.flag("todisk"):
            storage = str(call.params.get("statestorage", ""))
            if storage:
                call.need(f"/storage/{storage}", "Datastore.AllocateSpace")
                if storage not in self._inside.world.storages:
                    raise Refused(500, f"storage '{storage}' does not exist")
            return self._task(call, "qmsuspend", hibernating.work(self._inside, vm, storage))

        async def work(task: Task) -> None:
            self._unlocked(vm)
            vm.paused = True
            await self._inside.guests.pause(vm)

        return self._task(call, "qmpause", work)

    def _wanted(self, call: Call, ha_kind: str, kind: str, work: Work) -> str:
        """As a task of its own kind; for a VM under HA one that only says what is wanted, and HA does it later."""
        vm = self._inside.world.vms.get(call.vmid)
        if vm is None or not vm.ha_managed:
            return self._task(call, kind, work)

        async def later() -> None:
            await self._inside.clock.sleep(HA_S)
            self._task(call, kind, work)

        async def want(task: Task) -> None:
            self._inside.spawn(later())

        return self._task(call, ha_kind, want)

    def _task(self, call: Call, kind: str, work: Work) -> str:
        return self._inside.begin(call, kind, call.vmid, work)

    def _must_run(self, call: Call) -> Vm:
        vm = call.vm()
        if not vm.running:
            raise Refused(500, f"VM {vm.vmid} not running")
        return vm

    def _of_task(self, call: Call) -> Vm:
        try:
            return call.vm()
        except Refused as refused:
            raise TaskFailed(refused.text) from refused

    @staticmethod
    def _unlocked(vm: Vm) -> None:
        if vm.lock:
            raise TaskFailed(f"VM is locked ({vm.lock})")

    # the work of their tasks

    def _starting(self, call: Call) -> Work:
        async def work(task: Task) -> None:
            async with self._inside.locks.vm(call.vmid, task=task):
                vm = self._of_task(call)
                await starting.start(self._inside, vm, task, root=call.flag("skiplock"))

        return work

    def _going_on(self, call: Call) -> Work:
        async def work(task: Task) -> None:
            vm = self._of_task(call)
            self._unlocked(vm)
            vm.paused = False
            await self._inside.guests.resume(vm)

        return work

    def _stopping(self, call: Call) -> Work:
        async def work(task: Task) -> None:
            vm = self._found(call)
            async with self._inside.locks.vm(call.vmid, task=task):
                if not vm.running:
                    return
                self._unlocked(vm)
                await self._inside.clock.sleep(self._inside.plan.stop_s)
                await self.switch_off(vm)

        return work

    def _shutting_down(self, call: Call) -> Work:
        async def work(task: Task) -> None:
            vm = self._found(call)
            if not vm.running:
                return
            self._unlocked(vm)
            timeout_s = float(call.params.get("timeout", 60))
            if not vm.paused and await self._inside.guests.shutdown(vm, timeout_s=timeout_s):
                await self.switch_off(vm)
                return
            if vm.paused:
                await self._inside.clock.sleep(timeout_s)
            if not vm.running:
                return
            if not call.flag("forceStop"):
                raise TaskFailed("VM quit/powerdown failed - got timeout")
            task.say("VM still running - terminating now with SIGTERM")
            await self._inside.clock.sleep(self._inside.plan.stop_s)
            await self.switch_off(vm)

        return work

    def _found(self, call: Call) -> Vm:
        vm = self._inside.world.vms.get(call.vmid)
        if vm is None or vm.node != call.node:
            raise TaskFailed(f"unable to find configuration file for VM {call.vmid} on node '{call.node}'")
        return vm

    # without a call

    async def switch_on(self, vm: Vm, *, boot: bool = True) -> None:
        vm.status, vm.paused = "running", False
        vm.pid, vm.started_at = self._inside.world.new_pid(), self._inside.clock.now()
        vm.running_config = dict(vm.config)
        if boot:
            await self._inside.guests.boot(vm)

    async def switch_off(self, vm: Vm, *, keep_memory: bool = False) -> None:
        """keep_memory: it was saved, so the guest is not to lose it."""
        if not vm.running:
            return
        vm.status, vm.paused, vm.pid, vm.started_at = "stopped", False, 0, 0.0
        vm.running_config = {}
        starting.give_back_devices(self._inside.world, vm)
        if not keep_memory:
            await self._inside.guests.power_off(vm)

    async def off(self, vmid: int) -> None:
        """Switched off by somebody without a task."""
        await self.switch_off(self._inside.world.vms[vmid])

    def turned_itself_off(self, vmid: int) -> None:
        """The guest is off by itself; qmeventd cleans up."""
        vm = self._inside.world.vms.get(vmid)
        if vm is not None and vm.running:
            self._inside.spawn(self.switch_off(vm))

    async def erase(self, vmid: int) -> None:
        """Gone with all its disks, by an administrator."""
        vm = self._inside.world.vms[vmid]
        await self.switch_off(vm)
        self._inside.world.vms.pop(vmid, None)
        self._inside.volumes.drop_all(vm)
        await self._inside.guests.destroyed(vm)

    def move(self, vmid: int, node: str) -> None:
        """On another node, its local volumes with it."""
        vm = self._inside.world.vms[vmid]
        for volume in [one for one in self._inside.world.volumes.values() if one.vmid == vmid and one.node == vm.node]:
            self._inside.volumes.drop(volume)
            volume.node = node
            self._inside.world.volumes[(volume.volid, node)] = volume
        vm.node = node


def _only_root_skips(call: Call) -> None:
    if call.flag("skiplock") and not call.who.root:
        raise invalid(skiplock="Only root may use this option.")
