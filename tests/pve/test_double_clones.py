"""Clones: who sees them when, who may have an id, what they wait for, and what is left when one fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from pve.callers import Answer, Caller, vm

from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.inside import Plan
from labspawner.testing.waiting import eventually_sync

EXISTS = "unable to create VM 20001: config file already exists"
LOCKED = "can't lock file '/var/lock/qemu-server/lock-20001.conf' - got timeout"


@pytest.fixture
def hub(pve: PveDouble) -> Caller:
    return Caller(pve)


def _at_once(count: int, ask: Callable[[int], Answer]) -> list[Answer]:
    """The answers to calls that several threads send at the same time."""
    found: list[Answer] = []
    start = threading.Barrier(count)

    def one(number: int) -> None:
        start.wait()
        found.append(ask(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _race(hub: Caller, **params: object) -> list[str]:
    """How six clones with one new id end: their exit status, or the reason of their refusal."""
    path = vm(hub.pve.template, "/clone")
    answers = _at_once(6, lambda number: hub.post(path, newid=20001, pool=hub.pve.pool, **params))
    return [hub.end(one.data) if one.status == 200 else one.reason for one in answers]


def test_of_six_clones_with_one_new_id_one_wins_and_the_others_hear_why(hub: Caller) -> None:
    ends = Counter(_race(hub))

    assert ends["OK"] == 1
    assert set(ends) <= {"OK", EXISTS, LOCKED}
    assert [one.vmid for one in hub.pve.vms()] == [9000, 9100, 20001]
    assert len(hub.pve.volumes(vmid=20001)) == 2


def _two_past_the_first_check(make: Callable[..., PveDouble], **params: object) -> list[tuple[str, list[str]]]:
    """How two clones with one new id end that both saw it free, and what their logs say."""
    hub = Caller(make(plan=Plan(clone_call_s=0)))
    hub.pve.set_pace(0)
    hub.pve.faults.vm_file_locked(20001)
    upids = [hub.post(vm(9100, "/clone"), newid=20001, pool="labs", **params).data for _ in range(2)]
    eventually_sync(lambda: [task.waits for task in hub.pve.tasks("qmclone")] == ["lock", "lock"])
    hub.pve.faults.vm_file_locked(20001, on=False)
    hub.pve.set_pace(1000)
    return [(hub.end(upid), hub.pve.call(lambda inside, upid=upid: inside.tasks.all[upid].log)) for upid in upids]


def test_who_waited_for_the_lock_less_than_a_second_hears_that_the_id_is_taken(
    new_pve: Callable[..., PveDouble],
) -> None:
    (first, _), (second, log) = _two_past_the_first_check(new_pve)

    assert (first, second) == ("OK", EXISTS)
    assert log == ["trying to acquire lock...", " OK", f"TASK ERROR: {EXISTS}"]


def test_who_would_have_to_wait_longer_hears_of_the_lock(new_pve: Callable[..., PveDouble]) -> None:
    (first, _), (second, _) = _two_past_the_first_check(new_pve, full=1, storage="shared")

    assert (first, second) == ("OK", LOCKED)


def test_a_clone_that_waits_a_second_for_the_lock_of_its_new_id_fails_with_the_text_of_the_lock(hub: Caller) -> None:
    hub.pve.faults.vm_file_locked(20001)

    assert hub.clone(20001) == LOCKED


def test_a_clone_that_waits_a_second_for_its_template_says_whose_lock_it_was(hub: Caller) -> None:
    hub.pve.faults.vm_file_locked(9100)

    assert hub.clone(20001) == "can't lock file '/var/lock/qemu-server/lock-9100.conf' - got timeout"


def test_a_used_id_is_refused_at_once(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"

    answer = hub.post(vm(9100, "/clone"), newid=20001, pool=hub.pve.pool)

    assert (answer.status, answer.reason) == (500, EXISTS)


def test_until_its_task_ends_a_clone_is_there_for_the_administrator_alone(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)
    hub.pve.faults.hold("qmclone")
    upid = hub.post(vm(9100, "/clone"), newid=20001, pool=hub.pve.pool).data
    eventually_sync(lambda: hub.pve.tasks("qmclone")[0].waits == "held")

    assert admin.get(vm(20001, "/config")).data["lock"] == "clone"
    assert hub.get(vm(20001, "/config")).status == 403
    assert 20001 not in [one["vmid"] for one in hub.get("/cluster/resources", type="vm").data]
    hub.pve.faults.release()
    assert hub.end(upid) == "OK"
    assert "lock" not in hub.get(vm(20001, "/config")).data
    assert 20001 in [one["vmid"] for one in hub.get("/cluster/resources", type="vm").data]


def test_a_clone_has_an_address_and_ids_of_its_own(hub: Caller) -> None:
    assert hub.clone(20001, name="alice", description="labspawner user=alice") == "OK"

    made, template = hub.pve.vm(20001), hub.pve.vm(9100)
    assert made.mac != template.mac
    assert made.uuid != template.uuid
    assert made.config["vmgenid"] != template.config["vmgenid"]
    assert (made.name, made.description, made.template) == ("alice", "labspawner user=alice", False)


def test_a_linked_clone_names_its_base_and_a_full_one_does_not(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"
    assert hub.clone(20002, full=1, storage=hub.pve.storage) == "OK"

    linked, full = (hub.pve.vm(vmid).config["scsi0"] for vmid in (20001, 20002))
    assert linked == "shared:9100/base-9100-disk-0.qcow2/20001/vm-20001-disk-0.qcow2,size=3G"
    assert full == "shared:20002/vm-20002-disk-0.qcow2,size=3G"


def test_a_storage_whose_lock_somebody_keeps_fails_the_clone_which_leaves_nothing(hub: Caller) -> None:
    hub.pve.faults.storage_locked(hub.pve.storage)

    assert hub.clone(20001) == "clone failed: cfs-lock 'storage-shared' error: got lock request timeout"
    assert not hub.pve.volumes(vmid=20001)
    assert 20001 not in [one.vmid for one in hub.pve.vms()]


def test_the_lock_of_a_local_storage_is_a_file(hub: Caller) -> None:
    hub.pve.faults.storage_locked(hub.pve.local_storage)

    end = hub.done("POST", vm(9000, "/clone"), newid=20001, pool=hub.pve.pool)

    assert end == "clone failed: can't lock file '/var/lock/pve-manager/pve-storage-local' - got timeout"


def test_the_third_full_clone_at_once_on_a_storage_with_slow_allocation_waits_too_long(
    new_pve: Callable[..., PveDouble],
) -> None:
    hub = Caller(new_pve(plan=Plan(alloc_s=5.0, clone_call_s=0)))
    hub.pve.set_pace(0)  # all are there before the first one begins
    path, common = vm(9100, "/clone"), {"pool": hub.pve.pool, "full": 1, "storage": hub.pve.storage}

    upids = [hub.post(path, newid=newid, **common).data for newid in (20001, 20002, 20003, 20004, 20005)]
    hub.pve.set_pace(1000)
    ends = Counter(hub.end(upid) for upid in upids)

    assert ends["clone failed: cfs-lock 'storage-shared' error: got lock request timeout"] >= 1
    assert ends["OK"] >= 1
    assert not [one for one in hub.pve.invariants() if "has no owner" not in one]


def test_a_full_storage_fails_the_clone_which_leaves_nothing(hub: Caller) -> None:
    hub.pve.faults.storage_full(hub.pve.storage)

    assert "No space left on device" in hub.clone(20001)
    assert not hub.pve.volumes(vmid=20001)


def test_a_storage_that_fills_during_a_full_clone_fails_it_and_leaves_nothing(hub: Caller) -> None:
    hub.pve.faults.storage_full(hub.pve.storage, left_bytes=100 << 20)

    assert "No space left on device" in hub.clone(20001, full=1, storage=hub.pve.storage)
    assert not hub.pve.volumes(vmid=20001)


def test_a_clone_for_a_node_that_is_offline_ends_well_and_strands_there(hub: Caller) -> None:
    hub.pve.faults.node_down("pve3")
    hub.pve.faults.node_seen("pve3")

    assert hub.clone(20001, target="pve3") == "OK"

    assert hub.pve.vm(20001).node == "pve3"
    assert hub.get(vm(20001, "/config", "pve3")).status == 595


def test_a_node_that_loses_its_network_during_a_clone_leaves_a_locked_corpse(hub: Caller) -> None:
    other = Caller(hub.pve, node="pve2")
    hub.pve.faults.hold("qmclone")
    upid = hub.post(vm(9100, "/clone"), newid=20001, pool=hub.pve.pool).data
    eventually_sync(lambda: hub.pve.tasks("qmclone")[0].waits == "held")

    hub.pve.faults.node_down("pve1")
    hub.pve.faults.release()
    eventually_sync(lambda: not hub.pve.tasks("qmclone")[0].running)

    assert other.get(f"/nodes/pve1/tasks/{upid}/status").status == 595
    assert hub.pve.vm(20001).lock == "clone"


def test_a_node_that_loses_its_power_during_a_clone_cannot_tell_how_it_ended(hub: Caller) -> None:
    hub.pve.faults.hold("qmclone")
    upid = hub.post(vm(9100, "/clone"), newid=20001, pool=hub.pve.pool).data
    eventually_sync(lambda: hub.pve.tasks("qmclone")[0].waits == "held")

    hub.pve.faults.node_down("pve1", power=True)
    hub.pve.faults.node_up("pve1")

    assert hub.end(upid) == "unexpected status"
    assert hub.pve.vm(20001).lock == "clone"


def test_twenty_linked_clones_at_once_all_succeed(hub: Caller) -> None:
    path = vm(9100, "/clone")
    answers = _at_once(20, lambda number: hub.post(path, newid=20001 + number, pool=hub.pve.pool))

    assert {hub.end(one.data) for one in answers} == {"OK"}
    assert len({one.mac for one in hub.pve.vms()}) == 22


def test_twenty_callers_that_ask_for_the_next_id_and_clone_mostly_fail(hub: Caller) -> None:
    def naive(number: int) -> Answer:
        newid = hub.get("/cluster/nextid").data
        return hub.post(vm(9100, "/clone"), newid=newid, pool=hub.pve.pool)

    answers = _at_once(20, naive)
    ends = [hub.end(one.data) if one.status == 200 else one.reason for one in answers]

    assert ends.count("OK") == len(hub.pve.vms()) - 2
    assert ends.count("OK") < 20
