"""`labspawner bench start`: what is measured, and what counts as reached; the hubs themselves take minutes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from labspawner.cli import main
from labspawner.cli.bench.start import Readings, compare, measure, name_of, show


class Simulated:
    """A side whose starts take as long as many run, in seconds."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.added: set[str] = set()
        self.looks = 0

    def add(self, users: Sequence[str]) -> None:
        self.added.update(users)

    def seconds_to_ready(self, users: Sequence[str]) -> list[float]:
        assert set(users) <= self.added
        assert not set(users) & self.running
        self.running.update(users)
        return [float(len(users))] * len(users)

    def stop(self, users: Sequence[str]) -> None:
        self.running -= set(users)

    def memory_bytes(self) -> int:
        self.looks += 1
        return len(self.running) * (100 if self.looks > 1 else 50)


@pytest.mark.parametrize(("together", "idle"), [(4, 10), (4, 4), (6, 2)])
def test_one_then_many_at_once_then_a_room_of_idle_ones(together: int, idle: int) -> None:
    side = Simulated()

    readings = measure(side, runs=3, together=together, idle=idle, settle_s=0.001)

    assert readings == Readings(alone_s=1.0, together_s=float(together), memory_bytes=idle * 100)
    assert side.running == set()
    assert side.looks == 3
    assert name_of(0) in side.added


def test_targets_are_a_fifth_a_fifth_and_half(capsys: pytest.CaptureFixture[str]) -> None:
    upstream = Readings(alone_s=5.0, together_s=20.0, memory_bytes=2_000_000)
    reached = compare(upstream, Readings(1.0, 4.0, 1_000_000), together=8, idle=20)
    missed = compare(upstream, Readings(1.01, 4.01, 1_000_001), together=8, idle=20)

    assert [row.reached for row in reached] == [True] * 3
    assert [row.reached for row in missed] == [False] * 3
    show([reached[0], missed[1]])
    text = capsys.readouterr().out
    assert "reached" in text
    assert "MISSED" in text


def test_the_command_says_what_it_measures() -> None:
    answer = CliRunner().invoke(main, ["bench", "start", "--help"])

    assert answer.exit_code == 0
    assert "SimpleLocalProcessSpawner" in answer.output
    assert CliRunner().invoke(main, ["bench", "start", "--runs", "0"]).exit_code == 2
