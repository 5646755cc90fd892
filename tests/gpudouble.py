"""Cards that answer as NVML does, for tests of what is above it; and a library that the real loader loads."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labspawner.gpu.cards import Card, CardProcess, Inventory
from labspawner.gpu.nvml import NoDriver
from labspawner.sentences import Sentence
from labspawner.units import parse_bytes

MEMORY = 24564 * 2**20
"""What NVML reports of a card that is sold as 24 GiB."""

LIBRARY = r"""
static int loaded = 1;
int labspawner_double(void) { return loaded; }
"""


def a_card(index: int = 0, **changes: Any) -> Card:
    values: dict[str, Any] = {
        "uuid": f"GPU-0000000{index}-0000-0000-0000-000000000000",
        "name": "Double RTX",
        "index": index,
        "minor": index,
        "memory_total_bytes": MEMORY,
        "memory_used_bytes": 0,
        "processes": (),
    }
    return Card(**{**values, **changes})


@dataclass
class NvmlDouble:
    """Says what its cards are. broken: it does not answer any more. looks: how often it was asked."""

    cards: list[Card] = field(default_factory=lambda: [a_card()])
    broken: bool = False
    looks: int = 0
    opened: int = 0

    def open(self, _library: Path | None = None) -> Any:
        if self.broken:
            raise NoDriver(Sentence("There is no NVIDIA driver on this machine."))
        self.opened += 1
        return self

    def inventory(self) -> Inventory:
        self.looks += 1
        if self.broken:
            raise NoDriver(Sentence("There is no NVIDIA driver on this machine."))
        return Inventory(cards=tuple(self.cards))

    def close(self) -> None:
        self.opened -= 1

    def held_by(self, pid: int, size: str) -> None:
        """A process holds memory of the first card from now on."""
        processes = (*(self.cards[0].processes or ()), CardProcess(pid, parse_bytes(size)))
        self.cards[0] = a_card(self.cards[0].index, processes=processes)


def a_library(folder: Path) -> Path:
    """A libvgpu.so that limits nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here (Debian: apt-get install gcc)")
    source, library = folder / "double.c", folder / "libvgpu.so"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=120)
    return library
