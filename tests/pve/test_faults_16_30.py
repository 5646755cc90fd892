"""Faults 16 to 30 of the measured list: each is caused on the cluster, and what the provider makes of it is looked at."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from pve.providers import Started, a_request, follow, outcome, provider_on

from labspawner.errors import LabError, ProviderUnavailable, StartFailed
from labspawner.model import ReleaseMode, ServerState
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually

LONG_S = 60.0
TEMPLATES = {9000, 9100}


@pytest.fixture
async def provider(pve: PveDouble, tmp_path) -> AsyncIterator[ProxmoxProvider]:
    opened = provider_on(pve, tmp_path / "hub", cool_down="1h")
    yield opened
    await opened.close()


@pytest.fixture
async def server(provider: ProxmoxProvider, pve: PveDouble) -> Started:
    return await follow(provider, a_request(pve))


async def state(provider: ProxmoxProvider, server: Started) -> ServerState:
    return (await provider.observe([server.handle]))[server.request.lease_id]


async def becomes(provider: ProxmoxProvider, server: Started, wanted: ServerState) -> None:
    """Looked at again and again, it is so in the end, and was never anything else but what it was or UNKNOWN."""
    first = await state(provider, server)
    allowed = {first, wanted, ServerState.UNKNOWN}

    async def there() -> bool:
        now = await state(provider, server)
        assert now in allowed, now
        return now is wanted

    await eventually(there, LONG_S, f"the server is {wanted}")


async def refused(work: Awaitable[object], kind: type[LabError] = LabError) -> LabError:
    """The error of `work`, which has a sentence that names no machine and no number."""
    error = await outcome(work)
    assert isinstance(error, kind), error
    assert error.message
    assert not any(word in error.message for word in ("pve1", "pve2", "pve3", "9100", "UPID", "127."))
    return error


def vmids(pve: PveDouble) -> set[int]:
    return {vm.vmid for vm in pve.vms()} - TEMPLATES


# -- 16: another certificate


async def test_16_a_changed_certificate_stops_everything_and_names_both(new_pve, tmp_path, caplog):
    pve = new_pve()
    pinned = pve.fingerprint
    provider = provider_on(pve, tmp_path, ca_file=None, fingerprint=pinned)
    try:
        server = await follow(provider, a_request(pve))
        pve.faults.new_certificate()
        pve.requests.clear()

        error = await refused(follow(provider, a_request(pve, user="bob")), ProviderUnavailable)

        assert "certificate" in error.message
        assert pinned in caplog.text
        assert pve.fingerprint in caplog.text
        assert len(pve.requests) == 0  # nothing was sent to whoever that is
        assert await state(provider, server) is ServerState.UNKNOWN
    finally:
        await provider.close()


# -- 17: deleted behind our back


async def test_17_a_vm_that_an_administrator_deleted_is_gone_and_its_address_is_freed(pve, provider, server):
    pve.faults.delete(server.vmid)

    await becomes(provider, server, ServerState.GONE)
    await provider.release(server.handle, ReleaseMode.STOP, grace_s=1)

    assert await provider.owned() == []


async def test_17_nothing_is_gone_while_the_cluster_does_not_answer(pve, provider, server):
    pve.faults.fail("GET", "/cluster/resources", status=595, text="No route to host", times=-1)

    for _ in range(5):
        assert await state(provider, server) is not ServerState.GONE


# -- 18: stopped by somebody else


async def test_18_a_vm_that_was_switched_off_is_gone_and_its_disk_is_found_again(pve, provider, server):
    pve.faults.stop(server.vmid)

    await becomes(provider, server, ServerState.GONE)
    await provider.release(server.handle, ReleaseMode.STOP, grace_s=1)
    again = await follow(provider, replace(server.request, parked=server.handle))

    assert again.vmid == server.vmid
    assert vmids(pve) == {server.vmid}


# -- 19: moved


async def test_19_a_vm_that_was_moved_goes_on_and_is_ended_where_it_is(pve, provider, server):
    elsewhere = next(name for name in ("pve1", "pve2", "pve3") if name != pve.vm(server.vmid).node)
    pve.faults.migrate(server.vmid, elsewhere)

    assert await state(provider, server) is ServerState.RUNNING
    await provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)

    assert vmids(pve) == set()
    assert pve.invariants() == []


async def test_19_a_parked_vm_that_was_moved_is_started_where_it_is(pve, provider, server):
    await provider.release(server.handle, ReleaseMode.STOP, grace_s=1)
    elsewhere = next(name for name in ("pve1", "pve2", "pve3") if name != pve.vm(server.vmid).node)
    pve.faults.migrate(server.vmid, elsewhere)

    again = await follow(provider, replace(server.request, parked=server.handle))

    assert (again.vmid, pve.vm(again.vmid).node) == (server.vmid, elsewhere)


# -- 20: no quorum


async def test_20_without_a_quorum_starts_fail_softly_and_servers_go_on(pve, provider, server):
    pve.faults.quorum(False)

    error = await refused(follow(provider, a_request(pve, user="bob")), ProviderUnavailable)

    assert error.retry_after_s > 0
    assert await state(provider, server) is not ServerState.GONE
    pve.faults.quorum(True)
    await becomes(provider, server, ServerState.RUNNING)
    await eventually(lambda: all_gone_but(provider, server), LONG_S, "nothing is left of the start that failed")
    assert pve.invariants() == []


async def all_gone_but(provider: ProxmoxProvider, server: Started) -> bool:
    """Ends what no lease owns, as the reconciler does; whether the server is all that is left."""
    rest = [each for each in await provider.owned() if each.lease_id != server.request.lease_id]
    for each in rest:
        await outcome(provider.release(each.handle, ReleaseMode.DESTROY, grace_s=1))
    return not rest


async def test_20_without_a_quorum_nothing_is_deleted(pve, provider, server):
    before = {volume.volid for volume in pve.volumes(vmid=server.vmid)}
    pve.faults.quorum(False)

    await refused(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1))

    assert pve.requests.count("DELETE", f"/qemu/{server.vmid}$") == 0
    assert {volume.volid for volume in pve.volumes(vmid=server.vmid)} == before
    pve.faults.quorum(True)
    await eventually(lambda: ended(provider, server), LONG_S, "it is deleted once there is a quorum")
    assert vmids(pve) == set()


async def ended(provider: ProxmoxProvider, server: Started) -> bool:
    return await outcome(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1)) is None


async def test_20_a_quorum_that_comes_back_in_time_is_waited_for(pve, provider):
    pve.faults.quorum(False)
    starting = asyncio.ensure_future(follow(provider, a_request(pve)))
    await eventually(lambda: answered(lambda: pve.requests.count("POST", "/clone$") > 0 or starting.done()), LONG_S, "")
    pve.faults.quorum(True)

    result = (await asyncio.gather(starting, return_exceptions=True))[0]

    assert isinstance(result, (Started, ProviderUnavailable)), result  # it depends on when the listing was made
    assert pve.invariants() == []


async def answered(look: Callable[[], bool]) -> bool:
    return look()


# -- 21: unknown everywhere


async def test_21_a_node_whose_daemon_hangs_does_not_end_its_servers(pve, provider, server):
    pve.faults.unknown(pve.vm(server.vmid).node)

    async def unknown() -> bool:
        assert await state(provider, server) is ServerState.RUNNING
        return (await provider.snapshots.now(0.0)).vms[server.vmid].status == "unknown"

    await eventually(unknown, LONG_S, "the listing says unknown")
    assert await state(provider, server) is ServerState.RUNNING


# -- 22: locked


@pytest.mark.parametrize("kind", ["backup", "migrate", "snapshot"])
async def test_22_a_lock_that_passes_is_waited_for(pve, provider, server, kind):
    pve.faults.lock(server.vmid, kind)
    ending = asyncio.ensure_future(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1))
    tried = pve.requests.count("", f"/qemu/{server.vmid}")

    def asked_again() -> bool:
        return pve.requests.count("", f"/qemu/{server.vmid}") > tried + 2

    await eventually(lambda: answered(lambda: asked_again() or ending.done()), LONG_S, "it is tried again")
    pve.faults.lock(server.vmid, "")

    error = (await asyncio.gather(ending, return_exceptions=True))[0]

    assert error is None or isinstance(error, LabError), error
    await eventually(lambda: ended(provider, server), LONG_S, "it is deleted")
    assert vmids(pve) == set()


@pytest.mark.parametrize("kind", ["suspending", "rollback"])
async def test_22_a_lock_that_stays_needs_an_administrator_and_nothing_is_deleted(pve, provider, server, kind):
    pve.faults.lock(server.vmid, kind)

    error = await refused(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1))

    assert "administrator" in error.message
    assert "qm unlock" in str(error)
    assert vmids(pve) == {server.vmid}
    assert await state(provider, server) is ServerState.RUNNING


# -- 23: hibernation failed


async def test_23_a_server_whose_hibernation_failed_half_way_is_left_running(pve, provider, server):
    pve.faults.task_fails("qmsuspend", "storage 'shared' error: got lock request timeout", times=-1)
    pve.faults.lock(server.vmid, "suspending")

    error = await refused(provider.release(server.handle, ReleaseMode.HIBERNATE, grace_s=1))

    assert "administrator" in error.message
    assert pve.vm(server.vmid).running
    assert pve.requests.count("DELETE", f"/qemu/{server.vmid}$") == 0
    assert pve.requests.count("POST", f"/qemu/{server.vmid}/status/stop$") == 0


async def test_23_a_server_that_cannot_be_hibernated_is_stopped_and_keeps_its_disk(pve, provider, server, caplog):
    pve.faults.task_fails("qmsuspend", "no space left on device", times=-1)

    with caplog.at_level(logging.WARNING):
        await provider.release(server.handle, ReleaseMode.HIBERNATE, grace_s=1)

    assert not pve.vm(server.vmid).running
    assert "stopped instead of hibernated" in caplog.text


# -- 24: resume failed


async def test_24_a_memory_that_cannot_be_read_is_told_and_the_disk_is_kept(pve, provider, server):
    await provider.release(server.handle, ReleaseMode.HIBERNATE, grace_s=1)
    before = {volume.volid for volume in pve.volumes(vmid=server.vmid)}
    pve.faults.task_fails("qmstart", "start failed: QEMU exited with code 1", times=-1)

    await refused(follow(provider, replace(server.request, parked=server.handle)), StartFailed)

    assert vmids(pve) == {server.vmid}
    assert {volume.volid for volume in pve.volumes(vmid=server.vmid)} == before
    pve.faults.clear()
    again = await follow(provider, replace(server.request, parked=server.handle))
    assert again.vmid == server.vmid


# -- 25: one endpoint away


async def test_25_another_endpoint_answers_for_the_one_that_is_away(pve, tmp_path):
    pve.faults.node_down("pve1")
    provider = provider_on(pve, tmp_path, connect_timeout_s=5)
    try:
        request = a_request(pve, settings={"nodes": ["pve2", "pve3"], "template": await a_template_on(pve, "pve2")})
        server = await follow(provider, request)

        assert await state(provider, server) is ServerState.RUNNING
        assert {request.node for request in pve.requests.matching()} <= {"pve2", "pve3"}
    finally:
        await provider.close()


async def a_template_on(pve: PveDouble, node: str) -> str:
    pve.faults.migrate(pve.template, node)
    return str(pve.template)


# -- 26: no answer to an order


@pytest.mark.parametrize("path", ["/clone$", "/config$", "/status/start$", "/agent/exec$"])
@pytest.mark.parametrize("status", [596, 0])
@pytest.mark.parametrize("after_effect", [True, False])
async def test_26_an_order_without_an_answer_is_looked_for_before_it_is_given_again(
    pve, provider, path, status, after_effect
):
    method = "PUT" if path == "/config$" else "POST"
    pve.faults.fail(method, path, status=status, text="Broken pipe", after_effect=after_effect)

    result = await outcome(follow(provider, a_request(pve)))

    if after_effect and path != "/agent/exec$":  # what was done is found, and gone on with
        assert result is None
    assert result is None or isinstance(result, LabError), result
    assert len(vmids(pve)) == (1 if result is None else 0)
    assert pve.invariants() == []


async def test_26_a_deletion_without_an_answer_has_happened_once(pve, provider, server):
    pve.faults.fail("DELETE", f"/qemu/{server.vmid}$", status=596, text="Broken pipe", after_effect=True)

    await eventually(lambda: ended(provider, server), LONG_S, "it is deleted")

    assert vmids(pve) == set()
    assert await provider.owned() == []


# -- 27: deletion fails


@pytest.mark.parametrize(
    "text",
    [
        "can't remove volume 'shared:1/vm-1-disk-0.qcow2': Device or resource busy",
        "cfs-lock 'storage-shared' error: got lock request timeout",
        "unable to open file '/etc/pve/nodes/pve1/qemu-server/1.conf.tmp.1' - Permission denied",
    ],
)
async def test_27_what_could_not_be_deleted_keeps_its_id_and_address(pve, provider, server, text):
    pve.faults.task_fails("qmdestroy", text, times=-1)
    held = {(each.pool, each.value) for each in await provider.reservations.held(datetime.now(timezone.utc))}

    await refused(provider.release(server.handle, ReleaseMode.DESTROY, grace_s=1))

    assert {(each.pool, each.value) for each in await provider.reservations.held(datetime.now(timezone.utc))} == held
    assert [each.lease_id for each in await provider.owned()] == [server.request.lease_id]
    pve.faults.clear()
    await eventually(lambda: ended(provider, server), LONG_S, "it is deleted")
    assert await provider.owned() == []


# -- 28: an address that somebody has


async def test_28_an_address_that_answers_already_is_left_alone_and_told(pve, tmp_path, caplog):
    network = pve.address_pool.split("-")[0].rpartition(".")[0]
    with ExitStack() as stack:
        for last in (10, 11, 12):
            stack.enter_context(socket.create_server((f"{network}.{last}", 8888)))
        provider = provider_on(pve, tmp_path, addresses={"default": f"{network}.10-{network}.13"})
        try:
            with caplog.at_level(logging.WARNING):
                server = await follow(provider, a_request(pve))

            assert f"{network}.13" in server.url
        finally:
            await provider.close()


# -- 29: slow answers, clocks that differ


async def test_29_a_cluster_that_answers_slowly_still_starts_servers(pve, provider):
    pve.faults.slow("GET", "", 8.0)
    pve.faults.slow("POST", "", 5.0)

    server = await follow(provider, a_request(pve))

    assert await state(provider, server) is ServerState.RUNNING


# -- 30: a new template while clones of the old one exist


async def test_30_an_old_template_stays_while_clones_need_it_and_new_servers_take_the_new_one(pve, provider, tmp_path):
    name = pve.vm(pve.template).config["name"]
    old = await follow(provider, a_request(pve, settings={"template": name}))
    admin = provider_on(pve, tmp_path / "admin", token=pve.admin_token)
    try:
        upid = await admin.client.delete(f"/nodes/{pve.vm(pve.template).node}/qemu/{pve.template}")
        end = await admin.tasks.end(upid, within_s=LONG_S)
    finally:
        await admin.close()
    pve.add_vm(
        9200, "pve1", pool=pve.pool, name=name, template=1, agent="enabled=1", net0=pve.vm(pve.template).config["net0"]
    )

    await eventually(lambda: is_template(provider, 9200), LONG_S, "the new template is listed")

    new = await follow(provider, a_request(pve, user="bob", settings={"template": name}))

    assert "still in use by linked clone" in end.exitstatus
    assert await state(provider, old) is ServerState.RUNNING
    assert new.vmid != old.vmid
    assert pve.requests.count("POST", "/qemu/9200/clone$") == 1


async def is_template(provider: ProxmoxProvider, vmid: int) -> bool:
    vm = (await provider.snapshots.now(0.0)).vms.get(vmid)
    return vm is not None and vm.template is True
