"""`labspawner gpu agent` as a command: what is wrong is said in one line, before anything is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from labspawner.cli.gpu.agent import agent

GOOD = "classes: {small: {memory: 6GiB, cores: 25, per_card: 3}}\nstate: /nowhere/state\n"


@pytest.fixture
def run(tmp_path: Path):
    def called(text: str, *words: str) -> Result:
        path = tmp_path / "agent.yaml"
        path.write_text(text)
        return CliRunner().invoke(agent, ["--config", str(path), *words], env={"NODE_NAME": "", "LABSPAWNER_POOL": ""})

    return called


@pytest.mark.parametrize(
    ("text", "words", "why"),
    [
        ("classes: {small: {memory: 6, per_card: 3}}", (), "write 6GiB"),
        ("pools: {a: {classes: {s: {memory: 1GiB, per_card: 1}}}, b: {classes: {s: {memory: 1GiB, per_card: 1}}}}", (),
         "--pool (a, b)"),
        (GOOD, ("--pool", "big"), "there is no node pool 'big'"),
        (GOOD, ("--api", "http://127.0.0.1:1"), "--api needs --node"),
        (GOOD, ("--pretend-gpu=none",), "none"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_an_exit_status(run, text: str, words: tuple[str, ...], why: str):
    done = run(text, *words)

    assert done.exit_code in {1, 2}
    assert why in done.output
    assert "Traceback" not in done.output


def test_a_file_that_is_not_there_is_named():
    done = CliRunner().invoke(agent, ["--config", "/nowhere/agent.yaml"])

    assert done.exit_code == 1
    assert "/nowhere/agent.yaml cannot be read" in done.output


def test_without_grpcio_the_extra_is_named(tmp_path: Path):
    (tmp_path / "agent.yaml").write_text(GOOD)
    program = "import sys; sys.modules['grpc'] = None; from labspawner.cli.gpu.agent import agent; agent()"

    done = subprocess.run(
        [sys.executable, "-c", program, "--config", str(tmp_path / "agent.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1
    assert "pip install 'labspawner[agent]'" in done.stderr
