"""Snapshots with and without memory, going back to them, and making a template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.call import Call, Refused
from labspawner.testing.pve.configs import shown
from labspawner.testing.pve.hibernating import MACHINE, cpu_of, make_state
from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.world import Config, Snapshot, Vm, digest

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside


async def listing(call: Call) -> list[dict[str, Any]]:
    vm = call.vm()
    found = []
    for one in vm.snapshots.values():
        entry: dict[str, Any] = {"name": one.name, "description": one.description, "snaptime": int(one.taken_at)}
        entry |= {"vmstate": 1 if one.vmstate else 0} | ({"parent": one.parent} if one.parent else {})
        found.append(entry)
    current: dict[str, Any] = {"name": "current", "description": "You are here!", "running": int(vm.running)}
    current |= {"digest": digest(vm.config)} | ({"parent": vm.parent} if vm.parent else {})
    return [*found, current]


async def config(call: Call) -> Config:
    one = call.vm().snapshots.get(call.names["snapname"])
    if one is None:
        raise Refused(500, f"snapshot '{call.names['snapname']}' does not exist")
    extra: Config = {"snaptime": int(one.taken_at)} | ({"parent": one.parent} if one.parent else {})
    return {**shown(one.config), **extra} | ({"description": one.description} if one.description else {})


async def create(call: Call) -> str:
    name = str(call.params["snapname"])
    if name == "current":
        raise Refused(500, "unable to use snapshot name 'current' (reserved name)")

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(call.vmid, task=task):
            await _take(call, task, _there(call), name)

    return call.inside.begin(call, "qmsnapshot", call.vmid, work)


async def _take(call: Call, task: Task, vm: Vm, name: str) -> None:
    inside = call.inside
    _unlocked(vm)
    if name in vm.snapshots:
        raise TaskFailed(f"snapshot name '{name}' already used")
    await _writable(inside, vm)
    kept: Config = {key: value for key, value in vm.config.items() if key != "digest"}
    one = Snapshot(name, kept, inside.clock.now(), str(call.params.get("description", "")), parent=vm.parent)
    if vm.running and call.flag("vmstate"):
        volume = await make_state(inside, vm, task, name)
        one.vmstate = volume.volid
        kept.update(vmstate=volume.volid, runningmachine=MACHINE, runningcpu=cpu_of(vm))
        task.say(f"saving VM state and RAM using storage '{volume.storage}'")
        await inside.clock.sleep(inside.plan.hibernate_s)
        volume.used_bytes = vm.memory_bytes * 2 // 5
        await inside.guests.save(vm, name)
        saved = volume.used_bytes / (1 << 20)
        task.log += ["4.01 MiB in 0s", f"completed saving the VM state in 0s, saved {saved:.2f} MiB"]
    for key, volid in vm.disks():
        if vm.running and "-cloudinit" not in volid and key != "vmstate":
            task.say(f"snapshotting 'drive-{key}' ({volid})")
    await inside.clock.sleep(inside.plan.config_s)
    vm.snapshots[name], vm.parent = one, name


async def rollback(call: Call) -> str:
    name = call.names["snapname"]

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(call.vmid, task=task):
            await _go_back(call, task, _there(call), name)

    return call.inside.begin(call, "qmrollback", call.vmid, work)


async def _go_back(call: Call, task: Task, vm: Vm, name: str) -> None:
    inside, one = call.inside, vm.snapshots.get(name)
    if one is None:
        raise TaskFailed(f"snapshot '{name}' does not exist")
    _unlocked(vm)
    await inside.power.switch_off(vm, keep_memory=True)
    await inside.clock.sleep(inside.plan.resume_s)
    vm.config = {k: v for k, v in one.config.items() if k not in ("vmstate", "runningmachine", "runningcpu")}
    vm.parent = name
    if one.vmstate:
        task.say("generating cloud-init ISO")
        await inside.power.switch_on(vm, boot=False)
        await inside.guests.restore(vm, name)
        await inside.guests.resume(vm)
        return
    await inside.guests.power_off(vm)
    if call.flag("start"):
        await inside.power.switch_on(vm)


async def delete(call: Call) -> str:
    name = call.names["snapname"]

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(call.vmid, task=task):
            vm = _there(call)
            one = vm.snapshots.get(name)
            if one is None:
                raise TaskFailed(f"snapshot '{name}' does not exist")
            _unlocked(vm)
            await call.inside.clock.sleep(call.inside.plan.config_s)
            volume = call.inside.volumes.find(one.vmstate, vm.node) if one.vmstate else None
            if volume is not None:
                await call.inside.volumes.remove(task, volume)
            del vm.snapshots[name]
            for other in vm.snapshots.values():
                other.parent = one.parent if other.parent == name else other.parent
            vm.parent = one.parent if vm.parent == name else vm.parent

    return call.inside.begin(call, "qmdelsnapshot", call.vmid, work)


async def template(call: Call) -> str:
    vm = call.vm()
    if vm.lock:
        raise Refused(500, f"VM is locked ({vm.lock})")
    if vm.snapshots:
        raise Refused(500, "unable to create template, because VM contains snapshots")
    if vm.template:
        raise Refused(500, "you can't convert a template to a template")
    if vm.running:
        raise Refused(500, "you can't convert a VM to template if VM is running")
    return call.inside.begin(call, "qmtemplate", call.vmid, _to_template(call, vm))


def _to_template(call: Call, vm: Vm) -> Work:
    volumes = call.inside.volumes

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(vm.vmid, task=task):
            await call.inside.clock.sleep(call.inside.plan.config_s)
            for key, volid in list(vm.disks()):
                volume = volumes.find(volid, vm.node)
                if volume is None or "-cloudinit" in volid or key.startswith("unused"):
                    continue
                volumes.drop(volume)
                volume.volid = volid.replace(f"vm-{vm.vmid}-disk", f"base-{vm.vmid}-disk")
                volumes_of = call.inside.world.volumes
                volumes_of[(volume.volid, volume.node)] = volume
                vm.config[key] = str(vm.config[key]).replace(volid, volume.volid)
            vm.config["template"] = 1

    return work


def _there(call: Call) -> Vm:
    try:
        return call.vm()
    except Refused as refused:
        raise TaskFailed(refused.text) from refused


def _unlocked(vm: Vm) -> None:
    if vm.lock:
        raise TaskFailed(f"VM is locked ({vm.lock})")


async def _writable(inside: Inside, vm: Vm) -> None:
    if not await inside.cluster.settled():
        raise TaskFailed(inside.cluster.unwritable(vm.node, vm.vmid))
