"""A slice on the stub driver, and programs in it: what the tests of hooks and memory start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from native.slices import UUIDS

from labspawner.gpu import region
from labspawner.gpu.folder import LIMITS_ENV, SliceFolder
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits

MIB = 2**20
GUEST = Path(__file__).with_name("cuda_guest.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice on cards of its own. bare: the environment of a process beside it, on the same cards."""

    native: Any
    folder: SliceFolder
    bare: dict[str, str]

    @property
    def inside(self) -> dict[str, str]:
        """The environment of a process in the slice."""
        return {**self.bare, "LD_PRELOAD": str(self.native.libvgpu), LIMITS_ENV: str(self.folder.limits)}

    def reading(self) -> region.Reading:
        return region.read(self.folder.region)

    def used_bytes(self, device: int = 0) -> int:
        return self.reading().devices[device].used_bytes

    def card(self, device: int = 0) -> dict[str, Any]:
        """What the card itself says: total, used, peak, processes."""
        done = subprocess.run(
            [self.native.stubctl, "status"], env=self.bare, capture_output=True, text=True, check=True
        )
        card: dict[str, Any] = json.loads(done.stdout)["devices"][device]
        return card

    def resize(self, memory_bytes: int) -> None:
        """Give the running slice another limit on all its cards."""
        limits = self.folder.read()
        devices = tuple(
            replace(device, memory_bytes=memory_bytes, soft_bytes=memory_bytes) for device in limits.devices
        )
        self.folder.resize(replace(limits, devices=devices))

    def stubctl(self, *words: str) -> None:
        subprocess.run([self.native.stubctl, *words], env=self.bare, check=True, capture_output=True)

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the slice."""
        return run(*command, environment={**self.inside, **more})

    def ask(self, scenario: str, *words: str, **more: str) -> Any:
        """What a scenario of cuda_guest.py found, in the slice."""
        done = self.run(sys.executable, GUEST, scenario, *words, **more)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


def run(*command: str | Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program with just this environment."""
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL
    )


def make_slice(
    native: Any, bare: dict[str, str], root: Path, *memory_bytes: int, name: str = "ada", **changes: Any
) -> Slice:
    """A slice with so much memory of each of the first cards, and no core limit."""
    devices = tuple(
        DeviceLimit(uuid=UUIDS[index], memory_bytes=size, soft_bytes=changes.pop("soft_bytes", size))
        for index, size in enumerate(memory_bytes)
    )
    folder = SliceFolder(root)
    values: dict[str, Any] = {
        "name": name,
        "region": str(root / "region"),
        "devices": devices,
        "policy": CorePolicy.OFF,
    }
    folder.make(SliceLimits(**{**values, **changes}))
    return Slice(native=native, folder=folder, bare=bare)


@contextmanager
def storms(
    a_slice: Slice, count: int, operations: int, how: str, *, seed: int = 1, **more: str
) -> Iterator[list[dict[str, int]]]:
    """So many processes with random operations over all kinds of memory; what each of them said in the end. They live,
    with everything freed, until the context is left."""
    command = a_slice.native.program("hook_storm")
    crowd = [
        subprocess.Popen(
            [command, str(seed + number), str(operations), how],
            env={**a_slice.inside, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        yield [_last_words(process) for process in crowd]
    finally:
        for process in crowd:
            process.kill() if process.poll() is None else None
            process.communicate()


def _last_words(process: subprocess.Popen[str]) -> dict[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("{"), line or f"exit {process.wait()}"
    said: dict[str, int] = json.loads(line)
    return said


def symbol_distance(library: Path, symbol: str, behind: str) -> int:
    """How far one symbol of a library lies behind another."""
    done = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    places = {words[2]: int(words[0], 16) for words in map(str.split, done.stdout.splitlines()) if len(words) == 3}
    return places[symbol] - places[behind]


def environment_without_slices() -> dict[str, str]:
    """This process' environment without anything that the library or the stub read."""
    prefixes = ("STUB_", "CUDA_", "NVIDIA_", "LABSPAWNER_GPU", "GPU_CORE", "ACTIVE_OOM", "LD_PRELOAD", "LIBCUDA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
