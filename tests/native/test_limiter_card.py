"""The core limit on the pretend card: what the card's own books say of slices, and programs that a limit must not disturb.

Parts are of the card's time, and of windows in which no program had to wait for a processor: `make test` runs these alone,
after all others. The strict two points are in `labspawner bench gpu`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labspawner.gpu import region
from labspawner.gpu.limits import CorePolicy
from labspawner.testing.slices import PretendCard, Slice
from labspawner.testing.waiting import eventually_sync

LONG_S = 600
SPARE = 12

pytestmark = pytest.mark.alone


def _busy(card: PretendCard, slice_: Slice, kind: str, us: int, *words: object) -> None:
    card.start(slice_, "gpu_load", kind, us, LONG_S, *words)


@pytest.mark.parametrize(
    ("kind", "us", "sync"),
    [
        ("kernel", 20, 0),
        ("kernel", 1000, 0),
        ("kernel", 20000, 0),
        ("kernel", 200, 1),
        ("kernel", 200, 7),
        ("graph", 1000, 0),
        ("cooperative", 1000, 0),
    ],
)
def test_a_capped_slice_has_its_share_of_the_card(card, kind, us, sync):
    slice_ = card.slice("a", 30)
    _busy(card, slice_, kind, us, sync)

    shares = card.shares([slice_], settle_s=1.5, windows=3, spare=SPARE)

    assert shares.mean("a") <= 0.33
    assert shares.mean("a") >= (0.2 if sync else 0.25)


def test_processes_of_one_slice_share_its_share(card):
    slice_ = card.slice("a", 30)
    for _ in range(4):
        _busy(card, slice_, "kernel", 1000)

    assert card.shares([slice_], settle_s=2, windows=3, spare=SPARE).mean("a") == pytest.approx(0.30, abs=0.05)


@pytest.mark.parametrize("us", [100, 20000])
def test_two_slices_have_theirs(card, us):
    small, large = card.slice("small", 30), card.slice("large", 60)
    for slice_ in (small, large):
        _busy(card, slice_, "kernel", us)

    shares = card.shares([small, large], settle_s=2, windows=3, spare=SPARE)

    assert shares.mean("small") == pytest.approx(0.30, abs=0.05)
    assert shares.mean("large") == pytest.approx(0.60, abs=0.07)


def test_equal_slices_share_a_card_fairly(card):
    slices = [card.slice(name, 25, policy=CorePolicy.FAIR) for name in "abcd"]
    for slice_ in slices:
        _busy(card, slice_, "kernel", 1000)

    assert card.shares(slices, settle_s=2, windows=3, spare=SPARE).jain() >= 0.97


def test_an_idle_card_is_lent_and_given_back(card):
    lender = card.slice("lender", 20, policy=CorePolicy.FAIR)
    owner = card.slice("owner", 70, policy=CorePolicy.FAIR)
    _busy(card, lender, "kernel", 500)

    alone = card.shares([lender], settle_s=1, windows=2, spare=SPARE)
    _busy(card, owner, "kernel", 500)
    both = card.shares([lender, owner], settle_s=0.3, windows=3, spare=SPARE)

    assert alone.mean("lender") >= 0.8
    assert both.mean("owner") >= 0.62


def test_priority_zero_is_lent_what_is_idle(card):
    first = card.slice("first", 20, policy=CorePolicy.FAIR, priority=0)
    later = card.slice("later", 20, policy=CorePolicy.FAIR, priority=1)
    for slice_ in (first, later):
        _busy(card, slice_, "kernel", 500)

    shares = card.shares([first, later], settle_s=2, windows=3, spare=SPARE)

    assert shares.mean("later") == pytest.approx(0.20, abs=0.06)
    assert shares.mean("first") >= 0.65


def test_off_limits_nothing(card):
    slice_ = card.slice("a", 10, policy=CorePolicy.OFF)
    _busy(card, slice_, "kernel", 1000)

    assert card.shares([slice_], settle_s=0.5, windows=2, spare=SPARE).mean("a") >= 0.8


def test_a_new_limit_acts_on_a_running_program(card):
    slice_ = card.slice("a", 60)
    _busy(card, slice_, "kernel", 1000)
    before = card.shares([slice_], settle_s=1.5, windows=1, spare=SPARE).mean("a")

    slice_.change(cores_pct=20)
    after = card.shares([slice_], settle_s=2.5, windows=2, spare=SPARE).mean("a")

    assert before == pytest.approx(0.60, abs=0.08)
    assert after == pytest.approx(0.20, abs=0.05)


def test_without_a_node_file_the_share_is_kept(card):
    slice_ = card.slice("a", 30, policy=CorePolicy.FAIR, node=False)
    _busy(card, slice_, "kernel", 1000)

    assert card.shares([slice_], settle_s=1.5, windows=2, spare=SPARE).mean("a") == pytest.approx(0.30, abs=0.05)


@pytest.mark.parametrize("damage", ["empty", "rubbish", "gone"])
def test_damage_to_the_node_file_takes_no_share_away(card, damage):
    slices = [card.slice("a", 40, policy=CorePolicy.FAIR), card.slice("b", 40, policy=CorePolicy.FAIR)]
    for slice_ in slices:
        _busy(card, slice_, "kernel", 1000)
    node = card.folder / "node"
    if damage == "empty":
        os.truncate(node, 0)
    elif damage == "rubbish":
        with node.open("r+b") as file:
            file.write(os.urandom(64 + 512 * 512))
    else:
        node.unlink()

    shares = card.shares(slices, settle_s=1.5, windows=3, spare=SPARE)

    assert all(process.poll() is None for process in card.running)
    assert min(shares.mean("a"), shares.mean("b")) >= 0.33


def test_the_slice_of_a_killed_process_is_lent_again(card):
    killed = card.slice("killed", 50, policy=CorePolicy.FAIR)
    other = card.slice("other", 50, policy=CorePolicy.FAIR)
    _busy(card, other, "kernel", 1000)
    process = card.start(killed, "gpu_load", "kernel", 1000, LONG_S)
    assert card.shares([other], settle_s=1, windows=1, spare=SPARE).mean("other") <= 0.65

    process.kill()

    assert card.shares([other], settle_s=0.5, windows=2, spare=SPARE).mean("other") >= 0.8


def test_the_region_tells_what_the_slice_used_and_when(card):
    slice_ = card.slice("a", 50)
    _busy(card, slice_, "kernel", 1000)

    def told() -> bool:
        device = region.read(Path(slice_.limits.region)).devices[0]
        return device.gpu_time_s > 0.2 and device.last_launch is not None

    eventually_sync(told, 5, "GPU time and the last launch are in the region")
    before = region.read(Path(slice_.limits.region)).devices[0].gpu_time_s
    look = card.look()
    after = region.read(Path(slice_.limits.region)).devices[0].gpu_time_s
    busy_s = sum(look.busy_ns[pid] for pid in slice_.pids) / 1e9  # at some time between the two
    assert before <= busy_s * 1.3
    assert after >= busy_s * 0.7
