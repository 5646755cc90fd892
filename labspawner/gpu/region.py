"""The file that the processes of a slice share: made here, read here, written by the library.

The layout is native/src/region.h, mirrored below; a test compares both, offset by offset. A student's processes can write
anything into their region, so what is read is bounded, and no reader trusts it for more than its own slice.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from labspawner.gpu import selftest
from labspawner.gpu.limits import MAX_DEVICES, SliceLimits

MAGIC = 0x6563696C7362616C
VERSION = 1
SLOTS = 256
REFUSALS = 64
USED_MASK = 2**52 - 1
"""Above it, a word of `used` counts threads that are just trying."""

_TAKEN = 1
_SELFTEST = selftest.COMMAND.encode("ascii")
_FLOCK = struct.Struct("hh4xqqi4x")  # struct flock of 64-bit Linux

u32, u64, i32 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32


class Header(ctypes.LittleEndianStructure):
    _fields_ = [
        ("magic", u64),
        ("version", u32),
        ("device_count", u32),
        ("size", u64),
        ("created_ns", u64),
        ("slice", ctypes.c_char * 64),
        ("reserved0", u64 * 4),
        ("limits_generation", u32),
        ("slots_high", u32),
        ("reserved1", u64 * 7),
        ("refusals", u64),
        ("slots_refused", u64),
        ("reserved2", u64 * 6),
        ("reserved3", u64 * 480),
    ]


class RefusalEntry(ctypes.LittleEndianStructure):
    _fields_ = [
        ("number", u64),
        ("at_ns", u64),
        ("asked_bytes", u64),
        ("used_bytes", u64),
        ("limit_bytes", u64),
        ("device", u32),
        ("pid", i32),
        ("uid", u32),
        ("slot", u32),
        ("comm", ctypes.c_char * 16),
        ("who", ctypes.c_char * 16),
        ("api", ctypes.c_char * 40),
    ]


class Slot(ctypes.LittleEndianStructure):
    _fields_ = [
        ("state", u32),
        ("pid", i32),
        ("pid_namespace", u64),
        ("joined_ns", u64),
        ("uid", u32),
        ("serial", u32),
        ("comm", ctypes.c_char * 16),
        ("joined_boot_ns", u64),
        ("died_boot_ns", u64),
    ]


class Line(ctypes.LittleEndianStructure):
    _fields_ = [
        ("launches", u64),
        ("last_launch_ns", u64),
        ("gpu_time_ns", u64),
        ("managed_bytes", u64),
        ("physical_bytes", u64),
        ("overhead_bytes", u64),
        ("peak_bytes", u64),
        ("reserved", u64 * 1),
    ]


class DeviceEntry(ctypes.LittleEndianStructure):
    _fields_ = [
        ("last_launch_ns", u64),
        ("gpu_time_ns", u64),
        ("physical_bytes", u64),
        ("physical_at_ns", u64),
        ("untracked_bytes", u64),
        ("refusals", u64),
        ("reserved0", u64 * 2),
        ("limiter", u64 * 32),
        ("used", u64 * SLOTS),
        ("line", Line * SLOTS),
        ("reserved1", u64 * 216),
    ]


RING_AT = ctypes.sizeof(Header)
SLOTS_AT = RING_AT + REFUSALS * ctypes.sizeof(RefusalEntry)
DEVICES_AT = SLOTS_AT + SLOTS * ctypes.sizeof(Slot)
SIZE = DEVICES_AT + MAX_DEVICES * ctypes.sizeof(DeviceEntry)


class BadRegion(ValueError):
    """The file is no region of this version; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An allocation that the slice had no room for. number: 1 for the first of this slice, and so on.

    pid: in the namespace of the process. who: the library that asked ("PyTorch"), as far as it is known.
    api: the driver's name of the call.
    """

    number: int
    at: datetime
    asked_bytes: int
    used_bytes: int
    limit_bytes: int
    device: int = 0
    pid: int = 0
    command: str = ""
    who: str = ""
    api: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceProcess:
    """A live process of the slice. pid: in its own PID namespace, whose inode is `pid_namespace`.

    used_bytes: charged, per device.
    """

    slot: int
    pid: int
    pid_namespace: int
    uid: int
    command: str
    joined_at: datetime
    used_bytes: tuple[int, ...]
    gpu_time_s: float = 0.0
    last_launch: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What the slice uses of one device, in the order of the limits file.

    used_bytes: what the living hold; what the dead still owe (native/src/debt.c) counts against the limit, too.
    physical_bytes: what the driver said last; None: nothing yet.
    gpu_time_s: of all processes, the dead too. last_launch: the slice's last sign of work.
    """

    used_bytes: int
    physical_bytes: int | None
    gpu_time_s: float
    last_launch: datetime | None
    refusals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a region. refusals: the last ones, oldest first, without those that a self-test provoked, which are in
    `refusal_count`: how many there ever were.

    turned_away: processes that found no free slot, and so have no GPU.
    """

    slice_name: str
    generation: int
    devices: tuple[DeviceUse, ...]
    processes: tuple[SliceProcess, ...]
    refusals: tuple[Refusal, ...]
    refusal_count: int
    turned_away: int

    @property
    def last_launch(self) -> datetime | None:
        """When the slice was last seen to work, on any of its devices."""
        return max((device.last_launch for device in self.devices if device.last_launch), default=None)


def create(path: Path, limits: SliceLimits) -> None:
    """Make the region of a slice, whole before anybody sees it; all users may write to it, so its folder must be private.

    Raises OSError, also where the file system is full: pages that a process meets later must be there.
    """
    header = Header(
        magic=MAGIC,
        version=VERSION,
        device_count=len(limits.devices),
        size=SIZE,
        created_ns=time.time_ns(),
        slice=limits.name.encode("ascii"),
    )
    descriptor, name = tempfile.mkstemp(prefix=".region-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, DEVICES_AT + len(limits.devices) * ctypes.sizeof(DeviceEntry))
            file.truncate(SIZE)
            file.write(bytes(header))
            os.fchmod(file.fileno(), 0o666)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def bump(path: Path) -> int:
    """Tell the processes of a slice that its limits file is a new one; the new generation. One writer at a time.

    Raises BadRegion and OSError.
    """
    at = Header.limits_generation.offset
    with _opened(path, os.O_RDWR) as descriptor:
        header = _header(descriptor)
        generation = (int(header.limits_generation) + 1) % 2**32
        os.pwrite(descriptor, generation.to_bytes(4, "little"), at)
    return generation


def read(path: Path) -> Reading:
    """What the region says now. Raises BadRegion, and OSError where it cannot be read. Takes well under a millisecond."""
    with _opened(path, os.O_RDONLY) as descriptor:
        header = _header(descriptor)
        wanted = DEVICES_AT + header.device_count * ctypes.sizeof(DeviceEntry)
        content = os.pread(descriptor, wanted, 0)
        if len(content) < wanted:
            raise BadRegion("it was cut short")
        slots = _Slot_array.from_buffer_copy(content, SLOTS_AT)
        live = [index for index in range(SLOTS) if slots[index].state == _TAKEN and _alive(descriptor, index)]
    entries = [
        DeviceEntry.from_buffer_copy(content, DEVICES_AT + index * ctypes.sizeof(DeviceEntry))
        for index in range(header.device_count)
    ]
    return Reading(
        slice_name=_text(header.slice),
        generation=header.limits_generation,
        devices=tuple(_device(entry, live) for entry in entries),
        processes=tuple(_process(index, slots[index], entries) for index in live),
        refusals=_refusals(_Ring.from_buffer_copy(content, RING_AT)),
        refusal_count=header.refusals,
        turned_away=header.slots_refused,
    )


_Slot_array = Slot * SLOTS
_Ring = RefusalEntry * REFUSALS


@contextlib.contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    """Never through a link that somebody put there, and never waiting, as a pipe would."""
    descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _header(descriptor: int) -> Header:
    content = os.pread(descriptor, ctypes.sizeof(Header), 0)
    if os.fstat(descriptor).st_size != SIZE or len(content) != ctypes.sizeof(Header):
        raise BadRegion(f"it has {os.fstat(descriptor).st_size} bytes, and a region has {SIZE}")
    header = Header.from_buffer_copy(content)
    if header.magic != MAGIC or header.size != SIZE:
        raise BadRegion("it is no region of a slice")
    if header.version != VERSION:
        raise BadRegion(f"it is of version {header.version}, and this labspawner knows version {VERSION}")
    if not 1 <= header.device_count <= MAX_DEVICES:
        raise BadRegion(f"it says that the slice has {header.device_count} devices")
    return header


def _alive(descriptor: int, slot: int) -> bool:
    """Whether the owner of `slot` lives: the kernel drops its lock with it."""
    start = SLOTS_AT + slot * ctypes.sizeof(Slot)
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
    except OSError:  # a file system without such locks
        return True
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _device(entry: DeviceEntry, live: list[int]) -> DeviceUse:
    launches = [entry.last_launch_ns, *(entry.line[slot].last_launch_ns for slot in live)]
    return DeviceUse(
        used_bytes=sum(entry.used[slot] & USED_MASK for slot in live) + entry.untracked_bytes,
        physical_bytes=entry.physical_bytes if entry.physical_at_ns or entry.physical_bytes else None,
        gpu_time_s=entry.gpu_time_ns / 1e9,
        last_launch=_instant(max(launches)),
        refusals=entry.refusals,
    )


def _process(index: int, slot: Slot, entries: list[DeviceEntry]) -> SliceProcess:
    lines = [entry.line[index] for entry in entries]
    return SliceProcess(
        slot=index,
        pid=slot.pid,
        pid_namespace=slot.pid_namespace,
        uid=slot.uid,
        command=_text(slot.comm),
        joined_at=_instant(slot.joined_ns) or datetime.fromtimestamp(0, timezone.utc),
        used_bytes=tuple(entry.used[index] & USED_MASK for entry in entries),
        gpu_time_s=sum(line.gpu_time_ns for line in lines) / 1e9,
        last_launch=_instant(max(line.last_launch_ns for line in lines)),
    )


def _refusals(ring: ctypes.Array[RefusalEntry]) -> tuple[Refusal, ...]:
    found = [
        Refusal(
            number=entry.number,
            at=instant,
            asked_bytes=entry.asked_bytes,
            used_bytes=entry.used_bytes,
            limit_bytes=entry.limit_bytes,
            device=entry.device,
            pid=entry.pid,
            command=_text(entry.comm),
            who=_text(entry.who),
            api=_text(entry.api),
        )
        for index, entry in enumerate(ring)
        if entry.number
        and (entry.number - 1) % REFUSALS == index
        and entry.comm != _SELFTEST
        and (instant := _instant(entry.at_ns)) is not None
    ]
    return tuple(sorted(found, key=lambda refusal: refusal.number))


def _instant(at_ns: int) -> datetime | None:
    return datetime.fromtimestamp(at_ns / 1e9, timezone.utc) if at_ns else None


def _text(raw: bytes) -> str:
    """A name as it may be shown: no control characters, whatever somebody wrote there."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
