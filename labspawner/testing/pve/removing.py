"""Deleting a VM, also without a quorum, and moving it to another node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labspawner.testing.pve.call import Call, Refused, invalid
from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.world import Vm, Volume

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside


async def delete(call: Call) -> str:
    """DELETE of a VM. Refused while it runs or is protected; all else is the task's."""
    if call.flag("skiplock") and not call.who.root:
        raise invalid(skiplock="Only root may use this option.")
    vm = call.vm()
    if str(vm.config.get("protection", 0)) == "1":
        raise Refused(500, f"can't remove VM {vm.vmid} - protection mode enabled")
    if vm.ha_managed and not call.flag("purge"):
        raise Refused(500, f"unable to remove VM {vm.vmid} - used in HA resources and purge parameter not set.")
    if vm.running:
        raise Refused(500, f"VM {vm.vmid} is running - destroy failed")
    return call.inside.begin(call, "qmdestroy", vm.vmid, _destroying(call))


def _destroying(call: Call) -> Work:
    inside = call.inside

    async def work(task: Task) -> None:
        async with inside.locks.vm(call.vmid, task=task):
            try:
                vm = call.vm()
            except Refused as refused:
                raise TaskFailed(refused.text) from refused
            if vm.running:
                raise TaskFailed(f"VM {vm.vmid} is running - destroy failed")
            if vm.lock and vm.lock != "suspended":
                raise TaskFailed(f"VM is locked ({vm.lock})")
            await _destroy(
                inside, task, vm, purge=call.flag("purge"), all_disks=call.flag("destroy-unreferenced-disks")
            )

    return work


async def _destroy(inside: Inside, task: Task, vm: Vm, *, purge: bool, all_disks: bool) -> None:
    mine = _volumes(inside, vm)
    for _, volid in vm.disks():
        storage = inside.volumes.storage_of(volid)
        if storage is not None and inside.volumes.find(volid, vm.node) is None:
            path = inside.volumes.path(storage, vm.vmid, volid.rpartition("/")[2])
            task.say(f"disk image '{path}' does not exist")
    for volume in mine:
        if vm.template and (children := inside.volumes.children(volume)) and children:
            raise TaskFailed(f"base volume '{volume.volid}' is still in use by linked cloned")
    if all_disks:
        mine += [one for one in _others(inside, vm) if one not in mine]
    for volume in mine:
        try:
            await inside.volumes.remove(None if inside.cluster.quorate else task, volume)
        except TaskFailed as failed:
            task.say(f"Could not remove disk '{volume.volid}', check manually: {failed}")
    if not await inside.cluster.settled():  # only now: the local disks are gone already
        raise TaskFailed(inside.cluster.unwritable(vm.node, vm.vmid))
    if purge:
        task.say(f"purging VM {vm.vmid} from related configurations..")
    inside.world.vms.pop(vm.vmid, None)
    await inside.guests.destroyed(vm)


def _volumes(inside: Inside, vm: Vm) -> list[Volume]:
    named = [volid for _, volid in vm.disks()] + [one.vmstate for one in vm.snapshots.values() if one.vmstate]
    found = (inside.volumes.find(volid, vm.node) for volid in dict.fromkeys(named))
    return [volume for volume in found if volume is not None and volume.vmid == vm.vmid]


def _others(inside: Inside, vm: Vm) -> list[Volume]:
    return [one for one in inside.world.volumes.values() if one.vmid == vm.vmid and one.node in ("", vm.node)]


# migration


async def preconditions(call: Call) -> dict[str, Any]:
    """GET .../migrate: what keeps the VM where it is."""
    vm, inside = call.vm(), call.inside
    local = _local_disks(inside, vm)
    devices = [key for key in vm.config if key.startswith("hostpci")]
    others = [node.name for node in inside.world.nodes.values() if node.name != vm.node and not node.seen_offline]
    data: dict[str, Any] = {"running": int(vm.running), "local_resources": devices, "mapped-resources": devices}
    data["local_disks"] = [{"volid": one.volid, "size": one.size_bytes, "cdrom": 0} for one in local]
    if not vm.running:
        data |= {"allowed_nodes": [] if local else others, "not_allowed_nodes": {}}
    return data


async def migrate(call: Call) -> str:
    vm, inside = call.vm(), call.inside
    target = str(call.params["target"])
    if target == vm.node:
        raise invalid(target="target is local node.")
    node = inside.world.nodes.get(target)
    if node is None:
        raise Refused(500, f"no such cluster node '{target}'")
    inside.cluster.need_quorum()
    if node.seen_offline:
        raise Refused(500, f"node '{target}' is not online")
    if vm.running and not call.flag("online"):
        raise invalid(online="can't migrate running VM without --online")

    async def work(task: Task) -> None:
        async with inside.locks.vm(vm.vmid, task=task):
            await _migrate(call, task, vm, target)

    return inside.begin(call, "qmigrate", vm.vmid, work)


async def _migrate(call: Call, task: Task, vm: Vm, target: str) -> None:
    inside = call.inside
    if vm.lock and vm.lock != "suspended":
        raise TaskFailed(f"VM is locked ({vm.lock})")
    task.say(f"starting migration of VM {vm.vmid} to node '{target}' ({inside.world.nodes[target].ip})")
    local = _local_disks(inside, vm)
    if any(one.parent for one in local):
        raise TaskFailed(f"migration aborted: can't migrate local disk '{local[0].volid}': linked clone")
    if local and vm.running and not call.flag("with-local-disks"):
        raise TaskFailed("migration aborted: can't live migrate attached local disks without with-local-disks option")
    if any(key.startswith("hostpci") for key in vm.config) and vm.running:
        raise TaskFailed("migration aborted: can't migrate VM which uses local devices: hostpci0")
    await inside.clock.sleep(inside.plan.migrate_s)
    if inside.world.nodes[target].cut:
        raise TaskFailed(f"migration aborted: command '/usr/bin/ssh ... root@{target}' failed: exit code 255")
    inside.power.move(vm.vmid, target)
    task.say("migration finished successfully (duration 00:00:02)")


def _local_disks(inside: Inside, vm: Vm) -> list[Volume]:
    return [one for one in _volumes(inside, vm) if one.node]
