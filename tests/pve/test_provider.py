"""What the provider does with VMs beyond the contract that all providers keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from labspawner.errors import LeaseConflict, ProviderUnavailable, SetupError
from labspawner.model import Checkpoint, Feature, LeaseId, ReleaseMode, Resources, ServerState
from labspawner.providers.contract import Announcing, Consoling, Keeping
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.marks import read_marker
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.providers.proxmox.record import Record, Stage, record_of
from labspawner.providers.proxmox.reserving import lost_lease
from labspawner.providers.proxmox.watch import MOST_ASKED
from labspawner.sentences import Sentence
from labspawner.testing.conformance.base import status_of
from labspawner.testing.pve import PveDouble
from labspawner.testing.requests import launch_request
from labspawner.testing.waiting import eventually

from .providers import a_request, follow, outcome, provider_on

OpenProvider = Callable[..., ProxmoxProvider]
MOST_REQUESTS_A_START = 25
GIB = 2**30


class Heard:
    """An ear that remembers."""

    def __init__(self) -> None:
        self.ends: list[tuple[LeaseId, Sentence | None]] = []

    def ended(self, lease_id: LeaseId, reason: Sentence | None) -> None:
        self.ends.append((lease_id, reason))

    def freed(self) -> None:
        pass


@pytest_asyncio.fixture
async def open_provider(pve: PveDouble, tmp_path: Path) -> AsyncIterator[OpenProvider]:
    """Makes providers on the double, each of a folder of its own unless told otherwise, and closes them."""
    made: list[ProxmoxProvider] = []

    def open_one(hub_id: str = "test-hub", folder: str = "", **settings: Any) -> ProxmoxProvider:
        made.append(provider_on(pve, tmp_path / (folder or f"{hub_id}-{len(made)}"), hub_id, **settings))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(open_provider: OpenProvider) -> ProxmoxProvider:
    return open_provider()


# -- made


def test_it_can_what_the_hub_asks_of_a_provider_of_machines(provider: ProxmoxProvider) -> None:
    assert isinstance(provider, Consoling)
    assert isinstance(provider, Announcing)
    assert isinstance(provider, Keeping)
    assert provider.keeps_files({})
    assert Feature.HIBERNATE in provider.features


async def test_building_and_closing_it_asks_nothing_and_writes_nothing(pve: PveDouble, tmp_path: Path) -> None:
    provider = provider_on(pve, tmp_path / "data")

    await provider.close()

    assert pve.requests.count() == 0
    assert list((tmp_path / "data").iterdir()) == []


async def test_a_start_asks_the_cluster_no_more_than_25_times(
    open_provider: OpenProvider, pve: PveDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labspawner.providers.proxmox.pace._HURRY", 0.01)  # no listing gets old on a slow machine
    provider = open_provider()
    await follow(provider, a_request(pve, user="warm-up"))
    pve.requests.clear()

    await follow(provider, a_request(pve))

    assert pve.requests.count() <= MOST_REQUESTS_A_START


async def test_twenty_starts_at_once_are_twenty_servers_on_all_nodes(provider: ProxmoxProvider, pve: PveDouble) -> None:
    requests = [a_request(pve, user=f"student{number}") for number in range(20)]

    several = await asyncio.gather(*(follow(provider, request) for request in requests))

    assert await asyncio.gather(*(status_of(started.api_url) for started in several)) == [200] * 20
    assert {pve.vm(started.vmid).node for started in several} == {"pve1", "pve2", "pve3"}
    assert pve.invariants() == []


async def test_a_vm_says_whose_it_is_and_is_as_the_profile_says(provider: ProxmoxProvider, pve: PveDouble) -> None:
    wanted = Resources(cpu=3, memory_bytes=3 * GIB, disk_bytes=12 * GIB)
    request = a_request(pve, user="张三", server_name="数据", resources=wanted)

    started = await follow(provider, request)

    vm = pve.vm(started.vmid)
    marker = read_marker(vm.description)
    assert marker is not None
    assert (marker.lease_id, marker.user, marker.server_name) == (request.lease_id, "张三", "数据")
    assert (vm.cores, vm.memory_bytes, vm.pool) == (3, 3 * GIB, pve.pool)
    assert vm.address == record_of(started.handle).address
    assert max(volume.size_bytes for volume in pve.volumes(vmid=vm.vmid)) == 12 * GIB
    assert str(vm.config["ciupgrade"]) == "0"


async def test_no_secret_reaches_the_cluster_but_on_standard_input(provider: ProxmoxProvider, pve: PveDouble) -> None:
    secret = "a-token-that-nobody-may-see"
    environment = {**launch_request().environment, "JUPYTERHUB_API_TOKEN": secret}

    started = await follow(provider, a_request(pve, environment=environment))

    said = json.dumps([[request.path, dict(request.params)] for request in pve.requests.matching()], default=str)
    assert secret not in said
    assert secret not in json.dumps(pve.vm(started.vmid).config, default=str)
    assert secret not in json.dumps([dict(handle.data) for handle in started.handles])
    assert secret not in await provider.logs(started.handle, 100)


async def test_a_vm_without_a_pool_of_addresses_is_found_by_what_its_own_card_has(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    provider = open_provider(addresses={})

    started = await follow(provider, a_request(pve, settings={"template": str(pve.template), "ssh": True}))

    assert await status_of(started.api_url) == 200
    assert record_of(started.handle).address in started.url
    assert provider.ssh(started.handle) == f"student@{record_of(started.handle).address}"


@pytest.mark.parametrize("network", ["docker", "link-local"])
async def test_other_cards_and_link_local_addresses_are_never_taken_for_the_vms(
    open_provider: OpenProvider, pve: PveDouble, network: str
) -> None:
    pve.guests.set(pve.template, network=network)

    started = await follow(open_provider(addresses={}), a_request(pve))

    assert await status_of(started.api_url) == 200


async def test_an_address_that_answers_before_its_vm_has_booted_is_left_to_whoever_has_it(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    network = pve.address_pool.split("-")[0].rpartition(".")[0]
    provider = open_provider(addresses={"default": f"{network}.20-{network}.21"})
    squatters = [await asyncio.start_server(lambda _, writer: writer.close(), f"{network}.20", 8888)]
    try:
        started = await follow(provider, a_request(pve))
    finally:
        for squatter in squatters:
            squatter.close()
            await squatter.wait_closed()

    assert record_of(started.handle).address == f"{network}.21"


async def test_a_desktop_without_jupyter_is_ready_at_the_desktop_service(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    settings = {"template": str(pve.template), "jupyter": False}

    started = await follow(open_provider(desktop_url="http://127.0.0.1:8050"), a_request(pve, settings=settings))

    assert started.url == "http://127.0.0.1:8050"
    assert pve.vm(started.vmid).running
    with pytest.raises(SetupError):
        await follow(open_provider(), a_request(pve, settings=settings))


async def test_a_profile_without_a_template_is_told_to_its_instructor(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    with pytest.raises(SetupError, match="template"):
        await follow(provider, a_request(pve, settings={"template": None}))


async def test_a_lease_that_has_a_vm_gets_no_second_one(open_provider: OpenProvider, pve: PveDouble) -> None:
    started = await follow(open_provider(), a_request(pve))

    with pytest.raises(LeaseConflict):
        await follow(open_provider(), a_request(pve, lease_id=started.request.lease_id))

    assert await status_of(started.api_url) == 200


# -- parked


async def test_a_hibernated_server_wakes_as_the_same_vm_with_its_new_token(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    first = await follow(provider, a_request(pve))
    await provider.release(first.handle, ReleaseMode.HIBERNATE, grace_s=30)
    assert pve.vm(first.vmid).lock == "suspended"
    pve.requests.clear()

    woken = await follow(provider, a_request(pve, lease_id=first.request.lease_id, parked=first.handle))

    assert woken.vmid == first.vmid
    assert words.WAKING in woken.words
    assert pve.requests.count("POST", "/clone$") == 0
    assert await status_of(woken.api_url) == 200


async def test_a_stopped_server_keeps_id_address_and_disk_and_gets_what_its_profile_says_by_now(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    first = await follow(provider, a_request(pve, resources=Resources(memory_bytes=GIB)))
    await provider.release(first.handle, ReleaseMode.STOP, grace_s=30)
    disks = {volume.volid for volume in pve.volumes(vmid=first.vmid)}

    again = a_request(
        pve, lease_id=first.request.lease_id, parked=first.handle, resources=Resources(memory_bytes=2 * GIB)
    )
    woken = await follow(provider, again)

    assert (woken.vmid, woken.url) == (first.vmid, first.url)
    assert disks <= {volume.volid for volume in pve.volumes(vmid=first.vmid)}
    assert pve.vm(first.vmid).memory_bytes == 2 * GIB


async def test_a_vm_with_a_device_is_stopped_instead_of_hibernated(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve))
    pve.set_config(started.vmid, hostpci0="mapping=gpu")

    await provider.release(started.handle, ReleaseMode.HIBERNATE, grace_s=30)

    assert (pve.vm(started.vmid).running, pve.vm(started.vmid).lock) == (False, "")


async def test_a_parked_vm_on_a_node_that_is_away_is_waited_for_and_not_made_anew(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    first = await follow(provider, a_request(pve))
    await provider.release(first.handle, ReleaseMode.STOP, grace_s=30)
    other = "pve2" if pve.vm(first.vmid).node != "pve2" else "pve3"
    pve.faults.migrate(first.vmid, other)
    pve.faults.node_down(other)

    async def seen() -> bool:
        return not (await provider.snapshots.now(0.0)).online(other)

    await eventually(seen, 20)
    with pytest.raises(ProviderUnavailable):
        await follow(provider, a_request(pve, lease_id=first.request.lease_id, parked=first.handle))

    assert pve.requests.count("POST", "/clone$") == 1
    assert pve.vm(first.vmid).vmid == first.vmid


# -- watched


async def test_a_vm_switched_off_by_somebody_else_is_gone_and_told_at_once_and_kept(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    started, ear = await follow(provider, a_request(pve)), Heard()
    provider.announce_to(ear)
    assert await provider.observe([started.handle]) == {started.request.lease_id: ServerState.RUNNING}
    pve.faults.stop(started.vmid)

    async def gone() -> bool:
        return (await provider.observe([started.handle]))[started.request.lease_id] is ServerState.GONE

    await eventually(gone, 20)
    assert [lease_id for lease_id, _ in ear.ends] == [started.request.lease_id]
    assert "switched off" in str(ear.ends[0][1])
    assert len(await provider.owned()) == 1


async def test_where_a_whole_node_tells_nothing_its_vms_are_asked_in_turn(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    requests = [a_request(pve, user=f"student{number}") for number in range(MOST_ASKED + 2)]
    several = await asyncio.gather(*(follow(provider, request) for request in requests))
    handles = [started.handle for started in several]
    for name in ("pve1", "pve2", "pve3"):
        pve.faults.unknown(name)

    async def told_nothing() -> bool:
        view = await provider.snapshots.now(0.0)
        return all(view.vms[started.vmid].status == "unknown" for started in several)

    await eventually(told_nothing, 20)
    first = await provider.observe(handles)
    second = await provider.observe(handles)

    assert list(first.values()).count(ServerState.RUNNING) == MOST_ASKED
    assert all(ServerState.RUNNING in (first[handle.lease_id], second[handle.lease_id]) for handle in handles)
    assert ServerState.GONE not in {*first.values(), *second.values()}


async def test_a_vm_that_moved_is_found_where_it_is(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve))
    other = "pve2" if pve.vm(started.vmid).node != "pve2" else "pve3"
    pve.faults.migrate(started.vmid, other)

    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert list(await provider.owned()) == []


async def test_usage_and_activity_come_from_listing_and_helper(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve, resources=Resources(cpu=2, memory_bytes=GIB)))

    async def measured() -> bool:
        usage = await provider.usage([started.handle])
        return started.request.lease_id in usage and usage[started.request.lease_id].memory_limit_bytes == GIB

    await eventually(measured, 20)
    activity = await provider.activity(started.handle)
    assert activity is not None
    assert activity.busy is False


async def test_capacity_is_per_node_and_counts_what_runs(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve, resources=Resources(memory_bytes=GIB)))

    async def counted() -> bool:
        capacity = await provider.capacity()
        assert {host.name for host in capacity.hosts} == {"pve1", "pve2", "pve3"}
        return started.request.lease_id in capacity.counted

    await eventually(counted, 20)


async def test_a_console_is_a_ticket_for_the_vm_of_this_lease_alone(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    ours, theirs = open_provider(), open_provider("other-hub")
    started = await follow(ours, a_request(pve))

    ticket = await ours.console(started.handle)

    assert f"/qemu/{started.vmid}/" in ticket.url
    assert await outcome(theirs.console(started.handle)) is not None


# -- ended


async def test_without_a_quorum_nothing_is_deleted_and_later_it_is(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve))
    pve.faults.quorum(False)
    pve.requests.clear()

    with pytest.raises(ProviderUnavailable):
        await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert pve.requests.count("DELETE", "/qemu/") == 0
    assert pve.vm(started.vmid).vmid == started.vmid
    pve.faults.quorum(True)

    async def released() -> bool:
        return await outcome(provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)) is None

    await eventually(released, 20)
    assert list(await provider.owned()) == []


async def test_an_id_that_was_given_to_another_vm_is_never_touched(provider: ProxmoxProvider, pve: PveDouble) -> None:
    started = await follow(provider, a_request(pve))
    pve.faults.delete(started.vmid)
    pve.add_vm(started.vmid, "pve1", pool=pve.pool, running=True, name="somebody-elses")

    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    vm = pve.vm(started.vmid)
    assert (vm.name, vm.running) == ("somebody-elses", True)


async def test_a_clone_that_nobody_may_see_keeps_its_id_and_is_named_until_an_administrator_removed_it(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    request = a_request(pve)
    events: Any = provider.launch(request)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Checkpoint) and record_of(event.handle).stage is Stage.CLONING:
                vmid = record_of(event.handle).vmid
                assert vmid is not None
                pve.add_vm(vmid, "pve1", lock="clone", name="half")  # in no pool: what a dead clone leaves
                break

    left = Record(stage=Stage.CLONED, vmid=vmid).handle(request.lease_id, provider.name)
    await provider.release(left, ReleaseMode.DESTROY, grace_s=1)  # its student need not wait for an administrator
    (resource,) = await provider.owned()
    assert resource.lease_id == lost_lease(vmid)
    with pytest.raises(ProviderUnavailable, match="qm unlock"):
        await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
    pve.faults.delete(vmid)
    await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
    assert list(await provider.owned()) == []


@pytest.mark.parametrize("tags", ["labspawner", "labspawner;ls-hub-test-hub;ls-lease-lold", "course"])
async def test_a_clone_that_has_only_its_templates_tags_yet_is_found_by_its_marker_and_freed(
    provider: ProxmoxProvider, pve: PveDouble, tags: str
) -> None:
    pve.set_config(pve.template, tags=tags)  # of a template that was made from a student's VM, too
    pve.faults.fail("PUT", "/config$", 500, "no", times=-1)

    assert await outcome(follow(provider, a_request(pve))) is not None

    pve.faults.clear()
    for resource in await provider.owned():
        await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=1)
    assert [vm.vmid for vm in pve.vms() if not vm.template] == []


async def test_records_that_were_lost_are_made_again_from_the_vms(open_provider: OpenProvider, pve: PveDouble) -> None:
    started = await follow(open_provider(), a_request(pve))
    fresh = open_provider()  # of a folder without any records

    await fresh.owned()
    other = await follow(fresh, a_request(pve, user="other"))

    assert record_of(other.handle).address != record_of(started.handle).address
    assert other.vmid != started.vmid


@pytest.mark.parametrize("after", range(4))
async def test_a_resume_that_is_given_up_at_any_moment_leaves_the_parked_vm_as_it_was(
    provider: ProxmoxProvider, pve: PveDouble, after: int
) -> None:
    first = await follow(provider, a_request(pve))
    await provider.release(first.handle, ReleaseMode.STOP, grace_s=30)
    events: Any = provider.launch(a_request(pve, lease_id=first.request.lease_id, parked=first.handle))
    async with aclosing(events):
        task = asyncio.ensure_future(anext(events))
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    vm = pve.vm(first.vmid)
    assert (vm.running, vm.lock) == (False, "")
    assert [resource.lease_id for resource in await provider.owned()] == [first.request.lease_id]
    woken = await follow(provider, a_request(pve, lease_id=first.request.lease_id, parked=first.handle))
    assert woken.vmid == first.vmid


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/agent/ping$"), ("POST", "/agent/exec$"), ("GET", "/agent/network-get-interfaces$")],
)
async def test_a_cluster_that_is_silent_for_a_moment_does_not_end_a_boot(
    open_provider: OpenProvider, pve: PveDouble, method: str, path: str
) -> None:
    provider = open_provider(patience_s=600.0)  # half a minute at this pace; four questions may take long
    pve.faults.fail(method, path, status=0, times=4)

    started = await follow(provider, a_request(pve))

    assert await status_of(started.api_url) == 200


async def test_a_cluster_that_stays_silent_ends_a_boot_with_a_sentence(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    provider = open_provider(patience_s=10.0)
    pve.faults.fail("POST", "/agent/ping$", status=0, times=100_000)

    with pytest.raises(ProviderUnavailable):
        await follow(provider, a_request(pve))
