"""Calls about the whole cluster: what there is, who may what, pools, the next id."""

from __future__ import annotations

from typing import Any

from labspawner.testing.pve.call import Call, Refused, forbidden, invalid

Json = dict[str, Any]


async def version(call: Call) -> Json:
    profile = call.inside.profile
    return {"release": profile.release, "version": profile.version, "repoid": profile.repoid}


async def resources(call: Call) -> list[Json]:
    kind = str(call.params.get("type", ""))
    found: list[Json] = []
    if not kind:
        found += _pools(call)
    if kind in ("", "vm"):
        vms = sorted(call.inside.world.vms.values(), key=lambda vm: vm.vmid)
        found += [call.inside.views.resource(vm) for vm in vms if call.has(f"/vms/{vm.vmid}", "VM.Audit")]
    if kind in ("", "node"):
        found += [{**one, "cgroup-mode": 1} for one in _nodes(call)]
    if kind in ("", "storage"):
        found += _storages(call)
    if kind in ("", "sdn") and call.has("/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use"):
        found += [
            {"id": f"sdn/{node}/localnetwork", "type": "sdn", "node": node, "sdn": "localnetwork", "status": "ok"}
            for node in call.inside.world.nodes
        ]
    return found


def _pools(call: Call) -> list[Json]:
    found = []
    for name in call.inside.world.pools:
        if not call.has(f"/pool/{name}", "Pool.Audit"):
            continue
        entry: Json = {"id": f"/pool/{name}", "type": "pool", "pool": name}
        vms = [call.inside.views.vm_now(vm) for vm in call.inside.world.vms.values() if vm.pool == name and vm.running]
        if vms:
            entry |= {key: sum(vm[key] for vm in vms) for key in ("mem", "maxmem", "cpu", "maxcpu")}
            entry["uptime"] = max(vm["uptime"] for vm in vms)
        found.append(entry)
    return found


def _nodes(call: Call) -> list[Json]:
    views, all_of_them = call.inside.views, call.inside.world.nodes.values()
    return [views.node(one, call.asked, load=call.has(f"/nodes/{one.name}", "Sys.Audit")) for one in all_of_them]


def _storages(call: Call) -> list[Json]:
    world = call.inside.world
    return [
        call.inside.views.storage_resource(storage, node)
        for storage in world.storages.values()
        for node in world.nodes.values()
        if storage.on(node.name) and call.has(f"/storage/{storage.name}", "Datastore.Audit", "Datastore.AllocateSpace")
    ]


async def nodes(call: Call) -> list[Json]:
    return [{**one, "ssl_fingerprint": call.inside.fingerprint} for one in _nodes(call)]


async def status(call: Call) -> list[Json]:
    inside, world = call.inside, call.inside.world
    first: Json = {"id": "cluster", "type": "cluster", "name": "lab", "version": 3, "nodes": len(world.nodes)}
    rest = [
        {
            "id": f"node/{node.name}",
            "type": "node",
            "name": node.name,
            "nodeid": node.number,
            "ip": node.ip,
            "level": "",
            "local": int(node.name == call.asked),
            "online": int(not inside.cluster.offline(node, call.asked)),
        }
        for node in world.nodes.values()
    ]
    return [{**first, "quorate": int(inside.cluster.quorate)}, *rest]


async def next_id(call: Call) -> str:
    used = call.inside.world.vms
    if "vmid" in call.params:
        wanted = int(call.params["vmid"])
        if wanted in used:
            raise invalid(vmid=f"VM {wanted} already exists")
        return str(wanted)
    lower, upper = call.inside.world.options.get("next-id", (100, 1_000_000))
    for vmid in range(lower, upper):
        if vmid not in used:
            return str(vmid)
    raise Refused(500, "unable to get any free VMID in range [100, 1000000]")


async def tasks(call: Call) -> list[Json]:
    """Recent tasks of the cluster; a token without Sys.Audit does not even see its own."""
    if not call.has("/", "Sys.Audit"):
        return []
    return [call.inside.task_entry(task) for task in reversed(call.inside.tasks.matching())][:25]


async def options(call: Call) -> Json:
    tags = {tag for vm in call.inside.world.vms.values() for tag in vm.tags if call.has(f"/vms/{vm.vmid}", "VM.Audit")}
    data: Json = {"allowed-tags": sorted(tags | set(call.inside.world.registered_tags))}
    return data | ({"keyboard": "en-us"} if call.has("/", "Sys.Audit") else {})


async def ha_status(call: Call) -> list[Json]:
    there = call.inside.cluster.quorate
    told = "OK" if there else f"No quorum on node '{call.asked}'!"
    return [{"id": "quorum", "type": "quorum", "node": call.asked, "quorate": int(there), "status": told}]


async def ha_resources(call: Call) -> list[Json]:
    managed = [vm for vm in call.inside.world.vms.values() if vm.ha_managed]
    return [{"sid": f"vm:{vm.vmid}", "type": "vm", "state": "started"} for vm in managed]


async def mappings(call: Call) -> list[Json]:
    found = []
    for one in call.inside.world.mappings.values():
        if not call.has(f"/mapping/pci/{one.name}", "Mapping.Use", "Mapping.Modify", "Mapping.Audit"):
            continue
        lines = [f"id={one.ident},node={device.node},path={device.path}" for device in one.devices]
        found.append({"id": one.name, "map": lines, "type": "pci"} | ({"mdev": 1} if one.mdev else {}))
    return found


async def mapping(call: Call) -> Json:
    name = call.names["id"]
    call.need(f"/mapping/pci/{name}", "Mapping.Use", "Mapping.Modify", "Mapping.Audit")
    found = next((one for one in await mappings(call) if one["id"] == name), None)
    if found is None:
        raise Refused(500, f"PCI device mapping '{name}' not found")
    return found


async def nothing(call: Call) -> list[Json]:
    return []


# pools


async def pools(call: Call) -> list[Json]:
    wanted = call.params.get("poolid")
    world = call.inside.world
    if wanted is None:
        names = [name for name in world.pools if call.has(f"/pool/{name}", "Pool.Audit", "Pool.Allocate")]
        return [_pool(call, name, members=False) for name in names]
    call.need(f"/pool/{wanted}", "Pool.Audit")
    if wanted not in world.pools:
        raise Refused(500, f"pool '{wanted}' does not exist")
    return [_pool(call, str(wanted), members=True)]


def _pool(call: Call, name: str, *, members: bool) -> Json:
    comment = call.inside.world.pools[name].comment
    entry: Json = {"poolid": name} | ({"comment": comment} if comment else {})
    return entry | ({"members": call.inside.views.pool_members(call, name)} if members else {})


async def pool(call: Call) -> Json:
    name = call.names["poolid"]
    if name not in call.inside.world.pools:
        raise Refused(500, f"pool '{name}' does not exist")
    return _pool(call, name, members=True)


async def change_pool(call: Call) -> None:
    name, world = str(call.params["poolid"]), call.inside.world
    call.need(f"/pool/{name}", "Pool.Allocate")
    if not call.inside.cluster.quorate:
        await call.inside.clock.sleep(9.0)
        raise Refused(500, "update pools failed: cfs-lock 'file-user_cfg' error: no quorum!")
    if name not in world.pools:
        raise Refused(500, f"update pools failed: pool '{name}' does not exist")
    if "comment" in call.params:
        world.pools[name].comment = str(call.params["comment"])
    for vmid in str(call.params.get("vms", "")).split(","):
        if vmid.isdigit() and int(vmid) in world.vms:
            world.vms[int(vmid)].pool = "" if call.flag("delete") else name


# access


async def login(call: Call) -> Json:
    user = str(call.params["username"])
    ticket, csrf = call.inside.access.login(user, str(call.params["password"]))
    rights = call.inside.profile.privileges
    kinds = {"vms": "VM.", "storage": "Datastore.", "nodes": "Sys.", "sdn": "SDN.", "mapping": "Mapping."}
    cap = {kind: {one: 1 for one in rights if one.startswith(start)} for kind, start in kinds.items()}
    cap |= {"access": {"User.Modify": 1, "Group.Allocate": 1}, "dc": {"Sys.Audit": 1, "Sys.Modify": 1, "SDN.Use": 1}}
    data: Json = {"username": user, "ticket": ticket, "CSRFPreventionToken": csrf, "clustername": "lab", "cap": cap}
    return data


async def permissions(call: Call) -> Json:
    access = call.inside.access
    other = str(call.params.get("userid", ""))
    if other and other not in (call.who.name, call.who.user):
        if not call.has("/access", "Sys.Audit"):
            raise forbidden("/access", "Sys.Audit")
        user, _, token = other.partition("!")
        who = type(call.who)(user, token)
    else:
        who = call.who
    if "path" in call.params:
        path = str(call.params["path"])
        rights = access.privileges(who, path)
        return {path: rights}
    return access.table(who)


async def users(call: Call) -> list[Json]:
    return [{"userid": user, "enable": 1, "expire": 0} for user in call.inside.access.users(call.who)]


async def change_acl(call: Call) -> None:
    path = str(call.params["path"])
    call.need(path, "Permissions.Modify")
