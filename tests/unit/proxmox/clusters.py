"""Clusters and configurations for tests, each valid as it stands; name only what the test is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from labspawner.model import LeaseId
from labspawner.naming import new_lease_id
from labspawner.providers.proxmox.marks import Marker
from labspawner.providers.proxmox.nodes import Template
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant
from labspawner.providers.proxmox.views import NodeView, StorageView, View, VmView

GIB = 2**30
MIB = 2**20

TEMPLATE_CONFIG: dict[str, Any] = {
    "agent": "enabled=1",
    "boot": "order=scsi0",
    "ciuser": "student",
    "cores": 2,
    "cpu": "host",
    "ide2": "ceph:9100/vm-9100-cloudinit.qcow2,media=cdrom",
    "memory": "2048",
    "meta": "creation-qemu=10.0.2,ctime=1795292758",
    "name": "ubuntu-dl",
    "net0": "virtio=BC:24:11:72:53:8D,bridge=vmbr0",
    "ostype": "l26",
    "scsi0": "ceph:9100/base-9100-disk-0.qcow2,size=3G",
    "scsihw": "virtio-scsi-pci",
    "smbios1": "uuid=6b2d53b7-4e35-4173-bd6c-21b71f07e3f8",
    "template": 1,
    "vmgenid": "8aa6c993-db81-4ac1-85fd-23acda327b44",
}
"""As Proxmox VE 8.4 answers for a template."""


def config_of(**changes: Any) -> dict[str, Any]:
    """The template's configuration with changes; None takes a key away."""
    merged = {**TEMPLATE_CONFIG, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def settings_of(**changes: Any) -> ProxmoxSettings:
    given = {"endpoints": "https://pve1:8006", "token_file": "/run/token", "node_reserve": "1GiB", **changes}
    return ProxmoxSettings.model_validate(given)


def variant_of(**changes: Any) -> ProxmoxVariant:
    return ProxmoxVariant.model_validate({"template": "ubuntu-dl", **changes})


def marker_of(**changes: Any) -> Marker:
    values: dict[str, Any] = {"hub_id": "lab", "lease_id": LeaseId(new_lease_id()), "user": "alice"}
    return Marker(**{**values, **changes})


def node_of(name: str, **changes: Any) -> NodeView:
    values: dict[str, Any] = {"online": True, "maxcpu": 16, "maxmem": 65 * GIB, "mem": 1 * GIB, "cpu": 0.1}
    return NodeView(name=name, **{**values, **changes})


def vm_of(vmid: int, node: str, **changes: Any) -> VmView:
    values: dict[str, Any] = {"status": "running", "maxmem": 4 * GIB, "maxcpu": 2, "mem": 2 * GIB, "template": False}
    return VmView(vmid=vmid, node=node, **{**values, **changes})


def storage_of(name: str, node: str, **changes: Any) -> StorageView:
    values: dict[str, Any] = {
        "shared": True,
        "available": True,
        "used_bytes": 100 * GIB,
        "total_bytes": 1000 * GIB,
        "content": frozenset({"images"}),
        "plugin": "rbd",
    }
    return StorageView(name=name, node=node, **{**values, **changes})


def view_of(
    *nodes: NodeView,
    vms: Iterable[VmView] = (),
    storages: Iterable[StorageView] | None = None,
    quorate: bool | None = True,
) -> View:
    """A cluster of these nodes (else three alike), with one shared storage `ceph` and a template on the first."""
    found = nodes or tuple(node_of(f"pve{number}") for number in (1, 2, 3))
    if storages is None:
        storages = [storage_of("ceph", node.name) for node in found]
    machines = {vm.vmid: vm for vm in vms}
    machines.setdefault(
        9100, vm_of(9100, found[0].name, status="stopped", template=True, name="ubuntu-dl", maxmem=2 * GIB)
    )
    return View(
        taken_at=0.0,
        quorate=quorate,
        nodes={node.name: node for node in found},
        vms=machines,
        storages=tuple(storages),
        ids=frozenset(machines),
    )


def template_of(**changes: Any) -> Template:
    values: dict[str, Any] = {
        "vmid": 9100,
        "node": "pve1",
        "storages": ("ceph",),
        "disk_bytes": 3 * GIB,
        "cores": 2,
        "memory_bytes": 2 * GIB,
    }
    return Template(**{**values, **changes})
