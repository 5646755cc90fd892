"""`labspawner run` and `labspawner gpu` as people type them, on the stub driver and with the real library."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native.slices import GIB, HOLD, UUIDS

from labspawner.cli.run.command import no_sandbox
from labspawner.testing.waiting import eventually_sync

CARDS = "2x24564MiB"


class Shell:
    """A shell of one user. sandbox: how `run` is asked to hold the limit."""

    def __init__(self, native: Any, register: Path, sandbox: str) -> None:
        self.register = register
        self.sandbox = sandbox
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STUB_", "CUDA_"))}
        self.environment = {
            **kept,
            "LABSPAWNER_LIBVGPU": str(native.libvgpu),
            "LABSPAWNER_PRETEND_DRIVER": str(native.stub),
            "LABSPAWNER_SLICES": str(register),
            "COLUMNS": "200",
        }

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-c", "from labspawner.cli import main; main()", *words]

    def run_words(self, *options: str) -> list[str]:
        return self.words("run", f"--pretend-gpu={CARDS}", "--sandbox", self.sandbox, *options)

    def __call__(self, *words: str, **different: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words),
            env={**self.environment, **different},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def run(self, *options: str, **different: str) -> subprocess.CompletedProcess[str]:
        return self("run", f"--pretend-gpu={CARDS}", "--sandbox", self.sandbox, *options, **different)

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A command in a slice, once it has said its first line; ended on the way out."""
        process = subprocess.Popen(
            self.run_words(*options),
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def seen(self, *words: str) -> dict[str, Any]:
        done = self("gpu", *words, f"--pretend-gpu={CARDS}", "--json")
        assert done.returncode == 0, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def left(self) -> list[str]:
        return sorted(set(os.listdir(self.register)) - {"labspawner-gpu-node"})


@pytest.fixture(params=["require", "none"])
def shell(request: pytest.FixtureRequest, native: Any, tmp_path: Path) -> Shell:
    if request.param == "require" and (why := no_sandbox()):
        pytest.skip(why)
    return Shell(native, tmp_path / "slices", str(request.param))


@pytest.fixture
def sandboxed(native: Any, tmp_path: Path) -> Shell:
    if why := no_sandbox():
        pytest.skip(why)
    return Shell(native, tmp_path / "slices", "require")


@pytest.fixture
def plain(native: Any, tmp_path: Path) -> Shell:
    return Shell(native, tmp_path / "slices", "none")


def hold(gib: float, *, number: int = 0) -> list[str]:
    return [sys.executable, "-c", HOLD, str(number), str(gib)]


def test_a_command_gets_its_slice_and_nothing_is_left(shell: Shell):
    done = shell.run("--gpu-memory", "4GiB", "--gpu-cores", "30", "--", *hold(4))

    assert (done.returncode, done.stdout) == (0, "0\n"), done
    assert "a slice of 4 GiB and 30 % of compute time (fair)" in done.stderr
    assert "PRETENDED GPU" in done.stderr
    assert shell.left() == ["lock"]


def test_more_than_the_slice_is_refused_and_the_status_is_the_commands(shell: Shell):
    done = shell.run("--gpu-memory", "4GiB", "--", "sh", "-c", f'"{sys.executable}" -c "$0" 0 4.01; exit 7', HOLD)

    assert (done.returncode, done.stdout) == (7, "2\n"), done


@pytest.mark.parametrize("undo", ["env -u LD_PRELOAD", "env -i PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
                                  " STUB_CUDA_STATE=$STUB_CUDA_STATE STUB_CUDA_DEVICES=$STUB_CUDA_DEVICES",
                                  "env LABSPAWNER_GPU_LIMITS=/dev/null CUDA_DEVICE_MEMORY_LIMIT=40g"])  # fmt: skip
def test_in_a_sandbox_no_variable_undoes_the_limit(sandboxed: Shell, undo: str):
    done = sandboxed.run("--gpu-memory", "4GiB", "--", "sh", "-c", f'{undo} "{sys.executable}" -c "$0" 0 5', HOLD)

    assert done.stdout == "2\n", done


def test_in_a_sandbox_neither_limits_nor_preload_can_be_replaced(sandboxed: Shell):
    tries = "; ".join(
        [
            "echo > /etc/labspawner/slice/limits",
            "rm -f /etc/ld.so.preload",
            "mv /etc/labspawner /etc/x",
            "umount /etc/ld.so.preload",
            "ls /etc/labspawner",
        ]
    )

    done = sandboxed.run("--gpu-memory", "4GiB", "--", "sh", "-c", f"({tries}) 2>/dev/null")

    assert done.stdout.split() == ["libvgpu.so", "node", "region", "slice"], done


def test_without_a_sandbox_the_limit_is_called_a_courtesy(plain: Shell):
    done = plain.run("--gpu-memory", "4GiB", "--", "true")

    assert "the limit is a courtesy, which a program can undo" in done.stderr


def test_slices_are_seen_while_they_live(shell: Shell):
    with shell.running("--gpu-memory", "6GiB", "--gpu-cores", "25", "--gpu", "1", "--", *hold(2)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"

        found = shell.seen("ls")

        (row,) = found["slices"]
        assert (row["gpu"], row["limit_bytes"], row["used_bytes"], row["cores_pct"]) == ("1", 6 * GIB, 2 * GIB, 25)
        assert (row["processes"], row["sandboxed"]) == (1, shell.sandbox == "require")
        assert row["command"].startswith(sys.executable)
        free = {card["number"]: card["free_bytes"] for card in found["cards"]}
        assert free == {"0": 24_564 * 2**20, "1": 24_564 * 2**20 - 6 * GIB}
        assert {card["number"]: card["outside_bytes"] for card in found["cards"]} == {"0": 0, "1": 0}
        assert found["pretended"] is True
        top = shell("gpu", "top", "--once", f"--pretend-gpu={CARDS}").stdout
        assert "2 GiB / 6 GiB" in top
        assert "PRETENDED GPU" in top

    eventually_sync(lambda: not shell.seen("ls")["slices"], 20, "it is gone with its command")
    assert shell.left() == ["lock"]


def test_cards_are_never_promised_more_than_they_have(plain: Shell):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            process = stack.enter_context(plain.running("--gpu-memory", "6GiB", "--gpu-cores", "25", "--", *hold(0.1)))
            assert process.stdout is not None
            assert process.stdout.readline() == "0\n"

        refused = plain.run("--gpu-memory", "6GiB", "--gpu-cores", "25", "--gpu", "0", "--", "true")
        elsewhere = plain.run("--gpu-memory", "6GiB", "--gpu-cores", "25", "--", "true")

    assert refused.returncode == 125
    assert f"{UUIDS[0]} has no room: 6132 MiB" in refused.stderr
    assert elsewhere.returncode == 0
    assert UUIDS[1] in elsewhere.stderr


def test_slices_on_two_cards_for_one_command(shell: Shell):
    code = f"{HOLD.replace('sys.stdin.read()', '')}\nsys.argv[1] = '1'\n{HOLD}"

    done = shell.run("--gpu-memory", "2GiB", "--gpus", "2", "--", sys.executable, "-c", code, "0", "2")

    assert done.stdout == "0\n0\n", done


def test_killed_by_9_the_command_dies_too_and_the_next_look_removes_the_slice(shell: Shell):
    with shell.running("--gpu-memory", "4GiB", "--", *hold(1)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGKILL)
        process.wait(60)

        eventually_sync(lambda: not shell.seen("ls")["slices"], 20)
        assert shell.left() == ["lock"]


def test_a_signal_that_is_sent_to_us_ends_the_command_as_it_wants(shell: Shell):
    code = (
        "import signal, sys, time\n"
        "signal.signal(15, lambda *_: sys.exit(3))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)\n"  # a pause could miss a signal that comes just before it
    )
    with shell.running("--gpu-memory", "4GiB", "--", sys.executable, "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()

        assert process.wait(120) == 3
    assert shell.left() == ["lock"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--gpu-memory", "4GB"], 2, "write 4GiB"),
        (["--gpu-memory", "4"], 2, "no unit: write 4GiB or 4MiB"),
        (["--gpu-memory", "4.5G"], 2, "write 4.5GiB"),
        (["--gpu-memory", "-1"], 2, "not a size"),
        (["--gpu-memory", "four"], 2, "not a size"),
        ([], 2, "--gpu-memory"),
        (["--gpu-memory", "4GiB", "--gpu-cores", "0"], 2, "1% to 100%"),
        (["--gpu-memory", "4GiB", "--gpu-cores", "101"], 2, "1% to 100%"),
        (["--gpu-memory", "4GiB", "--gpu-mem", "1"], 2, "--gpu-mem"),
        (["--gpu-memory", "4GiB", "--gpu", "7"], 125, "There is no GPU 7 here"),
        (["--gpu-memory", "4GiB", "--gpu", "GPU-x"], 125, "There is no GPU GPU-x here"),
        (["--gpu-memory", "24GiB"], 125, "more than any GPU here has: the largest has 24564 MiB"),
        (["--gpu-memory", "4GiB", "--gpus", "3"], 125, "3 GPUs are more than there are: 2"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_begins(plain: Shell, options: list[str], status: int, words: str):
    done = plain.run(*options, "--", "echo", "begun")

    assert (done.returncode, done.stdout) == (status, ""), done
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_driver_it_says_so_and_what_to_try(plain: Shell):
    done = plain("run", "--gpu-memory", "4GiB", "--", "true")
    if done.returncode == 0:
        pytest.skip("this machine has a GPU")

    assert done.returncode == 125
    assert "--pretend-gpu" in done.stderr


def test_a_command_that_is_not_there(shell: Shell):
    done = shell.run("--gpu-memory", "4GiB", "--", "no-such-command")

    assert done.returncode == 127
    assert "there is no command no-such-command" in done.stderr
    assert shell.left() == ["lock"]


def test_a_slice_inside_a_slice_there_is_not(sandboxed: Shell):
    done = sandboxed.run("--gpu-memory", "4GiB", "--", *sandboxed.words("run", "--gpu-memory", "1GiB", "--", "true"))

    assert done.returncode == 125
    assert "This is a slice already" in done.stderr


def test_check_fails_with_the_reason_where_the_library_is_none(plain: Shell, tmp_path: Path):
    (tmp_path / "libvgpu.so").write_text("no library")

    done = plain("gpu", "check", LABSPAWNER_LIBVGPU=str(tmp_path / "libvgpu.so"))

    assert done.returncode == 1
    assert "no shared library" in done.stderr


def test_check_tests_a_slice_and_says_what_it_was_tested_on(sandboxed: Shell):
    done = sandboxed("gpu", "check", f"--pretend-gpu={CARDS}")

    assert done.returncode == 0, done
    assert done.stdout.count("slice on a PRETENDED GPU") == 2
    assert done.stdout.count("passed, the slice holds") == 2
    assert "GPU slices hold here." in done.stdout
    assert sandboxed.left() == ["lock"]
