from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.errors import LeaseConflict, NeverFits, NoRoom
from labspawner.model import LeaseId, Resources, Slice
from labspawner.providers.sim.settings import SimCard, SimHost
from labspawner.providers.sim.world import HIBERNATED, LAUNCHING, STOPPED, Row, World

GIB = 2**30
NOTHING = Resources()
HOSTS = (
    SimHost(name="plain", servers=2, cpu=4, memory="8GiB"),
    SimHost(name="gpu", memory="64GiB", cards=(SimCard(uuid="G0", memory="8GiB"), SimCard(uuid="G1", memory="16GiB"))),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "world.sqlite", HOSTS)
    yield world
    world.close()


def a_row(lease_id: str = "l1", **changes: object) -> Row:
    values = {
        "hub_id": "hub",
        "lease_id": LeaseId(lease_id),
        "token": f"token-{lease_id}",
        "user": "ann",
        "profile": "c/p",
        "base_url": "/user/ann/",
        "stage": "reserve",
        "state": LAUNCHING,
        "created_at": 100.0,
    }
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def running(world: World, lease_id: str = "l1", wants: Resources = NOTHING) -> Row:
    row = a_row(lease_id)
    world.begin(row, wants)
    assert world.ready("hub", row.lease_id, row.token, 101.0, None)
    return world.rows("hub", row.lease_id)[0]


def test_a_server_goes_to_the_first_host_with_room(world: World):
    placed = [running(world, f"l{number}").host for number in range(4)]

    assert placed == ["plain", "plain", "gpu", "gpu"]


def test_a_slice_goes_to_the_first_card_with_that_much_free_memory(world: World):
    wants = Resources(gpu=Slice(memory_bytes=6 * GIB, compute_pct=60))

    placed = [running(world, f"l{number}", wants).card for number in range(3)]

    assert placed == ["G0", "G1", "G1"]
    with pytest.raises(NoRoom):
        world.begin(a_row("late"), wants)
    cards = world.capacity()[1].cards
    assert [card.memory_free_bytes for card in cards] == [2 * GIB, 4 * GIB]
    assert [card.compute_free_pct for card in cards] == [40, 0]


def test_what_is_taken_is_subtracted_from_its_host(world: World):
    running(world, wants=Resources(cpu=1.5, memory_bytes=3 * GIB))

    plain, gpu = world.capacity()

    assert (plain.servers_free, plain.cpu_free, plain.memory_free_bytes) == (1, 2.5, 5 * GIB)
    assert (gpu.servers_free, gpu.cpu_free, gpu.memory_free_bytes) == (None, None, 64 * GIB)


@pytest.mark.parametrize(
    ("wants", "largest"),
    [
        (Resources(memory_bytes=65 * GIB), "64 GiB"),
        (Resources(gpu=Slice(memory_bytes=17 * GIB)), "16 GiB"),
    ],
)
def test_what_no_empty_host_could_hold_never_fits_and_is_told_the_largest(world: World, wants, largest):
    with pytest.raises(NeverFits, match="never fits") as failure:
        world.begin(a_row(), wants)

    assert largest in str(failure.value.message)
    assert world.rows("hub") == []


def test_a_lease_is_made_once(world: World):
    first = running(world)

    with pytest.raises(LeaseConflict):
        world.begin(a_row(token="another"), Resources())

    assert world.rows("hub") == [first]


def test_a_launch_undoes_only_what_it_made(world: World):
    first = running(world)

    world.undo("hub", first.lease_id, "another")
    assert world.rows("hub") == [first]
    world.undo("hub", first.lease_id, first.token)
    assert world.rows("hub") == []


def test_a_launch_whose_things_were_freed_can_neither_go_on_nor_get_ready(world: World):
    world.begin(a_row(), Resources())
    world.forget("hub", LeaseId("l1"))

    assert not world.advance("hub", LeaseId("l1"), "token-l1", "boot")
    assert not world.ready("hub", LeaseId("l1"), "token-l1", 1.0, None)
    assert world.rows("hub") == []


@pytest.mark.parametrize("state", [HIBERNATED, STOPPED])
def test_what_is_parked_takes_no_room_and_wakes_where_there_is_some(world: World, state):
    for number in range(2):
        running(world, f"l{number}")
    world.park("hub", LeaseId("l0"), state, 200.0)
    assert world.capacity()[0].servers_free == 1
    running(world, "l2")

    woken = world.resume("hub", LeaseId("l0"), a_row("l9"), Resources())

    assert woken == state
    assert world.rows("hub", LeaseId("l0")) == []
    assert world.rows("hub", LeaseId("l9"))[0].host == "gpu"


def test_what_is_not_parked_is_not_woken(world: World):
    running(world)

    assert world.resume("hub", LeaseId("l1"), a_row("l2"), Resources()) is None
    assert world.resume("hub", LeaseId("never"), a_row("l2"), Resources()) is None


def test_waking_into_a_lease_that_has_a_server_is_a_conflict(world: World):
    running(world)
    world.park("hub", LeaseId("l1"), HIBERNATED, 200.0)
    running(world, "l2")

    with pytest.raises(LeaseConflict):
        world.resume("hub", LeaseId("l1"), a_row("l2"), Resources())

    assert world.rows("hub", LeaseId("l1"))[0].state == HIBERNATED


def test_a_failed_resume_is_parked_again_under_its_old_lease(world: World):
    running(world)
    world.park("hub", LeaseId("l1"), STOPPED, 200.0)
    world.resume("hub", LeaseId("l1"), a_row("l2"), Resources())

    world.repark("hub", LeaseId("l2"), "token-l2", LeaseId("l1"), STOPPED)

    assert [(row.lease_id, row.state) for row in world.rows("hub")] == [("l1", STOPPED)]


def test_parking_what_is_half_made_or_dead_destroys_it(world: World):
    world.begin(a_row("half"), Resources())
    running(world, "dead")
    world.kill_all("hub", 150.0)

    for lease_id in ("half", "dead"):
        world.park("hub", LeaseId(lease_id), HIBERNATED, 200.0)

    assert world.rows("hub") == []


def test_two_hubs_take_each_others_room_and_see_only_their_own(world: World):
    running(world)
    world.begin(dataclasses.replace(a_row(), hub_id="other"), Resources())

    world.forget("other", LeaseId("l1"))

    assert [row.hub_id for row in world.rows("hub")] == ["hub"]
    assert world.rows("other") == []


def test_the_world_is_as_it_was_for_the_next_process(tmp_path: Path):
    first = World(tmp_path / "w", HOSTS)
    row = running(first)
    first.keep_port("hub", 4711)
    first.close()

    second = World(tmp_path / "w", HOSTS)

    assert second.rows("hub") == [row]
    assert (second.port("hub"), second.port("other")) == (4711, None)
    second.close()


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=25))
def test_no_card_and_no_host_is_ever_overcommitted(tmp_path_factory, starts):
    world = World(tmp_path_factory.mktemp("w") / "w", HOSTS)
    for number, (gib, gpu) in enumerate(starts):
        wants = Resources(memory_bytes=gib * GIB, gpu=Slice(memory_bytes=gib * GIB) if gpu else None)
        try:
            world.begin(a_row(f"l{number}"), wants)
        except (NoRoom, NeverFits):
            continue
    rows = world.rows("hub")
    world.close()

    for host in HOSTS:
        here = [row for row in rows if row.host == host.name]
        assert sum(row.memory_bytes or 0 for row in here) <= (host.memory or 0)
        for card in host.cards:
            assert sum(row.gpu_bytes or 0 for row in here if row.card == card.uuid) <= card.memory
