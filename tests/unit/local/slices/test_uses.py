"""What a slice was used for, as its own processes write it: read within sense."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import DeviceLimit, SliceLimits
from labspawner.gpu.region import DEVICES_AT, RING_AT, SLOTS_AT, DeviceEntry, Header, RefusalEntry
from labspawner.providers.local.slices.uses import usage_of

GIB = 2**30
LIMITS = SliceLimits(
    name="lease", region="/etc/labspawner/region", devices=(DeviceLimit(uuid="GPU-1", memory_bytes=6 * GIB),)
)


@pytest.fixture
def folder(tmp_path: Path) -> SliceFolder:
    made = SliceFolder(tmp_path / "slice")
    made.make(LIMITS)
    return made


def poke(folder: SliceFolder, at: int, data: bytes) -> None:
    """What a process of the slice may write anywhere into its region."""
    descriptor = os.open(folder.region, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, at)
    finally:
        os.close(descriptor)


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def refuse(folder: SliceFolder, number: int, **changes: object) -> None:
    values = {
        "number": number,
        "at_ns": time.time_ns(),
        "asked_bytes": GIB // 2,
        "used_bytes": 6 * GIB - 300 * 2**20,
        "limit_bytes": 6 * GIB,
        "comm": b"python",
        "who": b"PyTorch",
    }
    entry = RefusalEntry(**{**values, **changes})
    poke(folder, RING_AT + (number - 1) % 64 * 128, bytes(entry))
    poke(folder, Header.refusals.offset, word(number))


def test_a_slice_that_was_never_used_counts_as_used_when_it_was_made(folder: SliceFolder) -> None:
    usage = usage_of(folder)

    assert usage is not None
    assert (usage.memory_bytes, usage.memory_limit_bytes, usage.time_s, usage.refused) == (0, 6 * GIB, 0.0, None)
    assert usage.last_busy is not None
    assert abs(datetime.now(timezone.utc) - usage.last_busy) < timedelta(minutes=1)


def test_the_last_refusal_is_told_in_words_with_hints(folder: SliceFolder) -> None:
    refuse(folder, 1, who=b"JAX")
    refuse(folder, 2)

    usage = usage_of(folder)

    assert usage is not None
    assert usage.refused is not None
    assert usage.refused.count == 2
    assert usage.refused.words == "Your slice (6 GiB) is full: PyTorch asked for 512 MiB, 300 MiB left."
    assert any("empty_cache" in hint for hint in usage.refused.hints)


def test_what_the_self_test_was_refused_is_no_news(folder: SliceFolder) -> None:
    refuse(folder, 1)
    refuse(folder, 2, comm=b"slice-selftest", who=b"")

    usage = usage_of(folder)

    assert usage is not None
    assert usage.refused is not None
    assert "PyTorch" in usage.refused.words


def test_gpu_time_and_last_launch_are_read(folder: SliceFolder) -> None:
    at = datetime.now(timezone.utc) + timedelta(seconds=-1)
    poke(folder, DEVICES_AT + DeviceEntry.gpu_time_ns.offset, word(90 * 10**9))
    poke(folder, DEVICES_AT + DeviceEntry.last_launch_ns.offset, word(int(at.timestamp() * 1e9)))

    usage = usage_of(folder)

    assert usage is not None
    assert usage.time_s == 90.0
    assert usage.last_busy is not None


def test_a_launch_in_the_future_is_now_so_that_nobody_is_busy_for_ever(folder: SliceFolder) -> None:
    poke(folder, DEVICES_AT + DeviceEntry.last_launch_ns.offset, word(int((time.time() + 10**7) * 1e9)))
    now = datetime.now(timezone.utc)

    usage = usage_of(folder, now)

    assert usage is not None
    assert usage.last_busy is not None
    assert usage.last_busy <= now + timedelta(seconds=1)


@pytest.mark.parametrize("at", [0, 8, 12, 16, RING_AT, SLOTS_AT, DEVICES_AT, DEVICES_AT + 2048])
def test_garbage_anywhere_raises_nothing(folder: SliceFolder, at: int) -> None:
    poke(folder, at, b"\xff" * 512)
    refuse(folder, 2**63 - 1)

    usage = usage_of(folder)

    assert usage is None or 0 <= usage.memory_bytes <= 2**50


@pytest.mark.parametrize("size", [0, 100, 4096, 10**7])
def test_a_region_of_another_size_tells_nothing(folder: SliceFolder, size: int) -> None:
    os.truncate(folder.region, size)

    assert usage_of(folder) is None


def test_missing_files_tell_nothing(tmp_path: Path) -> None:
    assert usage_of(SliceFolder(tmp_path / "nowhere")) is None


def test_a_refusal_that_states_no_limit_is_not_told(folder: SliceFolder) -> None:
    refuse(folder, 1, limit_bytes=2**60)

    usage = usage_of(folder)

    assert usage is not None
    assert usage.refused is None
