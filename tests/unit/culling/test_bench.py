"""`labspawner bench cull`, on a few servers."""

from __future__ import annotations

from click.testing import CliRunner

from labspawner.cli.bench import cull as module
from labspawner.cli.bench.cull import Reading, cull


def test_both_cullers_look_at_all_servers_and_stop_none():
    result = CliRunner().invoke(cull, ["--n", "210"])

    assert result.exit_code == 0, result.output
    assert "one pass over 210 running servers" in result.output
    assert "jupyterhub-idle-culler" in result.output


def test_a_missed_target_is_the_exit_code(monkeypatch):
    slow = Reading(cpu_s=9.0, wall_s=9.0, culled=0)
    monkeypatch.setattr(module_of(cull), "_in_a_process", lambda work: slow)

    result = CliRunner().invoke(cull, ["--n", "5"])

    assert result.exit_code == 1
    assert "9.00" in result.output


def module_of(command: object) -> object:
    """The module, which the package hides behind the command of the same name."""
    import sys

    assert module is command
    return sys.modules["labspawner.cli.bench.cull"]
