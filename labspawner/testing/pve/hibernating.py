"""A VM goes to disk: the room it takes, the locks it has on the way, and what a failure leaves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.world import MIB, Storage, Vm, Volume

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

MACHINE = "pc-i440fx-10.0+pve0"


def state_bytes(vm: Vm) -> int:
    """The size of a state volume: twice the memory and 500 MiB."""
    return vm.memory_bytes * 2 + 500 * MIB


def work(inside: Inside, vm: Vm, storage: str = "") -> Work:
    """The task of a `suspend` with `todisk`; storage: where the state goes, else as the VM's config says."""

    async def hibernate(task: Task) -> None:
        if vm.lock:
            raise TaskFailed(f"VM is locked ({vm.lock})")
        if any(key.startswith("hostpci") for key in vm.config):
            raise TaskFailed("cannot suspend VM to disk due to passed-through PCI device(s)")
        date = time.strftime("%Y-%m-%d", time.gmtime(inside.clock.now()))
        volume = await make_state(inside, vm, task, f"suspend-{date}", storage)
        if not await inside.cluster.settled():
            raise TaskFailed(inside.cluster.unwritable(vm.node, vm.vmid))  # the state volume stays behind
        before = dict(vm.config)
        vm.config.update(vmstate=volume.volid, runningmachine=MACHINE, runningcpu=cpu_of(vm), lock="suspending")
        await save(inside, vm, volume)
        vm.config["lock"] = "suspended"
        vm.config["boot"] = before.get("boot", " ")
        await inside.guests.pause(vm)
        await inside.power.switch_off(vm, keep_memory=True)
        task.say("State saved, quitting")

    return hibernate


async def make_state(inside: Inside, vm: Vm, task: Task, name: str, wanted: str = "") -> Volume:
    """A volume for the VM's memory, on the wanted storage, the one that its config says or the best there is."""
    storage = inside.world.storages[wanted] if wanted else state_storage(inside, vm)
    file = f"vm-{vm.vmid}-state-{name}.raw"
    return await inside.volumes.make(task, storage, vm.node, vm.vmid, file, state_bytes(vm), 4096)


def state_storage(inside: Inside, vm: Vm) -> Storage:
    """vmstatestorage, else a shared one that the VM has a disk on, else any it has a disk on, else local."""
    named = str(vm.config.get("vmstatestorage", ""))
    if named:
        return inside.world.storages[named]
    found = [inside.volumes.storage_of(volid) for _, volid in vm.disks()]
    mine = [one for one in found if one is not None and "images" in one.content]
    return next((one for one in mine if one.shared), mine[0] if mine else inside.local)


async def save(inside: Inside, vm: Vm, volume: Volume) -> None:
    """Write the memory. Raises TaskFailed when the room ends, or by a planned fault; the VM runs on, locked."""
    await inside.clock.sleep(inside.plan.hibernate_s)
    used = vm.memory_bytes * 2 // 5
    storage = inside.world.storages[volume.storage]
    if (text := inside.board.sticks()) is not None:
        raise TaskFailed(text)
    if inside.volumes.room(storage, vm.node).avail < used:
        raise TaskFailed("savevm-start failed: No space left on device")
    volume.used_bytes = used


def cpu_of(vm: Vm) -> str:
    return str(vm.config.get("cpu", "qemu64"))
