"""The client against a cluster that breaks: who is told what, and what is not done twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from labspawner.providers.proxmox.agent import GuestAgent
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, PveUntrusted
from labspawner.providers.proxmox.client import Access, Client
from labspawner.providers.proxmox.pace import Pace
from labspawner.providers.proxmox.snapshot import Snapshots
from labspawner.providers.proxmox.tasks import Tasks
from labspawner.testing.pve import PveDouble
from labspawner.testing.waiting import eventually

LONG_S = 6000.0
PACE = Pace(1000)
STATUS = ("GET", "/nodes/{node}/tasks/{upid}/status")


@pytest.fixture
async def a_client(pve: PveDouble) -> AsyncIterator[Callable[..., Client]]:
    made: list[Client] = []

    def build(**changes: Any) -> Client:
        values = {"endpoints": tuple(pve.urls), "token": pve.token, "fingerprint": pve.fingerprint}
        made.append(Client(Access(**{**values, **changes}), pace=PACE))
        return made[-1]

    yield build
    for each in made:
        await each.close()


@pytest.fixture
def client(a_client: Callable[..., Client]) -> Client:
    return a_client()


@pytest.fixture
def tasks(client: Client) -> Tasks:
    return Tasks(client, pace=PACE)


@pytest.fixture
async def snapshots(client: Client) -> AsyncIterator[Snapshots]:
    made = Snapshots(client, pace=PACE)
    yield made
    await made.close()


async def clone(client: Client, pve: PveDouble, newid: int, **params: Any) -> str:
    node = pve.vm(pve.template).node
    path = f"/nodes/{node}/qemu/{pve.template}/clone"
    return str(await client.post(path, newid=newid, name=f"vm{newid}", pool=pve.pool, **params))


async def test_a_revoked_token_is_asked_about_once_and_works_again_when_it_is_restored(pve, client):
    await client.get("/version")
    pve.faults.revoke(pve.token)
    with pytest.raises(PveRefused) as caught:
        await client.get("/cluster/resources")
    assert caught.value.fault is Fault.BAD_CREDENTIALS
    held_back = []
    for _ in range(20):
        with pytest.raises(PveRefused) as caught:
            await client.get("/cluster/resources")
        held_back.append(caught.value.held_back_s is not None)

    assert any(held_back)
    pve.faults.restore(pve.token)

    async def works() -> bool:
        try:
            return bool(await client.get("/version"))
        except PveRefused:
            return False

    await eventually(works, deadline_s=60)
    assert client.health().credentials == "ok"


async def test_a_node_that_is_cut_off_is_left_for_its_peers(pve, client):
    pve.faults.node_down("pve1")

    assert await client.get("/version")

    health = {each.url: each.state for each in client.health().endpoints}
    assert health[pve.url_of("pve1")] == "failed"
    assert "in use" in health.values()


async def test_a_silent_node_ends_no_waiting_task_before_its_time(pve, client, tasks):
    pve.faults.hold("qmclone")
    upid = await clone(client, pve, 20001)
    node = upid.split(":")[1]
    pve.faults.node_down(node)
    ending = asyncio.ensure_future(tasks.end(upid, within_s=LONG_S))
    await eventually(lambda: client.counts().get(STATUS, 0) >= 3, deadline_s=60)
    assert not ending.done()

    pve.faults.node_up(node)
    pve.faults.release("qmclone")

    assert (await ending).upid == upid


async def test_a_task_on_a_node_that_stays_away_is_of_unknown_outcome(pve, client, tasks):
    pve.faults.hold("qmclone")
    upid = await clone(client, pve, 20001)
    pve.faults.node_down(upid.split(":")[1])

    with pytest.raises(PveSilent) as caught:
        await tasks.end(upid, within_s=20.0)

    assert caught.value.sent


async def test_a_changed_certificate_stops_everything_and_both_are_named(pve, a_client):
    old = pve.fingerprint
    pve.faults.new_certificate()

    with pytest.raises(PveUntrusted) as caught:
        await a_client(fingerprint=old).post("/nodes/pve1/qemu/1/status/start")

    assert (caught.value.expected, caught.value.shown) == (old, pve.fingerprint)
    assert await a_client().get("/version")


async def test_the_authority_of_the_cluster_is_trusted_by_its_file(pve, a_client):
    assert await a_client(fingerprint="", ca_file=pve.ca_file).get("/version")


async def test_a_password_does_as_well_as_a_token(pve, a_client):
    client = a_client(token="", username="root@pam", password=pve.password)

    upid = await clone(client, pve, 20001)

    assert (await Tasks(client, pace=PACE).end(upid, within_s=LONG_S)).ok


async def test_a_clone_whose_answer_was_lost_is_found_among_the_tasks(pve, client, tasks):
    since = min(time.time(), pve.now())
    pve.faults.fail("POST", "/clone$", 596, "Connection timed out", after_effect=True)

    with pytest.raises(PveSilent) as caught:
        await clone(client, pve, 20001)

    assert caught.value.sent
    found = await tasks.recent(pve.vm(pve.template).node, pve.template, "qmclone", since)
    assert len(found) == 1
    assert (await tasks.end(found[0].upid, within_s=LONG_S)).ok
    assert pve.requests.count("POST", "/clone$") == 1


async def test_a_get_that_hangs_is_asked_again_elsewhere(pve, client, monkeypatch):
    monkeypatch.setattr("labspawner.providers.proxmox.client._GET_READ_S", 1.0)
    pve.faults.hang("GET", "^/version$")

    assert await client.get("/version", within_s=120.0)


async def test_without_a_quorum_the_reason_is_told_and_the_listing_knows(pve, client, snapshots):
    assert (await snapshots.now(0.0)).quorate is True
    for node in ("pve2", "pve3"):
        pve.faults.node_down(node)

    async def lost() -> bool:
        return (await snapshots.now(0.0)).quorate is False

    await eventually(lost, deadline_s=60)
    assert await snapshots.quorate(0.0) is False
    with pytest.raises(PveRefused) as caught:
        await clone(client, pve, 20001)
    assert caught.value.fault is Fault.NO_QUORUM


async def test_a_taken_id_is_told_in_each_of_its_shapes(pve, client, tasks):
    async def one() -> Fault | None:
        try:
            upid = await clone(client, pve, 20001)
        except PveRefused as exc:
            return exc.fault
        return (await tasks.end(upid, within_s=LONG_S)).fault

    faults = await asyncio.gather(*(one() for _ in range(6)))

    assert faults.count(None) == 1
    assert set(faults) <= {None, Fault.ID_TAKEN, Fault.LOCK_TIMEOUT}


async def test_a_vm_that_somebody_deleted_is_refused_and_then_gone(pve, client, tasks, snapshots):
    assert (await tasks.end(await clone(client, pve, 20001), within_s=LONG_S)).ok
    node = pve.vm(20001).node

    async def listed() -> bool:
        return 20001 in (await snapshots.now(0.0)).vms

    await eventually(listed, deadline_s=60)
    pve.faults.delete(20001)
    with pytest.raises(PveRefused) as caught:
        await client.get(f"/nodes/{node}/qemu/20001/config")
    assert caught.value.fault is Fault.GONE_OR_FORBIDDEN

    async def gone() -> bool:
        await snapshots.now(0.0)
        return snapshots.gone(20001)

    await eventually(gone, deadline_s=60)
    assert not snapshots.gone(pve.template)


async def test_a_vm_is_not_gone_while_the_cluster_cannot_be_listed(pve, client, snapshots):
    await snapshots.now(0.0)
    pve.faults.fail("GET", "/cluster/resources", 500, "got timeout", times=-1)

    for _ in range(3):
        with pytest.raises(PveRefused):
            await snapshots.now(0.0)

    assert not snapshots.gone(pve.template)
    assert snapshots.current is False


async def test_an_agent_that_is_down_is_told_from_one_that_is_missing_a_program(pve, client, tasks):
    agent = GuestAgent(client, pace=PACE)
    assert (await tasks.end(await clone(client, pve, 20001), within_s=LONG_S)).ok
    node = pve.vm(20001).node
    upid = await client.post(f"/nodes/{node}/qemu/20001/status/start")
    assert (await tasks.end(str(upid), within_s=LONG_S)).ok
    await eventually(lambda: agent.ping(node, 20001), deadline_s=60)

    with pytest.raises(PveRefused) as caught:
        await agent.run(node, 20001, ["/no/such/program"], within_s=LONG_S)
    assert caught.value.fault is Fault.HELPER_MISSING

    pve.faults.agent_down(20001)
    assert not await agent.ping(node, 20001)
    pve.faults.stop(20001)
    with pytest.raises(PveRefused) as caught:
        await agent.ping(node, 20001)
    assert caught.value.fault is Fault.NOT_RUNNING


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("WARNINGS: 2", None),
        ("clone failed: cfs-lock 'storage-ssd' error: got lock request timeout", Fault.STORAGE_LOCK),
        ("unexpected status", Fault.LOST),
    ],
)
async def test_how_a_task_ends_is_told_by_its_text(pve, client, tasks, text, fault):
    pve.faults.task_fails("qmclone", text)

    end = await tasks.end(await clone(client, pve, 20001), within_s=LONG_S)

    assert (end.exitstatus, end.fault) == (text, fault)


async def test_a_crowd_of_clones_is_waited_for_with_few_requests(pve, client, tasks):
    async def one(newid: int) -> Fault | None:
        return (await tasks.end(await clone(client, pve, newid), within_s=LONG_S)).fault

    faults = await asyncio.gather(*(one(newid) for newid in range(20001, 20009)))

    assert None in faults
    assert set(faults) <= {None, Fault.STORAGE_LOCK, Fault.LOCK_TIMEOUT}  # nobody holds them back here
    assert client.counts()[STATUS] <= 8 * 25
