"""Where a VM may go, why not elsewhere, and what each node still holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import NOW
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.proxmox.clusters import (
    GIB,
    MIB,
    config_of,
    node_of,
    settings_of,
    storage_of,
    template_of,
    view_of,
    vm_of,
)

from labspawner.errors import NeverFits, NoRoom, ProviderUnavailable, SetupError
from labspawner.model import LeaseId, Resources
from labspawner.placement import Fits, Full, TooLarge
from labspawner.placement import place as admit
from labspawner.providers.proxmox.marks import tags_of
from labspawner.providers.proxmox.nodes import (
    Need,
    Placement,
    Promise,
    Template,
    Why,
    capacity,
    find_templates,
    has_space_for_state,
    need_of,
    no_template,
    nowhere,
    place,
    promise_of,
)
from labspawner.providers.proxmox.rooms import state_bytes
from labspawner.providers.proxmox.views import View

SMALL = Need(cpu=2, memory_bytes=4 * GIB)


def _place(view: View, need: Need = SMALL, *templates: Template, **more: Any) -> Placement:
    return place(view, templates or (template_of(),), need, **{"settings": settings_of(), **more})


def _nodes(placement: Placement) -> list[str]:
    return [spot.node for spot in placement.spots]


# -- which nodes


def test_every_node_that_shares_the_templates_storage_may_take_a_vm():
    placement = _place(view_of())

    assert sorted(_nodes(placement)) == ["pve1", "pve2", "pve3"]
    assert {(spot.template.node, spot.storage) for spot in placement.spots} == {("pve1", "ceph")}
    assert placement.refused == {}


def test_a_node_that_is_away_gets_nothing_though_pve_would_take_it():
    view = view_of(node_of("pve1"), node_of("pve2", online=False))

    placement = _place(view)

    assert _nodes(placement) == ["pve1"]
    assert placement.refused == {"pve2": Why.OFFLINE}


def test_nothing_is_cloned_while_the_node_with_the_templates_configuration_is_away():
    placement = _place(view_of(node_of("pve1", online=False), node_of("pve2")))

    assert _nodes(placement) == []
    assert set(placement.refused.values()) == {Why.OFFLINE}


def test_without_a_quorum_nobody_gets_anything_and_an_unknown_one_is_no_reason():
    assert set(_place(view_of(quorate=False)).refused.values()) == {Why.NOT_QUORATE}
    assert len(_place(view_of(quorate=None)).spots) == 3


def test_a_node_that_is_being_emptied_is_left_out():
    placement = _place(view_of(), draining={"pve2"})

    assert "pve2" not in _nodes(placement)
    assert placement.refused == {"pve2": Why.DRAINING}


def test_administrator_and_profile_may_narrow_the_nodes():
    wanted = replace(SMALL, nodes=frozenset({"pve2", "pve3"}))

    placement = _place(view_of(), wanted, settings=settings_of(nodes={"pve1": {}, "pve2": {}}))

    assert _nodes(placement) == ["pve2"]
    assert placement.refused == {"pve1": Why.NOT_WANTED, "pve3": Why.NOT_WANTED}


def test_a_template_on_local_storage_serves_its_own_node_only():
    view = view_of(storages=[storage_of("local", f"pve{n}", shared=False) for n in (1, 2, 3)])

    placement = _place(view, SMALL, template_of(storages=("local",), node="pve2"))

    assert _nodes(placement) == ["pve2"]
    assert placement.refused == {"pve1": Why.NO_TEMPLATE, "pve3": Why.NO_TEMPLATE}


def test_one_template_on_each_node_serves_all_from_their_own():
    view = view_of(storages=[storage_of("local", f"pve{n}", shared=False) for n in (1, 2, 3)])
    templates = [template_of(vmid=9000 + n, node=f"pve{n}", storages=("local",)) for n in (1, 2, 3)]

    placement = _place(view, SMALL, *templates)

    assert {(spot.node, spot.template.vmid) for spot in placement.spots} == {
        ("pve1", 9001),
        ("pve2", 9002),
        ("pve3", 9003),
    }


def test_of_several_versions_on_shared_storage_every_node_takes_the_newest_that_it_can_have():
    versions = [template_of(vmid=9001, node="pve1"), template_of(vmid=9002, node="pve2")]
    without_pve2 = view_of(node_of("pve1"), node_of("pve2", online=False), node_of("pve3"))

    assert {spot.template.vmid for spot in _place(view_of(), SMALL, *versions).spots} == {9002}
    assert {spot.template.vmid for spot in _place(without_pve2, SMALL, *versions).spots} == {9001}


def test_every_disk_has_to_be_there():
    storages = [storage_of("ceph", f"pve{n}") for n in (1, 2, 3)] + [storage_of("tpm", "pve1", shared=False)]

    assert _nodes(_place(view_of(storages=storages), SMALL, template_of(storages=("ceph", "tpm")))) == ["pve1"]


def test_a_storage_that_this_account_does_not_see_binds_the_vm_to_the_templates_node():
    placement = _place(view_of(storages=[]))

    assert _nodes(placement) == ["pve1"]


def test_a_shared_storage_that_is_not_available_on_a_node_keeps_vms_off_it():
    storages = [storage_of("ceph", "pve1"), storage_of("ceph", "pve2", available=False), storage_of("ceph", "pve3")]

    placement = _place(view_of(storages=storages))

    assert sorted(_nodes(placement)) == ["pve1", "pve3"]
    assert placement.refused == {"pve2": Why.NO_STORAGE}


def test_a_full_copy_goes_where_profile_or_administrator_say():
    storages = [storage_of(name, f"pve{n}") for n in (1, 2, 3) for name in ("ceph", "fast", "slow")]
    view = view_of(storages=storages)
    full = replace(SMALL, full=True)

    chosen = [
        _place(view, full, settings=settings_of(storage="slow")).spots[0].storage,
        _place(view, replace(full, storage="fast"), settings=settings_of(storage="slow")).spots[0].storage,
        _place(view, full).spots[0].storage,
        _place(view, replace(SMALL, storage="fast"), settings=settings_of(storage="slow")).spots[0].storage,
    ]

    assert chosen == ["slow", "fast", "ceph", "ceph"]


# -- how much room


def test_memory_of_running_vms_is_taken_and_of_stopped_ones_is_not():
    view = view_of(
        vms=[vm_of(100, "pve1", maxmem=62 * GIB), vm_of(101, "pve2", maxmem=62 * GIB, status="stopped", mem=0)]
    )

    placement = _place(view)

    assert sorted(_nodes(placement)) == ["pve2", "pve3"]
    assert placement.refused == {"pve1": Why.MEMORY_NOW}


def test_memory_that_other_accounts_vms_use_is_seen_by_what_the_node_uses():
    view = view_of(node_of("pve1", mem=62 * GIB), node_of("pve2"))

    assert _place(view).refused == {"pve1": Why.MEMORY_NOW}


def test_starts_under_way_have_their_room_already():
    view = view_of(node_of("pve1", maxmem=9 * GIB))
    coming = [Promise(node="pve1", memory_bytes=4 * GIB, cpu=2)]

    assert _nodes(_place(view, promised=coming)) == ["pve1"]
    assert _place(view, promised=coming * 2).refused == {"pve1": Why.MEMORY_NOW}


def test_a_start_is_counted_once_when_its_vm_runs():
    need = Need(memory_bytes=4 * GIB)
    coming = [Promise(node="pve1", vmid=20_001, memory_bytes=4 * GIB, disk_bytes=900 * GIB, storage="ceph")]
    off = view_of(node_of("pve1", maxmem=9 * GIB), vms=[vm_of(20_001, "pve1", status="stopped")])
    on = view_of(node_of("pve1", maxmem=9 * GIB), vms=[vm_of(20_001, "pve1")])

    assert _place(off, need, promised=coming).refused == {"pve1": Why.STORAGE_NOW}
    assert _nodes(_place(on, need, promised=coming)) == ["pve1"]
    assert _place(on, Need(memory_bytes=5 * GIB), promised=coming).refused == {"pve1": Why.MEMORY_NOW}


def test_memory_is_overcommitted_only_as_far_as_the_administrator_says():
    view = view_of(node_of("pve1", maxmem=9 * GIB), vms=[vm_of(100, "pve1", maxmem=6 * GIB)])

    assert _place(view).refused == {"pve1": Why.MEMORY_NOW}
    assert _nodes(_place(view, settings=settings_of(memory_overcommit=1.5, node_reserve="1GiB"))) == ["pve1"]


def test_cores_are_overcommitted_as_the_administrator_says():
    view = view_of(node_of("pve1", maxcpu=4), vms=[vm_of(100, "pve1", maxcpu=4)])

    assert _place(view, settings=settings_of(cpu_overcommit=1)).refused == {"pve1": Why.CPU_NOW}
    assert _nodes(_place(view, settings=settings_of(cpu_overcommit=2))) == ["pve1"]
    assert _place(view, Need(cpu=9), settings=settings_of(cpu_overcommit=2)).refused == {"pve1": Why.CPU_EVER}


def test_what_the_profile_leaves_out_is_as_the_template_has_it():
    view = view_of(node_of("pve1", maxmem=9 * GIB))

    assert _nodes(_place(view, Need(), template_of(memory_bytes=8 * GIB))) == ["pve1"]
    assert _place(view, Need(), template_of(memory_bytes=9 * GIB)).refused == {"pve1": Why.MEMORY_EVER}
    assert _place(view, Need(), template_of(cores=65)).refused == {"pve1": Why.CPU_EVER}


def test_without_the_right_to_read_sizes_of_nodes_those_of_the_administrator_count():
    blind = {"maxmem": None, "mem": None, "maxcpu": None, "cpu": None}
    view = view_of(node_of("pve1", **blind), node_of("pve2", **blind))
    sized = settings_of(nodes={"pve1": {"memory": "2GiB"}, "pve2": {"memory": "8GiB", "cores": 16}})

    assert sorted(_nodes(_place(view))) == ["pve1", "pve2"]
    assert _place(view, settings=sized).refused == {"pve1": Why.MEMORY_EVER}


def test_a_node_takes_as_many_servers_as_the_administrator_allows():
    view = view_of(vms=[vm_of(100, "pve1")])

    placement = _place(view, settings=settings_of(nodes={"pve1": {"servers": 1}, "pve2": {"servers": 1}}))

    assert _nodes(placement) == ["pve2"]
    assert placement.refused["pve1"] is Why.SERVERS_NOW


def test_a_storage_without_its_reserve_takes_no_server():
    storages = [storage_of("ceph", f"pve{n}", used_bytes=995 * GIB) for n in (1, 2, 3)]

    assert set(_place(view_of(storages=storages)).refused.values()) == {Why.STORAGE_NOW}


def test_a_full_copy_needs_the_space_of_all_its_disks_and_a_linked_one_does_not():
    storages = [storage_of("ceph", f"pve{n}", used_bytes=985 * GIB) for n in (1, 2, 3)]
    view, large = view_of(storages=storages), template_of(disk_bytes=6 * GIB)

    assert len(_place(view, SMALL, large).spots) == 3
    assert not _place(view, replace(SMALL, full=True), large).spots
    assert len(_place(view, replace(SMALL, full=True)).spots) == 3
    assert not _place(view, replace(SMALL, full=True, disk_bytes=40 * GIB)).spots


def test_copies_under_way_have_their_space_already():
    storages = [storage_of("ceph", f"pve{n}", used_bytes=980 * GIB) for n in (1, 2, 3)]
    need, template = replace(SMALL, full=True), template_of(disk_bytes=6 * GIB)
    view = view_of(storages=storages)
    first = _place(view, need, template).spots[0]

    placement = _place(view, need, template, promised=[promise_of(first, need)])

    assert set(placement.refused.values()) == {Why.STORAGE_NOW}


def test_copies_to_another_nodes_local_storage_take_nothing_here():
    storages = [storage_of("local", f"pve{n}", shared=False, used_bytes=980 * GIB) for n in (1, 2)]
    view = view_of(node_of("pve1"), node_of("pve2"), storages=storages)
    templates = [template_of(vmid=9000 + n, node=f"pve{n}", storages=("local",), disk_bytes=6 * GIB) for n in (1, 2)]
    coming = [Promise(node="pve1", storage="local", disk_bytes=6 * GIB)]

    placement = _place(view, replace(SMALL, full=True), *templates, promised=coming)

    assert _nodes(placement) == ["pve2"]
    assert placement.refused == {"pve1": Why.STORAGE_NOW}


def test_where_no_storage_takes_a_servers_memory_it_cannot_promise_to_hibernate():
    storages = [storage_of("ceph", "pve1"), storage_of("ceph", "pve2")]
    view = view_of(node_of("pve1"), node_of("pve2"), storages=storages)
    elsewhere = settings_of(hibernate_storage="gone")

    assert set(_place(view, replace(SMALL, hibernate=True), settings=elsewhere).refused.values()) == {Why.STATE_NOW}
    assert len(_place(view, settings=elsewhere).spots) == 2


def test_a_server_that_is_to_hibernate_needs_twice_its_memory_on_disk():
    storages = [storage_of("ceph", f"pve{n}", used_bytes=1000 * GIB - 10 * GIB - state_bytes(4 * GIB)) for n in (1, 2)]
    view = view_of(node_of("pve1"), node_of("pve2"), storages=storages)

    assert state_bytes(512 * MIB) == 1524 * MIB
    assert len(_place(view, replace(SMALL, hibernate=True)).spots) == 2
    assert set(_place(view, replace(SMALL, memory_bytes=5 * GIB, hibernate=True)).refused.values()) == {Why.STATE_NOW}
    assert len(_place(view, replace(SMALL, memory_bytes=5 * GIB)).spots) == 2
    assert has_space_for_state(view, "pve1", 4 * GIB, settings_of())
    assert not has_space_for_state(view, "pve1", 5 * GIB, settings_of())
    assert not has_space_for_state(view, "pve9", 1 * GIB, settings_of())


def test_memory_of_hibernated_servers_goes_to_a_shared_storage_or_to_the_administrators():
    storages = [
        storage_of("aaa", "pve1", shared=False, used_bytes=0),
        storage_of("ceph", "pve1", used_bytes=999 * GIB),
        storage_of("iso", "pve1", content=frozenset({"iso"})),
    ]
    view = view_of(node_of("pve1"), storages=storages)

    assert not has_space_for_state(view, "pve1", 4 * GIB, settings_of())
    assert has_space_for_state(view, "pve1", 4 * GIB, settings_of(hibernate_storage="aaa"))


def test_a_device_is_had_where_the_mapping_has_one_that_is_free():
    need = replace(SMALL, pci="gpu")

    placement = _place(view_of(), need, devices={"pve1": 0, "pve2": 1})
    taken = _place(view_of(), need, devices={"pve1": 0, "pve2": 1}, promised=[Promise(node="pve2", pci="gpu")])

    assert _nodes(placement) == ["pve2"]
    assert placement.refused == {"pve1": Why.DEVICE_NOW, "pve3": Why.NO_DEVICE}
    assert taken.refused["pve2"] is Why.DEVICE_NOW
    assert len(_place(view_of(), need).spots) == 3  # who may not read mappings finds out by trying


# -- in which order


def test_spread_goes_to_the_emptiest_and_pack_to_the_fullest():
    view = view_of(vms=[vm_of(100, "pve1", maxmem=30 * GIB), vm_of(101, "pve2", maxmem=10 * GIB)])

    assert _nodes(_place(view)) == ["pve3", "pve2", "pve1"]
    assert _nodes(_place(view, settings=settings_of(placement="pack"))) == ["pve1", "pve2", "pve3"]


def test_where_sizes_are_unknown_the_number_of_servers_tells_who_is_busy():
    blind = {"maxmem": None, "mem": None, "maxcpu": None}
    view = view_of(*(node_of(f"pve{n}", **blind) for n in (1, 2, 3)), vms=[vm_of(100, "pve1"), vm_of(101, "pve2")])
    coming = [Promise(node="pve2")]

    assert _nodes(_place(view, promised=coming)) == ["pve3", "pve1", "pve2"]
    assert _nodes(_place(view, promised=coming, settings=settings_of(placement="pack"))) == ["pve2", "pve1", "pve3"]


# -- what is said


def _error(view: View, need: Need = SMALL, *templates: Template, **more: Any) -> Any:
    placement = _place(view, need, *templates, **more)
    assert not placement.spots
    return nowhere(placement, need, view=view, settings=more.get("settings", settings_of()))


def test_full_now_is_a_matter_of_waiting():
    error = _error(view_of(vms=[vm_of(100 + n, f"pve{n}", maxmem=63 * GIB) for n in (1, 2, 3)]))

    assert isinstance(error, NoRoom)
    assert "enough memory free now" in error.message
    assert "pve1: too little memory free" in str(error)
    assert "pve" not in error.message


def test_larger_than_every_node_is_never():
    error = _error(view_of(), replace(SMALL, memory_bytes=200 * GIB))

    assert isinstance(error, NeverFits)
    assert "needs 200 GiB, more than any machine here has (64 GiB)" in error.message
    assert "pve1: has less memory than that" in str(error)


def test_more_cores_than_every_node_has_is_never_too():
    error = _error(view_of(), replace(SMALL, cpu=1000))

    assert isinstance(error, NeverFits)
    assert "No machine here can run this profile" in error.message


def test_one_large_node_that_is_away_makes_it_a_matter_of_waiting():
    view = view_of(node_of("pve1", maxmem=9 * GIB), node_of("pve2", online=False))

    assert isinstance(_error(view, replace(SMALL, memory_bytes=32 * GIB)), NoRoom)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (lambda: _error(view_of(quorate=False)), ProviderUnavailable, "starts no servers just now"),
        (lambda: _error(view_of(), draining={"pve1", "pve2", "pve3"}), NoRoom, "are full now"),
        (lambda: _error(view_of(), replace(SMALL, pci="gpu"), devices={"pve1": 0}), NoRoom, "All GPUs of this kind"),
        (lambda: _error(view_of(), replace(SMALL, pci="gpu"), devices={}), SetupError, "the GPU that it names"),
        (
            lambda: _error(view_of(), SMALL, template_of(node="pve9", storages=("gone",))),
            SetupError,
            "on no machine that may run it",
        ),
        (lambda: _error(view_of(), replace(SMALL, nodes=frozenset({"x"}))), SetupError, "no machine that this profile"),
        (lambda: _error(view_of(node_of("pve1", online=False))), NoRoom, "are not there now"),
        (lambda: no_template("gold"), SetupError, "The template gold of this profile"),
    ],
)
def test_each_reason_has_its_sentence(error: Any, kind: type[Exception], says: str):
    made = error()

    assert isinstance(made, kind)
    assert says in made.message


# -- templates


def test_a_template_is_found_by_its_number_or_by_its_name_on_each_node():
    machines = [
        vm_of(9001, "pve1", template=True, name="gold", status="stopped"),
        vm_of(9002, "pve1", template=True, name="gold", status="stopped"),
        vm_of(9003, "pve2", template=True, name="gold", status="stopped"),
        vm_of(9004, "pve3", template=False, name="gold"),
    ]
    view = view_of(vms=machines)

    assert [vm.vmid for vm in find_templates(view, "gold")] == [9002, 9003]
    assert [vm.vmid for vm in find_templates(view, "9001")] == [9001]
    assert find_templates(view, "9004") == ()
    assert find_templates(view, "9999") == ()
    assert find_templates(view, "silver") == ()


def test_a_template_whose_kind_is_not_told_yet_may_be_one():
    view = view_of(vms=[vm_of(9001, "pve1", template=None, status="unknown")])

    assert [vm.vmid for vm in find_templates(view, "9001")] == [9001]


def test_a_template_is_read_from_its_configuration():
    config = config_of(cores=2, sockets=2, memory="current=4096", efidisk0="local:vm-9100-disk-1,size=4M")

    template = Template.of(vm_of(9100, "pve2"), config)

    assert template == Template(
        vmid=9100,
        node="pve2",
        storages=("ceph", "local"),
        disk_bytes=3 * GIB + 4 * MIB,
        cores=4,
        memory_bytes=4 * GIB,
    )
    assert Template.of(vm_of(9100, "pve2"), {}).memory_bytes == 512 * MIB


# -- capacity


def _capacity(view: View, **more: Any) -> Any:
    return capacity(view, **{"settings": settings_of(), "hub_id": "lab", "taken_at": NOW, **more})


def test_capacity_is_told_for_each_node_and_who_is_counted_in_it():
    mine = vm_of(20_001, "pve1", tags=tuple(tags_of("lab", LeaseId("l1")).split(";")))
    off = vm_of(20_002, "pve1", status="stopped", tags=tuple(tags_of("lab", LeaseId("l2")).split(";")))
    other = vm_of(30_001, "pve2", tags=tuple(tags_of("other", LeaseId("l3")).split(";")))

    room = _capacity(view_of(vms=[mine, off, other]))

    assert room.counted == {"l1"}
    assert [host.name for host in room.hosts] == ["pve1", "pve2", "pve3"]
    assert [host.memory_free_bytes for host in room.hosts] == [60 * GIB, 60 * GIB, 64 * GIB]
    assert {host.memory_total_bytes for host in room.hosts} == {64 * GIB}
    assert [host.cpu_free for host in room.hosts] == [62.0, 62.0, 64.0]


def test_the_usual_admission_works_with_it():
    room = _capacity(view_of(vms=[vm_of(100 + n, f"pve{n}", maxmem=60 * GIB) for n in (1, 2, 3)]))

    assert isinstance(admit(Resources(memory_bytes=4 * GIB), room, {}), Fits)
    assert isinstance(admit(Resources(memory_bytes=8 * GIB), room, {}), Full)
    assert isinstance(admit(Resources(memory_bytes=65 * GIB), room, {}), TooLarge)
    assert isinstance(admit(Resources(cpu=100), room, {}), TooLarge)


@pytest.mark.parametrize(
    ("view", "more"),
    [
        (view_of(quorate=False), {}),
        (view_of(), {"draining": {"pve1", "pve2", "pve3"}}),
        (view_of(*(node_of(f"pve{n}", online=False, maxmem=None) for n in (1, 2))), {}),
        (view_of(storages=[storage_of("ceph", f"pve{n}", used_bytes=999 * GIB) for n in (1, 2, 3)]), {}),
        (view_of(), {"servers_left": 0}),
    ],
    ids=["no quorum", "draining", "away", "disks full", "no id left"],
)
def test_a_cluster_that_takes_nothing_now_is_full_and_not_too_small(view: View, more: dict[str, Any]):
    assert isinstance(admit(Resources(memory_bytes=GIB), _capacity(view, **more), {}), Full)


def test_a_node_that_is_not_for_servers_is_no_room():
    room = _capacity(view_of(), settings=settings_of(nodes={"pve2": {"servers": 3}}), servers_left=2)

    assert [(host.name, host.servers_total, host.servers_free) for host in room.hosts] == [("pve2", 3, 2)]


# -- properties

NODES = ("pve1", "pve2", "pve3")
VMS = st.lists(
    st.tuples(st.sampled_from(NODES), st.integers(1, 24), st.integers(1, 8), st.sampled_from(["running", "stopped"])),
    max_size=8,
)


@given(
    VMS,
    st.sets(st.sampled_from(NODES)),
    st.sets(st.sampled_from(NODES)),
    st.integers(1, 40),
    st.sampled_from(["spread", "pack"]),
    st.sampled_from([1.0, 1.5]),
)
@settings(max_examples=150, deadline=None)
def test_no_placement_overcommits_a_node_and_every_node_is_answered(
    machines: list[tuple[str, int, int, str]],
    away: set[str],
    draining: set[str],
    gibibytes: int,
    order: str,
    overcommit: float,
):
    view = view_of(
        *(node_of(name, online=name not in away, maxmem=33 * GIB) for name in NODES),
        vms=[
            vm_of(100 + index, node, maxmem=memory * GIB, maxcpu=cores, status=status, mem=0)
            for index, (node, memory, cores, status) in enumerate(machines)
        ],
    )
    given_ = settings_of(placement=order, memory_overcommit=overcommit)
    need = Need(cpu=1, memory_bytes=gibibytes * GIB)
    promised: list[Promise] = []

    while (placement := _place(view, need, settings=given_, draining=draining, promised=promised)).spots:
        spot = placement.spots[0]
        assert spot.node not in away | draining
        promised.append(promise_of(spot, need))
        assert len(promised) <= 3 * 50

    assert set(placement.refused) == set(NODES)
    assert nowhere(placement, need, view=view, settings=given_).message
    for name in NODES:
        used = sum(memory for node, memory, _, status in machines if node == name and status == "running")
        coming = sum(each.memory_bytes for each in promised if each.node == name)
        assert not coming or used * GIB + coming <= 33 * GIB * overcommit - GIB


@given(VMS, st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_admission_and_placement_agree(machines: list[tuple[str, int, int, str]], gibibytes: int):
    view = view_of(
        *(node_of(name, maxmem=33 * GIB) for name in NODES),
        vms=[
            vm_of(100 + index, node, maxmem=memory * GIB, maxcpu=cores, status=status, mem=0)
            for index, (node, memory, cores, status) in enumerate(machines)
        ],
    )
    resources = Resources(cpu=1, memory_bytes=gibibytes * GIB)
    need = need_of(resources)

    admitted = admit(resources, _capacity(view), {})
    placement = _place(view, need)

    assert isinstance(admitted, Fits) == bool(placement.spots)
    if not placement.spots:
        never = isinstance(nowhere(placement, need, view=view, settings=settings_of()), NeverFits)
        assert isinstance(admitted, TooLarge) == never
