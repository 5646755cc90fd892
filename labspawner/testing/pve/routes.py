"""The methods that the double knows: path, rights, parameters and who answers, side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from labspawner.testing.pve import (
    cloning,
    clustercalls,
    configs,
    firewall,
    nodecalls,
    options,
    removing,
    schema,
    snapshots,
)
from labspawner.testing.pve.call import Call, forbidden
from labspawner.testing.pve.profiles import CONFIG_RIGHTS
from labspawner.testing.pve.schema import CONFIG_ID, FLAG, INT, NEW_VMID, NODE, STORAGE, TEXT, VMID, Kind

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

Handler = Callable[[Call], Awaitable[Any]]
Rights = Callable[[Call], None]
Extra = Callable[[str], Kind | None]
_NEEDED = Kind(required=True)
_POSITIVE = Kind(integer=True, least=0)
_NO_EXTRA: Extra = lambda name: None  # noqa: E731 - a constant


@dataclass(frozen=True, slots=True)
class Route:
    """sent_on: the node of the path answers, through the one that was asked. worker: holds one of its workers."""

    method: str
    parts: tuple[str, ...]
    handler: Handler
    rights: Rights
    params: Mapping[str, Kind] = field(default_factory=dict)
    extra: Extra = _NO_EXTRA
    sent_on: bool = True

    @property
    def worker(self) -> bool:
        return len(self.parts) > 2 and self.parts[2] in ("qemu", "storage")

    def names(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """The variables of the path; None when it is not this route's."""
        if method != self.method or len(segments) != len(self.parts):
            return None
        found: dict[str, str] = {}
        for part, segment in zip(self.parts, segments, strict=True):
            if not part.startswith("{"):
                if part != segment:
                    return None
                continue
            name, value = part[1:-1], unquote(segment)
            if name == "vmid" and not value.isdigit():
                return None
            found[name] = value
        return found


def anybody(call: Call) -> None:
    """Whoever is logged in; what is shown depends on the rights."""


def on(path: str, *privileges: str) -> Rights:
    """Any of these on the path, whose variables are filled in."""

    def check(call: Call) -> None:
        call.need(path.format(**call.names), *privileges)

    return check


def vm(*privileges: str) -> Rights:
    return on("/vms/{vmid}", *privileges)


def _may_clone(call: Call) -> None:
    call.need(f"/vms/{call.vmid}", "VM.Clone")
    _may_allocate(call, call.params.get("newid"))


def _may_create(call: Call) -> None:
    _may_allocate(call, call.params.get("vmid"))


def _may_allocate(call: Call, vmid: object) -> None:
    pool = call.params.get("pool")
    if pool and call.has(f"/pool/{pool}", "VM.Allocate"):
        return
    if vmid is None or not call.has(f"/vms/{vmid}", "VM.Allocate"):
        raise forbidden()


def _may_suspend(call: Call) -> None:
    call.need(f"/vms/{call.vmid}", "VM.PowerMgmt")
    if call.flag("todisk"):
        call.need(f"/vms/{call.vmid}", "VM.Config.Disk")


def _agent(command: str) -> Rights:
    def check(call: Call) -> None:
        call.need(f"/vms/{call.vmid}", *call.inside.profile.agent_right(command))

    return check


_RESOURCE_TYPES = Kind(values=("vm", "storage", "node", "sdn"))
_FEATURE = Kind(required=True, values=("snapshot", "clone", "copy"))
_POWER = {"timeout": _POSITIVE, "skiplock": FLAG}
_CLONE = {
    "newid": NEW_VMID,
    "name": schema.DNS_NAME,
    "full": FLAG,
    "target": NODE,
    "storage": STORAGE,
    "format": Kind(values=("raw", "qcow2", "vmdk")),
    "pool": TEXT,
    "snapname": Kind(check=CONFIG_ID.check),
    "description": TEXT,
    "bwlimit": _POSITIVE,
}
_CREATE = {"vmid": NEW_VMID, "pool": TEXT, "start": FLAG, "unique": FLAG, "storage": STORAGE, "force": FLAG}
_TASKS = {
    "vmid": VMID,
    "typefilter": TEXT,
    "limit": _POSITIVE,
    "start": _POSITIVE,
    "since": INT,
    "until": INT,
    "source": Kind(values=("archive", "active", "all")),
    "errors": FLAG,
    "userfilter": TEXT,
    "statusfilter": TEXT,
}
_VNC = {"websocket": FLAG, "generate-password": FLAG}
_SOCKET = {"port": Kind(integer=True, required=True, least=5900, most=5999), "vncticket": _NEEDED}
_MIGRATE = {
    "target": Kind(check=NODE.check, required=True),
    "online": FLAG,
    "with-local-disks": FLAG,
    "targetstorage": TEXT,
    "bwlimit": _POSITIVE,
}


def table(inside: Inside) -> list[Route]:
    """All routes; the rest is 501."""
    return [
        *_cluster(),
        *_nodes(),
        *_vms(),
        *_power(inside),
        *_snapshots(),
        *_agents(inside),
        *_consoles(inside),
        *_firewall(),
    ]


def _route(method: str, path: str, handler: Handler, rights: Rights = anybody, **other: Any) -> Route:
    return Route(method, tuple(path.strip("/").split("/")), handler, rights, **other)


def _cluster() -> list[Route]:
    c, audit = clustercalls, on("/", "Sys.Audit")
    return [
        _route("GET", "/version", c.version),
        _route("GET", "/nodes", c.nodes),
        _route("GET", "/cluster/resources", c.resources, params={"type": _RESOURCE_TYPES}),
        _route("GET", "/cluster/status", c.status, audit),
        _route("GET", "/cluster/nextid", c.next_id, params={"vmid": VMID}),
        _route("GET", "/cluster/tasks", c.tasks),
        _route("GET", "/cluster/options", c.options),
        _route("GET", "/cluster/ha/status/current", c.ha_status, audit),
        _route("GET", "/cluster/ha/resources", c.ha_resources, audit),
        _route("GET", "/cluster/sdn/zones", c.nothing),
        _route("GET", "/cluster/mapping/pci", c.mappings),
        _route("GET", "/cluster/mapping/pci/{id}", c.mapping),
        _route("GET", "/pools", c.pools, params={"poolid": TEXT, "type": TEXT}),
        _route("PUT", "/pools", c.change_pool, params=_POOL),
        _route("GET", "/pools/{poolid}", c.pool, on("/pool/{poolid}", "Pool.Audit")),
        _route("GET", "/storage/{storage}", nodecalls.storage_config, on("/storage/{storage}", "Datastore.Allocate")),
        _route("GET", "/access/permissions", c.permissions, params={"path": TEXT, "userid": TEXT}),
        _route("GET", "/access/users", c.users, params={"enabled": FLAG, "full": FLAG}),
        _route("PUT", "/access/acl", c.change_acl, params=_ACL),
        _route("POST", "/access/ticket", c.login, params=_LOGIN),
    ]


_POOL = {"poolid": _NEEDED, "comment": TEXT, "vms": TEXT, "storage": TEXT, "delete": FLAG, "allow-move": FLAG}
_ACL = {
    "path": _NEEDED,
    "roles": _NEEDED,
    "users": TEXT,
    "tokens": TEXT,
    "groups": TEXT,
    "propagate": FLAG,
    "delete": FLAG,
}
_LOGIN = {"username": _NEEDED, "password": _NEEDED, "realm": TEXT, "otp": TEXT, "new-format": FLAG}


def _nodes() -> list[Route]:
    n, audit = nodecalls, on("/nodes/{node}", "Sys.Audit")
    see = on("/storage/{storage}", "Datastore.Audit", "Datastore.AllocateSpace")
    some = {"content": TEXT, "target": NODE, "enabled": FLAG, "storage": STORAGE, "format": FLAG}
    task = "/nodes/{node}/tasks/{upid}"
    images = "/nodes/{node}/storage/{storage}/content"
    return [
        _route("GET", "/nodes/{node}/status", n.status, audit),
        _route("GET", "/nodes/{node}/time", n.time, audit),
        _route("GET", "/nodes/{node}/version", clustercalls.version),
        _route("GET", "/nodes/{node}/network", n.network, params={"type": TEXT}),
        _route("GET", "/nodes/{node}/storage", n.storages, params=some),
        _route("GET", "/nodes/{node}/storage/{storage}/status", n.storage_status, see),
        _route("GET", images, n.content, see, params={"content": TEXT, "vmid": VMID}),
        _route("DELETE", f"{images}/{{volume}}", n.remove_volume, params={"delay": _POSITIVE}),
        _route("GET", "/nodes/{node}/tasks", n.tasks, params=_TASKS),
        _route("GET", f"{task}/status", n.task_status),
        _route("GET", f"{task}/log", n.task_log, params={"start": _POSITIVE, "limit": _POSITIVE, "download": FLAG}),
        _route("DELETE", task, n.stop_task),
        _route(
            "GET",
            "/nodes/{node}/hardware/pci/{id}/mdev",
            n.mdev_types,
            on("/mapping/pci/{id}", "Mapping.Use", "Mapping.Audit"),
        ),
    ]


def _vms() -> list[Route]:
    one, audit = "/nodes/{node}/qemu/{vmid}", vm("VM.Audit")
    change: dict[str, Any] = {"extra": options.change_kind}
    gone = {"purge": FLAG, "destroy-unreferenced-disks": FLAG, "skiplock": FLAG}
    size = {
        "disk": _NEEDED,
        "size": Kind(required=True, pattern=r"\+?\d+(\.\d+)?[KMGT]?"),
        "digest": TEXT,
        "skiplock": FLAG,
    }
    rrd = {"timeframe": Kind(required=True, values=("hour", "day", "week", "month", "year")), "cf": TEXT}
    kinds = {"type": Kind(required=True, values=("user", "network", "meta"))}
    return [
        _route("GET", "/nodes/{node}/qemu", nodecalls.vms, params={"full": FLAG}),
        _route("POST", "/nodes/{node}/qemu", configs.create, _may_create, params=_CREATE, extra=options.kind_of),
        _route("DELETE", one, removing.delete, vm("VM.Allocate"), params=gone),
        _route("POST", f"{one}/clone", cloning.clone, _may_clone, params=_CLONE),
        _route("GET", f"{one}/config", configs.read, audit, params={"current": FLAG, "snapshot": TEXT}),
        _route("PUT", f"{one}/config", configs.put, vm(*CONFIG_RIGHTS), **change),
        _route("POST", f"{one}/config", configs.post, vm(*CONFIG_RIGHTS), **change),
        _route("GET", f"{one}/pending", configs.pending, audit),
        _route("PUT", f"{one}/resize", configs.resize, vm("VM.Config.Disk"), params=size),
        _route("GET", f"{one}/cloudinit", configs.cloudinit_pending, audit),
        _route("PUT", f"{one}/cloudinit", configs.cloudinit_regenerate, vm("VM.Config.Cloudinit")),
        _route("GET", f"{one}/cloudinit/dump", configs.cloudinit_dump, audit, params=kinds),
        _route("GET", f"{one}/status/current", nodecalls.current, audit),
        _route("POST", f"{one}/template", snapshots.template, vm("VM.Allocate"), params={"disk": TEXT}),
        _route("GET", f"{one}/migrate", removing.preconditions, vm("VM.Migrate"), params={"target": NODE}),
        _route("POST", f"{one}/migrate", removing.migrate, vm("VM.Migrate"), params=_MIGRATE),
        _route("GET", f"{one}/feature", nodecalls.feature, audit, params={"feature": _FEATURE, "snapname": TEXT}),
        _route("GET", f"{one}/rrddata", nodecalls.rrddata, audit, params=rrd),
    ]


def _power(inside: Inside) -> list[Route]:
    one, power, run = "/nodes/{node}/qemu/{vmid}", inside.power, vm("VM.PowerMgmt")
    down = {"timeout": _POSITIVE, "forceStop": FLAG, "keepActive": FLAG, "skiplock": FLAG}
    sleep = {"todisk": FLAG, "statestorage": STORAGE, "skiplock": FLAG}
    return [
        _route("POST", f"{one}/status/start", power.start, run, params={**_POWER, "machine": TEXT, "force-cpu": TEXT}),
        _route(
            "POST",
            f"{one}/status/stop",
            power.stop,
            run,
            params={**_POWER, "keepActive": FLAG, "overrule-shutdown": FLAG},
        ),
        _route("POST", f"{one}/status/shutdown", power.shutdown, run, params=down),
        _route("POST", f"{one}/status/reboot", power.reboot, run, params={"timeout": _POSITIVE}),
        _route("POST", f"{one}/status/reset", power.reset, run, params={"skiplock": FLAG}),
        _route("POST", f"{one}/status/suspend", power.suspend, _may_suspend, params=sleep),
        _route("POST", f"{one}/status/resume", power.resume, run, params={"skiplock": FLAG, "nocheck": FLAG}),
    ]


def _snapshots() -> list[Route]:
    snap, audit = "/nodes/{node}/qemu/{vmid}/snapshot", vm("VM.Audit")
    named = {"snapname": CONFIG_ID, "vmstate": FLAG, "description": TEXT}
    back = vm("VM.Snapshot", "VM.Snapshot.Rollback")
    return [
        _route("GET", snap, snapshots.listing, audit),
        _route("POST", snap, snapshots.create, vm("VM.Snapshot"), params=named),
        _route("DELETE", f"{snap}/{{snapname}}", snapshots.delete, vm("VM.Snapshot"), params={"force": FLAG}),
        _route(
            "GET",
            f"{snap}/{{snapname}}/config",
            snapshots.config,
            vm("VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"),
        ),
        _route("POST", f"{snap}/{{snapname}}/rollback", snapshots.rollback, back, params={"start": FLAG}),
    ]


def _agents(inside: Inside) -> list[Route]:
    one, agent = "/nodes/{node}/qemu/{vmid}/agent", inside.agent
    command = {"command": Kind(many=True, required=True), "input-data": Kind(longest=65536)}
    write = {"file": _NEEDED, "content": Kind(required=True, longest=61440), "encode": FLAG}
    password = {"username": _NEEDED, "password": Kind(required=True, longest=1024), "crypted": FLAG}
    asks = ("get-osinfo", "get-host-name", "info", "get-time", "get-fsinfo", "get-users", "get-timezone", "get-vcpus")
    return [
        _route("POST", f"{one}/ping", agent.ping, _agent("ping")),
        _route("POST", f"{one}/exec", agent.exec, _agent("exec"), params=command),
        _route(
            "GET",
            f"{one}/exec-status",
            agent.exec_status,
            _agent("exec-status"),
            params={"pid": Kind(integer=True, required=True)},
        ),
        _route("GET", f"{one}/network-get-interfaces", agent.interfaces, _agent("network-get-interfaces")),
        _route("GET", f"{one}/file-read", agent.file_read, _agent("file-read"), params={"file": _NEEDED}),
        _route("POST", f"{one}/file-write", agent.file_write, _agent("file-write"), params=write),
        _route("POST", f"{one}/set-user-password", agent.set_password, _agent("set-user-password"), params=password),
        *(_route("GET", f"{one}/{name}", agent.ask, _agent(name)) for name in asks),
    ]


def _consoles(inside: Inside) -> list[Route]:
    one, see = "/nodes/{node}/qemu/{vmid}", vm("VM.Console")
    return [
        _route("POST", f"{one}/vncproxy", inside.vnc.proxy, see, params=_VNC, sent_on=False),
        _route("GET", f"{one}/vncwebsocket", inside.vnc.unupgraded, see, params=_SOCKET, sent_on=False),
        _route("POST", f"{one}/termproxy", inside.vnc.term, see, params={"serial": TEXT}),
        _route("POST", f"{one}/spiceproxy", inside.vnc.spice, see, params={"proxy": TEXT}),
    ]


def _firewall() -> list[Route]:
    one, f = "/nodes/{node}/qemu/{vmid}/firewall", firewall
    see, change = vm("VM.Audit"), vm("VM.Config.Network")
    named = f"{one}/ipset/{{name}}"
    return [
        _route("GET", f"{one}/options", f.options, see),
        _route("PUT", f"{one}/options", f.change, change, params=f.OPTIONS),
        _route("GET", f"{one}/ipset", f.sets, see),
        _route("POST", f"{one}/ipset", f.new_set, change, params=f.SET),
        _route("GET", named, f.members, see),
        _route("POST", named, f.new_member, change, params=f.MEMBER),
        _route("DELETE", f"{named}/{{cidr}}", f.drop_member, change),
    ]
