"""What is asked of PVE for one VM: parameters of the clone, of its configuration, of its disk and its firewall. Pure.

No token is in here: these never go into a configuration. A nonce that is good for one call may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from labspawner.model import Resources
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.checking import StorageFacts, agent_enabled, cloudinit_drives, links, volumes
from labspawner.providers.proxmox.marks import Marker, clone_name, describe, host_name, tags_of
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant
from labspawner.providers.proxmox.views import StorageView
from labspawner.providers.proxmox.wishes import PciWish

Params = dict[str, Any]

MIB = 2**20
_SIZE = re.compile(r"(?:^|,)size=(\d+(?:\.\d+)?)([KMGT]?)(?:,|$)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_ORDER = re.compile(r"(?:^|,)order=([^,]*)")
_FIRST_DISKS = ("scsi0", "virtio0", "sata0", "ide0")
_CD_SLOTS = ("ide2", "ide0", "ide1", "ide3", "sata5", "scsi30")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How a VM gets its address. pool, address: static; None: it asks a DHCP server."""

    pool: AddressPool | None = None
    address: str | None = None


def copies_fully(variant: ProxmoxVariant, config: Mapping[str, Any], storages: Iterable[StorageView]) -> bool:
    """Whether the clone is a full copy: because the profile says so, or because linking is not possible. config: of the
    template."""
    if variant.full or str(config.get("template", 0)) != "1":
        return True
    kinds = {each.name: StorageFacts(each.name, each.shared, each.plugin) for each in storages}
    return not all(links(disk, kinds.get(disk.storage, StorageFacts(disk.storage, False))) for disk in volumes(config))


def clone(
    marker: Marker,
    *,
    newid: int,
    pool: str,
    source: str,
    target: str,
    full: bool,
    storage: str | None = None,
) -> Params:
    """Parameters of POST `/nodes/{source}/qemu/{template}/clone`. source, target: nodes. storage: of a full copy; for a
    linked clone PVE refuses it."""
    params: Params = {
        "newid": newid,
        "name": clone_name(marker.user, marker.lease_id),
        "pool": pool,
        "description": describe(marker),
        "full": int(full),
    }
    if target != source:
        params["target"] = target
    if full and storage is not None:
        params["storage"] = storage
    return params


def configuration(
    config: Mapping[str, Any],
    marker: Marker,
    *,
    variant: ProxmoxVariant,
    settings: ProxmoxSettings,
    resources: Resources,
    network: Network,
    calls_home: str | None = None,
) -> Params:
    """Parameters of PUT `/nodes/{node}/qemu/{vmid}/config`. config: of the VM as it was cloned. calls_home: what tells it
    to call the hub (`homecalls.hint`); this alone is secret, until it was used once."""
    params: Params = {
        "name": host_name(marker.user, marker.lease_id),
        "tags": tags_of(marker.hub_id, marker.lease_id, address=marker.address),
        "description": describe(marker),
        "onboot": 0,  # after a power cut the hub decides who runs
        **_size(config, variant, resources),
        **_card(config, variant, settings),
    }
    if not agent_enabled(config) and variant.handover != "call-home":
        params["agent"] = "enabled=1"
    if str(config.get("protection", 0)) == "1":
        params["protection"] = 0  # of the template; its copies have to go one day
    if variant.cpu_type is not None and variant.cpu_type != str(config.get("cpu", "")).partition(",")[0]:
        params["cpu"] = variant.cpu_type
    if not settings.kvm and str(config.get("kvm", 1)) != "0":
        params["kvm"] = 0
    if variant.pci is not None:
        params["hostpci0"] = hostpci(variant.pci)
    if variant.cloud_init:
        params.update(_cloud_init(variant, network))
        if calls_home is not None:
            # Of all that PVE writes into a guest's user data this one alone it shows to nobody, and the guest to root only.
            params["cipassword"] = calls_home
    return params


def cloud_init_drive(config: Mapping[str, Any], variant: ProxmoxVariant) -> Params | None:
    """Parameters of POST `config` (a task, since it allocates) that give a VM the drive its cloud-init reads; None where it
    has one. It goes onto the storage of the first disk."""
    disks = volumes(config)
    if not variant.cloud_init or cloudinit_drives(config) or not disks:
        return None
    slot = next((each for each in _CD_SLOTS if each not in config), None)
    return {slot: f"{disks[0].storage}:cloudinit"} if slot is not None else None


def growth(config: Mapping[str, Any], wanted_bytes: int | None) -> Params | None:
    """Parameters of PUT `resize` that make the first disk as large as wanted; None where it is large enough. Never smaller,
    and an absolute size: the same again changes nothing."""
    disk = boot_disk(config)
    if wanted_bytes is None or disk is None:
        return None
    size = size_of(config.get(disk))
    if size is None or wanted_bytes <= size:
        return None
    mebibytes = math.ceil(wanted_bytes / MIB)
    return {"disk": disk, "size": f"{mebibytes // 1024}G" if mebibytes % 1024 == 0 else f"{mebibytes}M"}


def firewall(variant: ProxmoxVariant, network: Network) -> tuple[tuple[str, str, Params], ...]:
    """What holds a VM to its own address and MAC: method, path below the VM, and parameters, in order. Servers are reached
    as before: without a policy, PVE's firewall would let nothing in."""
    options: Params = {
        "enable": 1,
        "macfilter": 1,
        "policy_in": "ACCEPT",
        "policy_out": "ACCEPT",
        "dhcp": int(network.address is None),
        "ipfilter": int(network.address is not None),
    }
    calls: list[tuple[str, str, Params]] = []
    if network.address is not None:
        calls.append(("POST", "firewall/ipset", {"name": "ipfilter-net0"}))
        calls.append(("POST", "firewall/ipset/ipfilter-net0", {"cidr": network.address}))
    return (*calls, ("PUT", "firewall/options", options))


def boot_disk(config: Mapping[str, Any]) -> str | None:
    """The key of the disk that a VM boots from, which is the one that grows; None where it has none."""
    keys = {disk.key for disk in volumes(config) if not disk.key.startswith(("efidisk", "tpmstate"))}
    order = _ORDER.search(str(config.get("boot") or ""))
    listed = order[1].split(";") if order else []
    return next(
        (key for key in (*listed, str(config.get("bootdisk")), *_FIRST_DISKS, *sorted(keys)) if key in keys), None
    )


def size_of(disk: object) -> int | None:
    """The size of a disk, from its entry in a configuration (`...,size=3G`), in bytes."""
    found = _SIZE.search(str(disk or ""))
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def disk_bytes(config: Mapping[str, Any]) -> int:
    """What all disks together may come to hold: what a full copy needs at most."""
    return sum(size_of(config.get(disk.key)) or 0 for disk in volumes(config))


def hostpci(wish: PciWish) -> str:
    """`hostpci0` of a VM. Always through a mapping: a raw device only root may give."""
    parts = [f"mapping={wish.mapping}"]
    parts += ["pcie=1"] if wish.pcie else []
    parts += ["x-vga=1"] if wish.primary else []
    parts += [f"mdev={wish.type}"] if wish.type is not None else []
    return ",".join(parts)


def _size(config: Mapping[str, Any], variant: ProxmoxVariant, resources: Resources) -> Params:
    """Cores and memory. PVE knows whole cores only: a fraction is a limit of their time."""
    params: Params = {}
    if resources.cpu is not None:
        cores = max(1, math.ceil(resources.cpu))
        params["cores"] = cores
        if resources.cpu < cores:
            params["cpulimit"] = round(resources.cpu, 3)
        if str(config.get("sockets", 1)) != "1":
            params["sockets"] = 1
    memory = math.ceil(resources.memory_bytes / MIB) if resources.memory_bytes is not None else None
    if memory is not None:
        params["memory"] = memory
    if variant.pci is not None:
        params["balloon"] = 0  # a device may write anywhere, so all memory stays where it is
    elif memory is not None:
        params["balloon"] = min(memory, math.ceil(variant.balloon / MIB)) if variant.balloon is not None else memory
    return params


def _card(config: Mapping[str, Any], variant: ProxmoxVariant, settings: ProxmoxSettings) -> Params:
    """`net0`, where it is to be another one than the template's; its model and its new MAC stay."""
    said = str(config.get("net0") or "")
    parts = [part for part in said.split(",") if part]
    wanted = {
        "bridge": variant.bridge or settings.bridge,
        "tag": str(variant.vlan) if variant.vlan is not None else None,
        "firewall": "1" if settings.anti_spoofing else None,
    }
    if not parts:
        if wanted["bridge"] is None:
            return {}
        parts = ["virtio"]
    for key, value in wanted.items():
        if value is not None:
            parts = [part for part in parts if part.partition("=")[0] != key] + [f"{key}={value}"]
    return {} if sorted(parts) == sorted(said.split(",")) else {"net0": ",".join(parts)}


def _cloud_init(variant: ProxmoxVariant, network: Network) -> Params:
    windows = variant.os == "windows"
    params: Params = {
        "citype": "configdrive2" if windows else "nocloud",
        "ciuser": variant.user,
        "ciupgrade": 0,  # else each first boot runs the package manager
        "ipconfig0": "ip=dhcp",
    }
    if variant.ssh_keys:
        # PVE wants this one percent-encoded by the caller, before the encoding of the form; a `+` would come out as a blank.
        params["sshkeys"] = quote("\n".join(variant.ssh_keys) + "\n", safe="")
    if network.pool is not None and network.address is not None:
        params["ipconfig0"] = network.pool.ipconfig(network.address)
        if network.pool.dns:
            params["nameserver"] = " ".join(str(each) for each in network.pool.dns)
        if network.pool.search is not None:
            params["searchdomain"] = network.pool.search
    return params
