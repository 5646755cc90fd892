"""Who may do what: the least-privilege token, its user, other pools, tickets, and both versions' rights."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from pve.callers import Caller, vm

from labspawner.testing.pve import PveDouble


@pytest.fixture
def hub(pve: PveDouble) -> Caller:
    return Caller(pve)


def test_the_least_rights_are_enough_for_the_life_of_a_vm(hub: Caller) -> None:
    hub.running(20001)

    assert hub.put(vm(20001, "/config"), cores=1, tags="labspawner", ciuser="alice").status == 200
    assert hub.done("PUT", vm(20001, "/resize"), disk="scsi0", size="+1G") == "OK"
    assert hub.done("POST", vm(20001, "/status/suspend"), todisk=1) == "OK"
    assert hub.done("POST", vm(20001, "/status/resume")) == "OK"
    assert hub.post(vm(20001, "/vncproxy"), websocket=1).status == 200
    assert hub.done("POST", vm(20001, "/status/stop")) == "OK"
    assert hub.done("DELETE", vm(20001), purge=1) == "OK"
    assert hub.pve.invariants() == []


@pytest.mark.parametrize(
    ("privilege", "method", "rest", "params"),
    [
        ("VM.Clone", "POST", "/clone", {"newid": 20002, "pool": "labs"}),
        ("VM.PowerMgmt", "POST", "/status/start", {}),
        ("VM.Monitor", "POST", "/agent/ping", {}),
        ("VM.Console", "POST", "/vncproxy", {}),
        ("VM.Snapshot", "POST", "/snapshot", {"snapname": "one"}),
        ("VM.Config.Disk", "PUT", "/resize", {"disk": "scsi0", "size": "+1G"}),
        ("VM.Config.CPU", "PUT", "/config", {"cores": 1}),
        ("VM.Config.Memory", "PUT", "/config", {"memory": 512}),
        ("VM.Config.Options", "PUT", "/config", {"tags": "x"}),
        ("VM.Config.Network", "PUT", "/config", {"net0": "virtio,bridge=vmbr0"}),
        ("VM.Audit", "GET", "/config", {}),
        ("VM.Allocate", "DELETE", "", {}),
    ],
)
def test_a_missing_privilege_is_named_with_its_path(
    hub: Caller, privilege: str, method: str, rest: str, params: dict[str, object]
) -> None:
    hub.pve.faults.drop_privilege(privilege)

    answer = hub.ask(method, vm(9100, rest), **params)

    assert (answer.status, answer.reason) == (403, f"Permission check failed (/vms/9100, {privilege})")


def test_a_vm_that_is_gone_is_forbidden_to_the_hub_and_missing_to_the_administrator(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)

    refused, missing = hub.get(vm(20001, "/config")), admin.get(vm(20001, "/config"))

    assert (refused.status, refused.reason) == (403, "Permission check failed (/vms/20001, VM.Audit)")
    missing_text = "Configuration file 'nodes/pve1/qemu-server/20001.conf' does not exist"
    assert (missing.status, missing.reason) == (500, missing_text)


def test_a_separated_token_may_only_what_its_user_may_too(hub: Caller) -> None:
    hub.pve.call(lambda inside: inside.access.allow("labs@pve!hub", "/", ("Sys.Audit",)))

    assert hub.get("/cluster/status").status == 403


def test_two_hubs_on_one_cluster_see_their_own_pools_only(hub: Caller) -> None:
    hub.pve.add_pool("physics")
    other = Caller(hub.pve, hub.pve.add_token("physics@pve", "hub", pool="physics"))
    assert hub.clone(20001) == "OK"

    assert other.get(vm(20001, "/config")).status == 403
    assert other.get("/cluster/resources", type="vm").data == []
    assert other.post(vm(9100, "/clone"), newid=20002, pool="physics").status == 403


def test_without_a_pool_nobody_but_the_administrator_clones(hub: Caller) -> None:
    answer = hub.post(vm(9100, "/clone"), newid=20001)

    assert (answer.status, answer.reason) == (403, "Permission check failed")


def test_only_root_itself_skips_locks(hub: Caller) -> None:
    admin = Caller(hub.pve, hub.pve.admin_token)

    assert admin.post(vm(9100, "/status/start"), skiplock=1).errors == {"skiplock": "Only root may use this option."}
    assert admin.put(vm(9100, "/config"), args="-no-hpet").reason == "only root can set 'args' config"


def test_a_mapped_device_needs_the_right_to_use_it_and_a_raw_one_root(hub: Caller) -> None:
    hub.pve.call(lambda inside: inside.access.allow("labs@pve", "/pool/labs", ("VM.Config.HWType",)))

    raw = hub.put(vm(9100, "/config"), hostpci0="0000:01:00.0")
    unknown = hub.put(vm(9100, "/config"), hostpci0="mapping=gpu")
    hub.pve.add_mapping("gpu", [("pve1", "0000:01:00.0")])
    mapped = hub.put(vm(9100, "/config"), hostpci0="mapping=gpu")

    assert raw.reason == "only root can set 'hostpci0' config for non-mapped devices"
    assert unknown.reason == "Permission check failed (/mapping/pci/gpu, Mapping.Use)"
    assert mapped.status == 200


@pytest.mark.parametrize("token", ["", "labs@pve!hub=wrong", "labs@pve!nobody=x", "nonsense"])
def test_whoever_is_not_known_hears_401_after_three_seconds(hub: Caller, token: str) -> None:
    before = hub.pve.now()

    answer = Caller(hub.pve, token).get("/version")

    assert answer.status == 401
    assert answer.body is None
    assert hub.pve.now() - before >= 3.0


def test_a_revoked_token_is_nobodys_until_it_is_restored(hub: Caller) -> None:
    hub.pve.faults.revoke(hub.token)
    assert hub.get("/version").status == 401

    hub.pve.faults.restore(hub.token)
    assert hub.get("/version").status == 200


class Ticket(Caller):
    """One who logged in with a password."""

    def __init__(self, pve: PveDouble, password: str | None = None) -> None:
        super().__init__(pve, "")
        given = self.post("/access/ticket", username="root@pam", password=password or pve.password).data
        self.ticket, self.csrf = given["ticket"], given["CSRFPreventionToken"]
        self.headers = {"Cookie": f"PVEAuthCookie={quote(self.ticket)}", "CSRFPreventionToken": self.csrf}


def test_a_ticket_is_root_for_what_its_token_is_not(hub: Caller) -> None:
    root = Ticket(hub.pve)

    assert root.put(vm(9100, "/config"), lock="backup").status == 200
    assert hub.pve.vm(9100).lock == "backup"


def test_a_write_with_a_ticket_needs_its_csrf_token(hub: Caller) -> None:
    root = Ticket(hub.pve)
    del root.headers["CSRFPreventionToken"]

    assert root.get("/version").status == 200
    answer = root.put(vm(9100, "/config"), description="x")
    assert (answer.status, answer.reason) == (401, "Permission denied - invalid csrf token")


def test_a_ticket_lives_two_hours_and_is_renewed_by_itself(hub: Caller) -> None:
    root = Ticket(hub.pve)
    renewed = Ticket(hub.pve, root.ticket)

    hub.pve.call(lambda inside: inside.access.age_tickets(7201.0))

    assert renewed.csrf != root.csrf
    assert root.get("/version").status == 401


def test_nine_has_rights_of_its_own_for_the_agent(new_pve: Callable[..., PveDouble]) -> None:
    hub = Caller(new_pve(profile="9"))
    hub.running(20001)
    hub.pve.faults.drop_privilege("VM.GuestAgent.Unrestricted")

    answer = hub.post(vm(20001, "/agent/exec"), command=["/bin/true"])

    assert hub.get("/version").data["release"].startswith("9.")
    assert answer.reason == "Permission check failed (/vms/20001, VM.GuestAgent.Unrestricted)"
    assert hub.post(vm(20001, "/agent/ping")).status == 200


def test_permissions_tell_what_a_token_has_and_where(hub: Caller) -> None:
    table = hub.get("/access/permissions").data

    assert table["/pool/labs"]["VM.Clone"] == 1
    assert table["/vms/9100"]["VM.Clone"] == 0
    assert "VM.Config.HWType" not in table["/pool/labs"]
    assert table["/sdn/zones/localnetwork"] == {"SDN.Use": 1, "SDN.Audit": 1}


def test_no_secret_is_in_the_log_of_requests(hub: Caller) -> None:
    hub.running(20001)
    hub.post(vm(20001, "/agent/exec"), command=["/bin/cat"], input_data="a secret")
    Ticket(hub.pve)

    told = repr(hub.pve.requests.matching())

    assert "a secret" not in told
    assert hub.pve.password not in told
    assert hub.token.split("=")[1] not in told
