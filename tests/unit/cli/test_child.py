"""A command as our child: its end is our end, its signals are its own, and it dies with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from labspawner.cli.run.command import no_sandbox
from labspawner.testing.waiting import eventually_sync

PROGRAM = """
import os, sys
from labspawner.cli.run.child import run_plain, run_sandboxed
from labspawner.cli.run.command import _end_like
from labspawner.cli.run.sandbox import around, look
kind, command = sys.argv[1], sys.argv[2:]
if kind == "plain":
    status = run_plain(command, os.environ)
else:
    here = look()
    status = run_sandboxed(command, os.environ, around=lambda c, fd: around(c, places=(), surroundings=here, info_fd=fd))
_end_like(status)
"""


@pytest.fixture(params=["plain", "sandboxed"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "sandboxed" and (why := no_sandbox()):
        pytest.skip(why)
    return str(request.param)


def start(kind: str, command: Sequence[str], **options: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM, kind, *command]
    return subprocess.Popen(words, text=True, **options)  # type: ignore[call-overload, no-any-return]


def ended(kind: str, *command: str) -> tuple[int, str, str]:
    with start(kind, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_output_and_status_are_the_commands(kind: str):
    assert ended(kind, "sh", "-c", "echo said; exit 7") == (7, "said\n", "")


def test_a_command_that_is_not_there_and_one_that_cannot_be_executed(kind: str, tmp_path: Path):
    (tmp_path / "text").write_text("no program")

    assert ended(kind, "no-such-command")[0] == 127
    status, _, errors = ended(kind, str(tmp_path / "text"))
    assert status == 126
    assert errors.startswith("labspawner: ")


def test_a_command_that_dies_by_a_signal_is_known_by_it(kind: str):
    status = ended(kind, "sh", "-c", "kill -TERM $$")[0]

    assert status == (-signal.SIGTERM if kind == "plain" else 128 + signal.SIGTERM)


OF_THE_C_LIBRARY = 0b11 << 31  # signals 32 and 33: what stands there is inherited, and no program may change it


def test_no_signal_is_blocked_or_ignored_in_the_command(kind: str):
    _, output, _ = ended(kind, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")

    assert [int(line.split()[1], 16) & ~OF_THE_C_LIBRARY for line in output.splitlines()] == [0, 0]


# Short sleeps, not signal.pause(): a signal that comes just before a pause is one that nobody waits for any more.
TRAPS = """
import signal, sys, time
signal.signal({0}, lambda *_: sys.exit(42))
print("ready", flush=True)
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_what_is_sent_to_us_reaches_the_command(kind: str, number: signal.Signals):
    with start(kind, [sys.executable, "-c", TRAPS.format(int(number))], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)

        assert process.wait(120) == 42


def test_ctrl_c_reaches_the_command_once_and_we_wait_for_what_it_does_then(kind: str):
    code = (
        "import signal, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "while not seen: time.sleep(0.05)\n"
        "print('saved', len(seen), flush=True)\n"
    )
    master, slave = os.openpty()
    with start(
        kind,
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.write(master, b"\x03")

        assert process.stdout.readline() == "saved 1\n"
        assert process.wait(120) == 0
    os.close(master)
    os.close(slave)


def test_the_command_dies_with_us_even_when_we_are_killed(kind: str, tmp_path: Path):
    mark = f"labspawner-test-{tmp_path.name}-{os.getpid()}"
    code = f"import sys; print('ready', flush=True); sys.stdin.read()  # {mark}"

    def left() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if words[1:] == ["-c", code]:
                found.append(process.pid)
        return found

    with start(kind, [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert left()
        process.kill()
        process.wait(60)

        eventually_sync(lambda: not left(), 10)


def test_what_the_command_leaves_behind_in_a_sandbox_ends_with_it(kind: str):
    if kind == "plain":
        pytest.skip("without a sandbox nobody ends it")
    marker = f"86{os.getpid()}"

    assert ended(kind, "sh", "-c", f"sleep {marker} >/dev/null 2>&1 & exit 3")[0] == 3

    def left() -> list[object]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", marker]]

    eventually_sync(lambda: not left(), 10)
