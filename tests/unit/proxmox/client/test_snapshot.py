"""One listing for all, and who is gone."""

from __future__ import annotations

import asyncio

import pytest
from unit.proxmox.client.scripted import Reply, refusal, scripted

from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.snapshot import Snapshots, View
from labspawner.testing.waiting import eventually

RESOURCES = "/cluster/resources"
FORBIDDEN = refusal(403, "Permission check failed (/, Sys.Audit)")


class Clock:
    """Time that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


def node(name: str, *, online: bool = True) -> dict[str, object]:
    status = "online" if online else "offline"
    return {"type": "node", "id": f"node/{name}", "node": name, "status": status, "level": "", "cgroup-mode": 1}


def vm(vmid: int, **changes: object) -> dict[str, object]:
    values = {"type": "qemu", "id": f"qemu/{vmid}", "vmid": vmid, "node": "pve1", "status": "running", "pool": "labs"}
    return {**values, **changes}


def storage(name: str, on: str, **changes: object) -> dict[str, object]:
    values = {"type": "storage", "id": f"storage/{on}/{name}", "storage": name, "node": on, "status": "available"}
    return {**values, "shared": 1, "disk": 30, "maxdisk": 100, "content": "images,iso", "plugintype": "dir", **changes}


def cluster(*vmids: int, offline: tuple[str, ...] = ()) -> list[dict[str, object]]:
    nodes = [node(name, online=name not in offline) for name in ("pve1", "pve2", "pve3")]
    return [*nodes, *(vm(vmid) for vmid in vmids), storage("ssd", "pve1")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def snapshots(pve, a_client, clock):
    pve.on("GET", "/cluster/status", FORBIDDEN)
    made = Snapshots(a_client(pve), pace=clock)
    yield made
    await made.close()


def test_a_listing_is_read_with_what_is_there_and_what_is_missing():
    view = View.of(
        [
            {"type": "pool", "pool": "labs", "id": "/pool/labs"},
            node("pve2") | {"cpu": 0.5, "maxcpu": 8, "mem": 1, "maxmem": "16"},
            node("pve1", online=False),
            vm(101, tags="labspawner;alice", lock="suspended", template=0, name="alice", maxmem=512, uptime=7),
            vm(102, status="unknown", pool=None),
            vm(9100, template=1, status="stopped"),
            vm(9101, template=True, status="stopped", maxmem="no number"),
            {"type": "lxc", "vmid": 300, "node": "pve1", "status": "running"},
            storage("ssd", "pve1"),
            storage("ssd", "pve2"),
            storage("local", "pve2", shared=0, status="unknown"),
            {"type": "sdn", "id": "sdn/pve1/localnetwork", "sdn": "localnetwork", "node": "pve1", "status": "ok"},
        ],
        taken_at=5.0,
    )

    assert list(view.nodes) == ["pve1", "pve2"]
    assert (view.nodes["pve2"].maxmem, view.nodes["pve2"].maxcpu, view.nodes["pve1"].maxmem) == (16, 8, None)
    alice, fresh = view.vms[101], view.vms[102]
    assert (alice.tags, alice.lock, alice.template, alice.maxmem) == (("alice", "labspawner"), "suspended", False, 512)
    assert (fresh.template, fresh.maxmem, fresh.pool, fresh.status) == (None, None, "", "unknown")
    assert view.vms[9100].template is view.vms[9101].template is True
    assert view.vms[9101].maxmem is None
    assert view.ids == {101, 102, 9100, 9101, 300}
    assert view.pools == {"labs"}
    here = view.storage_on("ssd", "pve2")
    assert here is not None
    assert (here.free_bytes, here.content) == (70, {"images", "iso"})
    assert view.storage_on("ssd", "pve1") is None  # says it is available, on a node that is offline
    assert view.storage_on("local", "pve2") is None
    assert (view.online("pve1"), view.online("pve2"), view.online("pve9")) == (False, True, False)


@pytest.mark.parametrize(
    ("online", "offline", "quorate"),
    [(3, 0, True), (2, 1, True), (1, 2, False), (1, 1, False), (1, 0, True), (0, 0, None)],
)
def test_without_the_right_to_ask_the_quorum_is_told_from_the_nodes(online, offline, quorate):
    nodes = [node(f"a{n}") for n in range(online)] + [node(f"b{n}", online=False) for n in range(offline)]

    assert View.of(nodes, taken_at=0.0).quorate is quorate


async def test_all_who_ask_within_its_age_share_one_listing(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(101))

    views = await asyncio.gather(*(snapshots.now(5.0) for _ in range(1000)))
    clock.at += 4.0
    views.append(await snapshots.now(5.0))

    assert {id(view) for view in views} == {id(views[0])}
    assert (pve.count(RESOURCES), snapshots.listings) == (1, 1)
    clock.at += 2.0
    await snapshots.now(5.0)
    assert snapshots.listings == 2


async def test_who_asks_for_now_gets_a_listing_that_began_after_the_question(pve, snapshots, clock, held):
    pve.on("GET", RESOURCES, Reply(cluster(101), hold=held), cluster(101, 102))
    early = asyncio.ensure_future(snapshots.now(5.0))
    await eventually(lambda: pve.count(RESOURCES) == 1)
    clock.at += 1.0

    late = [asyncio.ensure_future(snapshots.now(0.0)) for _ in range(3)]
    held.set()

    assert 102 not in (await early).vms
    assert all(102 in view.vms for view in await asyncio.gather(*late))
    assert snapshots.listings == 2


async def test_who_stops_waiting_takes_the_listing_from_nobody(pve, snapshots, held):
    pve.on("GET", RESOURCES, Reply(cluster(101), hold=held))
    first, second = asyncio.ensure_future(snapshots.now()), asyncio.ensure_future(snapshots.now())
    await eventually(lambda: pve.count(RESOURCES) == 1)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    held.set()

    assert 101 in (await second).vms


async def test_a_listing_that_fails_says_that_nothing_is_known(pve, snapshots, clock):
    assert snapshots.current is None
    pve.on("GET", RESOURCES, cluster(101), refusal(500, "got timeout"), cluster(101))
    await snapshots.now()
    assert snapshots.current is True
    clock.at += 10.0

    with pytest.raises(PveRefused):
        await snapshots.now()

    assert snapshots.current is False
    assert snapshots.last is not None
    assert 101 in snapshots.last.vms
    clock.at += 10.0
    await snapshots.now()
    assert snapshots.current is True


async def test_a_failure_is_told_for_as_long_as_a_listing_would_be_good(pve, snapshots, clock):
    pve.on("GET", RESOURCES, refusal(500, "got timeout"), cluster(101))
    answers = await asyncio.gather(*(snapshots.now(5.0) for _ in range(20)), return_exceptions=True)
    clock.at += 4.0
    with pytest.raises(PveRefused):
        await snapshots.now(5.0)

    assert all(isinstance(each, PveRefused) for each in answers)
    assert pve.count(RESOURCES) == 1
    assert 101 in (await snapshots.now(0.0)).vms  # who asks for now asks


async def test_a_vm_is_gone_when_two_quorate_listings_ten_seconds_apart_lack_it(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(101, 102), cluster(101))
    await snapshots.now(0.0)
    told = []
    for _ in range(4):
        clock.at += 4.0
        await snapshots.now(0.0)
        told.append(snapshots.gone(102))

    assert told == [False, False, False, True]
    assert not snapshots.gone(101)


async def test_a_vm_that_is_seen_between_is_not_gone(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(), cluster(101), cluster())
    for _ in range(3):
        await snapshots.now(0.0)
        clock.at += 9.0

    assert not snapshots.gone(101)


@pytest.mark.parametrize(
    "doubtful",
    [
        pytest.param(cluster(offline=("pve2", "pve3")), id="no quorum"),
        pytest.param([node("pve1"), node("pve2"), node("pve3")], id="this account sees nothing any more"),
        pytest.param([], id="empty"),
    ],
)
async def test_nobody_is_gone_by_a_listing_that_cannot_be_believed(pve, snapshots, clock, doubtful):
    pve.on("GET", RESOURCES, cluster(101), doubtful, doubtful, doubtful, cluster())
    for _ in range(5):
        await snapshots.now(0.0)
        clock.at += 20.0

    assert not snapshots.gone(101)
    await snapshots.now(0.0)
    assert snapshots.gone(101)


async def test_nobody_is_gone_by_listings_that_failed(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(101), refusal(500, "x"))
    await snapshots.now(0.0)
    for _ in range(3):
        clock.at += 20.0
        with pytest.raises(PveRefused):
            await snapshots.now(0.0)

    assert not snapshots.gone(101)


async def test_the_quorum_is_asked_for_where_we_may(pve, a_client, clock):
    entry = {"type": "cluster", "id": "cluster", "name": "lab", "nodes": 3, "version": 3}
    pve.on("GET", "/cluster/status", [entry | {"quorate": 1}], [entry | {"quorate": 0}])
    snapshots = Snapshots(a_client(pve), pace=clock)

    assert await snapshots.quorate() is True
    assert await snapshots.quorate() is True
    clock.at += 6.0
    assert await snapshots.quorate() is False
    assert pve.count("/cluster/status") == 2


async def test_a_machine_on_its_own_is_quorate(pve, a_client, clock):
    pve.on("GET", "/cluster/status", [{"type": "node", "id": "node/pve1", "name": "pve1", "online": 1, "local": 1}])

    assert await Snapshots(a_client(pve), pace=clock).quorate() is True


async def test_where_we_may_not_ask_for_the_quorum_we_do_not_go_on_asking(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(), cluster(offline=("pve1", "pve2")))

    assert await snapshots.quorate() is True
    clock.at += 6.0
    assert await snapshots.quorate() is False
    assert pve.count("/cluster/status") == 1


async def test_two_machines_with_a_tie_breaker_are_believed_when_the_cluster_says_so(pve, a_client, clock):
    pve.on("GET", RESOURCES, [node("pve1"), node("pve2", online=False), vm(101)])
    pve.on("GET", "/cluster/status", [{"type": "cluster", "quorate": 1}])

    assert (await Snapshots(a_client(pve), pace=clock).now()).quorate is True


async def test_an_endpoint_that_is_cut_off_from_its_peers_is_left_for_them(pve, tmp_path, a_client, clock):
    (tmp_path / "second").mkdir()
    with scripted(tmp_path / "second") as second:
        pve.on("GET", RESOURCES, cluster(101, offline=("pve2", "pve3")))
        pve.on("GET", "/cluster/status", FORBIDDEN)
        second.on("GET", RESOURCES, cluster(101, 102, offline=("pve1",)))
        snapshots = Snapshots(a_client(pve, second), pace=clock)

        view = await snapshots.now()
        clock.at += 6.0
        await snapshots.now()

        assert view.quorate is True
        assert 102 in view.vms
        assert (pve.count(RESOURCES), second.count(RESOURCES)) == (1, 2)


async def test_a_hub_without_work_asks_no_more_than_its_budget(pve, snapshots, clock):
    pve.on("GET", RESOURCES, cluster(*range(100, 200)))
    for _ in range(360):  # a tenth of an hour, with a poll of some server each second
        clock.at += 1.0
        await snapshots.now(5.0)

    assert sum(snapshots._client.counts().values()) <= 80


async def test_closing_ends_a_listing_that_is_under_way(pve, snapshots, held):
    pve.on("GET", RESOURCES, Reply(cluster(), hold=held))
    asking = asyncio.ensure_future(snapshots.now())
    await eventually(lambda: pve.count(RESOURCES) == 1)

    await snapshots.close()

    with pytest.raises(PveSilent):
        await asking
