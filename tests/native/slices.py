"""What tests of slices start: programs on the stub driver, in a slice or outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from labspawner.gpu.limits import DeviceLimit, SliceLimits

GIB = 2**30
UUIDS = tuple(f"GPU-5afe0000-0000-4000-8000-{index:012x}" for index in range(4))

HOLD = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
number, gib = int(sys.argv[1]), float(sys.argv[2])
device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), number) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert cuda.cuCtxSetCurrent(context) == 0
print(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(gib * 2**30))), flush=True)
sys.stdin.read()
"""
"""Takes memory of a card, says what the driver answered, and keeps it until its stdin ends."""


def limits_of(region: Path, *gib: float, **changes: Any) -> SliceLimits:
    """A slice of so much of each of the first cards."""
    devices = tuple(
        DeviceLimit(uuid=UUIDS[i], memory_bytes=round(size * GIB), cores_pct=25) for i, size in enumerate(gib)
    )
    values: dict[str, Any] = {"name": "lab-1", "region": str(region), "devices": devices}
    return SliceLimits(**{**values, **changes})


def python(*words: str, environment: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with `words`, on its own environment and `environment`."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )


def holding(number: int, gib: float, *, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that holds so much of a card; its first line says whether it does."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(number), str(gib)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
