"""What the provider asks of PVE for a VM is accepted, with the least rights, and comes back as it was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest
from pve.overhttp import Api, Lab
from unit.proxmox.clusters import GIB, marker_of, settings_of, variant_of

from labspawner.errors import SetupError
from labspawner.model import Resources
from labspawner.providers.proxmox import nodes, recipe, words
from labspawner.providers.proxmox.addresses import AddressPool, address_of
from labspawner.providers.proxmox.answers import PveRefused
from labspawner.providers.proxmox.faults import Fault, classify
from labspawner.providers.proxmox.marks import Marker, lease_of_tags, mac_of, read_marker, same_vm, uuid_of
from labspawner.providers.proxmox.nodes import Need, Template
from labspawner.providers.proxmox.recipe import Network
from labspawner.providers.proxmox.views import View
from labspawner.providers.proxmox.wishes import devices
from labspawner.testing.pve import PveDouble

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAb+dEf/hIjKlMnOp alice@example.org"


@dataclass
class Cluster:
    """A double, and the suite's way to it as the hub's token."""

    pve: PveDouble
    lab: Lab

    def view(self) -> View:
        return View.of(self.lab.api("GET", "/cluster/resources").data, taken_at=0.0)

    def config(self, vmid: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.lab.api("GET", self.lab.path(vmid, "/config")).data
        return found

    def template(self, vmid: int | None = None) -> Template:
        wanted = vmid or self.pve.template
        return Template.of(self.view().vms[wanted], self.config(wanted))

    def clone(self, marker: Marker, target: str, *, full: bool = False, template: int | None = None) -> int:
        """Clone as the provider does."""
        source, vmid = self.template(template), self.lab.new_id()
        params = recipe.clone(marker, newid=vmid, pool=self.pve.pool, source=source.node, target=target, full=full)
        answer = self.lab.api("POST", f"/nodes/{source.node}/qemu/{source.vmid}/clone", **params)
        assert self.lab.done(answer) == "OK"
        return vmid

    def set_up(self, vmid: int, marker: Marker, variant: Mapping[str, Any], network: Network, **more: Any) -> None:
        """Configure as the provider does."""
        params = recipe.configuration(
            self.config(vmid),
            marker,
            variant=variant_of(**variant),
            network=network,
            **{"settings": settings_of(), "resources": Resources(cpu=2, memory_bytes=1 * GIB), **more},
        )
        answer = self.lab.api("PUT", self.lab.path(vmid, "/config"), **params)
        assert answer.status == 200, (answer.text, answer.errors)


@pytest.fixture
def cluster(new_pve: Callable[..., PveDouble], request: pytest.FixtureRequest) -> Iterator[Cluster]:
    pve = new_pve(profile=getattr(request, "param", "8.4"))
    api = Api(pve.urls[0], pve.token, pve.fingerprint)
    yield Cluster(pve, Lab(api, pve.pool, pve.template, range(20_000, 20_100), every_s=0.005))
    api.close()


@pytest.mark.parametrize("cluster", ["8.4", "9"], indirect=True)
def test_a_vm_is_cloned_set_up_and_grown_with_the_least_rights(cluster: Cluster):
    pool = AddressPool.parse(f"{cluster.pve.address_pool}/24 dns 127.0.0.53 search lab.example", name="default")
    address = next(pool.addresses())
    marker = marker_of(user="Ann Ö%41", server_name="gpu", profile="dl101/gpu", address=address)

    vmid = cluster.clone(marker, "pve2")
    cloned = cluster.config(vmid)
    network = Network(pool=pool, address=address)
    resources = Resources(cpu=1.5, memory_bytes=1 * GIB)
    cluster.set_up(vmid, marker, {"ssh_keys": [KEY], "vlan": 42}, network, resources=resources)
    growth = recipe.growth(cluster.config(vmid), 8 * GIB)
    assert growth is not None
    assert cluster.lab.done(cluster.lab.api("PUT", cluster.lab.path(vmid, "/resize"), **growth)) == "OK"
    config = cluster.config(vmid)

    assert cluster.lab.node_of(vmid) == "pve2"
    assert read_marker(cloned["description"]) == read_marker(config["description"]) == marker
    assert uuid_of(config) == uuid_of(cloned) != uuid_of(cluster.config(cluster.pve.template))
    assert mac_of(config) == mac_of(cloned) != mac_of(cluster.config(cluster.pve.template))
    assert same_vm(config, hub_id="lab", lease_id=marker.lease_id, uuid=uuid_of(cloned))
    assert lease_of_tags(cluster.view().vms[vmid].tags, "lab") == marker.lease_id
    assert address_of(config["ipconfig0"]) == address
    assert unquote(config["sshkeys"]) == f"{KEY}\n"
    assert ",tag=42" in config["net0"]
    assert (str(config["memory"]), int(config["cores"]), float(config["cpulimit"])) == ("1024", 2, 1.5)
    assert recipe.growth(config, 8 * GIB) is None
    assert cluster.lab.done(cluster.lab.api("POST", cluster.lab.path(vmid, "/status/start"))) == "OK"
    assert cluster.pve.invariants() == []


@pytest.mark.parametrize(
    "variant",
    [
        {"os": "windows"},
        {"network": "dhcp"},
        {"cpu_type": "x86-64-v2-AES", "balloon": "512MiB"},
        {"cloud_init": False},
    ],
    ids="-".join,
)
def test_each_kind_of_vm_is_accepted(cluster: Cluster, variant: dict[str, Any]):
    marker = marker_of()
    vmid = cluster.clone(marker, "pve1")

    cluster.set_up(vmid, marker, variant, Network())

    assert cluster.lab.done(cluster.lab.api("POST", cluster.lab.path(vmid, "/status/start"))) == "OK"


def test_a_template_without_a_drive_for_cloud_init_gets_one(cluster: Cluster):
    cluster.pve.set_config(cluster.pve.template, ide2=None)
    vmid = cluster.clone(marker_of(), "pve1")

    drive = recipe.cloud_init_drive(cluster.config(vmid), variant_of())

    assert drive is not None
    assert cluster.lab.done(cluster.lab.api("POST", cluster.lab.path(vmid, "/config"), **drive)) == "OK"
    assert recipe.cloud_init_drive(cluster.config(vmid), variant_of()) is None


def test_placement_reads_what_the_least_token_sees(cluster: Cluster):
    view, template = cluster.view(), cluster.template()

    found = nodes.find_templates(view, view.vms[cluster.pve.template].name)
    shared = nodes.place(view, [template], Need(), settings=settings_of())
    local = nodes.place(view, [cluster.template(cluster.pve.local_template)], Need(), settings=settings_of())

    assert cluster.pve.template in {vm.vmid for vm in found}
    assert sorted(spot.node for spot in shared.spots) == ["pve1", "pve2", "pve3"]
    assert [spot.node for spot in local.spots] == ["pve1"]
    assert all(spot.storage == cluster.pve.storage for spot in shared.spots)


def test_a_clone_that_pve_refuses_for_its_storage_is_not_even_asked_for(cluster: Cluster):
    template = cluster.template(cluster.pve.local_template)
    params = recipe.clone(
        marker_of(), newid=20_050, pool=cluster.pve.pool, source=template.node, target="pve2", full=False
    )

    answer = cluster.lab.api("POST", f"/nodes/{template.node}/qemu/{template.vmid}/clone", **params)
    placement = nodes.place(cluster.view(), [template], Need(), settings=settings_of())

    assert "local storage" in (answer.text if answer.status != 200 else cluster.lab.done(answer))
    assert placement.refused["pve2"] is nodes.Why.NO_TEMPLATE


def test_a_node_that_is_off_gets_no_vm_though_pve_would_take_it(cluster: Cluster):
    cluster.pve.faults.node_down("pve3")
    template = cluster.template()

    view = cluster.lab.eventually(lambda: (v := cluster.view()) and not v.online("pve3") and v, "pve3 is seen offline")

    assert nodes.place(view, [template], Need(), settings=settings_of()).refused == {"pve3": nodes.Why.OFFLINE}


def test_a_gpu_goes_to_the_nodes_that_have_one_and_runs_out(cluster: Cluster):
    cluster.pve.add_mapping("gpu", [("pve2", "0000:01:00.0")])
    cluster.pve.inside.access.allow(cluster.pve.user, f"/pool/{cluster.pve.pool}", ["VM.Config.HWType"])
    wish = {"pci": {"mapping": "gpu"}}
    variant = variant_of(**wish)
    assert variant.pci is not None

    there = devices(cluster.lab.api("GET", "/cluster/mapping/pci").data, variant.pci)
    placement = nodes.place(
        cluster.view(), [cluster.template()], Need(pci="gpu"), settings=settings_of(), devices=there
    )
    ends = []
    for _ in range(2):
        marker = marker_of()
        vmid = cluster.clone(marker, placement.spots[0].node)
        cluster.set_up(vmid, marker, wish, Network())
        ends.append(cluster.lab.done(cluster.lab.api("POST", cluster.lab.path(vmid, "/status/start"))))

    assert there == {"pve2": 1}
    assert [spot.node for spot in placement.spots] == ["pve2"]
    assert placement.refused == {"pve1": nodes.Why.NO_DEVICE, "pve3": nodes.Why.NO_DEVICE}
    assert ends[0] == "OK"
    assert classify(None, ends[1]) is Fault.NO_DEVICE, ends[1]


def test_without_the_right_for_devices_the_error_says_so(cluster: Cluster):
    cluster.pve.add_mapping("gpu", [("pve1", "0000:01:00.0")])
    marker = marker_of()
    vmid = cluster.clone(marker, "pve1")

    answer = cluster.lab.api("PUT", cluster.lab.path(vmid, "/config"), hostpci0="mapping=gpu,pcie=1")

    error = words.refused(PveRefused(answer.status, answer.text))
    assert isinstance(error, SetupError)
    assert "which right is missing" in error.message


@pytest.mark.parametrize("static", [True, False], ids=["static", "dhcp"])
def test_a_vm_can_be_held_to_its_own_address(cluster: Cluster, static: bool):
    pool = AddressPool.parse(cluster.pve.address_pool, name="default")
    network = Network(pool=pool, address=next(pool.addresses())) if static else Network()
    marker = marker_of()
    vmid = cluster.clone(marker, "pve1")
    cluster.set_up(vmid, marker, {}, network, settings=settings_of(anti_spoofing=True))

    answers = [
        cluster.lab.api(method, cluster.lab.path(vmid, f"/{path}"), **params)
        for method, path, params in recipe.firewall(variant_of(), network)
    ]

    assert [(answer.status, answer.text) for answer in answers if answer.status != 200] == []
    assert "firewall=1" in cluster.config(vmid)["net0"]
    options = cluster.lab.api("GET", cluster.lab.path(vmid, "/firewall/options")).data
    assert (str(options["ipfilter"]), options["policy_in"]) == ("1" if static else "0", "ACCEPT")
