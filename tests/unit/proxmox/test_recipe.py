"""What is asked of PVE for one VM."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.proxmox.clusters import GIB, MIB, config_of, marker_of, settings_of, storage_of, variant_of

from labspawner.model import Resources
from labspawner.providers.proxmox import recipe
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.marks import describe, tags_of
from labspawner.providers.proxmox.recipe import Network

POOL = AddressPool.parse(
    "10.20.0.50-10.20.0.99/24 gw 10.20.0.1 dns 10.20.0.1,9.9.9.9 search lab.example", name="default"
)
STATIC = Network(pool=POOL, address="10.20.0.50")
TWO_CORES = Resources(cpu=2, memory_bytes=4 * GIB)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAb+dEf/hIjKlMnOp alice@example.org"


def _configured(
    variant: dict[str, Any] | None = None,
    *,
    network: Network = STATIC,
    settings: dict[str, Any] | None = None,
    resources: Resources = TWO_CORES,
    calls_home: str | None = None,
    **config: Any,
) -> dict[str, Any]:
    return recipe.configuration(
        config_of(**config),
        marker_of(),
        variant=variant_of(**(variant or {})),
        settings=settings_of(**(settings or {})),
        resources=resources,
        network=network,
        calls_home=calls_home,
    )


def _cloned(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"newid": 20_001, "pool": "labs", "source": "pve1", "target": "pve1", "full": False}
    return recipe.clone(marker_of(), **{**values, **changes})


# -- the clone


def test_a_clone_goes_into_the_pool_and_carries_its_owner_from_the_first_moment():
    marker = marker_of()

    params = recipe.clone(marker, newid=20_001, pool="labs", source="pve1", target="pve2", full=False)

    assert params == {
        "newid": 20_001,
        "name": f"alice-{marker.lease_id}",
        "pool": "labs",
        "description": describe(marker),
        "full": 0,
        "target": "pve2",
    }


def test_a_linked_clone_names_no_storage_since_pve_refuses_that():
    assert "storage" not in _cloned(storage="local")
    assert _cloned(storage="local", full=True)["storage"] == "local"
    assert "storage" not in _cloned(full=True)


def test_a_clone_that_stays_names_no_target():
    assert "target" not in _cloned()


@pytest.mark.parametrize(
    ("plugin", "disk", "full"),
    [
        ("rbd", "ceph:base-9100-disk-0,size=3G", False),
        ("zfspool", "ceph:base-9100-disk-0,size=3G", False),
        ("lvmthin", "ceph:base-9100-disk-0,size=3G", False),
        ("dir", "ceph:9100/base-9100-disk-0.qcow2,size=3G", False),
        ("dir", "ceph:9100/base-9100-disk-0.raw,size=3G", True),
        ("lvm", "ceph:base-9100-disk-0,size=3G", True),
        ("iscsidirect", "ceph:base-9100-disk-0,size=3G", True),
        ("", "ceph:base-9100-disk-0,size=3G", False),
    ],
)
def test_a_clone_is_linked_wherever_the_storage_can(plugin: str, disk: str, full: bool):
    storages = [storage_of("ceph", "pve1", plugin=plugin)]

    assert recipe.copies_fully(variant_of(), config_of(scsi0=disk), storages) is full


def test_one_disk_that_cannot_be_linked_makes_a_full_copy():
    config = config_of(efidisk0="thick:vm-9100-disk-1,size=4M")
    storages = [storage_of("ceph", "pve1"), storage_of("thick", "pve1", plugin="lvm")]

    assert recipe.copies_fully(variant_of(), config, storages)


def test_a_profile_may_want_a_full_copy_and_a_vm_that_is_no_template_always_is_one():
    storages = [storage_of("ceph", "pve1")]

    assert recipe.copies_fully(variant_of(full=True), config_of(), storages)
    assert recipe.copies_fully(variant_of(), config_of(template=None), storages)
    assert not recipe.copies_fully(variant_of(full=False), config_of(), storages)


# -- its configuration


def test_a_linux_vm_as_the_recording_has_it():
    marker = marker_of(address="10.20.0.50")

    params = recipe.configuration(
        config_of(),
        marker,
        variant=variant_of(ssh_keys=[KEY]),
        settings=settings_of(),
        resources=Resources(cpu=2, memory_bytes=4 * GIB),
        network=STATIC,
    )

    assert params == {
        "name": f"alice-{marker.lease_id[-4:]}",
        "tags": tags_of("lab", marker.lease_id, address="10.20.0.50"),
        "description": describe(marker),
        "onboot": 0,
        "cores": 2,
        "memory": 4096,
        "balloon": 4096,
        "citype": "nocloud",
        "ciuser": "student",
        "ciupgrade": 0,
        "sshkeys": params["sshkeys"],
        "ipconfig0": "ip=10.20.0.50/24,gw=10.20.0.1",
        "nameserver": "10.20.0.1 9.9.9.9",
        "searchdomain": "lab.example",
    }


def test_keys_are_percent_encoded_once_and_whole():
    encoded = _configured({"ssh_keys": [KEY, f"  {KEY}2 "]})["sshkeys"]

    assert unquote(encoded) == f"{KEY}\n{KEY}2\n"
    assert not set("+/ @\n") & set(encoded)
    assert "%25" not in encoded
    assert "sshkeys" not in _configured()


def test_no_first_boot_runs_the_package_manager():
    assert _configured()["ciupgrade"] == 0


def test_without_an_address_of_ours_the_vm_asks_dhcp_and_forgets_the_templates():
    params = _configured(network=Network(), ipconfig0="ip=10.99.0.150/24,gw=10.99.0.1")

    assert params["ipconfig0"] == "ip=dhcp"
    assert "nameserver" not in params


def test_a_pool_without_name_servers_leaves_those_of_the_node():
    pool = AddressPool.parse("10.20.0.50", name="default")

    params = _configured(network=Network(pool=pool, address="10.20.0.50"))

    assert params["ipconfig0"] == "ip=10.20.0.50/24"
    assert not {"nameserver", "searchdomain"} & params.keys()


def test_windows_reads_a_config_drive():
    params = _configured({"os": "windows"}, ostype="win11")

    assert params["citype"] == "configdrive2"
    assert params["ipconfig0"].startswith("ip=10.20.0.50/")
    assert "cipassword" not in params  # it would stand there in plain text


def test_a_template_without_cloud_init_is_left_alone():
    assert not {"citype", "ciuser", "ipconfig0", "ciupgrade"} & _configured({"cloud_init": False}).keys()


@pytest.mark.parametrize(
    ("cpu", "cores", "limit"), [(1, 1, None), (2.0, 2, None), (0.5, 1, 0.5), (2.5, 3, 2.5), (None, None, None)]
)
def test_a_fraction_of_a_core_is_a_limit_of_its_time(cpu: float | None, cores: int | None, limit: float | None):
    params = _configured(resources=Resources(cpu=cpu))

    assert (params.get("cores"), params.get("cpulimit")) == (cores, limit)
    assert not {"memory", "balloon"} & params.keys()


def test_a_template_with_two_sockets_does_not_double_the_cores():
    assert _configured(sockets=2)["sockets"] == 1
    assert "sockets" not in _configured(resources=Resources(), sockets=2)


def test_memory_is_whole_mebibytes_and_none_of_it_is_taken_away_unless_the_profile_says_so():
    params = _configured(resources=Resources(memory_bytes=2 * GIB + 1), balloon=512)

    assert (params["memory"], params["balloon"]) == (2049, 2049)
    assert _configured({"balloon": "1GiB"})["balloon"] == 1024
    assert _configured({"balloon": "64GiB"})["balloon"] == 4096


def test_a_passed_through_device_goes_through_a_mapping_and_pins_the_memory():
    params = _configured({"pci": {"mapping": "gpu", "type": "nvidia-231"}})

    assert params["hostpci0"] == "mapping=gpu,pcie=1,mdev=nvidia-231"
    assert params["balloon"] == 0


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"mapping": "gpu"}, "mapping=gpu,pcie=1"),
        ({"mapping": "gpu", "pcie": False}, "mapping=gpu"),
        ({"mapping": "gpu", "primary": True}, "mapping=gpu,pcie=1,x-vga=1"),
    ],
)
def test_a_device_as_pve_writes_it(wish: dict[str, Any], text: str):
    assert _configured({"pci": wish})["hostpci0"] == text


def test_the_card_keeps_its_model_and_its_new_mac():
    params = _configured({"bridge": "vmbr7", "vlan": 42}, settings={"bridge": "vmbr1", "anti_spoofing": True})

    assert params["net0"] == "virtio=BC:24:11:72:53:8D,bridge=vmbr7,tag=42,firewall=1"
    assert "net0" not in _configured()
    assert "net0" not in _configured(settings={"bridge": "vmbr0"})
    assert _configured(settings={"bridge": "vmbr1"})["net0"] == "virtio=BC:24:11:72:53:8D,bridge=vmbr1"


def test_a_template_without_a_card_gets_one_where_a_bridge_is_named():
    assert _configured({"bridge": "vmbr7"}, net0=None)["net0"] == "virtio,bridge=vmbr7"
    assert "net0" not in _configured(net0=None)


def test_only_what_needs_a_further_right_is_left_out_when_it_is_so_already():
    assert "agent" not in _configured()
    assert _configured(agent=None)["agent"] == "enabled=1"
    assert "kvm" not in _configured()
    assert _configured(settings={"kvm": False})["kvm"] == 0
    assert "kvm" not in _configured(settings={"kvm": False}, kvm=0)
    assert "cpu" not in _configured({"cpu_type": "host"}, cpu="host,flags=+aes")
    assert _configured({"cpu_type": "host"}, cpu="kvm64")["cpu"] == "host"


def test_a_protected_templates_copies_can_be_deleted():
    assert _configured(protection=1)["protection"] == 0
    assert "protection" not in _configured()


# -- its disks


@pytest.mark.parametrize(
    ("wanted", "params"),
    [
        (None, None),
        (1 * GIB, None),
        (3 * GIB, None),
        (3 * GIB + 1, {"disk": "scsi0", "size": "3073M"}),
        (40 * GIB, {"disk": "scsi0", "size": "40G"}),
    ],
)
def test_a_disk_grows_to_what_is_wanted_and_never_shrinks(wanted: int | None, params: dict[str, str] | None):
    assert recipe.growth(config_of(), wanted) == params


@given(st.integers(1, 2**20).map(lambda mebibytes: mebibytes * MIB), st.integers(1, 2**41))
def test_after_it_has_grown_it_is_large_enough_and_does_not_grow_again(size: int, wanted: int):
    params = recipe.growth(config_of(scsi0=f"ceph:base-9100-disk-0,size={size // MIB}M"), wanted)

    grown = recipe.size_of(f"x,size={params['size']}") if params else size
    assert grown is not None
    assert grown >= max(size, wanted)
    assert recipe.growth(config_of(scsi0=f"ceph:base-9100-disk-0,size={grown // MIB}M"), wanted) is None


@pytest.mark.parametrize(
    ("config", "disk"),
    [
        ({}, "scsi0"),
        ({"boot": "order=ide2;virtio0;scsi0", "virtio0": "ceph:vm-1-disk-1,size=1G"}, "virtio0"),
        ({"boot": None, "bootdisk": "virtio0", "virtio0": "ceph:vm-1-disk-1,size=1G"}, "virtio0"),
        ({"boot": None, "scsi0": None, "sata3": "ceph:vm-1-disk-1,size=1G"}, "sata3"),
        ({"boot": "order=net0", "efidisk0": "ceph:vm-1-disk-9,size=4M"}, "scsi0"),
        ({"boot": None, "scsi0": None}, None),
    ],
)
def test_the_disk_that_grows_is_the_one_it_boots_from(config: dict[str, Any], disk: str | None):
    assert recipe.boot_disk(config_of(**config)) == disk


def test_a_vm_without_a_disk_does_not_grow():
    assert recipe.growth(config_of(boot=None, scsi0=None), 40 * GIB) is None
    assert recipe.growth(config_of(scsi0="ceph:base-9100-disk-0"), 40 * GIB) is None


def test_a_full_copy_needs_what_all_disks_may_come_to_hold():
    assert recipe.disk_bytes(config_of(scsi1="ceph:x,size=512M", efidisk0="ceph:y,size=4M")) == 3 * GIB + 516 * MIB


def test_a_template_without_a_drive_for_cloud_init_gets_one_beside_its_disk():
    assert recipe.cloud_init_drive(config_of(), variant_of()) is None
    assert recipe.cloud_init_drive(config_of(ide2=None), variant_of()) == {"ide2": "ceph:cloudinit"}
    occupied = config_of(ide2="local:iso/debian.iso,media=cdrom")
    assert recipe.cloud_init_drive(occupied, variant_of()) == {"ide0": "ceph:cloudinit"}
    assert recipe.cloud_init_drive(config_of(ide2=None), variant_of(cloud_init=False)) is None


# -- its firewall


def test_a_vm_is_held_to_its_own_address_and_stays_reachable():
    calls = recipe.firewall(variant_of(), STATIC)

    assert [(method, path) for method, path, _ in calls] == [
        ("POST", "firewall/ipset"),
        ("POST", "firewall/ipset/ipfilter-net0"),
        ("PUT", "firewall/options"),
    ]
    assert calls[1][2] == {"cidr": "10.20.0.50"}
    assert calls[2][2]["policy_in"] == "ACCEPT"
    assert (calls[2][2]["ipfilter"], calls[2][2]["macfilter"], calls[2][2]["dhcp"]) == (1, 1, 0)


def test_a_vm_with_dhcp_is_held_to_its_mac_alone():
    ((_, path, options),) = recipe.firewall(variant_of(), Network())

    assert path == "firewall/options"
    assert (options["ipfilter"], options["macfilter"], options["dhcp"]) == (0, 1, 1)


def test_a_vm_that_is_to_call_gets_its_hint_as_a_password_and_no_agent_where_its_template_has_none():
    calls = _configured({"handover": "call-home"}, calls_home="$6$labspawner$n$u", agent="0")
    auto = _configured({"handover": "auto"}, calls_home="$6$labspawner$n$u", agent="0")

    assert calls["cipassword"] == auto["cipassword"] == "$6$labspawner$n$u"
    assert "agent" not in calls
    assert auto["agent"] == "enabled=1"
    assert "cipassword" not in _configured({"handover": "auto"})
    assert "cipassword" not in _configured({"cloud_init": False}, calls_home="$6$labspawner$n$u")
