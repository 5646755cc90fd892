"""The options of a VM's config: which there are, of what kind, and which right changes each."""

from __future__ import annotations

import re

from labspawner.testing.pve import schema
from labspawner.testing.pve.schema import FLAG, INT, STORAGE, TEXT, Kind
from labspawner.testing.pve.world import properties

_OPTIONS: dict[str, dict[str, Kind]] = {
    "VM.Config.Options": {
        "agent": TEXT,
        "autostart": FLAG,
        "bios": Kind(values=("seabios", "ovmf")),
        "description": Kind(longest=8192),
        "name": schema.DNS_NAME,
        "onboot": FLAG,
        "ostype": TEXT,
        "protection": FLAG,
        "reboot": FLAG,
        "startup": TEXT,
        "tags": Kind(check=schema.tags),
        "template": FLAG,
        "hookscript": TEXT,
    },
    "VM.Config.CPU": {
        "cores": Kind(integer=True, least=1),
        "cpu": TEXT,
        "cpulimit": TEXT,
        "cpuunits": INT,
        "numa": FLAG,
        "sockets": Kind(integer=True, least=1),
        "vcpus": Kind(integer=True, least=1),
    },
    "VM.Config.Memory": {"memory": Kind(check=schema.memory), "balloon": Kind(integer=True, least=0), "shares": INT},
    "VM.Config.HWType": {
        "acpi": FLAG,
        "audio0": TEXT,
        "hotplug": TEXT,
        "kvm": FLAG,
        "machine": TEXT,
        "rng0": TEXT,
        "scsihw": TEXT,
        "smbios1": Kind(longest=512),
        "tablet": FLAG,
        "vga": TEXT,
    },
    "VM.Config.Disk": {"boot": TEXT, "bootdisk": TEXT, "vmstatestorage": STORAGE},
    "VM.Config.Cloudinit": {
        "cicustom": TEXT,
        "cipassword": TEXT,
        "citype": Kind(values=("configdrive2", "nocloud", "opennebula")),
        "ciuser": TEXT,
        "ciupgrade": FLAG,
        "nameserver": TEXT,
        "searchdomain": TEXT,
        "sshkeys": Kind(check=schema.urlencoded),
    },
    "VM.Config.Network": {},
    "root": {"args": TEXT, "lock": TEXT, "affinity": TEXT, "vmgenid": TEXT},
}
_PATTERNS = (
    (re.compile(r"net\d+"), "VM.Config.Network", TEXT),
    (re.compile(r"ipconfig\d+"), "VM.Config.Cloudinit", Kind(check=schema.ipconfig)),
    (re.compile(r"(scsi|virtio|ide|sata)\d+|efidisk0|tpmstate0|unused\d+"), "VM.Config.Disk", TEXT),
    (re.compile(r"(serial|usb|parallel)\d+"), "VM.Config.HWType", TEXT),
    (re.compile(r"hostpci\d+"), "VM.Config.HWType", TEXT),
)
_CHANGE = {
    "delete": TEXT,
    "digest": Kind(longest=40),
    "force": FLAG,
    "revert": TEXT,
    "skiplock": FLAG,
    "background_delay": INT,
}
AT_NEXT_START = frozenset("cores sockets memory cpu machine bios vga numa balloon kvm".split())  # noqa: SIM905 - all pending


def kind_of(name: str) -> Kind | None:
    """Of an option that may be set; None for what is no option."""
    for options in _OPTIONS.values():
        if name in options:
            return options[name]
    return next((kind for pattern, _, kind in _PATTERNS if pattern.fullmatch(name)), None)


def change_kind(name: str) -> Kind | None:
    """As `kind_of`, with the parameters that say how to change."""
    return _CHANGE.get(name) or kind_of(name)


def rights_for(name: str, value: str = "") -> tuple[str, ...]:
    """Any of these lets one change the option; `root` for what only root may."""
    for right, options in _OPTIONS.items():
        if name in options:
            return ("VM.Config.Cloudinit", "VM.Config.Network") if right == "VM.Config.Cloudinit" else (right,)
    for pattern, right, _ in _PATTERNS:
        if pattern.fullmatch(name):
            if right == "VM.Config.Cloudinit":
                return ("VM.Config.Cloudinit", "VM.Config.Network")
            if right == "VM.Config.Disk" and _is_cdrom(value):
                return ("VM.Config.Cloudinit", "VM.Config.CDROM") if "cloudinit" in value else ("VM.Config.CDROM",)
            return (right,)
    return ("root",)


def _is_cdrom(value: str) -> bool:
    return "media=cdrom" in value or "cloudinit" in value.partition(",")[0]


def normal(name: str, value: object) -> object:
    """How the option comes back: tags lower-cased and sorted, memory as text, numbers as numbers."""
    if name == "tags":
        return ";".join(sorted({tag.lower() for tag in re.split(r"[;, ]", str(value)) if tag}))
    if name == "memory":
        return properties(value).get("current", str(value))
    return value
