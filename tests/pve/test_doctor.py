"""`labspawner doctor` on a cluster: what would keep a class from starting, each caused on the double."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pve.atthehub import HUB_ID, Hub
from pve.providers import a_request, follow

from labspawner.providers.proxmox.diagnosis.probing import answering
from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually


@pytest.fixture(autouse=True)
def _patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of a double answer or refuse: silence is only a machine under load."""
    assert answering.__kwdefaults__
    monkeypatch.setitem(answering.__kwdefaults__, "within_s", 60.0)


def examined(hub: Hub):
    return hub.run("doctor", "--provider", "proxmox")


def test_a_good_cluster_has_no_error_and_says_what_was_looked_at(pve, tmp_path):
    said = examined(Hub(pve, tmp_path))

    assert said.status == 0, said.text
    assert "Proxmox VE 8.4" in said.line("version")
    assert said.line("17 of the 17 privileges").startswith("ok")
    assert "shared storage: every node clones it" in said.line("lab-template")
    assert said.line("vmbr0 on every node").startswith("ok")


def test_looking_changes_nothing(pve, tmp_path):
    before = pve.vms()

    examined(Hub(pve, tmp_path))

    assert [request.method for request in pve.requests.matching()] == ["GET"] * len(pve.requests)
    assert pve.vms() == before


def test_a_missing_privilege_is_named_with_the_command_that_gives_it(pve, tmp_path):
    pve.faults.drop_privilege("VM.Monitor")

    said = examined(Hub(pve, tmp_path))

    assert said.status == 1
    assert "no VM.Monitor on /pool/labs" in said.line("VM.Monitor on")
    assert "--privs 'VM.Monitor'" in said.text
    assert "--tokens 'labs@pve!hub'" in said.text


def test_on_9_the_privilege_of_the_guest_agent_has_another_name(new_pve, tmp_path):
    pve = new_pve(profile="9")
    good = examined(Hub(pve, tmp_path / "good"))
    pve.faults.drop_privilege("VM.GuestAgent.Unrestricted")
    bad = examined(Hub(pve, tmp_path / "bad"))

    assert good.status == 0, good.text
    assert bad.status == 1
    assert "no VM.GuestAgent.Unrestricted on /pool/labs" in bad.flat


def test_a_version_below_8_is_refused(new_pve, tmp_path):
    said = examined(Hub(new_pve(profile="7.4"), tmp_path))

    assert said.status == 1
    assert "Proxmox VE 7.4-17 is too old" in said.flat


def test_a_revoked_token_is_told_and_no_other_question_is_asked(pve, tmp_path):
    hub = Hub(pve, tmp_path)
    pve.faults.revoke(pve.token)
    pve.requests.clear()

    said = examined(hub)

    assert said.status == 1
    assert "labs@pve!hub is refused" in said.line("refused")
    assert pve.requests.count() <= 6  # no storm of tries


def test_another_certificate_than_the_pinned_one_is_told_with_both(pve, tmp_path):
    pinned = pve.fingerprint
    hub = Hub(pve, tmp_path, provider={"ca_file": None, "fingerprint": pinned})
    pve.faults.new_certificate()

    said = examined(hub)

    assert said.status == 1
    flat = said.text.replace("\n", "").replace(" ", "")
    assert pinned in flat
    assert pve.fingerprint in flat


def test_a_node_that_is_away_is_named_and_the_rest_is_looked_at(pve, tmp_path):
    pve.faults.node_down("pve3")
    hub = Hub(pve, tmp_path)

    while "pve3 cannot be reached" not in (said := examined(hub)).text:  # its peers see it 8 (virtual) seconds later
        assert said.status in {0, 1}

    assert said.line("pve1, pve2 take servers").startswith("ok")


def test_a_template_that_nobody_has_is_an_error(pve, tmp_path):
    said = examined(Hub(pve, tmp_path, template="no-such-template"))

    assert said.status == 1
    assert "no-such-template is not there" in said.line("no-such-template")


def test_a_template_on_a_disk_of_one_node_is_told(pve, tmp_path):
    name = pve.vm(pve.local_template).config["name"]

    said = examined(Hub(pve, tmp_path, template=name))

    assert "no server of it on pve2, pve3" in said.line("with disks of that node")


def test_a_full_storage_is_an_error(pve, tmp_path):
    pve.faults.storage_full(pve.storage)

    said = examined(Hub(pve, tmp_path, provider={"storage_reserve": "10GiB"}))

    assert said.status == 1, said.text
    assert "are kept free: no new server" in said.line("kept free")


def test_a_stranger_in_the_range_of_ids_is_named(pve, tmp_path):
    pve.add_vm(20005, "pve1", pool=pve.pool, name="web-server")

    said = examined(Hub(pve, tmp_path))

    assert "20005 in 20000-29999 are not labspawner's" in said.line("20005")


def test_an_address_that_somebody_has_is_named(pve, tmp_path):
    first = pve.address_pool.split("-")[0].split("/")[0]
    with socket.create_server((first, 8888)):
        said = examined(Hub(pve, tmp_path))

    assert f"{first} answers" in said.line("answers, and no server")


def test_a_mapping_that_is_not_there_is_an_error(pve, tmp_path):
    said = examined(Hub(pve, tmp_path, settings="{pci: {mapping: gpu}}", action="stop"))

    assert said.status == 1
    assert "the mapping gpu is not there" in said.line("the mapping gpu")
    assert "no Mapping.Use on /mapping/pci/gpu" in said.line("Mapping.Use on")


def test_a_mapping_with_devices_is_counted_by_node(pve, tmp_path):
    pve.add_mapping("gpu", [("pve1", "0000:01:00.0"), ("pve1", "0000:02:00.0"), ("pve2", "0000:01:00.0")])

    said = examined(Hub(pve, tmp_path, settings="{pci: {mapping: gpu}}", action="stop"))

    assert said.line("2 on pve1, 1 on pve2").startswith("ok")
    assert "no VM.Config.HWType on /pool/labs: no server gets a device" in said.flat


async def test_a_server_that_only_an_administrator_can_free_is_named_with_what_to_do(pve, tmp_path):
    hub = Hub(pve, tmp_path)
    provider = hub.provider()
    try:
        server = await follow(provider, a_request(pve, hub_id=HUB_ID))
    finally:
        await provider.close()
    pve.faults.lock(server.vmid, "suspending")

    async def said() -> bool:  # listings are some (virtual) seconds old
        text = (await asyncio.to_thread(examined, hub)).flat
        return f"VM {server.vmid}" in text and "qm unlock" in text

    assert await eventually(said, 60.0, "doctor names it")


def test_a_node_that_is_being_emptied_is_told_with_the_way_back(pve, tmp_path):
    hub = Hub(pve, tmp_path)
    hub.run("vm", "drain", "pve2")

    said = examined(hub)

    assert "labspawner vm drain pve2 --undo" in said.text


def test_a_cluster_that_does_not_answer_at_all_is_one_error(tmp_path):
    with PveDouble() as pve:
        hub = Hub(pve, tmp_path)

    said = examined(hub)

    assert said.status == 1
    assert said.line("no answer").startswith("error")
