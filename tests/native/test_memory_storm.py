"""The big promise: many processes, every kind of memory, every legal way to free it; the card itself says what it held.

STORM=10000 makes the storms longer, for an evening.
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from native.hook_guests import MIB, Slice, make_slice, storms, symbol_distance

from labspawner.testing.waiting import eventually_sync

OPERATIONS = int(os.environ.get("STORM", "400"))
LIMIT = 600 * MIB
WAYS = ("symbols", "table", "lookup0", "lookup2")

pytestmark = [pytest.mark.timeout(0)] if "STORM" in os.environ else []


@pytest.fixture
def a_slice(native, stub_state, tmp_path: Path) -> Slice:
    return make_slice(native, stub_state, tmp_path / "slice", LIMIT)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_charged_is_never_less_than_what_the_card_holds_after_any_operation(native, stub_state, tmp_path, way):
    small = make_slice(native, stub_state, tmp_path / "small", 250 * MIB)  # near its limit most of the time
    distance = symbol_distance(native.stub / "libcuda.so.1", "cuMemGetInfo_v2", "cuGetErrorName")

    for seed in (1, 35, 61, 134, *range(1000, 1000 + OPERATIONS // 100)):
        with storms(small, 1, 3 * OPERATIONS, way, seed=seed, STORM_BEHIND=str(distance)) as said:
            assert said[0]["operations"] == 3 * OPERATIONS
            assert small.used_bytes() == 0, f"seed {seed}"


@pytest.mark.parametrize("more", [{}, {"STUB_CUDA_ALTERNATE": "1"}], ids=["", "other addresses"])
def test_sixteen_processes_never_hold_a_byte_too_much_and_leak_nothing(a_slice, more):
    way = "lookup2" if more else "symbols"

    with storms(a_slice, 16, OPERATIONS, way, **more) as said:
        assert sum(one["refused"] for one in said) > 0
        assert {one["total"] for one in said} == {LIMIT}
        assert a_slice.used_bytes() == 0
        assert a_slice.card()["used"] == 0

    assert a_slice.card()["peak"] <= LIMIT


def test_a_slice_beside_another_one_is_not_touched_by_its_storm(a_slice, native, stub_state, tmp_path):
    other = make_slice(native, stub_state, tmp_path / "other", LIMIT, name="bob")

    with storms(a_slice, 3, OPERATIONS, "symbols"), storms(other, 1, OPERATIONS // 4, "symbols"):
        assert other.used_bytes() == 0

    assert a_slice.card()["peak"] <= 2 * LIMIT


@pytest.mark.parametrize("teardown_ms", ["0", "3"], ids=["at once", "after a moment"])
def test_processes_that_are_killed_at_any_moment_leave_nothing_behind(native, stub_state, tmp_path, teardown_ms):
    bare = {**stub_state, "STUB_CUDA_TEARDOWN_MS": teardown_ms}  # until the card has their memory back
    a_slice = make_slice(native, bare, tmp_path / "slice", LIMIT)
    chance = random.Random(4)
    storm = a_slice.native.program("hook_storm")

    for seed in range(max(20, OPERATIONS // 10)):
        words = [storm, str(seed + 1), "1000000"]
        pair = [subprocess.Popen(words, env=a_slice.inside, stdin=subprocess.DEVNULL) for _ in range(2)]
        for process in pair:
            try:
                process.wait(timeout=chance.uniform(0.005, 0.05))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    eventually_sync(lambda: a_slice.card()["used"] == 0, 10, "the card is empty")
    assert a_slice.card()["peak"] <= LIMIT
    with storms(a_slice, 1, 1, "symbols"):  # whoever comes next finds all of it
        assert a_slice.ask("limit", str(LIMIT))["again"] == 0
