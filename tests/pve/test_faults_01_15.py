"""What goes wrong on a cluster, first half: each fault is caused, and the reaction looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from labspawner.errors import LabError, NoRoom, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import Checkpoint, Handle, LeaseId, ReleaseMode, ServerState
from labspawner.providers.proxmox import ids, words
from labspawner.providers.proxmox.marks import QUARANTINE
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.providers.proxmox.record import Stage, record_of
from labspawner.providers.proxmox.reserving import lost_lease
from labspawner.testing.conformance.base import status_of
from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually

from .providers import Started, a_request, follow, outcome, provider_on

OpenProvider = Callable[..., ProxmoxProvider]
LOCKED = "can't lock file '/var/lock/qemu-server/lock-9100.conf' - got timeout"
STORAGE_LOCKED = "clone failed: cfs-lock 'storage-shared' error: got lock request timeout"


@pytest_asyncio.fixture
async def open_provider(pve: PveDouble, tmp_path: Path) -> AsyncIterator[OpenProvider]:
    """Makes providers on the double, and closes them."""
    made: list[ProxmoxProvider] = []

    def open_one(hub_id: str = "test-hub", **settings: Any) -> ProxmoxProvider:
        made.append(provider_on(pve, tmp_path / f"{hub_id}-{len(made)}", hub_id, **settings))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(open_provider: OpenProvider) -> ProxmoxProvider:
    return open_provider()


async def nothing_left(provider: ProxmoxProvider, pve: PveDouble) -> None:
    assert list(await provider.owned()) == []
    assert [vm.vmid for vm in pve.vms() if not vm.template] == []
    assert pve.invariants() == []


# -- 1, 2: tasks


@pytest.mark.parametrize("kind", ["qmclone", "qmstart"])
async def test_01_a_task_that_fails_ends_the_start_with_its_words_in_the_detail_and_leaves_nothing(
    provider: ProxmoxProvider, pve: PveDouble, kind: str
) -> None:
    pve.faults.task_fails(kind, "the moon is in the wrong phase")

    with pytest.raises(LabError) as failure:
        await follow(provider, a_request(pve))

    assert "the moon is in the wrong phase" in str(failure.value)
    assert "moon" not in failure.value.message
    await nothing_left(provider, pve)


@pytest.mark.parametrize("kind", ["qmclone", "qmstart"])
async def test_02_warnings_of_a_task_are_success(provider: ProxmoxProvider, pve: PveDouble, kind: str) -> None:
    pve.faults.task_fails(kind, "WARNINGS: 2")

    started = await follow(provider, a_request(pve))

    assert await status_of(started.api_url) == 200


# -- 3: locks


@pytest.mark.parametrize("text", [LOCKED, STORAGE_LOCKED])
async def test_03_a_clone_that_met_a_lock_is_tried_again_with_the_same_id(
    provider: ProxmoxProvider, pve: PveDouble, text: str
) -> None:
    pve.faults.task_fails("qmclone", text, times=3)

    started = await follow(provider, a_request(pve))

    tried = [request.params["newid"] for request in pve.requests.matching("POST", "/clone$")]
    assert len(tried) == 4
    assert {int(each) for each in tried} == {started.vmid}
    assert await status_of(started.api_url) == 200


@pytest.mark.parametrize("path", ["/config$", "/status/start$"])
async def test_03_a_lock_held_by_somebody_else_is_waited_for_at_every_step(
    provider: ProxmoxProvider, pve: PveDouble, path: str
) -> None:
    pve.faults.fail("PUT" if path == "/config$" else "POST", path, 500, LOCKED, times=2)

    started = await follow(provider, a_request(pve))

    assert await status_of(started.api_url) == 200


async def test_03_a_lock_that_never_goes_ends_the_start_softly_and_leaves_nothing(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.faults.task_fails("qmclone", STORAGE_LOCKED, times=-1)

    with pytest.raises(ProviderUnavailable):
        await follow(provider, a_request(pve))

    await nothing_left(provider, pve)


# -- 4: the id


def first_id(lease_id: LeaseId) -> int:
    """The id that a start of this lease tries first."""
    return next(ids.candidates(ids.VmidRange(), seen=(), seed=lease_id))


async def test_04_an_id_that_an_unseen_vm_has_is_left_alone_and_the_next_is_taken(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    request = a_request(pve)
    taken = first_id(request.lease_id)
    pve.add_vm(taken, "pve2", name="somebody-elses")  # in no pool that our token sees

    started = await follow(provider, request)

    assert started.vmid != taken
    assert pve.vm(taken).name == "somebody-elses"
    assert await status_of(started.api_url) == 200


@pytest.mark.parametrize(
    ("as_task", "text"),
    [
        (False, "unable to create VM {id}: config file already exists"),
        (False, "unable to create VM {id} - VM {id} already exists on node 'pve1'"),
        (True, "unable to create VM {id}: config file already exists"),
    ],
)
async def test_04_each_shape_of_a_lost_race_for_the_id_leads_to_the_next_one(
    provider: ProxmoxProvider, pve: PveDouble, as_task: bool, text: str
) -> None:
    request = a_request(pve)
    taken = first_id(request.lease_id)
    if as_task:
        pve.faults.task_fails("qmclone", text.format(id=taken))
    else:
        pve.faults.fail("POST", "/clone$", 500, text.format(id=taken))

    started = await follow(provider, request)

    assert started.vmid != taken
    assert await status_of(started.api_url) == 200
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)
    await nothing_left(provider, pve)


async def test_04_who_loses_every_race_gives_up_softly_and_leaves_nothing(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.faults.fail("POST", "/clone$", 500, "unable to create VM 1: config file already exists", times=-1)

    with pytest.raises(LabError):
        await follow(provider, a_request(pve))

    assert pve.requests.count("POST", "/clone$") == 5
    await nothing_left(provider, pve)


# -- 5 to 8: templates, storages, nodes


async def test_05_a_template_on_local_storage_is_cloned_on_its_own_node(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    started = await follow(provider, a_request(pve, settings={"template": str(pve.local_template)}))

    assert pve.vm(started.vmid).node == pve.vm(pve.local_template).node
    assert await status_of(started.api_url) == 200


async def test_05_a_template_that_is_nowhere_is_said_by_name_before_anything_is_made(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    with pytest.raises(SetupError, match="misspelt"):
        await follow(provider, a_request(pve, settings={"template": "misspelt"}))

    assert pve.requests.count("POST") == 0
    await nothing_left(provider, pve)


async def test_06_without_space_for_a_full_copy_nothing_is_cloned(provider: ProxmoxProvider, pve: PveDouble) -> None:
    pve.faults.storage_full(pve.storage)
    await seen_full(provider, pve)

    with pytest.raises(NoRoom):
        await follow(provider, a_request(pve, settings={"full": True}))

    assert pve.requests.count("POST", "/clone$") == 0
    await nothing_left(provider, pve)


async def test_06_without_space_for_its_memory_a_server_is_stopped_and_keeps_its_disk(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    started = await follow(provider, a_request(pve))
    for storage in (pve.storage, pve.local_storage):
        pve.faults.storage_full(storage)

    await provider.release(started.handle, ReleaseMode.HIBERNATE, grace_s=30)

    vm = pve.vm(started.vmid)
    assert (vm.running, vm.lock) == (False, "")
    assert await provider.observe([started.handle]) == {started.request.lease_id: ServerState.GONE}


async def test_07_a_node_that_is_away_gets_no_vm(provider: ProxmoxProvider, pve: PveDouble) -> None:
    pve.faults.node_down("pve3")

    async def seen() -> bool:
        return not (await provider.snapshots.now(0.0)).online("pve3")

    await eventually(seen, 20)
    several = await asyncio.gather(*(follow(provider, a_request(pve, user=f"s{number}")) for number in range(4)))

    assert "pve3" not in {pve.vm(started.vmid).node for started in several}


async def test_07_a_node_is_looked_at_again_right_before_the_clone(
    provider: ProxmoxProvider, open_provider: OpenProvider, pve: PveDouble
) -> None:
    witness = open_provider("witness")
    first = await follow(provider, a_request(pve, user="first"))
    away = pve.vm(first.vmid).node
    other = next(name for name in ("pve2", "pve3") if name != away)
    pve.faults.node_down(other)

    async def seen_by_peers() -> bool:
        return not (await witness.snapshots.now(0.0)).online(other)

    await provider.snapshots.now(0.0)  # which has all nodes
    await eventually(seen_by_peers, 20)
    started = await follow(provider, a_request(pve))

    assert pve.vm(started.vmid).node != other


async def test_08_a_node_lost_in_the_middle_of_a_clone_leaves_no_second_vm(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    request = a_request(pve, settings={"full": True}, ready_timeout_s=60.0)
    handles: list[Handle] = []

    async def lose_it() -> None:
        events: Any = provider.launch(request)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Checkpoint):
                    handles.append(event.handle)
                    if record_of(event.handle).stage is Stage.CLONED:
                        pve.faults.node_down("pve1")

    error = await outcome(lose_it())

    assert isinstance(error, LabError)
    pve.faults.node_up("pve1")

    first = record_of(handles[2]).vmid
    assert first is not None

    async def freed() -> bool:
        released = await outcome(provider.release(handles[-1], ReleaseMode.DESTROY, grace_s=1))
        return released is None and {each.lease_id for each in await provider.owned()} <= {lost_lease(first)}

    await eventually(freed, 20)
    assert [vm.lock for vm in pve.vms() if not vm.template] in ([], ["clone"])  # half a VM only an administrator sees
    assert [each.lease_id for each in await provider.owned()] == [lost_lease(first)]


# -- 9 to 11: the way up


async def test_09_a_start_that_timed_out_and_runs_all_the_same_goes_on(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.faults.task_fails("qmstart", "start failed: command '/usr/bin/kvm' failed: got timeout", after_effect=True)

    started = await follow(provider, a_request(pve))

    assert len(pve.tasks("qmstart")) == 1
    assert await status_of(started.api_url) == 200


async def test_09_a_start_that_timed_out_and_does_not_run_is_tried_once_more(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.faults.task_fails("qmstart", "start failed: command '/usr/bin/kvm' failed: got timeout")

    started = await follow(provider, a_request(pve))

    assert len(pve.tasks("qmstart")) == 2
    assert await status_of(started.api_url) == 200


async def test_10_an_agent_that_never_comes_is_said_after_one_reset_and_leaves_nothing(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.guests.set(pve.template, agent=False)
    started = Started(a_request(pve, settings={"template": str(pve.template), "agent_timeout_s": 20.0}))

    with pytest.raises(StartFailed) as failure:
        await follow(provider, started.request, started)

    assert failure.value.message == words.NO_AGENT
    assert words.BOOTING_AGAIN in started.words
    assert pve.requests.count("POST", "/status/reset$") == 1
    await nothing_left(provider, pve)


async def test_10_a_template_without_our_helper_is_told_to_the_instructor(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.guests.set(pve.template, helper=False)

    with pytest.raises(SetupError, match="labspawner-guest"):
        await follow(provider, a_request(pve))

    await nothing_left(provider, pve)


async def test_11_a_slow_cloud_init_is_waited_for_and_said(provider: ProxmoxProvider, pve: PveDouble) -> None:
    pve.guests.set(pve.template, cloud_init="running")
    started = Started(a_request(pve))
    start = asyncio.create_task(follow(provider, started.request, started))

    await eventually(lambda: start.done() or words.SETTING_UP in started.words, 60)
    assert not start.done()
    pve.guests.set(started.vmid, cloud_init="done")
    await start

    assert await status_of(started.api_url) == 200


# -- 12, 13: what a hub finds


async def test_12_a_new_hub_process_resumes_from_the_handle_and_never_clones_again(
    open_provider: OpenProvider, pve: PveDouble
) -> None:
    lost = open_provider()
    request = a_request(pve)
    events: Any = lost.launch(request)
    handle = None
    async for event in events:
        if isinstance(event, Checkpoint) and record_of(event.handle).stage is Stage.MADE:
            handle = event.handle
            break
    assert handle is not None

    resumed = await follow(open_provider(), a_request(pve, lease_id=request.lease_id, parked=handle))

    assert resumed.vmid == record_of(handle).vmid
    assert pve.requests.count("POST", "/clone$") == 1
    assert await status_of(resumed.api_url) == 200
    await events.aclose()


async def test_13_a_second_vm_of_a_lease_is_switched_off_and_tagged_and_the_first_runs_on(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    started = await follow(provider, a_request(pve))
    first = pve.vm(started.vmid)
    second = 29_998
    copied = {key: first.config[key] for key in ("name", "tags", "description", "memory")}
    pve.add_vm(second, "pve2", pool=pve.pool, running=True, **copied)

    async def put_aside() -> bool:
        await provider.owned()
        return QUARANTINE in pve.vm(second).tags and not pve.vm(second).running

    await eventually(put_aside, 20)
    assert pve.vm(started.vmid).running
    assert QUARANTINE not in pve.vm(started.vmid).tags
    assert await status_of(started.api_url) == 200
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)
    await nothing_left(provider, pve)


# -- 14, 15: rights


async def test_14_a_revoked_token_makes_servers_unknown_never_gone_and_is_not_asked_for_again_and_again(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    started = await follow(provider, a_request(pve))
    pve.faults.revoke(pve.token)
    pve.requests.clear()

    with pytest.raises(ProviderUnavailable):
        await provider.owned()
    states = [await provider.observe([started.handle]) for _ in range(20)]

    assert states == [{started.request.lease_id: ServerState.UNKNOWN}] * 20
    assert pve.requests.count() <= 10
    assert await status_of(started.api_url) == 200
    pve.faults.restore(pve.token)

    async def healed() -> bool:
        return await provider.observe([started.handle]) == {started.request.lease_id: ServerState.RUNNING}

    await eventually(healed, 60)


async def test_15_a_missing_right_is_named_with_its_path_for_the_administrator(
    provider: ProxmoxProvider, pve: PveDouble
) -> None:
    pve.faults.drop_privilege("VM.PowerMgmt")

    with pytest.raises(LabError) as failure:
        await follow(provider, a_request(pve))

    assert "VM.PowerMgmt" in str(failure.value)
    assert "/vms/" in str(failure.value)
    assert "VM.PowerMgmt" not in failure.value.message


async def seen_full(provider: ProxmoxProvider, pve: PveDouble) -> None:
    """Return when listings show that the storage is full."""

    async def full() -> bool:
        view = await provider.snapshots.now(0.0)
        return all((each.free_bytes or 0) < 2**30 for each in view.storages if each.name == pve.storage)

    await eventually(full, 20)
