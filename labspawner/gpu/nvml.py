"""The one door to NVML, the driver's own view of the cards. Its calls block, some for a second: use a thread.

What a card does not support is None; a card that does not answer is in `Inventory.lost`, and the others are still listed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import pynvml

from labspawner.errors import SetupError
from labspawner.gpu.cards import Card, CardProcess, Device, Inventory, LostCard
from labspawner.sentences import Sentence, plain

_UNKNOWN_VALUES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    }
)
_MIG_ENABLED = 1  # NVML_DEVICE_MIG_ENABLE
_NO_NUMA = 0xFFFFFFFF


class NoDriver(SetupError):
    """NVML cannot be used on this machine; the sentence says what an administrator can do."""

    reason = "no_driver"


class Nvml:
    """NVML, opened. api: what speaks to it, as the module pynvml does."""

    def __init__(self, api: Any = pynvml) -> None:
        self._api = api
        self._levels: dict[frozenset[str], int | None] = {}
        self._lock = Lock()
        self._open = False

    @classmethod
    def open(cls, pretended: Path | None = None, *, api: Any = pynvml) -> Nvml:
        """Load and start NVML. Raises NoDriver.

        pretended: the library of a pretended driver, which is then the only one that this process ever uses.
        """
        nvml = cls(api)
        nvml._start(pretended)
        return nvml

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; may be repeated."""
        with self._lock:
            if self._open:
                self._open = False
                with suppress(self._api.NVMLError):
                    self._api.nvmlShutdown()

    def inventory(self) -> Inventory:
        """All cards and what they do now. A card that does not answer is listed as lost; nothing is raised for it.

        Raises NoDriver where NVML as a whole does not answer any more.
        """
        try:
            count = int(self._api.nvmlDeviceGetCount())
        except self._api.NVMLError as exc:
            raise no_driver(exc) from exc
        handles: dict[str, Any] = {}
        cards: list[Card] = []
        lost: list[LostCard] = []
        for index in range(count):
            try:
                handle = self._api.nvmlDeviceGetHandleByIndex(index)
                card = self._card(index, handle)
            except self._api.NVMLError as exc:
                lost.append(LostCard(index, str(exc)))
            else:
                cards.append(card)
                handles[card.uuid] = handle
        return Inventory(
            cards=tuple(self._with_distances(card, handles) for card in cards),
            lost=tuple(lost),
            driver=_text(self._try(self._api.nvmlSystemGetDriverVersion)),
            cuda=_cuda(self._try(self._api.nvmlSystemGetCudaDriverVersion_v2)),
        )

    def refresh(self) -> None:
        """Start NVML anew, so that cards that came since are seen. Raises NoDriver; `refresh` may then be tried again."""
        self.close()
        self._start(None)

    def _start(self, pretended: Path | None) -> None:
        with self._lock:
            try:
                if pretended is not None:
                    # The loader knows it by its name from now on, so pynvml's own search ends here.
                    ctypes.CDLL(str(pretended), mode=ctypes.RTLD_GLOBAL)
                self._api.nvmlInit()
            except OSError as exc:
                raise no_driver(exc) from exc
            except self._api.NVMLError as exc:
                raise no_driver(exc) from exc
            self._open = True

    def _card(self, index: int, handle: Any) -> Card:
        api = self._api
        memory = api.nvmlDeviceGetMemoryInfo(handle)
        mode = self._try(api.nvmlDeviceGetMigMode, handle)
        mig = None if mode is None else mode[0] == _MIG_ENABLED
        numa = self._try(api.nvmlDeviceGetNumaNodeId, handle)
        capability = self._try(api.nvmlDeviceGetCudaComputeCapability, handle)
        pci = self._try(api.nvmlDeviceGetPciInfo, handle)
        return Card(
            uuid=_text(api.nvmlDeviceGetUUID(handle)) or "",
            index=index,
            name=_text(self._try(api.nvmlDeviceGetName, handle)) or "GPU",
            memory_total_bytes=int(memory.total),
            memory_used_bytes=int(memory.used),
            utilisation_pct=self._utilisation(handle),
            processes=self._processes(handle),
            minor=self._try(api.nvmlDeviceGetMinorNumber, handle),
            bus=None if pci is None else (_text(pci.busId) or "").lower() or None,
            numa=None if numa in {None, _NO_NUMA} else numa,
            compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
            mig=mig,
            parts=tuple(self._parts(handle)) if mig else (),
        )

    def _parts(self, handle: Any) -> Iterable[Device]:
        api = self._api
        for index in range(self._try(api.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = self._try(api.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
            if part is None:  # numbers may be missing between those there are
                continue
            memory = api.nvmlDeviceGetMemoryInfo(part)
            yield Device(
                uuid=_text(api.nvmlDeviceGetUUID(part)) or "",
                name=_text(self._try(api.nvmlDeviceGetName, part)) or "MIG",
                memory_total_bytes=int(memory.total),
                memory_used_bytes=int(memory.used),
                processes=self._processes(part),
            )

    def _utilisation(self, handle: Any) -> int | None:
        rates = self._try(self._api.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None else int(rates.gpu)

    def _processes(self, handle: Any) -> tuple[CardProcess, ...] | None:
        """Who holds memory: those that compute and those that draw; who does both counts once."""
        lists = [
            self._try(self._api.nvmlDeviceGetComputeRunningProcesses, handle),
            self._try(self._api.nvmlDeviceGetGraphicsRunningProcesses, handle),
        ]
        if lists == [None, None]:
            return None
        found: dict[int, int | None] = {}
        for process in (process for one in lists for process in one or ()):
            used, known = process.usedGpuMemory, found.get(process.pid)
            found[process.pid] = known if used is None else max(int(used), known or 0)
        return tuple(CardProcess(pid, used) for pid, used in sorted(found.items()))

    def _with_distances(self, card: Card, handles: dict[str, Any]) -> Card:
        distances = {}
        for uuid, handle in handles.items():
            if uuid == card.uuid:
                continue
            pair = frozenset((uuid, card.uuid))
            if pair not in self._levels:  # a machine is not rebuilt while it runs
                self._levels[pair] = self._try(
                    self._api.nvmlDeviceGetTopologyCommonAncestor, handles[card.uuid], handle
                )
            level = self._levels[pair]
            if level is not None:
                distances[uuid] = level
        return replace(card, distances=distances)

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        """What `call` says; None where this card, driver or user has no answer to it. Raises what means a lost card."""
        try:
            return call(*args)
        except self._api.NVMLError as exc:
            if exc.value in _UNKNOWN_VALUES:
                return None
            raise


def no_driver(error: Exception) -> NoDriver:
    """What an administrator can do about NVML's refusal to start."""
    code = getattr(error, "value", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    return NoDriver(_WHY.get(code) or Sentence("The NVIDIA driver does not answer: {why}", why=plain(str(error))),
                    detail=f"NVML: {error}")  # fmt: skip


_WHY = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: Sentence("There is no NVIDIA driver on this machine."),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: Sentence(
        "The NVIDIA driver is installed on this machine, but not loaded: modprobe nvidia, or restart the machine."
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: Sentence(
        "The NVIDIA driver was updated while it was loaded: restart the machine."
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: Sentence(
        "This user may not use the NVIDIA driver: check who may open /dev/nvidiactl."
    ),
}


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _cuda(version: int | None) -> str | None:
    return None if version is None else f"{version // 1000}.{version % 1000 // 10}"
