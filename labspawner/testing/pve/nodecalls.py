"""Calls about one node: its load, storages, volumes, networks, tasks, and the list and status of its VMs."""

from __future__ import annotations

import re
from typing import Any

from labspawner.testing.pve.call import Call, Listed, Refused, forbidden, invalid
from labspawner.testing.pve.tasks import Task, TaskFailed
from labspawner.testing.pve.world import Vm

Json = dict[str, Any]
_UPID = re.compile(r"UPID:([^:]+):[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:]+:[^:]*:([^:!]+)(?:!([^:]+))?:")


async def status(call: Call) -> Json:
    node = call.inside.world.nodes[call.node]
    entry = call.inside.views.node(node, call.asked, load=True)
    room = call.inside.volumes.room(call.inside.local, node.name)
    kernel = {"machine": "x86_64", "sysname": "Linux", "release": "6.8.12-pve", "version": "#1 SMP PREEMPT_DYNAMIC @0"}
    cpus = {"model": "a CPU", "flags": "", "hvm": "1", "mhz": "2499.998", "user_hz": 100, "sockets": 1}
    return {
        "uptime": entry.get("uptime", 0),
        "cpu": entry.get("cpu", 0),
        "wait": 0.001,
        "idle": 0,
        "loadavg": ["0.44", "0.38", "0.98"],
        "memory": {
            "total": entry["maxmem"],
            "used": entry.get("mem", 0),
            "free": entry["maxmem"] - entry.get("mem", 0),
        },
        "swap": {"total": 0, "used": 0, "free": 0},
        "rootfs": {"total": room.total, "used": room.used, "avail": room.avail, "free": room.avail},
        "ksm": {"shared": 0},
        "cpuinfo": {**cpus, "cores": node.maxcpu, "cpus": node.maxcpu},
        "boot-info": {"mode": "legacy-bios"},
        "kversion": "Linux 6.8.12-pve #1 SMP PREEMPT_DYNAMIC @0",
        "current-kernel": kernel,
        "pveversion": f"pve-manager/{call.inside.profile.version}/{call.inside.profile.repoid}",
    }


async def time(call: Call) -> Json:
    now = int(call.inside.clock.now())
    return {"timezone": "UTC", "time": now, "localtime": now}


async def network(call: Call) -> list[Json]:
    kind, node = str(call.params.get("type", "")), call.inside.world.nodes[call.node]
    if kind and "bridge" not in kind:
        return []
    base: Json = {"type": "bridge", "method": "static", "method6": "manual", "active": 1, "autostart": 1}
    base |= {"bridge_ports": "uplink", "bridge_stp": "off", "bridge_fd": "0", "families": ["inet"], "priority": 3}
    base |= {"address": node.ip, "netmask": "24", "cidr": f"{node.ip}/24", "gateway": "10.99.0.1"}
    may = [
        one for one in call.inside.world.bridges if call.has(f"/sdn/zones/localnetwork/{one}", "SDN.Use", "SDN.Audit")
    ]
    return [{**base, "iface": one} for one in may]


async def vms(call: Call) -> list[Json]:
    mine = sorted((vm for vm in call.inside.world.vms.values() if vm.node == call.node), key=lambda vm: vm.vmid)
    may = [vm for vm in mine if call.has(f"/vms/{vm.vmid}", "VM.Audit")]
    return [call.inside.views.in_list(vm, full=call.flag("full")) for vm in may]


async def current(call: Call) -> Json:
    vm = call.vm()
    return call.inside.views.current(vm, agent_up=await _agent_up(call, vm))


async def _agent_up(call: Call, vm: Vm) -> bool:
    down = call.inside.board.agent_down & {vm.vmid, 0}
    if not vm.running or not vm.agent_enabled or down:
        return False
    return vm.paused or await call.inside.guests.ping(vm)  # what the balloon said last is shown while it is paused


async def feature(call: Call) -> Json:
    vm, inside, wanted = call.vm(), call.inside, str(call.params["feature"])
    storages = [inside.volumes.storage_of(volid) for _, volid in vm.disks()]
    shared = all(one is None or one.shared for one in storages)
    has = not vm.template if wanted == "snapshot" else True
    return {"hasFeature": int(has), "nodes": list(inside.world.nodes) if shared else [vm.node]}


async def rrddata(call: Call) -> list[Json]:
    now, period = call.inside.clock.now(), 60
    first = int(now) // period * period - 69 * period
    if call.vm().made_at > now - 1:
        file = f"/var/lib/rrdcached/db/pve2-vm/{call.vmid}"
        raise Refused(500, f"RRD error: opening '{file}': No such file or directory")
    return [{"time": first + number * period} for number in range(70)]


async def mdev_types(call: Call) -> list[Json]:
    found = call.inside.world.mappings.get(call.names["id"])
    if found is None:
        raise Refused(500, f"pci device '{call.names['id']}' not found")
    free = sum(device.node == call.node and not device.used_by for device in found.devices)
    return [{"type": one, "name": one, "available": free, "description": ""} for one in found.mdev]


# storages


async def storages(call: Call) -> list[Json]:
    wanted, target = str(call.params.get("content", "")), str(call.params.get("target", ""))
    found = []
    for storage in call.inside.world.storages.values():
        if not call.has(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace"):
            continue
        if not storage.on(call.node) or (target and not (storage.shared and storage.on(target))):
            continue
        if wanted and not set(wanted.split(",")) & set(storage.content):
            continue
        entry = call.inside.views.storage(storage, call.node)
        entry |= {"storage": storage.name, "used_fraction": entry["used"] / max(1, entry["total"])}
        found.append(entry)
    return found


async def storage_status(call: Call) -> Json:
    storage = call.inside.world.storages.get(call.names["storage"])
    if storage is None:
        raise Refused(500, f"storage '{call.names['storage']}' does not exist")
    return call.inside.views.storage(storage, call.node)


async def storage_config(call: Call) -> Json:
    storage = call.inside.world.storages.get(call.names["storage"])
    if storage is None:
        raise Refused(500, f"storage '{call.names['storage']}' does not exist")
    data: Json = {"storage": storage.name, "type": storage.kind, "content": ",".join(storage.content)}
    data |= {"shared": int(storage.shared), "digest": "0" * 40}
    return data | ({"nodes": ",".join(storage.nodes)} if storage.nodes else {})


async def content(call: Call) -> list[Json]:
    name = call.names["storage"]
    storage = call.inside.world.storages.get(name)
    if storage is None:
        raise Refused(500, f"storage '{name}' does not exist")
    wanted = str(call.params.get("content", ""))
    found = []
    for volume in sorted(call.inside.volumes.on(storage, call.node), key=lambda one: one.volid):
        if "vmid" in call.params and volume.vmid != int(call.params["vmid"]):
            continue
        if wanted not in ("", "images") or not _may_see(call, name, volume.vmid):
            continue
        parent = f"../{volume.parent.partition(':')[2]}" if volume.parent else None
        entry: Json = {"volid": volume.volid, "vmid": volume.vmid, "content": "images", "format": volume.fmt}
        entry |= {"size": volume.size_bytes, "used": volume.used_bytes, "parent": parent, "ctime": int(volume.made_at)}
        found.append(entry)
    return found


def _may_see(call: Call, storage: str, vmid: int) -> bool:
    return call.has(f"/storage/{storage}", "Datastore.Allocate") or call.has(f"/vms/{vmid}", "VM.Audit")


async def remove_volume(call: Call) -> str:
    name, volid = call.names["storage"], call.names["volume"]
    volid = volid if ":" in volid else f"{name}:{volid}"
    call.need(f"/storage/{name}", "Datastore.Allocate")
    volume = call.inside.volumes.find(volid, call.node)

    async def work(task: Task) -> None:
        if volume is None:
            raise TaskFailed(f"volume '{volid}' does not exist")
        await call.inside.volumes.remove(task, volume)
        task.say(f"Removed volume '{volid}'")

    return call.inside.begin(call, "imgdel", f"{volume.vmid if volume else 0}@{name}", work)


# tasks


def _task(call: Call) -> tuple[Task | None, str]:
    """The task of the path, on the node of the path, for who may see it. Raises Refused."""
    upid = call.names["upid"]
    known = _UPID.fullmatch(upid)
    if known is None:
        raise invalid(upid="unable to parse worker upid")
    mine = known.group(2) == call.who.user and (known.group(3) or "") == call.who.token
    if not mine and not call.has(f"/nodes/{call.node}", "Sys.Audit"):
        raise forbidden(f"/nodes/{call.node}", "Sys.Audit")
    task = call.inside.tasks.all.get(upid)
    return (task if task is not None and task.node == call.node else None), upid


async def task_status(call: Call) -> Json:
    task, _ = _task(call)
    if task is None:
        raise invalid(upid="no such task")
    entry = _fields(task)
    if task.running:
        return entry | {"status": "running"}
    return entry | {"status": "stopped", "exitstatus": task.exitstatus}


def _fields(task: Task) -> Json:
    entry: Json = {"upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.pstart, "type": task.kind}
    entry |= {"starttime": int(task.started_at), "id": task.ident, "user": task.user}
    return entry | ({"tokenid": task.token} if task.token else {})


def entry(task: Task) -> Json:
    """A task as lists show it."""
    found = _fields(task)
    return found if task.running else found | {"endtime": int(task.ended_at), "status": task.exitstatus}


async def task_log(call: Call) -> Listed:
    task, _ = _task(call)
    if task is None:
        return Listed({"n": 1, "t": "unable to open file - No such file or directory"}, {"total": 1})
    start, limit = int(call.params.get("start", 0)), int(call.params.get("limit", 50))
    lines = task.log or ["no content"]
    end = start + limit if limit else len(lines)
    return Listed([{"n": at + 1, "t": lines[at]} for at in range(start, min(end, len(lines)))], {"total": len(lines)})


async def stop_task(call: Call) -> None:
    task, _ = _task(call)
    mine = task is not None and task.user == call.who.user
    if not mine and not call.has(f"/nodes/{call.node}", "Sys.Modify"):
        raise forbidden(f"/nodes/{call.node}", "Sys.Modify")
    if task is not None and task.running and task.work is not None:
        task.cancelled = True
        task.work.cancel()
        await call.inside.clock.sleep(1.0)


async def tasks(call: Call) -> Listed:
    params = call.params
    found = [one for one in call.inside.tasks.matching(node=call.node) if _visible(call, one)]
    source = str(params.get("source", "archive"))
    found = [one for one in found if source == "all" or one.running == (source == "active")]
    if "vmid" in params:
        found = [one for one in found if one.ident == str(params["vmid"])]
    if "typefilter" in params:
        found = [one for one in found if one.kind == params["typefilter"]]
    if "since" in params:
        found = [one for one in found if int(one.started_at) >= int(params["since"])]
    if "until" in params:
        found = [one for one in found if int(one.started_at) <= int(params["until"])]
    if call.flag("errors"):
        found = [one for one in found if not one.running and one.exitstatus != "OK"]
    found.sort(key=lambda one: one.ended_at or one.started_at, reverse=True)  # as they were written down
    start, limit = int(params.get("start", 0)), int(params.get("limit", 50))
    more = {} if source == "active" else {"total": len(found)}
    return Listed([entry(one) for one in found[start : start + limit]], more)


def _visible(call: Call, task: Task) -> bool:
    return task.user == call.who.user or call.has(f"/nodes/{call.node}", "Sys.Audit")
