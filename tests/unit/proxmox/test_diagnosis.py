"""What `labspawner doctor` says of a cluster: rights by name and command, and what answers mean for servers."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.model import LeaseId, Resources
from labspawner.providers.findings import Asked, Finding, Level
from labspawner.providers.proxmox.diagnosis import judging, wants_of
from labspawner.providers.proxmox.diagnosis.cluster import find_template
from labspawner.providers.proxmox.diagnosis.probing import spread
from labspawner.providers.proxmox.diagnosis.rights import agent_privilege, judge, role_privileges, wanted
from labspawner.providers.proxmox.marks import clone_name, tags_of

GIB = 2**30
WHO = "labs@pve!hub"


def of(found: tuple[Finding, ...] | list[Finding], level: Level) -> list[str]:
    return [each.detail for each in found if each.level is level]


def all_of(rights: Any) -> dict[str, dict[str, object]]:
    said: dict[str, dict[str, object]] = {}
    for right in rights:
        said.setdefault(right.path, {})[right.privilege] = 0  # listed, and not passed on: it is there all the same
    return said


@pytest.mark.parametrize("major", [8, 9])
def test_a_token_with_every_privilege_has_nothing_missing(major):
    rights = wanted(major=major, pool="labs", bridges=["vmbr0"], mappings=["gpu"], storages=["fast"])

    found = judge(rights, all_of(rights), who=WHO)

    assert [each.level for each in found] == [Level.OK]


def test_a_missing_privilege_is_named_with_its_path_and_both_commands():
    rights = wanted(major=8, pool="labs")
    said = all_of(rights)
    del said["/pool/labs"]["VM.Monitor"]

    lacking = next(each for each in judge(rights, said, who=WHO) if each.level is Level.ERROR)

    assert "no VM.Monitor on /pool/labs: JupyterLab cannot be started" in lacking.detail
    assert "pveum role modify LabSpawner --append 1 --privs 'VM.Monitor'" in lacking.advice
    assert "--users labs@pve --roles LabSpawner" in lacking.advice
    assert "--tokens 'labs@pve!hub' --roles LabSpawner" in lacking.advice


def test_the_guest_agent_has_privileges_of_its_own_since_9():
    assert agent_privilege(8) == "VM.Monitor"
    assert "VM.GuestAgent.Unrestricted" in role_privileges(9)
    assert "VM.Monitor" not in role_privileges(9)


def test_a_token_without_anything_is_told_about_separated_privileges():
    (found,) = judge(wanted(major=8, pool="labs"), {"/pool/labs": {}}, who=WHO)

    assert found.level is Level.ERROR
    assert "BOTH its user and itself" in found.advice


def test_what_only_makes_life_easier_is_a_note_without_a_command():
    rights = wanted(major=8, pool="labs")
    said = {path: each for path, each in all_of(rights).items() if path == "/pool/labs"}

    found = judge(rights, said)

    assert {each.level for each in found} == {Level.OK, Level.NOTE}
    assert not any(each.advice for each in found)


def test_bridge_and_mapping_are_given_by_their_own_roles():
    rights = wanted(major=8, pool="labs", bridges=["vmbr7"], mappings=["gpu"])
    said = {path: each for path, each in all_of(rights).items() if path == "/pool/labs"}
    del said["/pool/labs"]["VM.Config.HWType"]  # what a device needs beside its mapping
    assert any("VM.Config.HWType" in each.detail for each in judge(rights, said, who=WHO) if each.level is Level.ERROR)

    errors = [each for each in judge(rights, said, who=WHO) if each.level is Level.ERROR and "/pool" not in each.detail]

    assert ["--roles PVESDNUser" in each.advice or "--roles PVEMappingUser" in each.advice for each in errors] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        ({"version": "8.4.21"}, Level.OK, "8.4.21"),
        ({"version": "9.0.3", "release": "9.0"}, Level.OK, "9.0.3"),
        ({"version": "7.4-17"}, Level.ERROR, "too old"),
        ({"version": "10.1"}, Level.WARNING, "made for 8 and 9"),
        ({}, Level.WARNING, "'?'"),
    ],
)
def test_versions_below_8_are_refused(said, level, words):
    found = judging.version(said)

    assert found.level is level
    assert words in found.detail


def test_a_cluster_without_quorum_is_an_error_and_one_machine_is_not():
    assert judging.quorum([{"type": "cluster", "quorate": 0, "nodes": 3}])[0].level is Level.ERROR
    assert judging.quorum([{"type": "cluster", "quorate": 1, "nodes": 3}])[0].level is Level.OK
    assert judging.quorum([{"type": "cluster", "quorate": 1, "nodes": 2}])[0].level is Level.NOTE
    assert judging.quorum([{"type": "node", "name": "pve"}])[0].level is Level.OK


def test_nodes_that_are_away_or_being_emptied_are_named():
    listed = [{"node": "a", "status": "online"}, {"node": "b", "status": "offline"}, {"node": "c", "status": "online"}]

    found = judging.nodes(listed, {"c", "gone"})

    assert of(found, Level.WARNING) == ["b cannot be reached: no server goes there"]
    assert of(found, Level.OK) == ["a takes servers"]
    assert len(of(found, Level.NOTE)) == 2


def a_storage(node: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "type": "storage",
        "storage": "fast",
        "node": node,
        "status": "available",
        "content": "images,iso",
        "shared": 1,
        "plugintype": "rbd",
        "maxdisk": 100 * GIB,
        "disk": 20 * GIB,
        **changes,
    }


@pytest.mark.parametrize(
    ("rows", "level", "words"),
    [
        ([a_storage("a"), a_storage("b")], Level.OK, "shared, 80 GiB free"),
        ([], Level.ERROR, "not there"),
        ([a_storage("a", content="iso"), a_storage("b", content="iso")], Level.ERROR, "does not hold disks"),
        ([a_storage("a")], Level.WARNING, "not on b"),
        ([a_storage("a"), a_storage("b", status="unknown")], Level.WARNING, "not available on b"),
        ([a_storage("a", disk=95 * GIB), a_storage("b", disk=95 * GIB)], Level.ERROR, "kept free"),
        ([a_storage("a", shared=0, maxdisk=None, disk=None)], Level.OK, "of its node alone"),
    ],
)
def test_a_storage_is_judged_for_what_servers_need(rows, level, words):
    found = judging.storage("fast", rows, ["a", "b"], reserve_bytes=10 * GIB)

    assert any(words in text for text in of(found, level)), found


def test_hibernation_needs_twice_the_memory_and_more():
    assert judging.hibernation("fast", 8 * GIB, 4 * GIB, 0)[0].level is Level.WARNING
    assert judging.hibernation("fast", 9 * GIB, 4 * GIB, 1)[0].level is Level.OK
    assert judging.hibernation("fast", 9 * GIB, 4 * GIB, 20)[0].level is Level.NOTE
    assert judging.hibernation("fast", None, 4 * GIB, 1)[0].level is Level.NOTE


def test_a_soft_mount_and_a_name_instead_of_an_address_are_told():
    found = judging.mount("nas", {"type": "nfs", "server": "nas.lab.example", "options": "soft,vers=3,nolock"})

    assert len(of(found, Level.WARNING)) == 2
    assert len(of(found, Level.NOTE)) == 1
    assert judging.mount("nas", {"type": "dir"}) == ()
    assert of(
        judging.mount("nas", {"type": "nfs", "server": "10.0.0.9"}), Level.NOTE
    )  # its export is not seen from here


def test_strangers_in_the_range_of_ids_are_named_and_a_full_range_is_an_error():
    vms = [
        {"vmid": 20000, "tags": tags_of("lab", LeaseId("l0123456789abcde"))},
        {"vmid": 20001, "tags": tags_of("other", LeaseId("l0123456789abcdf"))},
        {"vmid": 20002, "status": "unknown"},
        {"vmid": 20003, "name": clone_name("ada", LeaseId("l0123456789abcde"))},
    ]

    assert "20001 in 20000-20009" in judging.ids(vms, first=20000, last=20009, hub_id="lab")[0].detail
    assert judging.ids(vms[:1], first=20000, last=20000, hub_id="lab")[0].level is Level.ERROR
    assert judging.ids([], first=20000, last=20009, hub_id="lab")[0].level is Level.OK


def test_addresses_that_answer_are_told():
    assert "10.0.0.7 answers" in judging.addresses("default", 10, 1, {"10.0.0.7"})[0].detail
    assert judging.addresses("default", 10, 10, ())[0].level is Level.WARNING
    assert "8 of 10 are free" in judging.addresses("default", 10, 2, ())[0].detail


def test_addresses_of_the_pool_that_another_hubs_vms_have_are_told():
    lease = LeaseId("l0123456789abcde")
    vms = [
        {"vmid": 30001, "tags": tags_of("Other", lease, address="10.0.0.7")},
        {"vmid": 30002, "tags": tags_of("Other", lease, address="10.0.9.7")},
        {"vmid": 20001, "tags": tags_of("Lab", lease, address="10.0.0.8")},
        {"vmid": 7, "tags": "web;ls-ip-10.0.0.9"},
        {"vmid": 8},
    ]

    (found,) = judging.shared_addresses("default", {"10.0.0.7", "10.0.0.8", "10.0.0.9"}, vms, "Lab")

    assert found.level is Level.WARNING
    assert "10.0.0.7 (VM 30001 of hub other)" in found.detail
    assert "10.0.0.8" not in found.detail
    assert judging.shared_addresses("default", {"10.0.0.8"}, vms, "lab") == ()


def test_clocks_that_differ_are_told_by_how_much():
    found = judging.skew({"pve1": 12.4, "pve2": 0.4, "pve3": -60.0})

    assert found[0].detail == "pve1 is 12 s ahead, pve3 is 60 s behind of this machine"
    assert judging.skew({"pve1": 1.0})[0].level is Level.OK
    assert judging.skew({}) == ()


def test_templates_are_found_by_name_and_by_id_and_templates_come_before_vms():
    vms = [
        {"vmid": 9100, "name": "ubuntu", "template": 1, "node": "a"},
        {"vmid": 100, "name": "ubuntu", "node": "a"},
        {"vmid": 9101, "name": "ubuntu", "template": 1, "node": "b"},
        {"vmid": 9099, "name": "ubuntu", "template": 1, "node": "b"},
    ]

    assert [each["vmid"] for each in find_template(vms, "ubuntu")] == [9100, 9101]
    assert [each["vmid"] for each in find_template(vms, "100")] == [100]
    assert find_template(vms, "debian") == []


@pytest.mark.parametrize(
    ("places", "shared", "level", "words"),
    [
        ({}, False, Level.ERROR, "not there"),
        ({"a": [1]}, False, Level.WARNING, "no server of it on b"),
        ({"a": [1]}, True, Level.OK, "shared storage"),
        ({"a": [1], "b": [2]}, False, Level.OK, "every node"),
    ],
)
def test_each_node_wants_a_template_that_it_can_clone(places, shared, level, words):
    (found,) = judging.template_places("ubuntu", places, ["a", "b"], shared=shared)

    assert found.level is level
    assert words in found.detail


def test_a_device_mapping_is_counted_by_node():
    listed = [
        {"id": "gpu", "map": ["id=10de:2236,node=a,path=0000:01:00.0", "node=a,path=0000:02:00.0", "node=b,path=1"]}
    ]

    assert judging.mapping("gpu", listed, ["a"])[0].detail == "gpu: 2 on a, 1 on b"
    assert judging.mapping("gpu", listed, ["c"])[0].level is Level.ERROR
    assert judging.mapping("other", listed, ["a"])[0].level is Level.ERROR


def test_profiles_are_read_as_what_they_want_and_wrong_ones_are_told():
    wants, wrong = wants_of(
        [
            Asked(
                profile="c/a", settings={"template": "ubuntu"}, resources=Resources(memory_bytes=GIB), hibernates=True
            ),
            Asked(
                profile="c/w", settings={"template": "win", "os": "windows", "pci": {"mapping": "gpu"}}, hibernates=True
            ),
            Asked(profile="c/none", settings={}),
            Asked(profile="c/slip", settings={"template": "x", "colour": "red"}),
        ]
    )

    assert [(want.template, want.os, want.desktop, want.mapping, want.memory_bytes) for want in wants] == [
        ("ubuntu", "linux", False, "", GIB),
        ("win", "windows", True, "gpu", 0),
    ]
    assert ["names no template" in each.detail or "colour" in each.detail for each in wrong] == [True, True]


def test_a_large_pool_is_probed_from_end_to_end():
    every = [f"10.0.{index // 256}.{index % 256}" for index in range(1000)]

    probed = spread(every, 100, without=every[:10])

    assert len(probed) == 100
    assert not set(probed) & set(every[:10])
    assert every.index(probed[-1]) > 900


def test_vms_that_call_home_and_are_to_hibernate_are_told_since_they_are_stopped():
    wants, wrong = wants_of(
        [Asked(profile="c/vm", settings={"template": "t", "handover": "call-home"}, hibernates=True)]
    )

    assert len(wants) == 1
    assert ["they are stopped instead" in each.detail for each in wrong] == [True]
    assert wants_of([Asked(profile="c/vm", settings={"template": "t", "handover": "auto"}, hibernates=True)])[1] == ()
