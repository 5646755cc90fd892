"""The door to NVML: what is not supported is a value, what is lost is said, and a missing driver is a sentence.

The api is a stand-in for cards that no test machine has; tests/native asks a driver.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from labspawner.gpu.cards import CardProcess, LostCard
from labspawner.gpu.nvml import NoDriver, Nvml

GIB = 2**30


def refusing(code: int):
    def call(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return call


NOT_SUPPORTED = refusing(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = refusing(pynvml.NVML_ERROR_GPU_IS_LOST)


class Api:
    """Two cards without anything special; a test says what is different."""

    NVMLError = pynvml.NVMLError

    def __init__(self, **different: Any) -> None:
        self.started = 0
        for name, call in different.items():
            setattr(self, name, call)

    def nvmlInit(self) -> None:
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: Any) -> bytes:
        return b"NVIDIA A5000"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=24_564 * 2**20, used=GIB, free=0)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13010

    nvmlDeviceGetMigMode = nvmlDeviceGetNumaNodeId = nvmlDeviceGetCudaComputeCapability = staticmethod(NOT_SUPPORTED)
    nvmlDeviceGetPciInfo = nvmlDeviceGetUtilizationRates = nvmlDeviceGetMinorNumber = staticmethod(NOT_SUPPORTED)
    nvmlDeviceGetComputeRunningProcesses = nvmlDeviceGetGraphicsRunningProcesses = staticmethod(NOT_SUPPORTED)
    nvmlDeviceGetTopologyCommonAncestor = staticmethod(NOT_SUPPORTED)


def look(**different: Any):
    with Nvml.open(api=Api(**different)) as nvml:
        return nvml.inventory()


def test_what_a_card_does_not_support_is_none():
    card = look().cards[0]

    assert (card.mig, card.numa, card.compute_capability, card.bus, card.minor) == (None, None, None, None, None)
    assert (card.utilisation_pct, card.processes, card.distances) == (None, None, {})
    assert (card.uuid, card.name, card.memory_total_bytes) == ("GPU-0", "NVIDIA A5000", 24_564 * 2**20)


def test_what_it_supports_is_told():
    found = look(
        nvmlDeviceGetMigMode=lambda _: [0, 0],
        nvmlDeviceGetNumaNodeId=lambda handle: handle,
        nvmlDeviceGetCudaComputeCapability=lambda _: (8, 6),
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=f"0000000{handle}:1A:00.0"),
        nvmlDeviceGetMinorNumber=lambda handle: handle,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=37, memory=1),
        nvmlDeviceGetTopologyCommonAncestor=lambda *_: 20,
    )

    card = found.cards[1]
    assert (found.driver, found.cuda) == ("580.65.06", "13.1")
    assert (card.mig, card.numa, card.compute_capability) == (False, 1, (8, 6))
    assert (card.bus, card.minor, card.utilisation_pct) == ("00000001:1a:00.0", 1, 37)
    assert card.distances == {"GPU-0": 20}


def test_a_process_that_computes_and_draws_counts_once():
    process = SimpleNamespace
    card = look(
        nvmlDeviceGetComputeRunningProcesses=lambda _: [
            process(pid=7, usedGpuMemory=GIB),
            process(pid=8, usedGpuMemory=None),
        ],
        nvmlDeviceGetGraphicsRunningProcesses=lambda _: [process(pid=7, usedGpuMemory=2 * GIB)],
    ).cards[0]

    assert card.processes == (CardProcess(7, 2 * GIB), CardProcess(8, None))


def test_a_card_that_is_cut_shows_its_parts_and_gaps_between_them_are_none():
    card = look(
        nvmlDeviceGetMigMode=lambda _: [1, 1],
        nvmlDeviceGetMaxMigDeviceCount=lambda _: 3,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda handle, index: (
            NOT_SUPPORTED() if index == 1 else f"{handle}.{index}"
        ),
        nvmlDeviceGetUUID=lambda handle: f"MIG-{handle}" if isinstance(handle, str) else f"GPU-{handle}",
    ).cards[0]

    assert card.mig is True
    assert [part.uuid for part in card.parts] == ["MIG-0.0", "MIG-0.2"]


@pytest.mark.parametrize(
    "where", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates"]
)
def test_a_card_that_is_lost_at_any_question_is_said_and_the_other_is_listed(where: str):
    whole = getattr(Api(), where)
    found = look(
        **{
            where: lambda handle: (
                LOST() if handle == 0 else (SimpleNamespace(gpu=1) if "Rates" in where else whole(handle))
            )
        }
    )

    assert [card.uuid for card in found.cards] == ["GPU-1"]
    assert found.lost == (LostCard(0, "GPU is lost"),)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "There is no NVIDIA driver on this machine."),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart the machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidiactl"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_a_driver_that_does_not_start_is_a_sentence(code: int, words: str):
    with pytest.raises(NoDriver) as caught:
        Nvml.open(api=Api(nvmlInit=refusing(code)))

    assert words in caught.value.message


def test_a_driver_that_dies_meanwhile_is_a_sentence_and_can_be_started_anew():
    api = Api(nvmlDeviceGetCount=refusing(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    with Nvml.open(api=api) as nvml:
        with pytest.raises(NoDriver):
            nvml.inventory()
        del api.nvmlDeviceGetCount
        nvml.refresh()

        assert len(nvml.inventory().cards) == 2
    assert api.started == 0


def test_closing_twice_or_after_the_driver_died_is_no_error():
    nvml = Nvml.open(api=Api(nvmlShutdown=refusing(pynvml.NVML_ERROR_UNINITIALIZED)))

    nvml.close()
    nvml.close()


def test_a_pretended_library_that_is_not_there_is_a_sentence(tmp_path: Path):
    with pytest.raises(NoDriver):
        Nvml.open(tmp_path / "libnvidia-ml.so.1", api=Api())
