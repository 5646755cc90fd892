"""What breaks on request: before or after the effect, nodes, quorum, storages, certificates, and what others do."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
from urllib.parse import urlsplit

import pytest
from pve.callers import Caller, vm

from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually_sync


@pytest.fixture
def hub(pve: PveDouble) -> Caller:
    return Caller(pve)


# requests


def test_a_planned_failure_comes_as_often_as_it_was_planned(hub: Caller) -> None:
    hub.pve.faults.fail("GET", "^/version$", 596, "Connection timed out", times=2)

    said = [(one.status, one.reason) for one in (hub.get("/version") for _ in range(3))]

    assert said == [(596, "Connection timed out")] * 2 + [(200, "OK")]


def test_a_failure_before_the_effect_leaves_nothing_and_one_after_it_leaves_all(hub: Caller) -> None:
    path = vm(9100, "/clone")
    hub.pve.faults.fail("POST", "/clone$", 596, "Broken pipe")
    assert hub.post(path, newid=20001, pool="labs").status == 596
    assert not hub.pve.tasks("qmclone")

    hub.pve.faults.fail("POST", "/clone$", 596, "Broken pipe", after_effect=True)
    assert hub.post(path, newid=20001, pool="labs").status == 596
    assert hub.end(hub.pve.tasks("qmclone")[0].upid) == "OK"


def test_a_connection_can_end_without_an_answer(hub: Caller) -> None:
    hub.pve.faults.fail("GET", "^/version$", 0)

    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, ssl.SSLError)):
        hub.get("/version")


def test_what_hangs_does_so_until_the_client_has_enough_of_it(hub: Caller) -> None:
    hub.pve.faults.hang("GET", "^/version$", times=-1)

    with pytest.raises(TimeoutError):
        hub.get("/version", timeout_s=0.2)

    hub.pve.faults.clear()
    assert hub.get("/version").status == 200


def test_a_slow_answer_takes_the_doubles_time(hub: Caller) -> None:
    hub.pve.faults.slow("GET", "^/version$", 30.0, times=1)
    before = hub.pve.now()

    assert hub.get("/version").status == 200

    assert hub.pve.now() - before >= 30.0


def test_a_task_fails_before_or_after_its_work_with_the_text_that_was_planned(hub: Caller) -> None:
    hub.pve.faults.task_fails("qmclone", "clone failed: got timeout")
    assert hub.clone(20001) == "clone failed: got timeout"
    hub.pve.faults.task_fails("qmclone", "WARNINGS: 2")
    assert hub.clone(20001) == "WARNINGS: 2"
    hub.pve.faults.task_fails("qmstart", "start failed: got timeout", after_effect=True)
    assert hub.done("POST", vm(20001, "/status/start")) == "start failed: got timeout"

    assert hub.pve.vm(20001).running


# nodes and cluster


def test_a_node_that_is_cut_off_refuses_on_its_own_port_and_comes_back_there(hub: Caller) -> None:
    there = Caller(hub.pve, node="pve3")
    assert there.get("/version").status == 200

    hub.pve.faults.node_down("pve3")
    with pytest.raises(ConnectionRefusedError):
        there.get("/version")
    hub.pve.faults.node_up("pve3")

    assert there.get("/version").status == 200


def test_a_node_can_be_cut_off_so_that_it_says_nothing_at_all(hub: Caller) -> None:
    hub.pve.faults.node_down("pve3", silent=True)
    where = urlsplit(hub.pve.url_of("pve3"))

    with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as taken:
        taken.settimeout(0.2)
        with pytest.raises(TimeoutError):
            taken.recv(1)


def test_a_request_that_was_under_way_to_a_node_ends_when_it_is_cut_off(hub: Caller) -> None:
    there, failed = Caller(hub.pve, node="pve3"), threading.Event()
    hub.pve.faults.hang("GET", "^/version$")

    def ask() -> None:
        try:
            there.get("/version")
        except (OSError, http.client.HTTPException):
            failed.set()

    asking = threading.Thread(target=ask)
    asking.start()
    eventually_sync(lambda: not hub.pve.call(lambda inside: any(one.times for one in inside.board.plans)))
    hub.pve.faults.node_down("pve3")
    asking.join()

    assert failed.is_set()


def test_what_is_asked_of_a_node_just_cut_off_takes_thirty_seconds(hub: Caller) -> None:
    hub.pve.call(lambda inside: setattr(inside.cluster, "seen_offline_s", 1e9))
    hub.pve.faults.node_down("pve3")
    before = hub.pve.now()

    answer = hub.get("/nodes/pve3/qemu")

    assert (answer.status, answer.reason, answer.body) == (595, "Connection timed out", None)
    assert hub.pve.now() - before >= 30


def test_its_peers_see_a_node_offline_after_some_seconds_and_have_no_route_to_it_then(hub: Caller) -> None:
    hub.pve.faults.node_down("pve3")
    eventually_sync(lambda: "offline" in [one["status"] for one in hub.get("/nodes").data])

    answer = hub.get("/nodes/pve3/qemu")

    assert (answer.status, answer.reason) == (595, "No route to host")


def test_the_vms_of_a_node_that_lost_its_network_run_on_and_look_so(hub: Caller) -> None:
    hub.pve.add_vm(20001, "pve3", pool="labs", running=True)
    hub.pve.faults.node_down("pve3")
    hub.pve.faults.node_seen("pve3")

    shown = {one["vmid"]: one["status"] for one in hub.get("/cluster/resources", type="vm").data}

    assert shown[20001] == "running"
    assert hub.pve.vm(20001).running


def test_the_vms_of_a_node_without_power_are_off(hub: Caller) -> None:
    hub.pve.add_vm(20001, "pve3", pool="labs", running=True)

    hub.pve.faults.node_down("pve3", power=True)

    assert not hub.pve.vm(20001).running


def test_without_a_quorum_the_cluster_reads_and_does_not_write(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"
    hub.pve.faults.quorum(False)

    assert hub.get(vm(20001, "/config")).status == 200
    for method, rest, params in (("POST", "/status/start", {}), ("POST", "/clone", {"newid": 20002, "pool": "labs"})):
        assert hub.ask(method, vm(20001, rest), **params).reason == "cluster not ready - no quorum?"
    assert "Permission denied" in hub.put(vm(20001, "/config"), cores=1).reason
    assert {one["node"]: one["status"] for one in hub.get("/nodes").data}["pve2"] == "offline"
    hub.pve.faults.quorum(True)
    assert hub.put(vm(20001, "/config"), cores=1).status == 200


def test_a_delete_without_a_quorum_takes_the_local_disks_and_keeps_the_config(hub: Caller) -> None:
    assert hub.done("POST", vm(9000, "/clone"), newid=20001, pool="labs") == "OK"
    hub.pve.faults.quorum(False)

    assert "Permission denied" in hub.done("DELETE", vm(20001))

    assert not hub.pve.volumes(vmid=20001)
    assert hub.pve.vm(20001).config["scsi0"]


def test_a_delete_without_a_quorum_leaves_shared_disks(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"
    hub.pve.faults.quorum(False)

    assert "Permission denied" in hub.done("DELETE", vm(20001))

    assert len(hub.pve.volumes(vmid=20001)) == 2


def test_a_hibernation_without_a_quorum_leaves_a_state_volume_that_the_hub_cannot_remove(hub: Caller) -> None:
    hub.pve.add_vm(20001, pool="labs", running=True, scsi0="")  # its memory goes to local storage
    hub.pve.faults.quorum(False)
    assert "Permission denied" in hub.done("POST", vm(20001, "/status/suspend"), todisk=1)
    hub.pve.faults.quorum(True)

    (state,) = [one for one in hub.pve.volumes(vmid=20001) if "-state-" in one.volid]
    assert hub.pve.vm(20001).running
    assert not hub.pve.vm(20001).lock
    assert f"the volume {state.volid} belongs to no VM" in hub.pve.invariants()
    name = state.volid.replace("/", "%2F")
    answer = hub.delete(f"/nodes/pve1/storage/local/content/{name}")
    assert answer.reason == "Permission check failed (/storage/local, Datastore.Allocate)"


def test_a_node_whose_pvestatd_hangs_shows_its_vms_unknown_while_they_run(hub: Caller) -> None:
    hub.pve.add_vm(20001, pool="labs", running=True)
    hub.pve.faults.unknown("pve1")

    shown = {one["vmid"]: one for one in hub.get("/cluster/resources", type="vm").data}

    assert shown[20001]["status"] == "unknown"
    assert "maxmem" not in shown[20001]
    assert hub.get(vm(20001, "/status/current")).data["status"] == "running"


def test_a_node_that_does_not_exist_is_looked_up_for_ten_seconds(hub: Caller) -> None:
    before = hub.pve.now()

    answer = hub.get("/nodes/pve9/qemu")

    assert answer.reason.startswith("hostname lookup 'pve9' failed")
    assert hub.pve.now() - before >= 10


# storages and locks


def test_a_hibernation_for_which_there_is_no_room_leaves_the_vm_running_and_locked(hub: Caller) -> None:
    hub.running(20001)
    hub.pve.faults.storage_full("shared", left_bytes=1 << 20)

    end = hub.done("POST", vm(20001, "/status/suspend"), todisk=1)

    assert "No space left on device" in end
    assert hub.pve.vm(20001).running
    assert hub.pve.vm(20001).lock == "suspending"


def test_a_vm_that_is_stuck_can_neither_be_stopped_nor_started_nor_unlocked_by_the_hub(hub: Caller) -> None:
    hub.running(20001)
    hub.pve.faults.hibernate_sticks()
    assert hub.done("POST", vm(20001, "/status/suspend"), todisk=1) == "savevm-start failed: got timeout"

    assert hub.done("POST", vm(20001, "/status/stop")) == "VM is locked (suspending)"
    assert hub.done("POST", vm(20001, "/status/shutdown"), timeout=1) == "VM is locked (suspending)"
    assert hub.put(vm(20001, "/config"), delete="lock").reason == "only root can set 'lock' config"
    hub.pve.faults.lock(20001, "")
    assert hub.done("POST", vm(20001, "/status/stop")) == "OK"


def test_a_locked_vm_says_what_locks_it(hub: Caller) -> None:
    assert hub.clone(20001) == "OK"
    hub.pve.faults.lock(20001, "backup")

    assert hub.done("POST", vm(20001, "/status/start")) == "VM is locked (backup)"
    assert hub.put(vm(20001, "/config"), cores=1).reason == "VM is locked (backup)"
    assert hub.done("DELETE", vm(20001)) == "VM is locked (backup)"


# certificates, and what others do


def test_a_new_certificate_is_another_one_of_another_authority(hub: Caller) -> None:
    old_ca, old_print = hub.pve.ca_file.read_bytes(), hub.pve.fingerprint
    hub.pve.faults.new_certificate()

    assert hub.pve.fingerprint != old_print
    assert hub.pve.ca_file.read_bytes() != old_ca
    assert hub.get("/version").status == 200  # with the new authority's file
    assert hub.get("/nodes").data[0]["ssl_fingerprint"] == hub.pve.fingerprint


def test_the_fingerprint_is_that_of_the_certificate_which_every_node_shows(hub: Caller) -> None:
    shown = set()
    for url in map(urlsplit, hub.pve.urls):
        pem = ssl.get_server_certificate((url.hostname or "", url.port or 0), ca_certs=str(hub.pve.ca_file))
        shown.add(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper())

    assert shown == {hub.pve.fingerprint.replace(":", "")}


def test_an_administrator_deletes_stops_and_moves_vms(hub: Caller) -> None:
    for vmid in (20001, 20002, 20003):
        hub.pve.add_vm(vmid, pool="labs", running=True, name=f"vm{vmid}")

    hub.pve.faults.delete(20001)
    hub.pve.faults.stop(20002)
    hub.pve.faults.migrate(20003, "pve2")

    assert hub.get(vm(20001, "/config")).status == 403
    assert not hub.pve.volumes(vmid=20001)
    assert hub.get(vm(20002, "/status/current")).data["status"] == "stopped"
    moved = "Configuration file 'nodes/pve1/qemu-server/20003.conf' does not exist"
    assert hub.get(vm(20003, "/config")).reason == moved
    assert hub.get(vm(20003, "/status/current", "pve2")).data["status"] == "running"


def test_an_agent_that_is_down_keeps_a_worker_of_its_node_for_three_seconds(hub: Caller) -> None:
    hub.running(20001)
    hub.pve.faults.agent_down(20001)
    before = hub.pve.now()

    answer = hub.post(vm(20001, "/agent/ping"))

    assert answer.reason == "QEMU guest agent is not running"
    assert hub.pve.now() - before >= 3.0
    hub.pve.faults.agent_down(20001, on=False)
    assert hub.post(vm(20001, "/agent/ping")).status == 200


def test_four_pings_of_silent_agents_choke_a_daemon_of_three_workers(hub: Caller) -> None:
    hub.running(20001)
    hub.pve.faults.agent_down(20001)
    hub.pve.set_pace(0)
    threads = [threading.Thread(target=hub.post, args=(vm(20001, "/agent/ping"),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting = hub.pve.inside.answering.free_workers
    eventually_sync(lambda: hub.pve.call(lambda inside: waiting("pve1")) == 0)

    with pytest.raises(TimeoutError):
        hub.get(vm(20001, "/config"), timeout_s=0.2)
    hub.pve.set_pace(1000)
    for thread in threads:
        thread.join()

    assert hub.get(vm(20001, "/config")).status == 200
