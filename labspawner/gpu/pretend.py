"""The driver that pretends to have cards: for demos and tests on machines without a GPU. Nothing is computed on it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labspawner.errors import SetupError
from labspawner.gpu.libvgpu import installed
from labspawner.sentences import Sentence
from labspawner.units import UnitError, parse_bytes

PRETEND_ENV = "LABSPAWNER_PRETEND_DRIVER"
"""For developers: a folder with a stub driver that was built by hand."""

DRIVER, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
DEFAULT_CARDS = "1x24564MiB"
STATE_ENV, DEVICES_ENV = "STUB_CUDA_STATE", "STUB_CUDA_DEVICES"
MAX_CARDS = 16
_CARDS = re.compile(r"\s*(?:(\d{1,3})\s*x\s*)?(\S.*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretended:
    """Cards that do not exist. folder: where the driver's libraries are. state: the file that plays their memory.
    cards: as the driver reads it."""

    folder: Path
    state: Path
    cards: str = DEFAULT_CARDS

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """What makes a process, started with `base`, find these cards and no others."""
        path = os.pathsep.join([str(self.folder), *filter(None, [(base or {}).get("LD_LIBRARY_PATH", "")])])
        return {"LD_LIBRARY_PATH": path, **self.settings}

    @property
    def settings(self) -> dict[str, str]:
        """What the driver itself reads."""
        return {STATE_ENV: str(self.state), DEVICES_ENV: self.cards}

    @property
    def nvml(self) -> Path:
        """The NVML that knows these cards."""
        return self.folder / NVML


def find_driver(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the pretended driver. Raises SetupError where this installation has none."""
    named = environment.get(PRETEND_ENV)
    folder = Path(named).absolute() if named else installed("pretend")
    if folder is None or not all((folder / name).is_file() for name in (DRIVER, NVML)):
        raise SetupError(
            Sentence(
                "This installation of labspawner cannot pretend to have a GPU: install its wheel, or build native/."
            ),
            detail=f"no {DRIVER} and {NVML} in {folder or 'lib/pretend'}; {PRETEND_ENV}={named}",
        )
    return folder


def parse_cards(text: str) -> str:
    """Read `2x24GiB`, or `24GiB` for one card, as the driver reads it: `2x24576MiB`. Raises UnitError."""
    match = _CARDS.fullmatch(text)
    if match is None:
        raise UnitError(f"{text!r} names no cards: write for example 2x24GiB")
    count = int(match[1] or 1)
    if not 1 <= count <= MAX_CARDS:
        raise UnitError(f"{text!r} is out of range: 1 to {MAX_CARDS} cards can be pretended")
    memory_mib = parse_bytes(match[2]) // 2**20
    if memory_mib < 1:
        raise UnitError(f"{text!r} is out of range: a card has at least 1MiB")
    return f"{count}x{memory_mib}MiB"
