"""The client against the double: the life of one VM with the least rights, and what each step looks like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from labspawner.providers.proxmox.agent import GuestAgent
from labspawner.providers.proxmox.answers import Fault, PveRefused
from labspawner.providers.proxmox.client import Access, Client
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.tasks import Tasks
from labspawner.testing.pve import PveDouble

LONG_S = 6000.0


@pytest.fixture(params=["8.4", "9"])
def pve(new_pve: Callable[..., PveDouble], request: pytest.FixtureRequest) -> PveDouble:
    return new_pve(profile=request.param)


@pytest.fixture
async def client(pve: PveDouble) -> AsyncIterator[Client]:
    made = Client(Access(endpoints=tuple(pve.urls), token=pve.token, fingerprint=pve.fingerprint), pace=Pace(1000))
    yield made
    await made.close()


async def test_a_vm_lives_from_its_clone_to_its_end(pve, client):
    tasks, agent, snapshots = (kind(client, pace=Pace(1000)) for kind in (Tasks, GuestAgent, Snapshots))
    told: list[str] = []

    async def done(upid: str) -> None:
        end = await tasks.end(upid, within_s=LONG_S, heard=lambda _percent, line: told.append(line))
        assert end.ok, end

    view = await snapshots.now(0.0)
    assert view.vms[pve.template].template
    assert view.quorate
    node, path = view.vms[pve.template].node, "/nodes/{}/qemu/{}"
    clone = path.format(node, pve.template) + "/clone"
    await done(await client.post(clone, newid=20001, name="alice", full=False, pool=pve.pool))
    vm = path.format(node, 20001)
    config = await client.get(f"{vm}/config")
    assert "net0" in config
    await client.put(f"{vm}/config", cores=2, ciupgrade=False, description="mark", tags="labspawner")
    await done(await client.post(f"{vm}/status/start"))
    for _ in range(100):
        if await agent.ping(node, 20001):
            break
    ran = await agent.run(node, 20001, ["/bin/sh", "-c", "cat"], stdin="hello", within_s=LONG_S)
    assert (ran.exitcode, ran.out.strip()) == (0, "hello")
    assert await agent.interfaces(node, 20001)
    with pytest.raises(PveRefused) as caught:
        await client.delete(vm)
    assert caught.value.fault is Fault.STILL_RUNNING
    await done(await client.post(f"{vm}/status/stop"))
    await done(await client.delete(vm, purge=True, **{"destroy-unreferenced-disks": True}))
    with pytest.raises(PveRefused) as caught:
        await client.get(f"{vm}/config")
    assert caught.value.fault is Fault.GONE_OR_FORBIDDEN
    assert pve.invariants() == []
