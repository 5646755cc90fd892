"""Slices without a card for the tests of accounting, and processes in them that do as they are told, step by step."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import DeviceLimit, SliceLimits
from labspawner.testing.waiting import eventually_sync

GIB = 2**30
NOWHERE = "/nonexistent/labspawner"
"""A mount folder that is not there: settings come from the environment."""


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without anything that names a slice, and with `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA_", "NVIDIA_", "LABSPAWNER_GPU", "GPU_CORE", "ACTIVE_OOM", "LIBCUDA_"))
    }
    return kept | more


def a_slice(root: Path, *, memory_bytes: int = 6 * GIB, cards: int = 1) -> SliceFolder:
    """The files of a slice, made as the hub makes them."""
    devices = tuple(DeviceLimit(uuid=f"GPU-{index}", memory_bytes=memory_bytes) for index in range(cards))
    folder = SliceFolder(root)
    folder.make(SliceLimits(name="ada", region=str(root / "region"), devices=devices))
    return folder


def with_memory(limits: SliceLimits, memory_bytes: int) -> SliceLimits:
    """The same limits with another amount of memory on each card."""
    devices = tuple(replace(device, memory_bytes=memory_bytes, soft_bytes=memory_bytes) for device in limits.devices)
    return replace(limits, devices=devices)


class Guest:
    """A process of a slice: `ask` gives it one command of native/tests/core_account.c and returns its answer."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready", self.kill()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer().rstrip(" ")

    def number(self, command: str) -> int:
        return int(self.ask(command))

    def join(self) -> Guest:
        assert self.ask("start") == "0", self.kill()
        return self

    def kill(self) -> str:
        """End it as the kernel's killer does; what it had said on stderr. Safe to repeat."""
        self.process.kill()
        if self.process.stdin is None or self.process.stdout is None or self.process.stderr is None:
            return ""
        if self.process.stderr.closed:
            return ""
        with contextlib.suppress(BrokenPipeError):  # a command that nobody read
            self.process.stdin.close()  # a child of its own ends with this
        said = self.process.stderr.read()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        return said


@contextmanager
def guests(program: Path) -> Iterator[Invite]:
    """Invite guests into slices; all are gone at the end."""
    with ExitStack() as stack:
        yield Invite(program, stack)


class Invite:
    """Start a process of a slice: `invite(folder)`, or by environment: `invite(environment={...})`."""

    def __init__(self, program: Path, stack: ExitStack) -> None:
        self.program = program
        self._stack = stack

    def __call__(
        self,
        folder: SliceFolder | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Guest:
        mount = NOWHERE if folder is None else str(folder.limits.parent)
        guest = Guest([*before, str(self.program), mount], clean_environment(**(environment or {})))
        self._stack.callback(guest.kill)
        return guest


def gone(pid: int) -> None:
    """Wait until a process that we did not start ourselves has ended."""
    eventually_sync(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), what=f"process {pid} ends")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
