"""Which cards a command gets, and the sentence for each way of getting none."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from labspawner.cli.run.choosing import CannotPlace, Wish, choose, exactly
from labspawner.gpu.cards import Card, CardProcess, Device, Inventory, LostCard
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits
from labspawner.gpu.register import About, Registered
from labspawner.model import CardPolicy, Slice

GIB, MIB = 2**30, 2**20


def a_card(index: int, *processes: CardProcess, mib: int = 24_564) -> Card:
    return Card(uuid=f"GPU-{index}", index=index, name="A5000", memory_total_bytes=mib * MIB, processes=processes)


TWO = Inventory(cards=(a_card(0), a_card(1)))


def a_wish(gib: float = 6, pct: int = 25, **changes: object) -> Wish:
    return Wish(gpu=Slice(memory_bytes=round(gib * GIB), compute_pct=pct), **changes)  # type: ignore[arg-type]


def a_slice(uuid: str, gib: int = 6, pct: int = 25, policy: CorePolicy = CorePolicy.FAIR) -> Registered:
    limit = DeviceLimit(uuid=uuid, memory_bytes=gib * GIB, cores_pct=pct)
    about = About(command=("x",), pid=1, uid=0, started=datetime.now(timezone.utc), sandboxed=True)
    return Registered(
        SliceFolder(Path("/x")), SliceLimits(name="x", region="/x", devices=(limit,), policy=policy), about
    )


def uuids(devices: tuple[Device, ...]) -> list[str]:
    return [device.uuid for device in devices]


def test_slices_are_packed_spread_or_put_where_they_were_told():
    there = [a_slice("GPU-1")]

    assert uuids(choose(a_wish(), TWO, there)) == ["GPU-1"]
    assert uuids(choose(a_wish(place=CardPolicy.SPREAD), TWO, there)) == ["GPU-0"]
    assert uuids(choose(a_wish(named=("0",)), TWO, there)) == ["GPU-0"]
    assert uuids(choose(a_wish(named=("GPU-1", "0")), TWO, there)) == ["GPU-0", "GPU-1"]
    assert uuids(choose(a_wish(count=2), TWO, there)) == ["GPU-0", "GPU-1"]


def test_compute_time_that_nobody_limits_is_promised_to_nobody():
    there = [a_slice("GPU-0", 1, 100, CorePolicy.OFF)]

    assert uuids(choose(a_wish(pct=90, named=("0",)), TWO, there)) == ["GPU-0"]


@pytest.mark.parametrize(
    ("wish", "inventory", "words"),
    [
        (a_wish(), Inventory(), "no GPU on this machine"),
        (a_wish(), Inventory(lost=(LostCard(0, "GPU is lost"),)), "GPU 0 does not answer (GPU is lost)"),
        (a_wish(named=("7",)), TWO, "There is no GPU 7 here"),
        (a_wish(named=("7",)), TWO, "GPU-1  A5000"),
        (a_wish(named=("0", "GPU-0")), TWO, "named twice"),
        (a_wish(24), TWO, "more than any GPU here has: the largest has 24564 MiB"),
        (a_wish(24, named=("0",)), TWO, "more than GPU-0 has: 24564 MiB"),
        (a_wish(count=3), TWO, "3 GPUs are more than there are: 2"),
    ],
)
def test_what_cannot_be_is_said(wish: Wish, inventory: Inventory, words: str):
    with pytest.raises(CannotPlace) as caught:
        choose(wish, inventory, [])

    assert words in str(caught.value)


def test_a_full_card_says_what_is_left():
    there = [a_slice("GPU-0"), a_slice("GPU-0"), a_slice("GPU-0"), a_slice("GPU-1", 20, 90)]

    with pytest.raises(CannotPlace, match=r"most that is free on one: 6132 MiB and 25 % of compute time.*gpu ls"):
        choose(a_wish(), TWO, there)
    with pytest.raises(CannotPlace, match="GPU-0 has no room: 6132 MiB"):
        choose(a_wish(named=("0",)), TWO, there)


def test_memory_that_others_hold_is_not_free_and_that_of_slices_is_counted_once():
    inventory = Inventory(cards=(a_card(0, CardProcess(7, 20 * GIB), CardProcess(8, 6 * GIB)),))

    with pytest.raises(CannotPlace):
        choose(a_wish(), inventory, [a_slice("GPU-0")], ours={8})
    assert choose(a_wish(), inventory, [a_slice("GPU-0")], ours={7, 8})


def test_a_card_that_is_cut_is_asked_for_by_its_parts():
    part = Device(uuid="MIG-a", name="MIG 1g.10gb", memory_total_bytes=10 * GIB)
    cut = Card(uuid="GPU-0", index=0, name="H100", memory_total_bytes=80 * GIB, mig=True, parts=(part,))
    inventory = Inventory(cards=(cut,))

    assert uuids(choose(a_wish(named=("MIG-a",)), inventory, [])) == ["MIG-a"]
    assert uuids(choose(a_wish(), inventory, [])) == ["MIG-a"]
    with pytest.raises(CannotPlace, match=r"cut into MIG devices(.|\n)*MIG-a"):
        choose(a_wish(named=("0",)), inventory, [])
    with pytest.raises(CannotPlace, match="no places"):
        choose(a_wish(1, 1, named=("MIG-a",)), inventory, [a_slice("MIG-a", 1)])


@pytest.mark.parametrize(
    ("size", "text"), [(24_564 * MIB, "24564 MiB"), (6 * GIB, "6 GiB"), (143_771 * MIB, "140.4 GiB")]
)
def test_sizes_of_cards_are_said_as_exactly_as_it_matters(size: int, text: str):
    assert exactly(size) == text
