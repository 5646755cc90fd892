"""A VM's config: reading it, what is pending, changing it, and making a VM from nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from labspawner.testing.pve import options
from labspawner.testing.pve.call import Call, Refused, invalid
from labspawner.testing.pve.cloning import with_mac
from labspawner.testing.pve.tasks import Task, TaskFailed
from labspawner.testing.pve.volumes import CLOUDINIT_BYTES, size_text
from labspawner.testing.pve.world import GIB, MIB, Config, Vm, digest, is_disk, properties, volume_of

if TYPE_CHECKING:
    from labspawner.testing.pve.inside import Inside

_HIDDEN = "**********"
_SIZES = {"K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB, "": 1}
_CLOUD_KEYS = ("cicustom", "cipassword", "ciuser", "nameserver", "searchdomain", "sshkeys")


def shown(config: Config) -> Config:
    """As the API shows it: no password."""
    return {key: _HIDDEN if key == "cipassword" else value for key, value in config.items()}


async def read(call: Call) -> Config:
    vm = call.vm()
    config = dict(vm.config)
    if call.flag("current"):
        config.update({key: vm.running_config[key] for key in _pending(vm) if key in vm.running_config})
    parent = {"parent": vm.parent} if vm.parent else {}
    return {**shown(config), **parent, "digest": digest(vm.config)}


def _pending(vm: Vm) -> list[str]:
    if not vm.running:
        return []
    return [key for key in options.AT_NEXT_START if vm.config.get(key) != vm.running_config.get(key)]


async def pending(call: Call) -> list[dict[str, Any]]:
    vm, waiting = call.vm(), set(_pending(call.vm()))
    found: list[dict[str, Any]] = []
    for key, value in {**vm.running_config, **shown(vm.config)}.items():
        if key not in waiting:
            found.append({"key": key, "value": value})
        else:
            entry: dict[str, Any] = {"key": key, "pending": value}
            found.append(entry | ({"value": vm.running_config[key]} if key in vm.running_config else {}))
    return [*found, {"key": "digest", "value": digest(vm.config)}]


# changing


async def put(call: Call) -> None:
    """PUT config: done when it answers."""
    vm = _checked(call)
    if not await call.inside.cluster.settled():
        raise Refused(500, call.inside.cluster.unwritable(vm.node, vm.vmid))
    try:
        async with call.inside.locks.vm(vm.vmid):
            await _apply(call, vm, None)
    except TaskFailed as failed:
        raise Refused(500, str(failed)) from failed


async def post(call: Call) -> str:
    """POST config: the same as a task."""
    vm = _checked(call)

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(vm.vmid, task=task):
            if not await call.inside.cluster.settled():
                raise TaskFailed(call.inside.cluster.unwritable(vm.node, vm.vmid))
            await call.inside.clock.sleep(call.inside.plan.config_s)
            try:
                await _apply(call, vm, task)
            except Refused as refused:
                raise TaskFailed(refused.text) from refused

    return call.inside.begin(call, "qmconfig", vm.vmid, work)


def _names(call: Call, name: str) -> list[str]:
    return [one for one in re.split(r"[,; ]", str(call.params.get(name, ""))) if one]


def _changes(call: Call) -> Config:
    return {key: value for key, value in call.params.items() if options.kind_of(key) is not None}


def _checked(call: Call) -> Vm:
    """All that is refused before a lock is taken: options, rights, digest, a locked VM."""
    removed, reverted, changes = _names(call, "delete"), _names(call, "revert"), _changes(call)
    for where, keys in (("delete", removed), ("revert", reverted)):
        for key in keys:
            if options.kind_of(key) is None:
                raise invalid(**{where: f"unknown option '{key}'"})
    if call.flag("skiplock") and not call.who.root:
        raise invalid(skiplock="Only root may use this option.")
    for key in (*removed, *reverted):
        _need(call, key, str(_config_of(call).get(key, "")))
    for key, value in changes.items():
        _need(call, key, str(value))
    vm = call.vm()
    if "digest" in call.params and call.params["digest"] != digest(vm.config):
        raise Refused(500, "checksum mismatch (file change by other user?)")
    if vm.lock and not call.flag("skiplock") and vm.lock != "clone":
        raise Refused(500, f"VM is locked ({vm.lock})")
    return vm


def _config_of(call: Call) -> Config:
    vm = call.inside.world.vms.get(call.vmid)
    return vm.config if vm is not None else {}


def _need(call: Call, key: str, value: str) -> None:
    """The right for one option. Raises Refused."""
    if re.fullmatch(r"hostpci\d+", key):
        name = properties(value).get("mapping")
        if name is None:
            if not call.who.root:
                raise Refused(500, f"only root can set '{key}' config for non-mapped devices")
            return
        call.need(f"/mapping/pci/{name}", "Mapping.Use")
        call.need(f"/vms/{call.vmid}", "VM.Config.HWType")
        return
    rights = options.rights_for(key, value)
    if rights == ("root",):
        if not call.who.root:
            raise Refused(500, f"only root can set '{key}' config")
        return
    call.need(f"/vms/{call.vmid}", *rights)
    store = value.partition(":")[0]
    if is_disk(key) and ":" in value.partition(",")[0] and not value.startswith("none"):
        call.need(f"/storage/{store}", "Datastore.AllocateSpace")


async def _apply(call: Call, vm: Vm, task: Task | None) -> None:
    for key in _names(call, "revert"):
        if key in vm.running_config:
            vm.config[key] = vm.running_config[key]
    for key in _names(call, "delete"):
        await _remove(call.inside, vm, key)
    for key, value in _changes(call).items():
        line = await _line(call.inside, vm, key, value, task)
        vm.config[key] = line
        if vm.running and key not in options.AT_NEXT_START:
            vm.running_config[key] = line


async def _remove(inside: Inside, vm: Vm, key: str) -> None:
    old = vm.config.pop(key, None)
    volid = volume_of(old) if is_disk(key) else ""
    volume = inside.volumes.find(volid, vm.node) if volid else None
    if volume is None:
        return
    if key.startswith("unused") or "-cloudinit" in volid:
        inside.volumes.drop(volume)
        return
    free = next(f"unused{number}" for number in range(256) if f"unused{number}" not in vm.config)
    vm.config[free] = volid


async def _line(inside: Inside, vm: Vm, key: str, value: object, task: Task | None) -> object:
    """What the config will say; new disks and addresses are made on the way."""
    text = str(value)
    if re.fullmatch(r"net\d+", key):
        return (
            text if re.search(r"=[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", text) else with_mac(text, inside.world.new_mac())
        )
    if is_disk(key) and (new := re.fullmatch(r"([^:,]+):(\d+|cloudinit)((?:,.*)?)", text)):
        return await _new_disk(inside, vm, new, task)
    return options.normal(key, value)


async def _new_disk(inside: Inside, vm: Vm, new: re.Match[str], task: Task | None) -> str:
    storage = inside.world.storages.get(new.group(1))
    if storage is None:
        raise Refused(500, f"storage '{new.group(1)}' does not exist")
    told = task or inside.nobodys_task(vm.node)
    if new.group(2) == "cloudinit":
        name = f"vm-{vm.vmid}-cloudinit.qcow2"
        volume = await inside.volumes.make(told, storage, vm.node, vm.vmid, name, CLOUDINIT_BYTES, 266240)
        return f"{volume.volid},media=cdrom"
    name = inside.volumes.next_name(storage, vm.node, vm.vmid, "raw")
    size = max(int(new.group(2)), 1) * GIB
    volume = await inside.volumes.make(told, storage, vm.node, vm.vmid, name, size, 204800)
    return f"{volume.volid}{new.group(3)},size={size_text(size)}"


async def resize(call: Call) -> str:
    vm = call.vm()
    wanted = re.fullmatch(r"(\+?)(\d+(?:\.\d+)?)([KMGT]?)", str(call.params["size"]))
    if wanted is None:
        raise invalid(size="value does not match the regex pattern")

    async def work(task: Task) -> None:
        async with call.inside.locks.vm(vm.vmid, task=task):
            await _resize(call, vm, str(call.params["disk"]), wanted)

    return call.inside.begin(call, "resize", vm.vmid, work)


async def _resize(call: Call, vm: Vm, disk: str, wanted: re.Match[str]) -> None:
    inside = call.inside
    if vm.lock:
        raise TaskFailed(f"VM is locked ({vm.lock})")
    volume = inside.volumes.find(volume_of(vm.config.get(disk)), vm.node)
    if disk not in vm.config:
        raise TaskFailed(f"disk '{disk}' does not exist")
    if volume is None:
        raise TaskFailed(f"volume '{volume_of(vm.config[disk])}' does not exist")
    amount = int(float(wanted.group(2)) * _SIZES[wanted.group(3)])
    size = volume.size_bytes + amount if wanted.group(1) else amount
    if size < volume.size_bytes:
        raise TaskFailed("shrinking disks is not supported")
    await inside.clock.sleep(inside.plan.config_s)
    volume.size_bytes = size  # before the config: without a quorum the disk has grown and the config does not know
    if not await inside.cluster.settled():
        raise TaskFailed(inside.cluster.unwritable(vm.node, vm.vmid))
    vm.config[disk] = re.sub(r"size=[^,]*", f"size={size_text(size)}", str(vm.config[disk]))


async def create(call: Call) -> str:
    """POST .../qemu: a VM from nothing."""
    inside, vmid, node = call.inside, int(call.params["vmid"]), call.node
    for key, value in _changes(call).items():
        if is_disk(key) or re.fullmatch(r"hostpci\d+", key) or options.rights_for(key, str(value)) in _ASKED_AT_CREATE:
            _need_new(call, vmid, key, str(value))
    inside.cluster.need_quorum()
    if (old := inside.world.vms.get(vmid)) is not None:
        raise Refused(500, f"unable to create VM {vmid} - VM {vmid} already exists on node '{old.node}'")

    async def work(task: Task) -> None:
        async with inside.locks.vm(vmid, task=task, wait_s=1.0):
            if vmid in inside.world.vms:
                raise TaskFailed(f"unable to create VM {vmid} - VM {vmid} already exists on node '{node}'")
            vm = Vm(vmid, node, pool=str(call.params.get("pool", "")), made_at=inside.clock.now())
            stamp = int(inside.clock.now())
            vm.config = {"boot": " ", "meta": f"creation-qemu=10.0.2,ctime={stamp}"}
            vm.config |= {"smbios1": f"uuid={inside.world.new_uuid()}", "vmgenid": inside.world.new_uuid()}
            for key, value in _changes(call).items():
                vm.config[key] = await _line(inside, vm, key, value, task)
            vm.config["boot"] = _boot_order(vm.config)
            inside.world.vms[vmid] = vm

    return inside.begin(call, "qmcreate", vmid, work)


def _boot_order(config: Config) -> str:
    """What PVE boots from when nobody said it: the first disk, the CD-ROM drive, the first network."""
    if config["boot"] != " ":
        return str(config["boot"])
    found = [key for key in ("scsi0", "virtio0", "sata0", "ide0", "ide2", "net0") if key in config]
    return f"order={';'.join(found)}" if found else " "


_ASKED_AT_CREATE = (("VM.Config.HWType",), ("root",))


def _need_new(call: Call, vmid: int, key: str, value: str) -> None:
    rights = options.rights_for(key, value)
    if rights == ("root",) and not call.who.root:
        raise Refused(500, f"only root can set '{key}' config")
    pool = str(call.params.get("pool", ""))
    if call.has(f"/vms/{vmid}", *rights) or (pool and call.has(f"/pool/{pool}", *rights)):
        return
    call.need(f"/vms/{vmid}", *rights)


# cloud-init


async def cloudinit_pending(call: Call) -> list[dict[str, Any]]:
    config = shown(call.vm().config)
    return [{"key": key, "value": config[key]} for key in _CLOUD_KEYS if key in config]


async def cloudinit_regenerate(call: Call) -> None:
    call.vm()


async def cloudinit_dump(call: Call) -> str:
    vm, kind = call.vm(), str(call.params["type"])
    if kind == "user":
        return _user_data(vm)
    if kind == "network":
        return _network_data(vm)
    return (
        f"instance-id: {digest({k: v for k, v in vm.config.items() if k in _CLOUD_KEYS or k.startswith('ipconfig')})}\n"
    )


def _user_data(vm: Vm) -> str:
    lines = ["#cloud-config", f"hostname: {vm.name}", "manage_etc_hosts: true", f"fqdn: {vm.name}"]
    if user := vm.config.get("ciuser"):
        lines.append(f"user: {user}")
    if vm.config.get("cipassword"):
        lines.append(f"password: {_HIDDEN}")
    keys = [key for key in unquote(str(vm.config.get("sshkeys", ""))).splitlines() if key.strip()]
    if keys:
        lines += ["ssh_authorized_keys:", *(f"  - {key}" for key in keys)]
    lines += ["chpasswd:", "  expire: False", "users:", "  - default"]
    if str(vm.config.get("ciupgrade", 1)) == "1":
        lines.append("package_upgrade: true")
    return "\n".join(lines) + "\n"


def _network_data(vm: Vm) -> str:
    lines = ["version: 1", "config:"]
    if vm.mac:
        lines += [
            "    - type: physical",
            "      name: eth0",
            f"      mac_address: '{vm.mac.lower()}'",
            "      subnets:",
        ]
        given = properties(vm.config.get("ipconfig0"))
        address, _, prefix = given.get("ip", "dhcp").partition("/")
        if prefix:
            mask = (0xFFFFFFFF << (32 - int(prefix))) & 0xFFFFFFFF
            dotted = ".".join(str(mask >> shift & 255) for shift in (24, 16, 8, 0))
            lines += ["      - type: static", f"        address: '{address}'", f"        netmask: '{dotted}'"]
            lines += [f"        gateway: '{given['gw']}'"] if "gw" in given else []
        else:
            lines.append("      - type: dhcp4")
    servers = str(vm.config.get("nameserver", "")).split()
    if servers:
        lines += ["    - type: nameserver", "      address:", *(f"      - '{one}'" for one in servers)]
    return "\n".join(lines) + "\n"
