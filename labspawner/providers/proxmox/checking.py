"""Whether a VM is a good template: what its configuration on the host says, and what `labspawner-guest check` says inside a
clone of it. Pure; `labspawner vm template check` and `labspawner doctor` show it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labspawner.providers.findings import Finding, Level, error, note, ok, warning

Os = Literal["linux", "windows"]

_DISK = re.compile(r"(scsi|virtio|sata|ide|efidisk|tpmstate)\d+")
_BOOTABLE = re.compile(r"(scsi|virtio|sata|ide)\d+")
_PASSED = re.compile(r"(hostpci|usb)\d+")
_WINDOWS = re.compile(r"win\d+|w2k\d*|wxp|wvista")
_LINKING_TYPES = frozenset({"zfspool", "rbd", "lvmthin", "btrfs"})
_FILE_TYPES = frozenset({"dir", "nfs", "cifs", "cephfs", "glusterfs"})
_LINKING_FORMATS = frozenset({"qcow2", "vmdk"})
_OF_THE_FIRST_BOOT = frozenset({"cloud-init-clean", "machine-id", "ssh-host-keys"})
_LEVELS = {"ok": Level.OK, "warning": Level.WARNING, "error": Level.ERROR}


@dataclass(frozen=True, slots=True)
class Volume:
    """One disk of a VM: its key in the configuration, its storage, and its name there."""

    key: str
    storage: str
    name: str

    @property
    def format(self) -> str:
        return self.name.rsplit(".", 1)[-1] if "." in self.name else "raw"


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What matters of a storage here. kind: PVE's name of its type; empty where it is not said."""

    name: str
    shared: bool
    kind: str = ""


def agent_enabled(config: Mapping[str, Any]) -> bool:
    """Whether the host talks to a guest agent in this VM: `agent: 1`, or `enabled=1` among its properties."""
    first, *rest = str(config.get("agent", "")).split(",")
    said = {first, *rest}
    return "1" in said or "enabled=1" in said


def volumes(config: Mapping[str, Any]) -> tuple[Volume, ...]:
    """The disks of a VM, without CD drives."""
    found = []
    for key, value in sorted(config.items()):
        if not _DISK.fullmatch(key):
            continue
        volume, _, properties = str(value).partition(",")
        storage, colon, name = volume.partition(":")
        if colon and "media=cdrom" not in properties.split(","):
            found.append(Volume(key, storage, name))
    return tuple(found)


def cdroms(config: Mapping[str, Any]) -> Mapping[str, str]:
    """CD drives with something in them, by key: `local:iso/debian.iso`, or a cloud-init drive."""
    found = {}
    for key, value in config.items():
        volume, _, properties = str(value).partition(",")
        if _BOOTABLE.fullmatch(key) and "media=cdrom" in properties.split(",") and volume != "none":
            found[key] = volume
    return found


def cloudinit_drives(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of PVE's own cloud-init drives, of which a VM may have one."""
    return tuple(sorted(key for key, volume in cdroms(config).items() if "cloudinit" in volume))


def passed_through(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of devices of the host that the VM gets: they keep it from hibernating and from moving."""
    return tuple(sorted(key for key, value in config.items() if _PASSED.fullmatch(key) and "spice" not in str(value)))


def local_storages(config: Mapping[str, Any], storages: Mapping[str, StorageFacts]) -> tuple[str, ...]:
    """The storages of the VM's disks that only one node has, as far as `storages` says."""
    used = {volume.storage for volume in volumes(config)}
    return tuple(sorted(name for name in used if name in storages and not storages[name].shared))


def of_config(
    config: Mapping[str, Any], storages: Mapping[str, StorageFacts], *, os: Os = "linux", desktop: bool = False
) -> tuple[Finding, ...]:
    """What can be told without starting anything. config: as PVE answers for the VM; storages: by name, those that can be
    seen; desktop: whether students are to see its screen."""
    return (
        *_kind(config),
        *_agent(config),
        *_disks(config, storages),
        *_drives(config),
        *_network(config),
        *_system(config, os),
        *_screen(config, desktop),
        *_devices(config),
    )


def _kind(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    found: list[Finding] = []
    if str(config.get("template", 0)) == "1":
        found.append(ok("kind", "it is a template"))
    else:
        said = "it is a VM and no template, so every student's disk is a full copy"
        found.append(warning("kind", said, "shut it down, and convert it: qm template ID"))
    lock = config.get("lock")
    if lock:
        found.append(
            error("lock", f"it is locked ({lock})", "wait for what works on it; of a task that died: qm unlock ID")
        )
    return tuple(found)


def _agent(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    if agent_enabled(config):
        return (ok("guest agent", "the host talks to it"),)
    said = "it is off in its options; clones have it on, and nothing starts in one that has no agent inside"
    return (warning("guest agent", said, "install qemu-guest-agent in it, then: qm set ID --agent enabled=1"),)


def _disks(config: Mapping[str, Any], storages: Mapping[str, StorageFacts]) -> tuple[Finding, ...]:
    disks = volumes(config)
    if not any(_BOOTABLE.fullmatch(disk.key) for disk in disks):
        return (error("disk", "it has none", "install a system in it first"),)
    found: list[Finding] = []
    order = re.search(r"order=([^,]+)", str(config.get("boot", "")))
    listed = order.group(1).split(";") if order else []
    if listed and not any(disk.key in listed for disk in disks):
        found.append(
            error(
                "boot order", f"it boots from {', '.join(listed)}, and has no disk there", "qm set ID --boot order=DISK"
            )
        )
    local = local_storages(config, storages)
    if local:
        said = (
            f"{', '.join(local)}: of one node alone, so all its clones are there too, and it has no other node's room"
        )
        found.append(
            warning("storage", said, "move its disks to a shared storage, or keep one template of the name per node")
        )
    full = [disk for disk in disks if disk.storage in storages and not links(disk, storages[disk.storage])]
    if full:
        said = (
            f"{', '.join(sorted({disk.storage for disk in full}))} cannot link, so every student's disk is a full copy"
        )
        found.append(warning("clones", said, "take a thin or copy-on-write storage (ZFS, RBD, LVM-thin, qcow2 files)"))
    unseen = sorted({disk.storage for disk in disks} - storages.keys())
    if unseen and storages:
        said = f"the hub may not see {', '.join(unseen)}"
        found.append(error("storage", said, "add it to the hub's pool: pveum pool modify POOL --storage NAME"))
    return tuple(found) or (ok("disk", ", ".join(f"{disk.key} on {disk.storage}" for disk in disks)),)


def links(disk: Volume, storage: StorageFacts) -> bool:
    """Whether a linked clone of this disk is possible; yes where the storage's type is not said."""
    if not storage.kind or storage.kind in _LINKING_TYPES:
        return True
    return storage.kind in _FILE_TYPES and disk.format in _LINKING_FORMATS


def _drives(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    found: list[Finding] = []
    own = cloudinit_drives(config)
    if len(own) > 1:
        said = f"{', '.join(own)}: more than one, and the guest reads any of them"
        found.append(error("cloud-init drive", said, f"keep one: qm set ID --delete {','.join(own[1:])}"))
    if config.get("cicustom"):
        said = "cicustom replaces what the hub sets for its student: user, keys, address"
        found.append(error("cloud-init", said, "qm set ID --delete cicustom"))
    if str(config.get("ipconfig0", "")).startswith("ip=") and "dhcp" not in str(config["ipconfig0"]):
        found.append(note("cloud-init", f"it has an address of its own ({config['ipconfig0']}); clones get another"))
    isos = {key: volume for key, volume in cdroms(config).items() if key not in own}
    for key, volume in isos.items():
        said = f"{key} holds {volume}: clones need that file on their node"
        found.append(warning("CD drive", said, f"qm set ID --{key} none,media=cdrom"))
    return tuple(found)


def _network(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    said = str(config.get("net0", ""))
    if not said:
        return (error("network", "it has no net0", "qm set ID --net0 virtio,bridge=vmbr0"),)
    found = []
    if "link_down=1" in said.split(","):
        found.append(error("network", "the cable of net0 is drawn (link_down=1)", "plug it in: link_down=0"))
    if not said.startswith(("virtio", "model=virtio")):
        found.append(note("network", f"net0 is {said.split('=', 1)[0]}; virtio is faster"))
    more = sorted(key for key in config if re.fullmatch(r"net[1-9]\d*", key))
    if more:
        found.append(note("network", f"{', '.join(more)}: only net0 is set up"))
    return tuple(found) or (ok("network", said.partition(",")[2] or said),)


def _system(config: Mapping[str, Any], os: Os) -> tuple[Finding, ...]:
    kind = str(config.get("ostype", "other"))
    windows = bool(_WINDOWS.fullmatch(kind))
    found = []
    if windows != (os == "windows"):
        said = f"ostype is {kind}, and the profile says {os}: it gets no set-up that its system reads"
        found.append(error("system", said, f"qm set ID --ostype {'win11' if os == 'windows' else 'l26'}"))
    if windows and ("tpmstate0" in config or "efidisk0" in config):
        found.append(note("system", "TPM state and EFI disk are copied whole at every start; they are small"))
    if str(config.get("cpu", "")).split(",")[0] in {"host", "cputype=host"}:
        said = "cpu is host: a hibernated server may not resume on a node with another processor"
        found.append(note("processor", said, "take a model that all nodes have: qm set ID --cpu x86-64-v2-AES"))
    if str(config.get("kvm", 1)) == "0":
        found.append(warning("processor", "kvm is off: everything is emulated, and very slow", "qm set ID --kvm 1"))
    return tuple(found)


def _screen(config: Mapping[str, Any], desktop: bool) -> tuple[Finding, ...]:
    vga = str(config.get("vga", "std")).split(",")[0].removeprefix("type=")
    if not vga.startswith("serial") and vga != "none":
        return ()
    said = f"vga is {vga}: there is no screen to show"
    if desktop:
        return (error("desktop", said, "qm set ID --vga std"),)
    return (note("desktop", said),)


def _devices(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    keys = passed_through(config)
    if not keys:
        return ()
    said = f"{', '.join(keys)}: a device that is passed through is one student's, and is in the way of hibernation"
    return (
        warning(
            "devices", said, f"take them out, and name a mapping in the profile: qm set ID --delete {','.join(keys)}"
        ),
    )


def of_feature(answer: Mapping[str, Any], online: Collection[str]) -> tuple[Finding, ...]:
    """What PVE says of cloning it. answer: of `feature?feature=clone`; online: the nodes there are."""
    if str(answer.get("hasFeature", 0)) != "1":
        return (warning("clones", "the host says that it cannot be cloned by a link, so clones are full copies"),)
    nodes = {str(name) for name in answer.get("nodes") or ()}
    missing = sorted(set(online) - nodes) if nodes else []
    if missing:
        return (warning("clones", f"not on {', '.join(missing)}: its storage is not there"),)
    return (ok("clones", f"on {', '.join(sorted(nodes & set(online))) or 'its node'}, by a link"),)


def of_guest(report: Mapping[str, Any], *, clone: bool = False) -> tuple[Finding, ...]:
    """What `labspawner-guest check` found. report: its JSON. What this hub does not know is shown as it is. clone: it was
    asked in a clone that has booted, where what a template must not have yet is of that clone's own making."""
    if report.get("protocol") != 1:
        said = f"labspawner-guest in the template speaks protocol {report.get('protocol')!r}, this hub 1"
        return (error("helper", said, "labspawner vm guest-helper > /usr/local/sbin/labspawner-guest in the template"),)
    found = []
    for each in report.get("findings") or ():
        if isinstance(each, Mapping) and not (clone and each.get("code") in _OF_THE_FIRST_BOOT):
            level = _LEVELS.get(str(each.get("level")), Level.NOTE)
            what = str(each.get("code") or "inside").replace("-", " ")
            found.append(Finding(level, what, str(each.get("message") or ""), str(each.get("hint") or "")))
    if not found and report.get("ok") is not True:
        found.append(error("helper", str(report.get("message") or "labspawner-guest refused without a reason")))
    return tuple(found)


def of_versions(versions: Mapping[str, Any], hub: str) -> tuple[Finding, ...]:
    """Whether the JupyterHub in the template goes with the hub's. versions: of `labspawner-guest status`."""
    there = versions.get("jupyterhub")
    if not there:
        return (
            error(
                "jupyterhub", "jupyterhub-singleuser is not in the template", f"pip install 'jupyterhub=={hub}' there"
            ),
        )
    fix = f"pip install 'jupyterhub=={hub}' in the template"
    one, other = str(there).split(".")[:2], hub.split(".")[:2]
    if one[0] != other[0]:
        return (error("jupyterhub", f"the template has {there}, the hub {hub}: they do not go together", fix),)
    if one != other:
        return (warning("jupyterhub", f"the template has {there}, the hub {hub}", fix),)
    return (ok("jupyterhub", f"{there}, and the hub is {hub}"),)


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among them; OK for none."""
    order = list(Level)
    return max((each.level for each in findings), key=order.index, default=Level.OK)
