"""Cloning: the checks before the task, the locks in it, linked and full disks, and what a failure takes back."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from labspawner.testing.pve.call import Call, Refused
from labspawner.testing.pve.tasks import Task, TaskFailed, Work
from labspawner.testing.pve.volumes import CLOUDINIT_BYTES, gone, size_text
from labspawner.testing.pve.world import Config, Storage, Vm, Volume, is_disk, properties, volume_of

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

CLONE_LOCK_S = 1.0
_NOT_COPIED = frozenset(
    "lock template parent snaptime description digest vmstate runningmachine runningcpu".split()  # noqa: SIM905
)


async def clone(call: Call) -> str:
    """POST .../clone. Answers a UPID when no check at the door fails."""
    inside, newid = call.inside, int(call.params["newid"])
    inside.cluster.need_quorum()
    source = inside.world.vms.get(call.vmid)
    if source is None or source.node != call.node:
        raise Refused(500, f"unable to find configuration file for VM {call.vmid} on node '{call.node}'")
    full = call.flag("full") or not source.template
    _check_parameters(call, source, full=full)
    await inside.clock.sleep(inside.world.rng.uniform(0.3, 1.0) * inside.plan.clone_call_s)
    if newid in inside.world.vms:
        raise Refused(500, f"unable to create VM {newid}: config file already exists")
    if source.lock:
        raise Refused(500, f"VM is locked ({source.lock})")
    return inside.begin(call, "qmclone", call.vmid, _work(call, source, newid, full=full))


def _check_parameters(call: Call, source: Vm, *, full: bool) -> None:
    inside, params = call.inside, call.params
    target = str(params.get("target", ""))
    if target and target not in inside.world.nodes:
        raise Refused(500, f"no such cluster node '{target}'")
    if "storage" in params and not full:
        raise Refused(500, "parameter 'storage' not allowed for linked clones")
    if "format" in params and not full:
        raise Refused(500, "parameter 'format' not allowed for linked clones")
    if "storage" in params:
        name = str(params["storage"])
        call.need(f"/storage/{name}", "Datastore.AllocateSpace")
        if name not in inside.world.storages:
            raise Refused(500, f"storage '{name}' does not exist")
    for _, volid in source.disks():
        storage = inside.volumes.storage_of(volid)
        if storage is None:
            continue
        if "storage" not in params:
            call.need(f"/storage/{storage.name}", "Datastore.AllocateSpace")
        local = not inside.world.storages[str(params.get("storage", storage.name))].shared or not storage.shared
        if target and target != call.node and local:
            raise Refused(500, f"can't clone VM to node '{target}' (VM uses local storage)")
    for key, value in source.config.items():
        if re.fullmatch(r"net\d+", key):
            bridge = properties(value).get("bridge", "vmbr0")
            call.need(f"/sdn/zones/localnetwork/{bridge}", "SDN.Use")


def _work(call: Call, source: Vm, newid: int, *, full: bool) -> Work:
    inside = call.inside

    async def work(task: Task) -> None:
        async with (
            inside.locks.vm(source.vmid, task=task, shared=not source.running, wait_s=CLONE_LOCK_S),
            inside.locks.vm(newid, task=task, wait_s=CLONE_LOCK_S),
        ):
            if newid in inside.world.vms:
                raise TaskFailed(f"unable to create VM {newid}: config file already exists")
            if source.vmid not in inside.world.vms:
                raise TaskFailed(f"unable to find configuration file for VM {source.vmid} on node '{call.node}'")
            await _fill(call, task, source, newid, full=full)

    return work


async def _fill(call: Call, task: Task, source: Vm, newid: int, *, full: bool) -> None:
    inside = call.inside
    vm = Vm(newid, source.node, {"lock": "clone"}, made_at=inside.clock.now())
    vm.config = _config(inside, call, source, newid)
    inside.world.vms[newid] = vm
    made: list[Volume] = []
    try:
        for key, value in sorted(source.config.items()):
            if is_disk(key) and volume_of(value) and key != "vmstate" and not key.startswith("unused"):
                await _disk(call, task, source, vm, key, made, full=full)
        await inside.clock.sleep(inside.plan.config_s)
        if inside.world.nodes[vm.node].cut or not await inside.cluster.settled():
            raise TaskFailed(inside.cluster.unwritable(vm.node, newid))
    except TaskFailed as failed:
        await _undo(inside, task, vm, made)
        raise TaskFailed(f"clone failed: {failed}") from failed
    except asyncio.CancelledError:
        if not task.cancelled:
            raise  # a killed worker leaves everything as it is
        await _undo(inside, task, vm, made)
        raise TaskFailed("clone failed: interrupted by signal") from None
    await inside.guests.cloned(source, vm)
    vm.config.pop("lock", None)
    vm.node = str(call.params.get("target", "") or vm.node)
    vm.pool = str(call.params.get("pool", ""))  # last of all: until now a pool's token cannot see it


async def _undo(inside: Inside, task: Task, vm: Vm, made: list[Volume]) -> None:
    await gone(inside.volumes, task, made)
    if inside.cluster.quorate and not inside.world.nodes[vm.node].cut:
        inside.world.vms.pop(vm.vmid, None)


def _config(inside: Inside, call: Call, source: Vm, newid: int) -> Config:
    config = {key: value for key, value in source.config.items() if key not in _NOT_COPIED and not is_disk(key)}
    config["lock"] = "clone"
    config["name"] = str(call.params.get("name") or f"Copy-of-VM-{source.name}")
    if call.params.get("description"):
        config["description"] = call.params["description"]
    for key, value in list(config.items()):
        if re.fullmatch(r"net\d+", key):
            config[key] = with_mac(str(value), inside.world.new_mac())
    config["smbios1"] = f"uuid={inside.world.new_uuid()}"
    if "vmgenid" in config:
        config["vmgenid"] = inside.world.new_uuid()
    return config


def with_mac(line: str, mac: str) -> str:
    """`virtio=AA:..,bridge=vmbr0` with another address; also for a line that had none."""
    first, comma, rest = line.partition(",")
    return f"{first.partition('=')[0]}={mac}{comma}{rest}"


async def _disk(call: Call, task: Task, source: Vm, vm: Vm, key: str, made: list[Volume], *, full: bool) -> None:
    inside, line = call.inside, str(source.config[key])
    volid, options = volume_of(line), line.partition(",")[2]
    old = inside.volumes.find(volid, source.node)
    storage = inside.volumes.storage_of(volid)
    if storage is None or old is None:
        raise TaskFailed(f"volume '{volid}' does not exist")
    if full and "storage" in call.params:
        storage = inside.world.storages[str(call.params["storage"])]
    if "-cloudinit" in volid:
        task.say(f"create full clone of drive {key} ({volid})")
        name = f"vm-{vm.vmid}-cloudinit.qcow2"
        new = await inside.volumes.make(task, storage, vm.node, vm.vmid, name, CLOUDINIT_BYTES, 266240)
        made.append(new)
        vm.config[key] = f"{new.volid},media=cdrom,size=4M"
        return
    linked = not full and not key.startswith(("efidisk", "tpmstate"))
    task.say(f"create {'linked' if linked else 'full'} clone of drive {key} ({volid})")
    new = await (_linked if linked else _full)(inside, task, old, storage, vm, made)
    rest = [part for part in options.split(",") if part and not part.startswith("size=")]
    vm.config[key] = ",".join([new.volid, *rest, f"size={size_text(new.size_bytes)}"])


async def _linked(inside: Inside, task: Task, old: Volume, storage: Storage, vm: Vm, made: list[Volume]) -> Volume:
    name = inside.volumes.next_name(storage, vm.node, vm.vmid)
    base = old.volid.partition(":")[2]
    task.say(f"clone {base}: images, {name}, {vm.vmid} to {name} (base=../{base})")
    new = await inside.volumes.make(task, storage, vm.node, vm.vmid, name, old.size_bytes, 204800, old.volid)
    made.append(new)
    return new


async def _full(inside: Inside, task: Task, old: Volume, storage: Storage, vm: Vm, made: list[Volume]) -> Volume:
    name = inside.volumes.next_name(storage, vm.node, vm.vmid)
    new = await inside.volumes.make(task, storage, vm.node, vm.vmid, name, old.size_bytes, 204800)
    made.append(new)
    try:
        await inside.volumes.copy(task, old, new, inside.plan.full_s)
    except asyncio.CancelledError:
        if not task.cancelled:
            raise
        origin = inside.world.storages[old.storage]
        source_file = inside.volumes.path(origin, old.vmid, old.volid.rpartition("/")[2])
        target_file = inside.volumes.path(storage, vm.vmid, name)
        program = f"/usr/bin/qemu-img convert -p -n -f qcow2 -O qcow2 {source_file} zeroinit:{target_file}"
        raise TaskFailed(f"copy failed: command '{program}' failed: interrupted by signal") from None
    return new
