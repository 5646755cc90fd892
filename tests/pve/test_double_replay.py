"""The double answers what a real Proxmox VE 8.4 answered: tests/pve/recorded-pve-8.4.jsonl.gz, played against it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pve.recorded import POOL, Recorder, recorded_cluster
from pve.replaying import Player, rows

from labspawner.testing.pve import PveDouble

_A_RACE = "who wins, and how the others lose, is chance: test_double_clones.py lets six callers race"
SCENARIOS = ("inventory", "vm-life", "errors", "faults", "console")
LEFT_OUT: dict[str | int, str] = {
    213: "shows what the recorder did for another scenario at the same time",
    **dict.fromkeys((282, 283, 286, 287, 288, 289, 290, 530, 535, 536, 537), _A_RACE),
    650: "which of two tasks ended last is chance",
}


@pytest.fixture
def recorded(new_pve: Callable[..., PveDouble]) -> PveDouble:
    """A cluster as the recorded one was when the recorder came."""
    return recorded_cluster(new_pve)


def test_inventory(recorded: PveDouble) -> None:
    recorder = Recorder(recorded)
    recorder.clone_7001()
    hooks = {
        3: lambda: recorder.told(7001),
        6: recorder.change(7001, pool=POOL),
        34: recorder.change(7001, tags="alice;labspawner"),
    }
    player = Player(recorded, LEFT_OUT, hooks)

    player.play(rows("inventory"))

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 40


def test_life_of_a_vm(recorded: PveDouble) -> None:
    recorder = Recorder(recorded)
    player = Player(recorded, LEFT_OUT, recorder.life_hooks())

    player.play(rows("vm-life"))

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 150


def test_errors(recorded: PveDouble) -> None:
    recorder = Recorder(recorded)
    player = Player(recorded, LEFT_OUT, recorder.error_hooks())

    player.play(rows("errors"))

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 200


def test_faults(recorded: PveDouble) -> None:
    recorder = Recorder(recorded)
    player = Player(recorded, LEFT_OUT, recorder.fault_hooks(), untimed=frozenset({637}))

    player.play(rows("faults"))

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 140


def test_console(recorded: PveDouble) -> None:
    recorder = Recorder(recorded)
    player = Player(recorded, LEFT_OUT, recorder.console_hooks())

    player.play(rows("console"))

    assert not player.wrong, "\n".join(player.wrong)
    assert player.compared > 30


def test_nothing_is_left_out_unseen() -> None:
    asked = [row for scenario in SCENARIOS for row in rows(scenario) if row["request"] is not None]

    assert set(LEFT_OUT) <= {row["line"] for row in asked}
    assert len(LEFT_OUT) < len(asked) / 50
