"""The limiter's parts that know nothing of a driver: the bucket, the node's file, and many slices on one simulated card."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest

BUCKET = (
    "starts_full",
    "saves_up_no_more_than_the_burst",
    "refills_by_share_of_wall_time",
    "owes_without_bound_and_pays_all_of_it",
    "never_waits_longer_than_two_milliseconds_at_a_time",
    "a_reservation_is_seen_at_once_and_corrected_later",
    "what_was_saved_can_be_forfeited_and_debts_cannot",
    "nonsense_costs_nothing_and_pays_nothing",
    "forgets_debts_from_before_a_restart_of_the_machine",
    "clocks_a_little_apart_pay_nothing_twice",
    "calibration_moves_slowly_and_stays_between_half_and_double",
    "one_caller_closes_each_window_of_use",
    "alone_a_slice_is_lent_the_whole_device",
    "what_is_idle_is_lent_by_weight",
    "what_a_quiet_slice_leaves_is_lent_but_for_some_room",
    "a_guarantee_stands_whatever_others_claim",
    "priority_zero_is_lent_first",
    "lent_shares_never_exceed_the_device",
)
NODE = (
    "an_empty_file_is_made_ready_once",
    "a_file_of_an_earlier_version_is_made_anew_once_nobody_uses_it",
    "other_files_are_left_alone",
    "a_process_sees_others_on_its_device_and_not_itself",
    "the_line_of_the_dead_is_free_again",
    "all_lines_taken_is_an_error_and_no_wait",
    "a_file_that_is_cut_short_kills_nobody",
    "rubbish_in_the_file_is_bounded",
    "time_shared_with_others_is_divided",
    "what_others_work_cost_is_not_ours",
    "time_is_charged_once",
    "stretches_that_follow_closely_are_one",
    "a_slice_claims_once_however_many_processes_it_has",
    "a_long_kernel_counts_while_its_owner_writes_nothing",
)
KERNELS_US = (20, 100, 700, 1000, 1300, 3000, 20000)


@pytest.mark.parametrize("case", BUCKET)
def test_the_bucket(native, case):
    _run(native.program("limit_bucket"), case)


@pytest.mark.parametrize("case", NODE)
def test_the_node_file(native, case):
    _run(native.program("limit_node"), case)


@pytest.mark.parametrize("events", ["early", "late"])
@pytest.mark.parametrize("kernel_us", KERNELS_US)
@pytest.mark.parametrize("processes", [1, 4])
def test_a_slice_gets_its_share_whatever_its_kernels_and_processes(native, events, kernel_us, processes):
    shares = _simulate(native, events, *[f"a:cap:30:1:{kernel_us}"] * processes)

    assert shares["a"] == pytest.approx(0.30, abs=0.02)


@pytest.mark.parametrize("events", ["early", "late"])
@pytest.mark.parametrize("kernel_us", KERNELS_US)
def test_two_slices_get_theirs_side_by_side(native, events, kernel_us):
    shares = _simulate(native, events, f"a:cap:30:1:{kernel_us}", f"b:cap:60:1:{kernel_us}")

    assert shares["a"] == pytest.approx(0.30, abs=0.02)
    assert shares["b"] == pytest.approx(0.60, abs=0.02)


@pytest.mark.parametrize("events", ["early", "late"])
@pytest.mark.parametrize(("long_us", "short_us"), [(20000, 1000), (20000, 20), (5000, 100)])
def test_a_slice_with_long_kernels_gets_its_share_beside_one_with_short_ones(native, events, long_us, short_us):
    shares = _simulate(native, events, f"a:cap:60:1:{long_us}", f"b:cap:30:1:{short_us}")

    assert shares["a"] == pytest.approx(0.60, abs=0.02)
    assert shares["b"] == pytest.approx(0.30, abs=0.02)


@pytest.mark.parametrize("events", ["early", "late"])
@pytest.mark.parametrize("kernel_us", KERNELS_US)
def test_equal_slices_get_equal_parts(native, events, kernel_us):
    shares = list(_simulate(native, events, *[f"{name}:fair:25:1:{kernel_us}" for name in "abcd"]).values())

    assert sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) >= 0.99
    assert sum(shares) >= 0.95


@pytest.mark.parametrize("kernel_us", KERNELS_US)
def test_an_idle_card_is_one_slices_own(native, kernel_us):
    assert _simulate(native, "late", f"a:fair:10:1:{kernel_us}")["a"] >= 0.95


@pytest.mark.parametrize("kernel_us", KERNELS_US)
def test_what_is_left_is_lent_by_weight(native, kernel_us):
    shares = _simulate(native, "late,nvml", f"a:fair:20:1:{kernel_us}", f"b:fair:20:3:{kernel_us}")

    assert shares["a"] == pytest.approx(0.35, abs=0.03)
    assert shares["b"] == pytest.approx(0.65, abs=0.03)


@pytest.mark.parametrize("kernel_us", KERNELS_US)
def test_a_guarantee_is_back_within_200_milliseconds(native, kernel_us):
    windows = _windows(native, "late", 6, f"a:fair:40:1:{kernel_us}", f"b:fair:50:1:{kernel_us}:3000:6000")

    assert min(windows["a"][10:30]) >= 0.95
    # 100 ms windows: the third after its start, and on. A card of 20 ms kernels gives 20 points more or less in one of them.
    tolerance = 0.02 + min(0.2, kernel_us / 1e5)
    assert min(windows["b"][32:]) >= 0.50 - tolerance


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _windows(native, events: str, seconds: int, *processes: str) -> dict[str, list[float]]:
    """What part of each 100 ms each slice had."""
    found = json.loads(_run(native.program("limit_simulation"), events, seconds, *processes))
    assert isinstance(found, dict)
    return found


def _simulate(native, events: str, *processes: str) -> dict[str, float]:
    """What part of the card each slice had, once the first four seconds have passed."""
    return {name: _mean(had[40:]) for name, had in _windows(native, events, 9, *processes).items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
