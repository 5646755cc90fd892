"""Two hubs on one cluster, with one token, one pool and one range of ids: neither sees nor touches the other's VMs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from labspawner.model import Handle, ReleaseMode, ServerState
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.testing.conformance.base import status_of
from labspawner.testing.pve import PveDouble

from .providers import Started, a_request, follow, outcome, provider_on

EACH = 5


@pytest_asyncio.fixture
async def hubs(pve: PveDouble, tmp_path: Path) -> AsyncIterator[list[ProxmoxProvider]]:
    """Two providers whose hubs share everything but a database and the addresses."""
    network = pve.address_pool.split("-")[0].rpartition(".")[0]
    made = [
        provider_on(
            pve,
            tmp_path / name,
            name,
            vmids="20000-20014",
            addresses={"default": f"{network}.{first}-{network}.{first + 40}"},
        )
        for name, first in (("hub-one", 20), ("hub-two", 80))
    ]
    yield made
    for provider in made:
        await provider.close()


async def crowd(pve: PveDouble, provider: ProxmoxProvider, hub_id: str) -> list[Started]:
    """Several servers of one hub, started at once."""
    requests = [a_request(pve, user=f"student{number}", hub_id=hub_id) for number in range(EACH)]
    return list(await asyncio.gather(*(follow(provider, request) for request in requests)))


async def test_two_hubs_that_race_for_the_same_ids_both_get_all_their_servers_and_each_lists_its_own(
    hubs: list[ProxmoxProvider], pve: PveDouble
) -> None:
    ones, twos = await asyncio.gather(crowd(pve, hubs[0], "hub-one"), crowd(pve, hubs[1], "hub-two"))

    assert len({started.vmid for started in (*ones, *twos)}) == 2 * EACH
    for provider, servers in zip(hubs, (ones, twos), strict=True):
        leases = {resource.lease_id for resource in await provider.owned()}
        assert leases == {started.request.lease_id for started in servers}
    assert pve.invariants() == []


async def test_a_hub_that_ends_everything_it_knows_of_leaves_the_other_hubs_servers_running(
    hubs: list[ProxmoxProvider], pve: PveDouble
) -> None:
    ours, theirs = await asyncio.gather(crowd(pve, hubs[0], "hub-one"), crowd(pve, hubs[1], "hub-two"))

    stolen = [Handle(lease_id=each.request.lease_id, provider="proxmox", data=each.handle.data) for each in theirs]
    for handle in stolen:  # even with handles that are not its own
        await outcome(hubs[0].release(handle, ReleaseMode.DESTROY, grace_s=1))
    for resource in await hubs[0].owned():
        await hubs[0].release(resource.handle, ReleaseMode.DESTROY, grace_s=1)

    assert list(await hubs[0].owned()) == []
    assert await asyncio.gather(*(status_of(started.api_url) for started in theirs)) == [200] * EACH
    states = await hubs[1].observe([started.handle for started in theirs])
    assert set(states.values()) == {ServerState.RUNNING}
    assert {vm.vmid for vm in pve.vms() if not vm.template} == {started.vmid for started in theirs}
    assert ours
