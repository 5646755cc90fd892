"""What a slice may use, and the file that says so to the library. The format is in docs/gpu.md."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

FIRST_LINE = "labspawner-limits 1"
LAST_LINE = "end"
MAX_DEVICES = 16
MAX_FILE_BYTES = 16 * 1024
MAX_MEMORY_BYTES = 2**44  # SLICE_UNLIMITED in native/src/settings.h
MAX_WEIGHT = 10_000
MAX_PATH_BYTES = 255
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_UUID = re.compile(r"[A-Za-z0-9/-]{1,63}", re.ASCII)
_PATH = re.compile(r"/[!-~]*", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_DEVICE_KEYS = ("memory", "soft", "cores", "weight")


class BadLimits(ValueError):
    """Limits that no library would accept; the text says which value is wrong, and what it may be."""


class CorePolicy(str, Enum):
    """What happens with compute time that a slice does not use: `fair` lends it, `cap` does not, `off` limits nothing."""

    FAIR = "fair"
    CAP = "cap"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimit:
    """What a slice may use of one card.

    uuid: as NVML has it (`GPU-...` or `MIG-...`). memory_bytes: hard limit, > 0. soft_bytes: with oversubscription,
    where allocations become managed memory, 1 to `memory_bytes`; default: the hard limit. cores_pct: 1 to 100.
    weight: of 10,000, how idle time is lent; default: its percent of compute. Raises BadLimits if out of range.
    """

    uuid: str
    memory_bytes: int
    soft_bytes: int = 0
    cores_pct: int = 100
    weight: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "soft_bytes", self.soft_bytes or self.memory_bytes)
        object.__setattr__(self, "weight", self.weight or self.cores_pct)
        _check(_UUID.fullmatch(self.uuid) is not None, "device", self.uuid, "a card's UUID, up to 63 characters")
        _check(0 < self.memory_bytes <= MAX_MEMORY_BYTES, "memory", self.memory_bytes, "bytes, 1 to 2^44")
        _check(0 < self.soft_bytes <= self.memory_bytes, "soft", self.soft_bytes, "bytes, 1 to the hard limit")
        _check(1 <= self.cores_pct <= 100, "cores", self.cores_pct, "a percentage, 1 to 100")
        _check(1 <= self.weight <= MAX_WEIGHT, "weight", self.weight, f"a number, 1 to {MAX_WEIGHT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceLimits:
    """All that the library needs to know of one slice.

    name: 1 to 63 letters, digits, dots, underscores and hyphens. region, node: absolute paths as its processes see them,
    printable ASCII without spaces; node: None where no compute time is shared with other slices.
    devices: in CUDA's order, 1 to 16. priority: 0 goes first when compute time is lent. Raises BadLimits.
    """

    name: str
    region: str
    devices: tuple[DeviceLimit, ...]
    node: str | None = None
    policy: CorePolicy = CorePolicy.FAIR
    priority: int = 1
    oversubscribe: bool = False
    oom_killer: bool = False

    def __post_init__(self) -> None:
        _check(_NAME.fullmatch(self.name) is not None, "slice", self.name, "1 to 63 of A-Z a-z 0-9 . _ -")
        for key, path in (("region", self.region), ("node", self.node)):
            good = path is None or (_PATH.fullmatch(path) is not None and len(path) <= MAX_PATH_BYTES)
            _check(good, key, path, "an absolute path without spaces, up to 255 characters")
        _check(self.priority in {0, 1}, "priority", self.priority, "0 or 1")
        _check(1 <= len(self.devices) <= MAX_DEVICES, "device", len(self.devices), f"1 to {MAX_DEVICES} cards")
        uuids = [device.uuid for device in self.devices]
        _check(len(set(uuids)) == len(uuids), "device", " ".join(uuids), "each card once")


def render(limits: SliceLimits) -> str:
    """The text of the limits file, which `parse` reads back as the same value."""
    lines = [FIRST_LINE, f"slice {limits.name}", f"region {limits.region}"]
    if limits.node is not None:
        lines.append(f"node {limits.node}")
    lines += [
        f"policy {limits.policy.value}",
        f"priority {limits.priority}",
        f"oversubscribe {int(limits.oversubscribe)}",
        f"oom-killer {int(limits.oom_killer)}",
    ]
    lines += [
        f"device {d.uuid} memory={d.memory_bytes} soft={d.soft_bytes} cores={d.cores_pct} weight={d.weight}"
        for d in limits.devices
    ]
    return "\n".join([*lines, LAST_LINE, ""])


def parse(text: str) -> SliceLimits:
    """Read a limits file as strictly as the library does. Raises BadLimits for anything that `render` would not write."""
    if len(text) > MAX_FILE_BYTES:
        raise BadLimits(f"the file has {len(text)} bytes: at most {MAX_FILE_BYTES} are read")
    if not text.endswith(f"\n{LAST_LINE}\n"):
        raise BadLimits(f"the last line is not {LAST_LINE!r}: the file is half written")
    lines = _Lines(text.split("\n")[:-2])
    if lines.next() != FIRST_LINE:
        raise BadLimits(f"the first line is not {FIRST_LINE!r}")
    limits = SliceLimits(
        name=lines.value("slice"),
        region=lines.value("region"),
        node=lines.value("node") if lines.has("node") else None,
        policy=CorePolicy(lines.one_of("policy", {policy.value for policy in CorePolicy})),
        priority=int(lines.one_of("priority", {"0", "1"})),
        oversubscribe=lines.one_of("oversubscribe", {"0", "1"}) == "1",
        oom_killer=lines.one_of("oom-killer", {"0", "1"}) == "1",
        devices=lines.devices(),
    )
    if render(limits) != text:
        raise BadLimits("the file is not written in its one form")
    return limits


def read(path: Path) -> SliceLimits:
    """The limits in `path`. Raises BadLimits, and OSError where it cannot be read."""
    try:
        return parse(path.read_bytes().decode("ascii"))
    except UnicodeDecodeError as exc:
        raise BadLimits("the file is not ASCII") from exc


def write(limits: SliceLimits, path: Path) -> None:
    """Put `limits` into `path` in one step: a reader sees the old text or the new one. All may read it. Raises OSError."""
    text = render(limits)
    with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=path.parent, prefix=".limits-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class _Lines:
    """The lines of a file in their fixed order."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def next(self) -> str:
        if not self._lines:
            raise BadLimits("a line is missing at the end")
        return self._lines.pop(0)

    def has(self, key: str) -> bool:
        return bool(self._lines) and self._lines[0].startswith(f"{key} ")

    def value(self, key: str) -> str:
        line = self.next()
        if not line.startswith(f"{key} "):
            raise BadLimits(f"{line!r} stands where a line {key!r} belongs")
        return line[len(key) + 1 :]

    def one_of(self, key: str, allowed: set[str]) -> str:
        value = self.value(key)
        _check(value in allowed, key, value, " or ".join(sorted(allowed)))
        return value

    def devices(self) -> tuple[DeviceLimit, ...]:
        return tuple(_device(self.value("device")) for _ in range(len(self._lines)))


def _device(text: str) -> DeviceLimit:
    uuid, *words = text.split(" ")
    values: Mapping[str, str] = dict(word.partition("=")[::2] for word in words)
    if tuple(values) != _DEVICE_KEYS or len(words) != len(_DEVICE_KEYS):
        raise BadLimits(f"a device line has {' '.join(f'{key}=' for key in _DEVICE_KEYS)}, not {text!r}")
    numbers = {}
    for key, value in values.items():
        _check(_NUMBER.fullmatch(value) is not None and len(value) <= 16, key, value, "a plain number")
        _check(value != "0", key, value, "more than 0")
        numbers[key] = int(value)
    return DeviceLimit(
        uuid=uuid,
        memory_bytes=numbers["memory"],
        soft_bytes=numbers["soft"],
        cores_pct=numbers["cores"],
        weight=numbers["weight"],
    )


def _check(good: bool, key: str, value: object, allowed: str) -> None:
    if not good:
        raise BadLimits(f"{key} {value!r}: it must be {allowed}")
