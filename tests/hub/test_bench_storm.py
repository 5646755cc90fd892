"""The bench of a login storm, on a small one."""

from __future__ import annotations

import math

from click.testing import CliRunner

from labspawner.cli.bench import bench
from labspawner.cli.bench.storm import Kill, Reading, Row, compare, kill_in_storms
from labspawner.testing.storm import percentile


def test_a_small_storm_prints_both_sides_and_every_target():
    result = CliRunner().invoke(bench, ["storm", "--n", "3"])

    assert result.exit_code in {0, 1}, result.output
    for words in ("JupyterHub alone", "all ready", "first progress", "hub answers, p99", "hub answers, longest"):
        assert words in result.output


def test_polling_a_few_servers_is_measured_on_both_sides():
    result = CliRunner().invoke(bench, ["poll", "--n", "3", "--seconds", "1"])

    assert result.exit_code in {0, 1}, result.output
    assert "3 running servers" in result.output


def test_a_killed_hub_loses_and_leaks_nothing():
    (kill,) = kill_in_storms(1, 4, seed=1)

    assert (kill.lost, kill.leaked) == (0, 0)
    assert not math.isinf(kill.reconciled_s)
    assert isinstance(kill, Kill)


def test_a_row_without_a_target_is_reached_whatever_it_says():
    assert Row("x", 1, 100, "s").reached
    assert not Row("x", 1, 100, "s", 99).reached


def test_half_of_upstreams_time_is_asked():
    slow, fast = Reading(10, 9, 1, 100, 200, 5), Reading(5, 4, 1, 100, 200, 5)

    assert all(row.reached for row in compare(slow, fast))
    assert not all(row.reached for row in compare(slow, slow))


def test_percentiles_of_few_and_of_nothing():
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([1], 99) == 1
    assert math.isnan(percentile([], 50))
