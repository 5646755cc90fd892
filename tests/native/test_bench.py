"""`labspawner bench gpu`: every line of the table, and a verdict on missed targets. No time is asserted."""

from __future__ import annotations

import importlib

import pytest

from labspawner.testing.slices import PretendCard, Shares, Tools

gpu = importlib.import_module("labspawner.cli.bench.gpu")  # the package's `gpu` is the command, not the module
COSTS = (
    "launch, memory limit only",
    "launch, with core limit",
    "alloc + free, 1 live block",
    "alloc + free, 1,000 live blocks",
    "alloc + free, 10,000 live blocks",
    "cuMemGetInfo",
    "NVML memory query",
    "exec of a program without CUDA",
    "cuInit",
    "alloc + free, 16 processes",
)


def _row(reached: bool) -> object:
    return gpu.Row(what="a call", bare="1 ns", ours="+2 ns", target="<= +3 ns", reached=reached)


def test_every_cost_has_a_line(native):
    with PretendCard(Tools(folder=native.folder)) as card:
        rows = list(gpu.costs(card, rounds=1))

    assert tuple(row.what for row in rows) == COSTS
    assert all(row.bare and row.ours and row.target for row in rows)


@pytest.mark.parametrize(("reached", "word"), [(True, "reached"), (False, "MISSED")])
def test_one_missed_target_is_said_and_fails_the_table(monkeypatch, capsys, reached, word):
    monkeypatch.setenv("COLUMNS", "140")

    assert gpu.show([_row(True), _row(reached)]) is reached

    assert word in capsys.readouterr().out


def test_the_window_that_is_farthest_off_decides():
    good = gpu._within("w", "", Shares({"a": [0.29, 0.315]}), {"a": 30})
    bad = gpu._within("w", "", Shares({"a": [0.30, 0.27, 0.33]}), {"a": 30})

    assert good.reached
    assert not bad.reached


def test_jains_index_is_one_for_equals_and_less_for_others():
    assert Shares({"a": [0.5], "b": [0.5]}).jain() == pytest.approx(1)
    assert Shares({"a": [0.9], "b": [0.1]}).jain() < 0.7


def test_a_folder_without_programs_is_an_error_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="no stubctl was built"):
        PretendCard(Tools(folder=tmp_path))
