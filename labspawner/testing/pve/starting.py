"""A VM starts, or resumes from disk: what must be there, and in which order its absence is noticed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from labspawner.testing.pve.tasks import Task, TaskFailed
from labspawner.testing.pve.volumes import CLOUDINIT_BYTES
from labspawner.testing.pve.world import Device, Vm, World, properties

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside


async def start(inside: Inside, vm: Vm, task: Task, *, root: bool = False) -> None:
    """Start a VM that is off. Raises TaskFailed; whoever calls holds its lock file."""
    if vm.template:
        raise TaskFailed("you can't start a vm if it's a template")
    suspended = vm.lock == "suspended"
    if vm.lock and not suspended and not root:
        raise TaskFailed(f"VM is locked ({vm.lock})")
    if vm.running:
        raise TaskFailed(f"VM {vm.vmid} already running")
    _check_snippets(inside.world, vm)
    await _cloud_init(inside, vm, task)
    if suspended:
        await _resume(inside, vm, task)
        return
    _check_disks(inside, vm)
    devices = take_devices(inside.world, vm)
    try:
        await inside.clock.sleep(inside.plan.start_s)
        _check_bridges(inside.world, vm, task)
    except BaseException:
        for device in devices:
            device.used_by = 0
        raise
    await inside.power.switch_on(vm)


async def _resume(inside: Inside, vm: Vm, task: Task) -> None:
    volid = str(vm.config.get("vmstate", ""))
    task.say("Resuming suspended VM")
    task.say(f"activating and using '{volid}' as vmstate")
    volume = inside.volumes.find(volid, vm.node)
    if volume is None:
        raise TaskFailed(f"volume '{volid}' does not exist")
    _check_disks(inside, vm)
    await inside.clock.sleep(inside.plan.resume_s)
    await inside.power.switch_on(vm, boot=False)
    await inside.guests.resume(vm)
    task.say("Resumed VM, removing state")
    for key in ("lock", "vmstate", "runningmachine", "runningcpu"):
        vm.config.pop(key, None)
    vm.running_config = dict(vm.config)
    await inside.volumes.remove(task, volume)


def _check_snippets(world: World, vm: Vm) -> None:
    for volid in properties(vm.config.get("cicustom")).values():
        if volid not in world.snippets:
            raise TaskFailed(f"volume '{volid}' does not exist")


async def _cloud_init(inside: Inside, vm: Vm, task: Task) -> None:
    for _, volid in vm.disks():
        if "-cloudinit" not in volid:
            continue
        storage = inside.volumes.storage_of(volid)
        if storage is not None and inside.volumes.find(volid, vm.node) is None:
            name = volid.rpartition("/")[2]
            task.say(f"failed to stat '{inside.volumes.path(storage, vm.vmid, name)}'")
            await inside.volumes.make(task, storage, vm.node, vm.vmid, name, CLOUDINIT_BYTES, 266240)
        task.say("generating cloud-init ISO")


def _check_disks(inside: Inside, vm: Vm) -> None:
    for key, volid in vm.disks():
        if key.startswith("unused") or volid.startswith("none"):
            continue
        storage = inside.volumes.storage_of(volid)
        if storage is None:
            raise TaskFailed(f"storage '{volid.partition(':')[0]}' does not exist")
        if not storage.on(vm.node):
            raise TaskFailed(f"storage '{storage.name}' is not available on node '{vm.node}'")
        if inside.volumes.find(volid, vm.node) is None and "iso/" not in volid:
            raise TaskFailed(f"volume '{volid}' does not exist")


def _check_bridges(world: World, vm: Vm, task: Task) -> None:
    for key, value in vm.config.items():
        bridge = properties(value).get("bridge") if re.fullmatch(r"net\d+", key) else None
        if bridge and bridge not in world.bridges:
            task.say(f"bridge '{bridge}' does not exist")
            script = "/usr/libexec/qemu-server/pve-bridge"
            tap = f"tap{vm.vmid}i{key[3:]}"
            task.say(
                f"kvm: -netdev type=tap,id={key},ifname={tap},script={script},downscript={script}down: "
                f"network script {script} failed with status 512"
            )
            raise TaskFailed("start failed: QEMU exited with code 1")


def take_devices(world: World, vm: Vm) -> list[Device]:
    """A free device of each mapping that the VM names. Raises TaskFailed when one has none left on this node."""
    taken: list[Device] = []
    for key, value in vm.config.items():
        name = properties(value).get("mapping") if re.fullmatch(r"hostpci\d+", key) else None
        if not name:
            continue
        mapping = world.mappings.get(name)
        here = [device for device in mapping.devices if device.node == vm.node] if mapping is not None else []
        free = [device for device in here if not device.used_by]
        if not free:
            for device in taken:
                device.used_by = 0
            if not here:
                raise TaskFailed(f"PCI device mapping '{name}' not found for '{vm.node}': no available device")
            raise TaskFailed(f"PCI device '{here[-1].path}' already in use by VMID '{here[-1].used_by}'")
        free[0].used_by = vm.vmid
        taken.append(free[0])
    return taken


def give_back_devices(world: World, vm: Vm) -> None:
    for mapping in world.mappings.values():
        for device in mapping.devices:
            if device.used_by == vm.vmid:
                device.used_by = 0
