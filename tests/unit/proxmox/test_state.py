"""What a listing says of one VM, what a handle says of it, and which second VMs are put aside."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from labspawner.model import Handle, LeaseId, Reservation
from labspawner.providers.proxmox.ending import disks_left
from labspawner.providers.proxmox.janitor import to_quarantine, without_vm
from labspawner.providers.proxmox.machines import Machine
from labspawner.providers.proxmox.marks import QUARANTINE
from labspawner.providers.proxmox.record import Record, Stage, record_of
from labspawner.providers.proxmox.reserving import DISKS_LEFT, lost_lease
from labspawner.providers.proxmox.state import Look, look_at
from labspawner.providers.proxmox.stuck import findings
from labspawner.providers.proxmox.views import NodeView, View, VmView

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
VIEW = View(
    taken_at=0.0,
    quorate=True,
    nodes={"pve1": NodeView(name="pve1", online=True), "pve2": NodeView(name="pve2", online=False)},
)


def a_vm(status: str = "running", **changes: object) -> VmView:
    return VmView(**{"vmid": 20001, "node": "pve1", "status": status, **changes})  # type: ignore[arg-type]


def a_machine(vmid: int, lease: str = "l1", *tags: str) -> Machine:
    return Machine(vmid=vmid, node="pve1", lease_id=LeaseId(lease), vm=a_vm(vmid=vmid, tags=tags))


def held(pool: str, value: str, owner: str | None) -> Reservation:
    return Reservation(pool=pool, value=value, owner=owner, taken_at=NOW)


@pytest.mark.parametrize(
    ("vm", "known", "look"),
    [
        (a_vm("running"), None, Look.RUNNING),
        (a_vm("running"), True, Look.RUNNING),
        (a_vm("running"), False, Look.DOUBTFUL),  # we stopped it, and the listing is late
        (a_vm("stopped"), True, Look.DOUBTFUL),  # we started it, and the listing is late
        (a_vm("stopped"), None, Look.DOUBTFUL),
        (a_vm("stopped"), False, Look.OFF),
        (a_vm("stopped", lock="suspended"), False, Look.OFF),
        (a_vm("unknown"), None, Look.DOUBTFUL),
        (a_vm("stopped", lock="backup"), None, Look.SILENT),  # a backup in stop mode ends with a VM that runs
        (a_vm("running", node="pve2"), True, Look.SILENT),  # what a lost node shows is what it showed last
        (a_vm("stopped", node="pve2"), False, Look.SILENT),
    ],
)
def test_a_vm_is_what_the_listing_says_unless_that_is_known_to_be_late(
    vm: VmView, known: bool | None, look: Look
) -> None:
    assert look_at(vm, VIEW, gone=False, known=known) is look


def test_without_a_quorum_a_vm_on_a_node_that_looks_lost_is_asked_itself() -> None:
    lonely = replace(VIEW, quorate=False)

    assert look_at(a_vm("running", node="pve2"), lonely, gone=False, known=True) is Look.DOUBTFUL


def test_a_vm_that_is_missing_is_gone_only_after_that_was_true_for_long_enough() -> None:
    assert look_at(None, VIEW, gone=False, known=True) is Look.MISSING
    assert look_at(None, VIEW, gone=True, known=True) is Look.GONE


def test_a_handle_says_what_was_put_into_it() -> None:
    record = Record(
        stage=Stage.MADE, vmid=20001, node="pve1", template=9100, uuid="u", mac="m", address="10.0.0.5", since=7
    )

    handle = record.handle(LeaseId("l1"), "proxmox")

    assert record_of(handle) == record
    assert "upid" not in handle.data


@pytest.mark.parametrize("data", [{}, {"stage": "old"}, {"vmid": "20001", "since": None, "node": 3}, {"vmid": True}])
def test_a_handle_of_another_age_says_nothing(data: dict[str, object]) -> None:
    handle = Handle(lease_id=LeaseId("l1"), provider="proxmox", data=data)  # type: ignore[arg-type]

    assert record_of(handle) == Record()


def test_of_two_vms_of_one_lease_the_one_whose_id_it_does_not_hold_is_put_aside() -> None:
    first, second = a_machine(20001), a_machine(20002)

    assert to_quarantine([first, second, a_machine(20003, "l2")], [held("vmid", "20002", "l1")]) == (first,)


def test_nothing_is_put_aside_twice_or_where_nobody_knows_which_is_right() -> None:
    first, second = a_machine(20001, "l1", QUARANTINE), a_machine(20002)

    assert to_quarantine([first, second], [held("vmid", "20002", "l1")]) == ()
    assert to_quarantine([a_machine(20001), second], []) == ()
    assert to_quarantine([a_machine(20001), second], [held("vmid", "20009", "l1")]) == ()


def test_what_only_a_person_can_put_right_is_named_with_what_to_do() -> None:
    locked = Machine(vmid=20001, node="pve1", lease_id=LeaseId("l1"), vm=a_vm(lock="suspending"))
    why = DISKS_LEFT + "shared:20005/vm-20005-disk-0.qcow2"
    left = Reservation(pool="vmid", value="20005", owner=None, taken_at=NOW, until=NOW, why=why)
    records = [held("vmid", "20003", lost_lease(20003)), held("vmid", "20004", "l1"), left]

    found = findings([locked, a_machine(20002, "l2", QUARANTINE), a_machine(20004)], records)

    assert [finding.level.value for finding in found] == ["error", "warning", "error", "error"]
    for number, finding in zip((20001, 20002, 20003, 20005), found, strict=True):
        assert str(number) in finding.detail
    assert all(finding.advice for finding in found)
    assert [finding.level.value for finding in findings([a_machine(20004)], [])] == ["ok"]


def test_a_deletion_that_left_disks_says_which_in_its_log() -> None:
    lines = [
        "stopping",
        "Could not remove disk 'shared:20001/vm-20001-disk-0.qcow2', check manually: got timeout",
        "OK",
    ]

    assert disks_left(lines) == ("shared:20001/vm-20001-disk-0.qcow2",)
    assert disks_left(["TASK OK"]) == ()


def test_ids_and_addresses_held_without_a_vm_are_listed_once_per_lease() -> None:
    reservations = [
        held("vmid", "20001", "l1"),
        held("address", "10.0.0.5", "l1"),
        held("vmid", "20002", "l2"),
        held("address", "10.0.0.9", None),
        held("draining", "pve1", "draining:pve1"),
    ]

    found = without_vm(reservations, {LeaseId("l2")}, provider="proxmox")

    assert [resource.lease_id for resource in found] == ["l1"]
    assert record_of(found[0].handle) == Record(vmid=20001, address="10.0.0.5")
    assert found[0].created_at == NOW
