"""What an inventory means for slices: what was promised counts, per card, and never more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.cards import (
    Card,
    CardEvent,
    CardProcess,
    Device,
    Held,
    Inventory,
    LostCard,
    capacities,
    events,
    without_strangers,
)
from labspawner.model import CardPolicy, Slice
from labspawner.placement import choose_cards

GIB, MIB = 2**30, 2**20


def a_card(index: int = 0, memory_bytes: int = 24_564 * MIB, **changes: object) -> Card:
    values: dict[str, object] = {
        "uuid": f"GPU-{index}",
        "index": index,
        "name": "A5000",
        "memory_total_bytes": memory_bytes,
    }
    return Card(**{**values, **changes})  # type: ignore[arg-type]


def a_part(name: str, gib: int) -> Device:
    return Device(uuid=f"MIG-{name}", name="MIG 1g.10gb", memory_total_bytes=gib * GIB)


CUT = a_card(1, mig=True, parts=(a_part("a", 10), a_part("b", 20)))


def test_a_card_that_is_cut_is_no_place_itself_and_each_part_holds_one_slice():
    free = capacities(Inventory(cards=(a_card(), CUT)), splits=7)

    assert [(card.uuid, card.slots_free) for card in free] == [("GPU-0", 7), ("MIG-a", 1), ("MIG-b", 1)]
    taken = capacities(Inventory(cards=(CUT,)), [Held("MIG-a", Slice(memory_bytes=GIB))])
    assert [card.slots_free for card in taken] == [0, 1]


def test_what_is_held_is_not_free_whatever_is_used_of_it():
    held = [Held("GPU-0", Slice(memory_bytes=6 * GIB, compute_pct=25))] * 3

    (card,) = capacities(Inventory(cards=(a_card(),)), held, splits=10)

    assert card.memory_free_bytes == (24_564 - 3 * 6144) * MIB
    assert (card.compute_free_pct, card.slots_free) == (25, 7)
    assert choose_cards([card], Slice(memory_bytes=6 * GIB, compute_pct=25)) is None


def test_what_is_held_of_a_card_that_is_gone_is_nobodys_room():
    free = capacities(Inventory(cards=(a_card(),)), [Held("GPU-9", Slice(memory_bytes=GIB))])

    assert free[0].memory_free_bytes == 24_564 * MIB


def test_memory_of_processes_outside_all_slices_is_not_free():
    device = a_card(processes=(CardProcess(7, 3 * GIB), CardProcess(8, GIB), CardProcess(9, None)))

    (card,) = capacities(Inventory(cards=(device,)))

    assert without_strangers(card, device, frozenset({8})).memory_free_bytes == 24_564 * MIB - 3 * GIB


def test_parts_of_one_card_are_nearest_and_those_of_another_as_far_as_their_card():
    inventory = Inventory(
        cards=(a_card(0, distances={"GPU-1": 40}), a_card(1, mig=True, parts=CUT.parts, distances={"GPU-0": 40}))
    )

    by_uuid = {card.uuid: card.distances for card in capacities(inventory)}

    assert by_uuid["GPU-0"] == {"MIG-a": 40, "MIG-b": 40}
    assert by_uuid["MIG-a"]["MIG-b"] == 0
    assert by_uuid["MIG-a"]["GPU-0"] == 40


def test_a_card_that_went_and_one_that_came_are_events():
    before = Inventory(cards=(a_card(0), a_card(1)))
    after = Inventory(cards=(a_card(0), a_card(2)), lost=(LostCard(1, "GPU is lost"),))

    assert events(before, after) == (CardEvent("GPU-1", False, "GPU is lost"), CardEvent("GPU-2", True))
    assert events(after, after) == ()


def test_a_part_leads_to_its_card():
    inventory = Inventory(cards=(a_card(), CUT))

    assert inventory.card_of("MIG-b") is CUT
    assert inventory.card_of("GPU-0") is inventory.cards[0]
    assert inventory.card_of("GPU-9") is None


wishes = st.lists(st.tuples(st.integers(1, 12 * 1024), st.integers(1, 100), st.integers(1, 2)), max_size=20)


@given(
    st.lists(st.integers(1, 24_564), min_size=1, max_size=4), wishes, st.integers(1, 10), st.sampled_from(CardPolicy)
)
def test_no_card_is_ever_overcommitted_however_slices_come(sizes, wanted, splits, policy):
    inventory = Inventory(cards=(*(a_card(index, mib * MIB) for index, mib in enumerate(sizes)), CUT))
    held: list[Held] = []

    for mib, pct, count in wanted:
        gpu = Slice(memory_bytes=mib * MIB, compute_pct=pct)
        chosen = choose_cards(capacities(inventory, held, splits=splits), gpu, count=count, policy=policy)
        held += [Held(card.uuid, gpu) for card in chosen or ()]

    for device in inventory.devices():
        here = [one.gpu for one in held if one.uuid == device.uuid]
        assert sum(gpu.memory_bytes for gpu in here) <= device.memory_total_bytes
        assert sum(gpu.compute_pct for gpu in here) <= 100
        assert len(here) <= (1 if device in CUT.parts else splits)
