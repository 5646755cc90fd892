"""What the provider relies on, asked of the HTTP API alone: on the double here, and by `pytest -m pve` on a real cluster.

A difference is a fault of the double. On a real cluster LABSPAWNER_PVE_URL, _TOKEN, _FINGERPRINT, _TEMPLATE and _POOL say
where; _IPPOOL (`first-last/prefix`), _VMIDS (default 29900-29999) and _KVM=0 how. VMs are made and deleted in that pool and
that range only. The recorded texts are those of Proxmox VE 8.4.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from pve.overhttp import Answer, Api, Lab

from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.testing.pve import PveDouble

NO_VM = 99_999_999
UPID = re.compile(r"UPID:[^:]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[a-z]+:[^:]*:[^:]+:")
VARIABLES = ("URL", "TOKEN", "FINGERPRINT", "TEMPLATE", "POOL")


def refused(answer: Answer, status: int, pattern: str) -> None:
    said = " ".join([answer.text, *answer.errors.values()])
    assert (answer.status, bool(re.search(pattern, said))) == (status, True), (answer.status, said)


@contextlib.contextmanager
def on_the_double() -> Iterator[Lab]:
    """A double, with the least rights."""
    with PveDouble(seed=6) as pve:
        api = Api(pve.urls[0], pve.token, pve.fingerprint)
        addresses = tuple(AddressPool.parse(f"{pve.address_pool}/24", name="suite").addresses())
        try:
            yield Lab(api, pve.pool, pve.template, range(29900, 30000), addresses, every_s=0.005, long_s=120.0)
        finally:
            api.close()


@contextlib.contextmanager
def on_a_cluster() -> Iterator[Lab]:
    """The cluster that the environment names."""
    given = {name: os.environ[f"LABSPAWNER_PVE_{name}"] for name in VARIABLES}
    first, _, last = os.environ.get("LABSPAWNER_PVE_VMIDS", "29900-29999").partition("-")
    pool = os.environ.get("LABSPAWNER_PVE_IPPOOL")
    addresses = AddressPool.parse(pool, name="suite") if pool else None
    api = Api(given["URL"].split(",")[0], given["TOKEN"], given["FINGERPRINT"].split(",")[0])
    lab = Lab(
        api,
        given["POOL"],
        int(given["TEMPLATE"]),
        range(int(first), int(last) + 1),
        tuple(addresses.addresses()) if addresses else (),
        addresses.prefix if addresses else 24,
        kvm=os.environ.get("LABSPAWNER_PVE_KVM", "1") != "0",
        long_s=1200.0,
    )
    there = {each["vmid"] for each in api("GET", "/cluster/resources", type="vm").data} & set(lab.ids)
    if there:
        pytest.fail(f"LABSPAWNER_PVE_VMIDS is not free: {sorted(there)}")
    try:
        yield lab
    finally:
        for vmid in lab.made:
            lab.remove(vmid)
        api.close()


def missing() -> list[str]:
    """What the environment does not say of a real cluster."""
    return [name for name in (f"LABSPAWNER_PVE_{name}" for name in VARIABLES) if not os.environ.get(name)]


@pytest.fixture(
    scope="module", params=["double", *([] if missing() else [pytest.param("cluster", marks=pytest.mark.pve)])]
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Where the suite is run."""
    with (on_the_double if request.param == "double" else on_a_cluster)() as there:
        yield there


@pytest.fixture(scope="module")
def server(lab: Lab) -> int:
    vmid = lab.clone(name="suite")
    lab.settle(vmid)
    lab.boot(vmid)
    return vmid


@pytest.fixture
def stopped(lab: Lab) -> Iterator[int]:
    vmid = lab.clone(name="suite-off")
    yield vmid
    lab.remove(vmid)


@pytest.mark.pve
def test_a_real_cluster_is_asked_too():
    if missing():
        pytest.skip(f"no Proxmox VE cluster, so this suite ran on the double alone: {', '.join(missing())} not set")


# -- answers and refusals


def test_the_version_says_which_it_is(lab: Lab):
    said = lab.api("GET", "/version").data

    assert re.fullmatch(r"(8|9)\.\d+.*", said["version"])


def test_what_is_not_there_is_not_implemented(lab: Lab):
    refused(lab.api("GET", "/nonsense"), 501, r"Method 'GET /nonsense' not implemented")


def test_without_a_token_there_is_no_answer(lab: Lab):
    refused(lab.api("GET", "/version", token=""), 401, "No ticket|no ticket")


def test_a_wrong_secret_is_refused(lab: Lab):
    assert lab.api("GET", "/version", token=lab.api.token.split("=")[0] + "=wrong").status == 401


def test_a_vm_that_is_not_there_looks_forbidden(lab: Lab):
    node = lab.node_of(lab.template)

    refused(lab.api("GET", f"/nodes/{node}/qemu/{NO_VM}/status/current"), 403, rf"\(/vms/{NO_VM}, VM\.Audit\)")


def test_the_privileges_of_a_path_are_said(lab: Lab):
    path = f"/pool/{lab.pool}"

    said = lab.api("GET", "/access/permissions", path=path).data[path]

    assert {"VM.Clone", "VM.Allocate", "VM.PowerMgmt", "Datastore.AllocateSpace"} <= set(said)


def test_one_listing_has_nodes_storages_and_vms(lab: Lab):
    listed = lab.api("GET", "/cluster/resources").data

    assert {"node", "storage", "qemu"} <= {each["type"] for each in listed}
    found = next(each for each in listed if each.get("vmid") == lab.template)
    assert found["template"] == 1
    assert found["pool"] == lab.pool


def test_a_wrong_type_of_listing_is_a_wrong_parameter(lab: Lab):
    answer = lab.api("GET", "/cluster/resources", type="lxcs")

    assert answer.status == 400
    assert "enumeration" in answer.errors["type"]


def test_the_next_id_is_a_string_and_a_taken_one_is_refused(lab: Lab):
    assert isinstance(lab.api("GET", "/cluster/nextid").data, str)
    refused(lab.api("GET", "/cluster/nextid", vmid=lab.template), 400, rf"VM {lab.template} already exists")


def test_numbers_of_a_configuration_may_be_texts(lab: Lab):
    said = lab.api("GET", lab.path(lab.template, "/config")).data

    assert str(said["memory"]).isdigit()
    assert re.fullmatch(r"[0-9a-f]{40}", said["digest"])


def test_bridges_can_be_listed(lab: Lab):
    node = lab.node_of(lab.template)

    assert any(each["type"] == "bridge" for each in lab.api("GET", f"/nodes/{node}/network", type="any_bridge").data)


# -- clones that are refused


@pytest.mark.parametrize(
    ("params", "status", "pattern"),
    [
        ({"name": "no_dns_name"}, 400, "valid DNS name"),
        ({"newid": 50}, 400, "valid VM ID"),
        ({"newid": None}, 400, "property is missing"),
        ({"nonsense": 1}, 400, "not defined in schema"),
        ({"target": "no-such-node"}, 500, "no such cluster node 'no-such-node'"),
    ],
)
def test_a_wrong_clone_is_refused_before_anything_is_done(lab: Lab, params, status, pattern):
    asked = {"newid": lab.ids[-1], "pool": lab.pool, **params}

    answer = lab.api(
        "POST",
        lab.path(lab.template, "/clone"),
        **{key: value for key, value in asked.items() if value is not None},
    )

    refused(answer, status, pattern)


def test_a_linked_clone_has_no_storage_of_its_own(lab: Lab):
    storage = storage_of(lab)

    answer = lab.api("POST", lab.path(lab.template, "/clone"), newid=lab.ids[-1], pool=lab.pool, storage=storage)

    refused(answer, 500, "parameter 'storage' not allowed for linked clones")


def test_a_clone_outside_the_pool_is_forbidden(lab: Lab):
    refused(lab.api("POST", lab.path(lab.template, "/clone"), newid=lab.ids[-1]), 403, "Permission check failed")


def test_a_clone_of_nothing_looks_forbidden(lab: Lab):
    node = lab.node_of(lab.template)

    answer = lab.api("POST", f"/nodes/{node}/qemu/{NO_VM}/clone", newid=lab.ids[-1], pool=lab.pool)

    refused(answer, 403, rf"\(/vms/{NO_VM}, VM\.Clone\)")


def test_an_id_that_is_taken_is_refused_at_once(lab: Lab, stopped: int):
    answer = lab.api("POST", lab.path(lab.template, "/clone"), newid=stopped, pool=lab.pool)

    refused(answer, 500, rf"unable to create VM {stopped}: config file already exists")


def test_of_six_clones_with_one_id_one_is_made_and_the_others_say_why(lab: Lab):
    vmid, answers = lab.new_id(), []
    path = lab.path(lab.template, "/clone")

    def ask(api: Api) -> None:
        try:
            answers.append(api("POST", path, newid=vmid, pool=lab.pool))
        finally:
            api.close()

    threads = [threading.Thread(target=ask, args=(lab.api.as_(lab.api.token),)) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    ends = [lab.end_of(each.data) if each.status == 200 else f"{each.status} {each.text}" for each in answers]
    assert len(ends) == 6
    assert ends.count("OK") == 1, ends
    taken = rf"unable to create VM {vmid}: config file already exists|lock-{vmid}\.conf' - got timeout"
    assert all(end == "OK" or re.search(taken, end) for end in ends), ends
    lab.remove(vmid)


# -- the life of a VM


def test_a_clone_is_a_task_and_the_vm_has_an_identity_of_its_own(lab: Lab, stopped: int):
    ours = lab.api("GET", lab.path(stopped, "/config")).data
    theirs = lab.api("GET", lab.path(lab.template, "/config")).data

    assert "template" not in ours
    assert ours["smbios1"] != theirs["smbios1"]
    assert ours["net0"].split(",")[0] != theirs["net0"].split(",")[0]
    assert ours["name"] == "suite-off"
    assert lab.vm(stopped)["pool"] == lab.pool


def test_an_upid_is_a_task_of_its_node(lab: Lab, stopped: int):
    answer = lab.api("POST", lab.path(stopped, "/status/stop"))

    assert UPID.fullmatch(answer.data)
    assert lab.done(answer) == "OK"  # a VM that is off is stopped all the same
    log = lab.api("GET", f"/nodes/{answer.data.split(':')[1]}/tasks/{quote(answer.data, safe='')}/log").data
    assert [set(line) for line in log] == [{"n", "t"}] * len(log)


def test_a_task_that_nobody_knows_is_a_wrong_parameter(lab: Lab):
    node = lab.node_of(lab.template)
    upid = quote(f"UPID:{node}:00000001:00000001:00000001:qmstart:1:{lab.api.token.split('=')[0]}:", safe="")

    refused(lab.api("GET", f"/nodes/{node}/tasks/{upid}/status"), 400, "no such task")


def test_tags_come_back_sorted_and_in_small_letters(lab: Lab, stopped: int):
    assert lab.api("PUT", lab.path(stopped, "/config"), tags="Labspawner;alice").status == 200

    assert lab.api("GET", lab.path(stopped, "/config")).data["tags"] == "alice;labspawner"


def test_a_change_can_be_bound_to_what_was_read(lab: Lab, stopped: int):
    answer = lab.api("PUT", lab.path(stopped, "/config"), description="x", digest="0" * 40)

    refused(answer, 500, "checksum mismatch|detected modified configuration")


def test_keys_are_percent_encoded_once_before_the_form_is(lab: Lab, stopped: int):
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGm0r1M3yC2aYwDmQ8Rr0A7Jc8oG8oJ9W0wC+/o5Zd1r you@lab"

    refused(lab.api("PUT", lab.path(stopped, "/config"), sshkeys=key), 400, "invalid urlencoded string")
    assert lab.api("PUT", lab.path(stopped, "/config"), sshkeys=quote(key, safe="")).status == 200
    assert "%2B" in lab.api("GET", lab.path(stopped, "/config")).data["sshkeys"].upper()


def test_a_disk_grows_and_never_shrinks(lab: Lab, stopped: int):
    config = lab.api("GET", lab.path(stopped, "/config")).data
    disk = re.search(r"order=(\w+)", config.get("boot", "")) or re.search(r"(scsi0|virtio0)", " ".join(config))
    assert disk is not None

    assert lab.done(lab.api("PUT", lab.path(stopped, "/resize"), disk=disk[1], size="+1G")) == "OK"
    assert "shrinking disks is not supported" in lab.done(
        lab.api("PUT", lab.path(stopped, "/resize"), disk=disk[1], size="1M")
    )


def test_a_template_is_never_started(lab: Lab):
    assert "if it's a template" in lab.done(lab.api("POST", lab.path(lab.template, "/status/start")))


def test_what_is_off_cannot_be_resumed_and_its_agent_says_so(lab: Lab, stopped: int):
    refused(lab.api("POST", lab.path(stopped, "/status/resume")), 500, rf"VM {stopped} not running")
    refused(lab.api("POST", lab.path(stopped, "/agent/ping")), 500, rf"VM {stopped} is not running")


def test_a_snapshot_that_is_not_there_is_told_by_its_task(lab: Lab, stopped: int):
    refused(lab.api("POST", lab.path(stopped, "/snapshot"), snapname="q"), 400, "")
    end = lab.done(lab.api("POST", lab.path(stopped, "/snapshot/nosnap/rollback")))

    assert "snapshot 'nosnap' does not exist" in end


def test_moving_a_vm_is_a_right_of_its_own(lab: Lab, stopped: int):
    answer = lab.api("GET", lab.path(stopped, "/migrate"))

    if answer.status != 200:  # the least rights have it not
        refused(answer, 403, rf"\(/vms/{stopped}, VM\.Migrate\)")
    else:
        assert "local_disks" in answer.data


def test_hardware_is_a_right_of_its_own(lab: Lab, stopped: int):
    answer = lab.api("PUT", lab.path(stopped, "/config"), machine="q35")

    if answer.status != 200:
        refused(answer, 403, rf"\(/vms/{stopped}, VM\.Config\.HWType\)")


def test_a_vm_that_was_deleted_looks_forbidden_and_is_listed_no_more(lab: Lab):
    vmid = lab.clone(name="suite-gone")
    path = lab.path(vmid)

    assert lab.done(lab.api("DELETE", path, purge=1)) == "OK"

    lab.eventually(lambda: lab.vm(vmid) is None, "it is not listed any more")
    refused(lab.api("GET", f"{path}/status/current"), 403, rf"\(/vms/{vmid}, VM\.Audit\)")


# -- a VM that runs


def test_a_running_vm_is_not_deleted(lab: Lab, server: int):
    refused(lab.api("DELETE", lab.path(server)), 500, rf"VM {server} is running - destroy failed")


def test_starting_it_again_fails_in_the_task(lab: Lab, server: int):
    assert lab.done(lab.api("POST", lab.path(server, "/status/start"))) == f"VM {server} already running"


def test_its_state_is_said(lab: Lab, server: int):
    said = lab.api("GET", lab.path(server, "/status/current")).data

    assert (said["status"], said["qmpstatus"]) == ("running", "running")


def run(lab: Lab, vmid: int, command: list[str], stdin: str = "") -> dict:
    params = {"command": command, **({"input-data": stdin} if stdin else {})}
    started = lab.api("POST", lab.path(vmid, "/agent/exec"), **params)
    assert started.status == 200, started.text
    pid = started.data["pid"]

    def exited():
        said = lab.api("GET", lab.path(vmid, "/agent/exec-status"), pid=pid).data
        return {**said, "asked": pid} if said["exited"] else None

    return lab.eventually(exited, f"the end of {command}")


def test_a_program_in_it_reads_what_is_given_and_its_end_is_read_once(lab: Lab, server: int):
    said = run(lab, server, ["/bin/sh", "-c", "cat; echo to-err >&2; exit 3"], stdin="a secret\n")

    assert (said["exitcode"], said["out-data"], said["err-data"]) == (3, "a secret\n", "to-err\n")
    again = lab.api("GET", lab.path(server, "/agent/exec-status"), pid=said["asked"])
    refused(again, 500, "Invalid parameter 'pid'")


def test_its_network_card_is_found_by_its_address(lab: Lab, server: int):
    mac = re.search(r"=([0-9A-Fa-f:]{17})", lab.api("GET", lab.path(server, "/config")).data["net0"])
    assert mac is not None

    cards = lab.api("GET", lab.path(server, "/agent/network-get-interfaces")).data["result"]

    assert mac[1].lower() in [str(card.get("hardware-address", "")).lower() for card in cards]


def test_a_file_in_it_has_a_limit(lab: Lab, server: int):
    path = lab.path(server, "/agent/file-write")

    assert lab.api("POST", path, file="/tmp/suite", content="x" * 61440).status == 200
    assert lab.api("POST", path, file="/tmp/suite", content="x" * 61441).status == 400


def test_its_screen_is_offered(lab: Lab, server: int):
    said = lab.api("POST", lab.path(server, "/vncproxy"), websocket=1).data

    assert {"port", "ticket", "user", "cert", "upid"} <= set(said)
    assert 5900 <= int(said["port"]) <= 5999


def test_hibernated_it_is_off_and_locked_and_goes_on_where_it_was(lab: Lab, server: int):
    run(lab, server, ["/bin/sh", "-c", "echo still-here > /dev/shm/suite"])

    assert lab.done(lab.api("POST", lab.path(server, "/status/suspend"), todisk=1)) == "OK"
    said = lab.api("GET", lab.path(server, "/status/current")).data
    config = lab.api("GET", lab.path(server, "/config")).data
    lab.boot(server)
    after = run(lab, server, ["/bin/sh", "-c", "cat /dev/shm/suite"])

    assert (said["status"], said["lock"]) == ("stopped", "suspended")
    assert "vmstate" in config
    assert after["out-data"] == "still-here\n"


def storage_of(lab: Lab) -> str:
    config = lab.api("GET", lab.path(lab.template, "/config")).data
    disk = next(str(config[key]) for key in ("scsi0", "virtio0", "sata0", "ide0") if key in config)
    return disk.split(":", 1)[0]
