"""What there is in the cluster: nodes, storages with their volumes, VMs, pools. Data, with no rules of its own."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20
GIB = 1 << 30
Config = dict[str, Any]


@dataclass(slots=True)
class Snapshot:
    """config: of the VM when it was taken. vmstate: the volume with its memory, "" when only disks were kept."""

    name: str
    config: Config
    taken_at: float
    description: str = ""
    vmstate: str = ""
    parent: str = ""


@dataclass(slots=True)
class Vm:
    """A virtual machine. `config` is what `GET config` answers, but for the digest.

    status: running or stopped. paused: its CPUs stand still, by `suspend` without `todisk`. pid: of its QEMU, 0 when
    stopped. running_config: what it was started with. made_at: 0 for what was there from the beginning.
    """

    vmid: int
    node: str
    config: Config = field(default_factory=dict)
    status: str = "stopped"
    paused: bool = False
    pid: int = 0
    started_at: float = 0.0
    running_config: Config = field(default_factory=dict)
    pool: str = ""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    parent: str = ""
    ha_managed: bool = False
    made_at: float = 0.0
    firewall: Config = field(default_factory=dict)
    ipsets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.config.get("name") or f"VM{self.vmid}")

    @property
    def template(self) -> bool:
        return bool(self.config.get("template"))

    @property
    def lock(self) -> str:
        return str(self.config.get("lock") or "")

    @property
    def running(self) -> bool:
        return self.status == "running"

    @property
    def memory_bytes(self) -> int:
        return int(self.config.get("memory") or 512) * MIB

    @property
    def cores(self) -> int:
        return int(self.config.get("cores") or 1) * int(self.config.get("sockets") or 1)

    @property
    def uuid(self) -> str:
        return str(properties(self.config.get("smbios1")).get("uuid", ""))

    @property
    def mac(self) -> str:
        """Of net0, in capitals; "" when there is none."""
        return str(next(iter(properties(self.config.get("net0")).values()), ""))

    @property
    def agent_enabled(self) -> bool:
        value = str(self.config.get("agent") or "0")
        return properties(value).get("enabled", value) in ("1", "enabled=1") or value == "1"

    @property
    def address(self) -> str:
        """From ipconfig0; "" when it has none or asks DHCP."""
        given = properties(self.config.get("ipconfig0")).get("ip", "")
        return "" if given in ("", "dhcp") else given.split("/")[0]

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(tag for tag in str(self.config.get("tags") or "").split(";") if tag)

    @property
    def description(self) -> str:
        return str(self.config.get("description") or "")

    def disks(self) -> Iterator[tuple[str, str]]:
        """(slot, volume id) of each volume that its config names, unused ones and the cloud-init drive included."""
        for key, value in self.config.items():
            if is_disk(key) and (volid := volume_of(value)):
                yield key, volid


@dataclass(slots=True)
class Volume:
    """node: "" on shared storage. parent: the base volume of a linked clone. size_bytes: virtual; used_bytes: real."""

    volid: str
    storage: str
    node: str
    vmid: int
    size_bytes: int
    used_bytes: int
    fmt: str = "qcow2"
    parent: str = ""
    made_at: float = 0.0


@dataclass(slots=True)
class Storage:
    """taken_bytes: by what is no volume of the double. nodes: where it is; empty means everywhere."""

    name: str
    shared: bool
    content: tuple[str, ...]
    total_bytes: int
    taken_bytes: int = 0
    kind: str = "dir"
    nodes: tuple[str, ...] = ()
    enabled: bool = True

    def on(self, node: str) -> bool:
        return not self.nodes or node in self.nodes


@dataclass(slots=True)
class Node:
    """cut: it has no network. seen_offline: its peers know. dead: it has no power either.

    silent: its pvestatd hangs, so that all on it turns `unknown`.
    """

    name: str
    number: int
    ip: str
    maxmem_bytes: int = 64 * GIB
    maxcpu: int = 16
    cut: bool = False
    seen_offline: bool = False
    dead: bool = False
    silent: bool = False
    booted_at: float = 0.0


@dataclass(slots=True)
class Pool:
    name: str
    comment: str = ""
    storages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class World:
    """All there is. Lives in the double's event loop."""

    rng: random.Random
    nodes: dict[str, Node] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    volumes: dict[tuple[str, str], Volume] = field(default_factory=dict)
    vms: dict[int, Vm] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    mappings: dict[str, Mapping] = field(default_factory=dict)
    bridges: tuple[str, ...] = ("vmbr0",)
    snippets: set[str] = field(default_factory=set)
    options: Config = field(default_factory=dict)
    registered_tags: tuple[str, ...] = ()

    def new_mac(self) -> str:
        """A MAC address nobody has."""
        used = {vm.mac for vm in self.vms.values()}
        while True:
            mac = "BC:24:11:" + ":".join(f"{self.rng.randrange(256):02X}" for _ in range(3))
            if mac not in used:
                return mac

    def new_uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def new_pid(self) -> int:
        return self.rng.randrange(1000, 4_000_000)


@dataclass(slots=True)
class Device:
    """A PCI device of a mapping; used_by: the VM that runs with it, 0 for none."""

    node: str
    path: str
    used_by: int = 0


@dataclass(slots=True)
class Mapping:
    """A PCI resource mapping: what one start may pick from. mdev: offers vGPU types."""

    name: str
    devices: list[Device]
    mdev: tuple[str, ...] = ()
    ident: str = "10de:2684"


def properties(value: object) -> dict[str, str]:
    """`a=1,b=2` as a dict; a part without `=` has its own name as key and value."""
    found: dict[str, str] = {}
    for part in str(value or "").split(","):
        key, sign, rest = part.partition("=")
        if part:
            found[key] = rest if sign else part
    return found


def is_disk(key: str) -> bool:
    """Whether a key of a config may name a volume."""
    name = key.rstrip("0123456789")
    return name in ("scsi", "virtio", "ide", "sata", "efidisk", "tpmstate", "unused") or key == "vmstate"


def volume_of(value: object) -> str:
    """The volume id of a disk's line; "" for `none` and for a CD-ROM drive without a disk."""
    first = str(value or "").split(",")[0].removeprefix("file=")
    return first if ":" in first and not first.endswith(":cloudinit") else ""


def digest(config: Config) -> str:
    """The SHA-1 that PVE gives with a config, for compare-and-set."""
    text = "".join(f"{key}: {config[key]}\n" for key in sorted(config))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
