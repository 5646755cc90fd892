"""Whether a VM is a good template: findings from its configuration, and from what the helper says inside a clone."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.providers.findings import Finding, Level
from labspawner.providers.proxmox import checking
from labspawner.providers.proxmox.checking import StorageFacts

SHARED = StorageFacts("fast", shared=True, kind="rbd")
STORAGES = {"fast": SHARED, "local": StorageFacts("local", shared=False, kind="dir")}


def a_config(**changes: Any) -> dict[str, Any]:
    """The configuration of a good Linux template, as PVE 8.4 answers it; None leaves a key out."""
    values: dict[str, Any] = {
        "template": 1,
        "agent": "enabled=1",
        "ostype": "l26",
        "boot": "order=scsi0",
        "scsi0": "fast:base-9100-disk-0,size=3G",
        "ide2": "fast:vm-9100-cloudinit,media=cdrom",
        "net0": "virtio=BC:24:11:72:53:8D,bridge=vmbr0",
        "memory": "512",
        "vga": "std",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def of(found: tuple[Finding, ...], level: Level) -> list[str]:
    return [f"{each.what}: {each.detail}" for each in found if each.level is level]


def test_a_good_template_has_nothing_to_complain_about():
    found = checking.of_config(a_config(), STORAGES)

    assert {each.level for each in found} == {Level.OK}
    assert checking.worst(found) is Level.OK


@pytest.mark.parametrize("agent", ["1", "enabled=1", "1,fstrim_cloned_disks=1", "type=virtio,enabled=1"])
def test_the_agent_is_seen_in_each_way_that_pve_writes_it(agent):
    assert checking.agent_enabled(a_config(agent=agent))


@pytest.mark.parametrize("agent", [None, "0", "enabled=0", "0,fstrim_cloned_disks=1"])
def test_an_agent_that_is_off_is_told(agent):
    found = checking.of_config(a_config(agent=agent), STORAGES)

    assert any("no agent inside" in text for text in of(found, Level.WARNING))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"template": None}, Level.WARNING, "full copy"),
        ({"lock": "clone"}, Level.ERROR, "locked (clone)"),
        ({"scsi0": None, "boot": None}, Level.ERROR, "disk: it has none"),
        ({"boot": "order=net0"}, Level.ERROR, "boots from net0"),
        ({"scsi0": "local:9000/base-9000-disk-0.qcow2,size=3G"}, Level.WARNING, "of one node alone"),
        ({"scsi0": "local:9000/base-9000-disk-0.raw,size=3G"}, Level.WARNING, "cannot link"),
        ({"scsi0": "hidden:base-9000-disk-0,size=3G"}, Level.ERROR, "may not see hidden"),
        ({"ide0": "fast:vm-9100-cloudinit-1.qcow2,media=cdrom"}, Level.ERROR, "more than one"),
        ({"cicustom": "user=local:snippets/x.yaml"}, Level.ERROR, "replaces what the hub sets"),
        ({"ide0": "local:iso/debian.iso,media=cdrom,size=300M"}, Level.WARNING, "clones need that file"),
        ({"net0": None}, Level.ERROR, "no net0"),
        ({"net0": "e1000=BC:24:11:72:53:8D,bridge=vmbr0"}, Level.NOTE, "virtio is faster"),
        ({"net0": "virtio=BC:24:11:72:53:8D,bridge=vmbr0,link_down=1"}, Level.ERROR, "cable"),
        ({"ostype": "win11"}, Level.ERROR, "the profile says linux"),
        ({"cpu": "host"}, Level.NOTE, "may not resume"),
        ({"kvm": 0}, Level.WARNING, "emulated"),
        ({"vga": "serial0"}, Level.NOTE, "no screen"),
        ({"hostpci0": "mapping=gpu"}, Level.WARNING, "passed through"),
        ({"ipconfig0": "ip=10.0.0.5/24,gw=10.0.0.1"}, Level.NOTE, "clones get another"),
    ],
)
def test_each_thing_that_is_wrong_is_a_finding_of_its_own(changes, level, words):
    found = checking.of_config(a_config(**changes), STORAGES)

    assert any(words in text for text in of(found, level)), found


def test_a_windows_template_is_judged_as_one():
    config = a_config(ostype="win11", tpmstate0="fast:vm-9200-disk-1,size=4M", vga="serial0")

    found = checking.of_config(config, STORAGES, os="windows", desktop=True)

    assert any("no screen" in text for text in of(found, Level.ERROR))
    assert any("copied whole" in text for text in of(found, Level.NOTE))


def test_an_empty_cd_drive_and_a_spice_channel_are_nobodys_trouble():
    config = a_config(ide0="none,media=cdrom", usb0="spice,usb3=1")

    assert {each.level for each in checking.of_config(config, STORAGES)} == {Level.OK}


def test_a_storage_whose_type_is_not_said_is_taken_to_link():
    disk = checking.volumes(a_config())[0]

    assert checking.links(disk, StorageFacts("fast", shared=True))


def test_nodes_that_cannot_clone_it_are_named():
    found = checking.of_feature({"hasFeature": 1, "nodes": ["pve1"]}, ["pve1", "pve2"])

    assert of(found, Level.WARNING) == ["clones: not on pve2: its storage is not there"]
    assert (
        checking.worst(checking.of_feature({"hasFeature": 1, "nodes": ["pve1", "pve2"]}, ["pve1", "pve2"])) is Level.OK
    )
    assert checking.worst(checking.of_feature({"hasFeature": 0}, ["pve1"])) is Level.WARNING


def test_what_the_helper_found_is_shown_with_its_hints():
    report = {
        "protocol": 1,
        "ok": False,
        "findings": [
            {"level": "error", "code": "guest-exec", "message": "the agent refuses exec", "hint": "edit its list"},
            {"level": "ok", "code": "python", "message": "3.11", "hint": ""},
            {"level": "new", "code": "later", "message": "a level of a later helper"},
        ],
    }

    found = checking.of_guest(report)

    assert found[0] == Finding(Level.ERROR, "guest exec", "the agent refuses exec", "edit its list")
    assert [each.level for each in found] == [Level.ERROR, Level.OK, Level.NOTE]


def test_in_a_clone_nobody_misses_what_its_first_boot_made():
    findings = [{"level": "warning", "code": "machine-id", "message": "there is one"}]

    assert len(checking.of_guest({"protocol": 1, "ok": True, "findings": findings})) == 1
    assert checking.of_guest({"protocol": 1, "ok": True, "findings": findings}, clone=True) == ()


@pytest.mark.parametrize("report", [{}, {"protocol": 2, "ok": True}, {"protocol": 1, "ok": False}])
def test_a_helper_that_cannot_be_understood_is_an_error(report):
    assert checking.worst(checking.of_guest(report)) is Level.ERROR


@pytest.mark.parametrize(
    ("there", "level"),
    [("6.1.0", Level.OK), ("6.0.2", Level.WARNING), ("5.3.0", Level.ERROR), (None, Level.ERROR), ("", Level.ERROR)],
)
def test_the_versions_of_jupyterhub_are_compared(there, level):
    assert checking.worst(checking.of_versions({"jupyterhub": there}, "6.1.1")) is level
