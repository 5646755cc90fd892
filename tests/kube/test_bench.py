"""The bench of pods, on a very small storm."""

from __future__ import annotations

from dataclasses import replace

from click.testing import CliRunner

from labspawner.cli.bench import bench
from labspawner.cli.bench.kube import Reading, compare

READING = Reading(
    all_ready_s=20.0,
    ready_p50_s=15.0,
    all_gone_s=9.0,
    start_cpu_ms=50.0,
    stop_cpu_ms=28.0,
    p99_ms=100.0,
    stall_ms=400.0,
    writes_per_start=1.0,
    taken_s=(0.2, 0.9),
)


def test_a_small_storm_of_pods_prints_both_sides_and_every_target():
    result = CliRunner().invoke(bench, ["kube", "--n", "3"])

    assert result.exit_code in {0, 1}, result.output
    for words in ("KubeSpawner", "all ready", "a start", "a stop", "longest", "API writes", "freed slice taken"):
        assert words in result.output


def test_as_good_as_kubespawner_is_enough_where_it_is_the_measure():
    assert all(row.reached for row in compare(READING, READING))


def test_each_target_can_be_missed():
    worse = (
        replace(READING, all_ready_s=21.0),
        replace(READING, start_cpu_ms=51.0),
        replace(READING, stop_cpu_ms=29.0),
        replace(READING, stall_ms=501.0),
        replace(READING, writes_per_start=1.5),
        replace(READING, taken_s=(0.2, 1.1)),
    )

    for reading in worse:
        assert [row.reached for row in compare(READING, reading)].count(False) == 1
