"""VMs of the double: what is pending, how a hibernated one is, snapshots, devices, moves, and the rules that always hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pve.callers import Caller, vm

from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually_sync


@pytest.fixture
def hub(pve: PveDouble) -> Caller:
    return Caller(pve)


def test_cores_of_a_running_vm_are_pending_until_it_was_off(hub: Caller) -> None:
    hub.pve.add_vm(20001, pool="labs", running=True, cores=2)
    assert hub.put(vm(20001, "/config"), cores=4, tags="New").status == 200

    pending = {one["key"]: one for one in hub.get(vm(20001, "/pending")).data}
    assert pending["cores"] == {"key": "cores", "value": 2, "pending": 4}
    assert hub.get(vm(20001, "/config"), current=1).data["cores"] == 2
    assert hub.get(vm(20001, "/config")).data["tags"] == "new"
    hub.done("POST", vm(20001, "/status/stop"))
    hub.done("POST", vm(20001, "/status/start"))
    assert hub.get(vm(20001, "/config"), current=1).data["cores"] == 4


def test_a_hibernated_vm_takes_no_memory_has_its_state_on_a_volume_and_resumes(hub: Caller) -> None:
    hub.running(20001)
    upid = hub.post(vm(20001, "/agent/exec"), command=["/bin/sh", "-c", "echo kept > /dev/shm/mark"]).data["pid"]
    assert upid

    assert hub.done("POST", vm(20001, "/status/suspend"), todisk=1) == "OK"
    config = hub.get(vm(20001, "/config")).data
    assert (config["lock"], hub.pve.vm(20001).running) == ("suspended", False)
    assert config["vmstate"] in [one.volid for one in hub.pve.volumes(vmid=20001)]
    assert hub.done("POST", vm(20001, "/status/start")) == "OK"

    assert "lock" not in hub.get(vm(20001, "/config")).data
    assert len(hub.pve.volumes(vmid=20001)) == 2
    assert hub.pve.invariants() == ["VM 20001 (Copy-of-VM-lab-template) has no owner"]


def test_the_state_of_a_hibernated_vm_goes_to_the_storage_that_was_asked_for(hub: Caller) -> None:
    hub.pve.add_vm(20001, pool="labs", running=True)
    refused = hub.post(vm(20001, "/status/suspend"), todisk=1, statestorage="nowhere")

    assert hub.done("POST", vm(20001, "/status/suspend"), todisk=1, statestorage="local") == "OK"

    assert refused.reason == "Permission check failed (/storage/nowhere, Datastore.AllocateSpace)"
    assert hub.get(vm(20001, "/config")).data["vmstate"].startswith("local:20001/vm-20001-state-suspend-")


def test_a_hibernated_vm_goes_with_its_state_when_it_is_deleted(hub: Caller) -> None:
    hub.running(20001)
    hub.done("POST", vm(20001, "/status/suspend"), todisk=1)

    assert hub.done("DELETE", vm(20001), purge=1) == "OK"

    assert not hub.pve.volumes(vmid=20001)


def test_a_template_with_linked_clones_cannot_go(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)
    assert hub.clone(20001) == "OK"

    refused = admin.done("DELETE", vm(9100))

    assert refused == "base volume 'shared:9100/base-9100-disk-0.qcow2' is still in use by linked cloned"
    assert admin.done("DELETE", vm(20001)) == "OK"
    assert admin.done("DELETE", vm(9100)) == "OK"


def test_a_volume_id_may_be_written_with_its_slash_encoded(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)
    hub.pve.call(lambda inside: inside.volumes.put(inside.local, "pve1", 555, "vm-555-disk-0.qcow2", 1 << 30, 1))

    assert admin.done("DELETE", "/nodes/pve1/storage/local/content/local:555%2Fvm-555-disk-0.qcow2") == "OK"

    assert not hub.pve.volumes(vmid=555)


def test_devices_of_a_mapping_run_out_and_come_back(hub: Caller) -> None:
    hub.pve.add_mapping("gpu", [("pve1", "0000:01:00.0"), ("pve1", "0000:02:00.0")])
    for vmid in (20001, 20002, 20003):
        hub.pve.add_vm(vmid, pool="labs", hostpci0="mapping=gpu,pcie=1")

    ends = [hub.done("POST", vm(vmid, "/status/start")) for vmid in (20001, 20002, 20003)]
    assert ends[:2] == ["OK", "OK"]
    assert "already in use" in ends[2]
    assert hub.done("POST", vm(20001, "/status/suspend"), todisk=1).startswith("cannot suspend VM to disk")
    assert hub.done("POST", vm(20001, "/status/stop")) == "OK"
    assert hub.done("POST", vm(20003, "/status/start")) == "OK"


def test_a_stopped_vm_on_shared_storage_moves_and_a_linked_local_one_does_not(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)
    assert hub.clone(20001) == "OK"
    assert hub.done("POST", vm(9000, "/clone"), newid=20002, pool="labs") == "OK"

    assert admin.get(vm(20001, "/migrate")).data["allowed_nodes"] == ["pve2", "pve3"]
    assert admin.done("POST", vm(20001, "/migrate"), target="pve2") == "OK"
    assert "linked clone" in admin.done("POST", vm(20002, "/migrate"), target="pve2")
    assert (hub.pve.vm(20001).node, hub.pve.vm(20002).node) == ("pve2", "pve1")


def test_a_new_vm_is_unknown_until_pvestatd_has_told_of_it(hub: Caller) -> None:
    hub.pve.call(lambda inside: setattr(inside.views, "staleness_s", inside.clock.now() / 1.5))  # its second period
    assert hub.clone(20001) == "OK"

    (entry,) = [one for one in hub.get("/cluster/resources", type="vm").data if one["vmid"] == 20001]
    assert entry == {
        "id": "qemu/20001",
        "type": "qemu",
        "vmid": 20001,
        "node": "pve1",
        "pool": "labs",
        "status": "unknown",
    }
    hub.pve.call(lambda inside: setattr(inside.views, "staleness_s", 0))
    statuses = {one["vmid"]: one["status"] for one in hub.get("/cluster/resources", type="vm").data}
    assert statuses[20001] == "stopped"


def test_a_guest_that_turns_itself_off_is_seen_stopped_without_a_task(hub: Caller) -> None:
    hub.running(20001)
    before = len(hub.pve.tasks())

    hub.pve.call(lambda inside: inside.power.turned_itself_off(20001))
    eventually_sync(lambda: hub.get(vm(20001, "/status/current")).data["status"] == "stopped")

    assert len(hub.pve.tasks()) == before


def test_what_no_vm_owns_and_what_two_vms_share_is_told(hub: Caller) -> None:
    address, marker = f"ip={hub.pve.net.prefix}.10/24", "kept by labspawner hub=h user=alice server=-"
    hub.pve.add_vm(20001, pool="labs", description=marker, ipconfig0=address, name="one")
    hub.pve.add_vm(20002, pool="labs", description=marker, ipconfig0=address, name="two")
    hub.pve.add_vm(20003, pool="labs", name="three")
    hub.pve.call(lambda inside: inside.volumes.put(inside.local, "pve1", 555, "vm-555-disk-0.qcow2", 1 << 30, 1))

    assert hub.pve.invariants() == [
        "VM 20003 (three) has no owner",
        "2 VMs are the server alice/- of hub h",
        f"the address {hub.pve.net.prefix}.10 is used by 2 VMs",
        "the volume local:555/vm-555-disk-0.qcow2 belongs to no VM",
    ]


def test_a_vm_under_ha_starts_some_time_after_its_task_said_ok(hub: Caller) -> None:
    hub.pve.add_vm(20001, pool="labs")
    hub.pve.call(lambda inside: setattr(inside.world.vms[20001], "ha_managed", True))

    assert hub.done("POST", vm(20001, "/status/start")) == "OK"

    assert hub.pve.tasks("hastart")
    eventually_sync(lambda: hub.get(vm(20001, "/status/current")).data["status"] == "running")
    assert hub.get(vm(20001, "/status/current")).data["ha"] == {"managed": 1}


def test_the_firewall_of_a_vm_keeps_what_it_is_told(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"
    path = vm(20001, "/firewall")

    assert hub.post(f"{path}/ipset", name="ipfilter-net0").status == 200
    assert hub.post(f"{path}/ipset/ipfilter-net0", cidr="127.77.0.10").status == 200
    assert hub.put(f"{path}/options", enable=1, ipfilter=1, policy_in="ACCEPT").status == 200

    assert hub.post(f"{path}/ipset", name="ipfilter-net0").errors == {"name": "IPSet 'ipfilter-net0' already exists"}
    assert hub.get(f"{path}/options").data == {"enable": 1, "ipfilter": 1, "policy_in": "ACCEPT"}


def test_two_doubles_give_out_different_addresses(pve: PveDouble, new_pve: Callable[..., PveDouble]) -> None:
    other = new_pve()

    assert pve.address_pool != other.address_pool
    assert set(pve.urls).isdisjoint(other.urls)
