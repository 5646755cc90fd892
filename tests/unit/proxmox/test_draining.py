"""Emptying a node: who moves where, and who stays for which reason."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from labspawner.providers.proxmox.draining import Draining, Move, ReservedMarks, Resident, plan
from labspawner.store.reservations import Reservations


class Notes:
    """Marks in memory, which count how often they were asked."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.asked = 0

    async def add(self, name: str) -> None:
        self.names.add(name)

    async def remove(self, name: str) -> None:
        self.names.discard(name)

    async def all(self) -> frozenset[str]:
        self.asked += 1
        return frozenset(self.names)


@pytest.fixture
def notes():
    return Notes()


async def test_a_drained_node_is_known_at_once_to_who_drained_it(notes):
    draining = Draining(notes, clock=lambda: 0.0)
    assert await draining.nodes() == frozenset()

    assert await draining.begin("pve1")

    assert await draining.nodes() == {"pve1"}
    assert not await draining.begin("pve1")  # it was already


async def test_another_process_sees_it_within_seconds(notes):
    now = 0.0
    hub, operator = Draining(notes, clock=lambda: now), Draining(notes)
    await hub.nodes()

    await operator.begin("pve2")
    now = 6.0

    assert await hub.nodes() == {"pve2"}


async def test_looks_within_seconds_cost_one_question(notes):
    draining = Draining(notes, clock=lambda: 1.0)

    for _ in range(10):
        await draining.nodes()

    assert notes.asked == 1


async def test_undoing_it_is_known_at_once_too(notes):
    draining = Draining(notes, clock=lambda: 0.0)
    await draining.begin("pve1")

    assert await draining.end("pve1")

    assert await draining.nodes() == frozenset()
    assert not await draining.end("pve1")


async def test_the_marks_outlive_the_process_that_made_them(tmp_path):
    url = f"sqlite:///{tmp_path / 'labspawner.sqlite'}"
    operator, hub = (Reservations.open(url, hub_id="lab", scope="proxmox") for _ in range(2))
    try:
        await Draining(ReservedMarks(operator)).begin("pve1")
        await Draining(ReservedMarks(operator)).begin("pve1")
        await Draining(ReservedMarks(operator)).begin("pve2")
        await Draining(ReservedMarks(operator)).end("pve2")

        assert await Draining(ReservedMarks(hub)).nodes() == {"pve1"}
    finally:
        await operator.close()
        await hub.close()


def test_what_is_off_moves_to_the_node_with_most_room():
    (step,) = plan([Resident(vmid=20001, running=False)], {"pve2": 1, "pve3": 4}, move_running=False)

    assert (step.move, step.target) == (Move.MIGRATE, "pve3")


def test_a_hibernated_vm_moves_with_its_memory():
    (step,) = plan([Resident(vmid=20001, running=False, lock="suspended")], {"pve2": 1}, move_running=False)

    assert step.move is Move.MIGRATE


def test_a_running_vm_is_never_touched_unasked():
    running = Resident(vmid=20001, running=True)

    (left,) = plan([running], {"pve2": 9}, move_running=False)
    (moved,) = plan([running], {"pve2": 9}, move_running=True)

    assert (left.move, left.target) == (Move.STAY, "")
    assert (moved.move, moved.target) == (Move.ALIVE, "pve2")


@pytest.mark.parametrize(
    ("resident", "move", "words"),
    [
        (Resident(vmid=1, running=False, local=("local",)), Move.PINNED, "this node alone: local"),
        (Resident(vmid=1, running=False, passthrough=("hostpci0",)), Move.PINNED, "devices of this node: hostpci0"),
        (Resident(vmid=1, running=None), Move.STAY, "does not say"),
        (Resident(vmid=1, running=False, lock="backup"), Move.STAY, "locked (backup)"),
    ],
)
def test_what_cannot_move_says_why(resident, move, words):
    (step,) = plan([resident], {"pve2": 9}, move_running=True)

    assert step.move is move
    assert words in step.why


def test_nobody_moves_where_no_node_has_room():
    steps = plan([Resident(vmid=1, running=False), Resident(vmid=2, running=False)], {"pve2": 1}, move_running=False)

    assert [step.move for step in steps] == [Move.MIGRATE, Move.STAY]
    assert "no other node has room" in steps[1].why


residents = st.lists(
    st.builds(
        Resident,
        vmid=st.integers(100, 999),
        running=st.sampled_from([True, False, None]),
        lock=st.sampled_from(["", "suspended", "backup"]),
        local=st.sampled_from([(), ("local",)]),
    ),
    max_size=12,
)


@given(residents, st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 4)), st.booleans())
def test_no_node_gets_more_than_it_has_room_for_and_everybody_is_answered(them, room, move_running):
    steps = plan(them, room, move_running=move_running)

    assert len(steps) == len(them)
    for name in room:
        assert sum(step.target == name for step in steps) <= room[name]
    assert all(bool(step.target) == (step.move in {Move.MIGRATE, Move.ALIVE}) for step in steps)
    assert all(step.why for step in steps if not step.target)
    assert move_running or not any(step.resident.running and step.target for step in steps)
