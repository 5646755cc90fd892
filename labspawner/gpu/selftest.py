"""Says whether the slice that this process is in holds: a program for any Python, which imports nothing but its library.

    python selftest.py [--quick] [--limits FILE]        prints one JSON object; exit status 0 passed, 1 failed, 2 no driver

`--quick` makes no context on the card, so it costs no memory of it, but leaves out what needs one. The whole test belongs
into a process of its own, which ends. What is printed is `Result.to_json`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import uuid as uuids
from typing import Any

LIMITS_INSIDE = "/etc/labspawner/slice/limits"
LIMITS_ENV = "LABSPAWNER_GPU_LIMITS"
LIBRARY = "libvgpu"
BEYOND_BYTES = 64 * 2**20
A_LITTLE_BYTES = 2**20
COMMAND = "slice-selftest"
PASSED, FAILED, NO_DRIVER = "passed", "failed", "no-driver"
STATUS = {PASSED: 0, FAILED: 1, NO_DRIVER: 2}

_PR_SET_NAME = 15
_SUCCESS = 0
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_KNOWN = {2: "out of memory", 3: "not initialized", 100: "no device", 101: "invalid device", 804: "driver too old"}


class Missing(Exception):
    """There is no such library, or no such function in it."""


class Failed(Exception):
    """A check failed; the text says what was seen, and what should have been."""


class Limit:
    """What the limits file says of one card."""

    def __init__(self, uuid: str, memory_bytes: int) -> None:
        self.uuid = uuid
        self.memory_bytes = memory_bytes


class Result:
    """A verdict with its reason, and what each check said."""

    def __init__(self) -> None:
        self.verdict = PASSED
        self.reason = "the slice holds"
        self.checks: list[dict[str, Any]] = []
        self.pretended = bool(os.environ.get("STUB_CUDA_STATE"))

    def note(self, name: str, ok: bool | None, detail: str) -> None:
        """ok: None where the check does not apply here."""
        self.checks.append({"check": name, "ok": ok, "detail": detail})

    def end(self, verdict: str, reason: str) -> None:
        self.verdict, self.reason = verdict, reason

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "pretended": self.pretended,
            "pid": os.getpid(),
            "checks": self.checks,
        }


def examine(limits_path: str | None = None, *, quick: bool = False) -> Result:
    """Test the slice of this process. Never raises for the slice's sake."""
    result = Result()
    try:
        limits, oversubscribed = _limits(limits_path)
        _check_mapped(result)
        driver = _Driver()
        driver.start()
        ours, others = _check_devices(result, driver, limits)
        _check_nvml(result, limits)
        if not quick:
            for limit in limits:
                _check_in_context(result, driver, ours[limit.uuid], limit, oversubscribed)
            for number in others:
                _check_other(result, driver, number)
    except Missing as error:
        result.end(NO_DRIVER, str(error))
    except Failed as error:
        result.end(FAILED, str(error))
    return result


def _limits(path: str | None) -> tuple[list[Limit], bool]:
    """The cards of the slice, and whether it may hold more than fits."""
    candidates = [path] if path else [LIMITS_INSIDE, os.environ.get(LIMITS_ENV, "")]
    for candidate in filter(None, candidates):
        try:
            with open(candidate, encoding="ascii") as file:  # noqa: PTH123
                lines = file.read().splitlines()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Failed(f"the limits in {candidate} cannot be read: {error}") from None
        if not lines or lines[0] != "labspawner-limits 1" or lines[-1] != "end":
            raise Failed(f"the limits in {candidate} are not whole")
        found = []
        for line in lines:
            words = line.split(" ")
            if words[0] == "device":
                values = dict(word.partition("=")[::2] for word in words[2:])
                found.append(Limit(words[1], int(values["memory"])))
        return found, "oversubscribe 1" in lines
    if not path and (found := _limits_of_hami()):
        return found, os.environ.get("CUDA_OVERSUBSCRIBE") == "true"
    raise Failed("this process is in no slice: there are no limits for it")


def _limits_of_hami() -> list[Limit]:
    """The same from the environment that HAMi gives a container: a limit in MiB per card, in the order of the cards."""
    cards = [
        card for card in os.environ.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if card.startswith(("GPU-", "MIG-"))
    ]
    found = []
    for number, card in enumerate(cards):
        common = os.environ.get("CUDA_DEVICE_MEMORY_LIMIT", "")
        text = os.environ.get(f"CUDA_DEVICE_MEMORY_LIMIT_{number}", common)
        if not (text.endswith("m") and text[:-1].isdigit()):
            return []
        found.append(Limit(card, int(text[:-1]) * 2**20))
    return found


def _check_mapped(result: Result) -> None:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        paths = {line.split(None, 5)[-1].strip() for line in file if LIBRARY in line}
    mapped = sorted(path for path in paths if os.path.basename(path).startswith(LIBRARY))  # noqa: PTH119
    if not mapped:
        result.note("library", False, "libvgpu.so is not mapped")
        raise Failed("the library that holds the limit is not loaded into this process")
    result.note("library", True, ", ".join(mapped))


def _check_devices(result: Result, driver: _Driver, limits: list[Limit]) -> tuple[dict[str, int], list[int]]:
    """CUDA's number of each card of the slice, and of those that are visible and not the slice's."""
    shown = {driver.uuid(number): number for number in range(driver.count())}
    if None in shown or any(not limit.uuid.startswith("GPU-") for limit in limits):  # MIG: in CUDA's order
        ours = {limit.uuid: number for number, limit in enumerate(limits) if number < driver.count()}
    else:
        ours = {limit.uuid: shown[limit.uuid] for limit in limits if limit.uuid in shown}
    others = [number for number in range(driver.count()) if number not in ours.values()]
    detail = f"{len(ours)} of {len(limits)}" + (f", and {len(others)} that are not the slice's" if others else "")
    result.note("devices", len(ours) == len(limits), detail)
    for limit in limits:
        if limit.uuid not in ours:
            raise Failed(f"the driver does not show the card of the slice, {limit.uuid}")
        _equal(result, "driver-total", driver.total(ours[limit.uuid]), limit.memory_bytes, "the driver reports")
    return ours, others


def _check_other(result: Result, driver: _Driver, number: int) -> None:
    """A card that is not the slice's may be visible; nothing of it may be taken."""
    with driver.context(number):
        code = driver.try_to_take(A_LITTLE_BYTES)
    result.note("others", code != _SUCCESS, f"card {number}: {_said(code)}")
    if code == _SUCCESS:
        raise Failed(f"card {number} is not the slice's, and gave {A_LITTLE_BYTES} bytes")


def _check_nvml(result: Result, limits: list[Limit]) -> None:
    try:
        nvml = _Nvml()
    except Missing as error:
        result.note("nvml-total", None, str(error))
        return
    for limit in limits:
        _equal(result, "nvml-total", nvml.total(limit.uuid), limit.memory_bytes, "NVML reports")


def _check_in_context(result: Result, driver: _Driver, index: int, limit: Limit, oversubscribed: bool) -> None:
    with driver.context(index):
        _equal(result, "context-total", driver.total_in_context(), limit.memory_bytes, "a program sees")
        if oversubscribed:
            result.note("refusal", None, "the slice may hold more than fits")
            return
        wanted = limit.memory_bytes + BEYOND_BYTES
        code = driver.try_to_take(wanted)
        detail = f"{wanted} bytes: {_said(code)}"
        result.note("refusal", code == _OUT_OF_MEMORY, detail)
        if code == _SUCCESS:
            raise Failed(f"the slice gave {wanted} bytes, and its limit is {limit.memory_bytes}")
        if code != _OUT_OF_MEMORY:
            raise Failed(f"more than the limit was asked for, and the answer was {_said(code)}, not {_said(2)}")


def _equal(result: Result, name: str, seen: int, wanted: int, who: str) -> None:
    result.note(name, seen == wanted, f"{seen} of {wanted} bytes")
    if seen != wanted:
        raise Failed(f"{who} {seen} bytes, and the slice has {wanted}")


def _said(code: int) -> str:
    return f"{code} ({_KNOWN.get(code, 'see CUresult')})"


class _Driver:
    """The few calls of the CUDA driver that are needed."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise Missing("there is no NVIDIA driver here (libcuda.so.1)") from None

    def start(self) -> None:
        self._call("cuInit", ctypes.c_uint(0))

    def count(self) -> int:
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def uuid(self, index: int) -> str | None:
        """As NVML writes it; None where this driver does not say."""
        value = (ctypes.c_ubyte * 16)()
        for name in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):
            try:
                self._call(name, ctypes.byref(value), self._device(index))
            except Missing:
                continue
            return f"GPU-{uuids.UUID(bytes=bytes(value))}"
        return None

    def total(self, index: int) -> int:
        total = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(total), self._device(index))
        return total.value

    def total_in_context(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value

    def try_to_take(self, size: int) -> int:
        """The driver's answer to `size` bytes; what it gave is given back."""
        address = ctypes.c_uint64()
        code = self._function("cuMemAlloc_v2")(ctypes.byref(address), ctypes.c_size_t(size))
        if code == _SUCCESS:
            self._call("cuMemFree_v2", address)
        return int(code)

    def context(self, index: int) -> _Context:
        return _Context(self, self._device(index))

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._function(name)(*arguments)
        if code != _SUCCESS:
            raise Failed(f"{name} failed: {_said(code)}")

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._cuda, name)
        except AttributeError:
            raise Missing(f"the driver has no {name}") from None


class _Context:
    """The card's own context, current in this thread for a while, then as before."""

    def __init__(self, driver: _Driver, device: ctypes.c_int) -> None:
        self._driver = driver
        self._device = device

    def __enter__(self) -> None:
        context = ctypes.c_void_p()
        self._driver._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        try:
            self._driver._call("cuCtxPushCurrent_v2", context)
        except Failed:
            self._driver._call("cuDevicePrimaryCtxRelease_v2", self._device)
            raise

    def __exit__(self, *_: object) -> None:
        self._driver._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        self._driver._call("cuDevicePrimaryCtxRelease_v2", self._device)


class _Nvml:
    """The few calls of NVML that are needed."""

    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self) -> None:
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise Missing("there is no NVML here (libnvidia-ml.so.1)") from None
        self._call("nvmlInit_v2")

    def total(self, uuid: str) -> int:
        handle, memory = ctypes.c_void_p(), _Nvml.Memory()
        self._call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return int(memory.total)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._nvml, name)(*arguments)
        if code != _SUCCESS:
            raise Failed(f"{name} failed: {code}")


def main(words: list[str]) -> int:
    """The command line. Takes the name by which the refusal that it provokes is known for what it is."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, COMMAND.encode(), 0, 0, 0)
    path = words[words.index("--limits") + 1] if "--limits" in words[:-1] else None
    result = examine(path, quick="--quick" in words)
    sys.stdout.write(json.dumps(result.to_json()) + "\n")
    return STATUS[result.verdict]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
