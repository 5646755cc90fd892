"""The region: made whole, read without trust, and its slots known to be alive by their locks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu import region
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import DeviceLimit, SliceLimits
from labspawner.gpu.region import BadRegion, DeviceEntry, RefusalEntry, Slot

GIB = 2**30


@pytest.fixture
def limits(tmp_path: Path) -> SliceLimits:
    cards = tuple(DeviceLimit(uuid=f"GPU-{index}", memory_bytes=6 * GIB) for index in range(2))
    return SliceLimits(name="lab-1", region=str(tmp_path / "region"), devices=cards)


@pytest.fixture
def path(tmp_path: Path, limits: SliceLimits) -> Path:
    made = tmp_path / "region"
    region.create(made, limits)
    return made


def put(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


def slot_at(index: int) -> int:
    return region.SLOTS_AT + index * ctypes.sizeof(Slot)


def device_at(index: int) -> int:
    return region.DEVICES_AT + index * ctypes.sizeof(DeviceEntry)


@contextmanager
def a_process(path: Path, index: int, *, used: int, pid: int = 42) -> Iterator[None]:
    """What the library writes when it joins, and the lock that it holds."""
    slot = Slot(state=1, pid=pid, pid_namespace=7, joined_ns=10**18, uid=1000, serial=1, comm=b"python")
    put(path, slot_at(index), bytes(slot))
    put(path, device_at(0) + DeviceEntry.used.offset + 8 * index, struct.pack("<Q", used))
    descriptor = os.open(path, os.O_RDWR)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hh4xqqi4x", fcntl.F_WRLCK, 0, slot_at(index), 1, 0))
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_new_region_is_whole_empty_and_writable_by_the_slices_user(path: Path):
    found = region.read(path)

    assert path.stat().st_size == region.SIZE
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert (found.slice_name, found.generation, found.processes, found.refusals) == ("lab-1", 0, (), ())
    assert [device.used_bytes for device in found.devices] == [0, 0]
    assert os.listdir(path.parent) == ["region"]


def test_who_lives_counts_and_who_died_does_not(path: Path):
    with a_process(path, 3, used=2 * GIB), a_process(path, 5, used=GIB, pid=43):
        found = region.read(path)

        assert [(process.pid, process.command, process.used_bytes) for process in found.processes] == [
            (42, "python", (2 * GIB, 0)),
            (43, "python", (GIB, 0)),
        ]
        assert found.devices[0].used_bytes == 3 * GIB

    after = region.read(path)
    assert after.processes == ()
    assert after.devices[0].used_bytes == 0


def test_what_is_only_being_tried_is_not_counted_as_bytes(path: Path):
    with a_process(path, 0, used=GIB + (3 << 52)):
        assert region.read(path).devices[0].used_bytes == GIB


def test_refusals_are_read_oldest_first_and_a_torn_one_is_left_out(path: Path):
    for number in (65, 2, 3):
        entry = RefusalEntry(
            number=number, at_ns=10**18, asked_bytes=512, comm=b"python3\0x", who=b"PyTorch", api=b"cuMemAlloc_v2"
        )
        put(path, region.RING_AT + ((number - 1) % 64) * ctypes.sizeof(RefusalEntry), bytes(entry))
    put(path, region.RING_AT + 2 * ctypes.sizeof(RefusalEntry), bytes(8))  # number 3 is being written

    found = region.read(path).refusals

    assert [refusal.number for refusal in found] == [2, 65]
    assert (found[0].who, found[0].command, found[0].api) == ("PyTorch", "python3", "cuMemAlloc_v2")


def test_the_refusal_that_a_self_test_provokes_is_nobodys_trouble(path: Path):
    entry = RefusalEntry(number=1, at_ns=10**18, asked_bytes=512, comm=b"slice-selftest")
    put(path, region.RING_AT, bytes(entry))

    assert region.read(path).refusals == ()


def test_the_last_launch_is_that_of_any_device_and_process(path: Path):
    put(path, device_at(1), struct.pack("<QQ", 1_700_000_000 * 10**9, 2_500_000_000))

    found = region.read(path)

    assert found.last_launch is not None
    assert found.last_launch.timestamp() == 1_700_000_000
    assert found.devices[1].gpu_time_s == 2.5


def test_a_new_limits_file_is_announced(tmp_path: Path, limits: SliceLimits):
    folder = SliceFolder(tmp_path / "slice-1")
    folder.make(limits)
    larger = SliceLimits(name="lab-1", region=limits.region, devices=(DeviceLimit(uuid="GPU-0", memory_bytes=8 * GIB),))

    folder.resize(larger)

    assert folder.read() == larger
    assert region.read(folder.region).generation == 1
    folder.remove()
    folder.remove()
    assert not folder.root.exists()


@pytest.mark.parametrize(
    ("at", "value", "word"),
    [
        (0, b"nonsense", "no region"),
        (8, struct.pack("<I", 2), "version 2"),
        (12, struct.pack("<I", 17), "17 devices"),
        (12, struct.pack("<I", 0), "0 devices"),
        (16, struct.pack("<Q", 1), "no region"),
        (region.SIZE, b"x", "bytes"),
    ],
)
def test_another_file_is_refused_in_words(path: Path, at: int, value: bytes, word: str):
    put(path, at, value)

    for look in (region.read, region.bump):
        with pytest.raises(BadRegion, match=word):
            look(path)


def test_a_region_that_was_cut_short_is_refused(path: Path):
    os.truncate(path, 100)

    with pytest.raises(BadRegion):
        region.read(path)


def test_a_link_and_a_pipe_in_its_place_are_not_followed_nor_waited_for(tmp_path: Path, path: Path):
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="link"):
        region.read(tmp_path / "link")
    with pytest.raises((BadRegion, OSError)):
        region.read(tmp_path / "pipe")


@given(st.data())
def test_whatever_a_student_writes_into_it_a_look_gives_values_or_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("region") / "region"
    region.create(path, SliceLimits(name="a", region=str(path), devices=(DeviceLimit(uuid="GPU-0", memory_bytes=1),)))
    for _ in range(data.draw(st.integers(1, 5))):
        put(path, data.draw(st.integers(0, device_at(1) - 64)), data.draw(st.binary(min_size=1, max_size=64)))

    try:
        found = region.read(path)
    except BadRegion:
        return

    assert all(letter.isprintable() for refusal in found.refusals for letter in refusal.command + refusal.who)
