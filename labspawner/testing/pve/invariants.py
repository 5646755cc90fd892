"""What must always be true of the cluster, whatever broke."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from labspawner.testing.pve.world import Vm, World


class Owner(NamedTuple):
    """Whose a VM is; `server` is what may exist only once (hub, user and server name)."""

    hub: str
    server: str


def owner_in(vm: Vm) -> Owner | None:
    """The owner as a marker in the description tells it, in any of the usual spellings; None without one."""
    text = vm.description
    if "labspawner" not in text and "labspawner" not in vm.tags:
        return None
    found = dict(re.findall(r'"?(\w+)"?\s*[=:]\s*"?([^\s,;&"]*)', text))
    server = f"{found.get('user', '')}/{found.get('server', '')}"
    return Owner(found.get("hub", ""), server if found.get("user") else "")


def broken_rules(world: World, pool: str, owner: Callable[[Vm], Owner | None]) -> list[str]:
    """Each rule that is broken, as a sentence."""
    members = [vm for vm in world.vms.values() if vm.pool == pool and not vm.template and vm.lock != "clone"]
    wrong = [f"VM {vm.vmid} ({vm.name}) has no owner" for vm in members if owner(vm) is None]
    servers = Counter(found for vm in members if (found := owner(vm)) is not None and found.server)
    wrong += [
        f"{count} VMs are the server {found.server} of hub {found.hub}" for found, count in servers.items() if count > 1
    ]
    addresses = Counter(vm.address for vm in world.vms.values() if vm.address and not vm.template)
    wrong += [f"the address {address} is used by {count} VMs" for address, count in addresses.items() if count > 1]
    macs = Counter(vm.mac for vm in world.vms.values() if vm.mac)
    wrong += [f"the MAC address {mac} is used by {count} VMs" for mac, count in macs.items() if count > 1]
    named = {(volid, vm.node) for vm in world.vms.values() for _, volid in _all_volumes(vm)}
    anywhere = {volid for volid, _ in named}
    for volume in world.volumes.values():
        known = (volume.volid, volume.node) in named if volume.node else volume.volid in anywhere
        if not known:
            wrong.append(f"the volume {volume.volid} belongs to no VM")
    return wrong + _lost_devices(world)


def _all_volumes(vm: Vm) -> list[tuple[str, str]]:
    kept = [("vmstate", one.vmstate) for one in vm.snapshots.values() if one.vmstate]
    return [*vm.disks(), *kept]


def _lost_devices(world: World) -> list[str]:
    running = {vm.vmid for vm in world.vms.values() if vm.running}
    return [
        f"the device {device.path} on {device.node} is held for VM {device.used_by}, which does not run"
        for mapping in world.mappings.values()
        for device in mapping.devices
        if device.used_by and device.used_by not in running
    ]
