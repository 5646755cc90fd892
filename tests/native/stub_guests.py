"""Small programs on the stub driver, bare or in a slice, for the tests of the stub and of the NVML view."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labspawner.gpu import limits, region

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """Programs with one environment, and a look at the cards from outside. before: what stands before their command."""

    stubctl: Path
    environment: dict[str, str] = field(repr=False)
    before: tuple[str, ...] = ()

    def having(self, **environment: str) -> Guests:
        """The same with more of an environment."""
        return replace(self, environment={**self.environment, **environment})

    def inside(self, limits_file: Path, library: Path) -> Guests:
        """The same in a slice."""
        return self.having(LD_PRELOAD=str(library), LABSPAWNER_GPU_LIMITS=str(limits_file))

    def _command(self, text: str) -> list[str]:
        return [*self.before, sys.executable, "-c", "from stub_prelude import *\n" + textwrap.dedent(text)]

    def _environment(self) -> dict[str, str]:
        return {**self.environment, "PYTHONPATH": str(HERE)}

    def completed(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(text), env=self._environment(), capture_output=True, text=True, timeout=600, check=False
        )

    def run(self, text: str) -> Any:
        """What a program says last, as JSON. It must end well and without a word on stderr."""
        done = self.completed(text)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines else None

    @contextmanager
    def running(self, text: str) -> Iterator[Guest]:
        """A program that goes on; it is killed at the end."""
        process = subprocess.Popen(
            self._command(text), env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield Guest(process)
        finally:
            process.kill()
            process.communicate()

    def control(self, *words: str) -> None:
        subprocess.run([str(self.stubctl), *words], env=self.environment, check=True, capture_output=True, text=True)

    def cards(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            [str(self.stubctl), "status"], env=self.environment, check=True, capture_output=True, text=True
        )
        return list(json.loads(done.stdout)["devices"])

    def card(self, number: int = 0) -> dict[str, Any]:
        return self.cards()[number]


@dataclass(frozen=True, slots=True)
class Guest:
    """A program that runs."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self) -> Any:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program ended"
        return json.loads(line)

    def tell(self) -> None:
        """Lets it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def make_slice(folder: Path, *devices: limits.DeviceLimit, **changes: Any) -> Path:
    """The limits file of a new slice with a region of its own."""
    folder.mkdir(exist_ok=True)
    slice_limits = limits.SliceLimits(name="a-slice", region=str(folder / "region"), devices=devices, **changes)
    limits.write(slice_limits, folder / "limits")
    region.create(folder / "region", slice_limits)
    return folder / "limits"
