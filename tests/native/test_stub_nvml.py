"""The stub's NVML, as nvidia-ml-py asks it: the same cards, seen from the side."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from native.stub_guests import Guests

PYNVML = "import pynvml as nv\nnv.nvmlInit()\ncard = nv.nvmlDeviceGetHandleByIndex(0)\n"
LOAD = 'context(); alloc(3 << 30); launch(function("us_60000000")); say(0); wait_for_line()'


@pytest.fixture
def guests(native, stub_state) -> Guests:
    return Guests(stubctl=native.stubctl, environment={**stub_state, "STUB_CUDA_DEVICES": "24564MiB,8192MiB"})


def asked(guests: Guests, text: str) -> object:
    return guests.run(PYNVML + text)


def test_cards_are_found_by_all_their_names(guests):
    same = asked(
        guests,
        """
uuid, serial, bus = nv.nvmlDeviceGetUUID(card), nv.nvmlDeviceGetSerial(card), nv.nvmlDeviceGetPciInfo(card).busId
found = [nv.nvmlDeviceGetHandleByUUID(uuid), nv.nvmlDeviceGetHandleBySerial(serial), nv.nvmlDeviceGetHandleByPciBusId(bus)]
say([nv.nvmlDeviceGetCount(), uuid, [nv.nvmlDeviceGetIndex(other) for other in found]])
""",
    )

    assert same == [2, "GPU-5afe0000-0000-4000-8000-000000000000", [0, 0, 0]]


def test_memory_and_processes_are_the_physical_ones(guests):
    with guests.running(LOAD) as guest:
        guest.says()
        said = asked(
            guests,
            """
one, two = nv.nvmlDeviceGetMemoryInfo(card), nv.nvmlDeviceGetMemoryInfo(card, version=nv.nvmlMemory_v2)
lists = [nv.nvmlDeviceGetComputeRunningProcesses_v2(card), nv.nvmlDeviceGetComputeRunningProcesses_v3(card)]
say([one.used, two.used, two.total, [[p.pid, p.usedGpuMemory] for found in lists for p in found],
     len(nv.nvmlDeviceGetGraphicsRunningProcesses(card))])
""",
        )

    assert said == [3 << 30, 3 << 30, 24564 << 20, [[guest.pid, 3 << 30]] * 2, 0]


def test_a_process_of_another_pid_namespace_has_the_readers_pid(guests):
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no new PID namespace may be made here")
    inner = Guests(
        stubctl=guests.stubctl, environment=guests.environment, before=("unshare", "--pid", "--fork", "--kill-child")
    )

    with inner.running("context(); alloc(1 << 20); say(os.getpid()); wait_for_line()") as guest:
        assert guest.says() == 1
        child = int(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text())
        said = asked(guests, "say([p.pid for p in nv.nvmlDeviceGetComputeRunningProcesses(card)])")
        inside = inner.run(PYNVML + "say([p.pid for p in nv.nvmlDeviceGetComputeRunningProcesses(card)])")

    assert said == [child]
    assert inside in ([], [child])  # /proc is the host's here: a namespace with one of its own sees nobody


def test_use_is_that_of_the_last_second(guests):
    with guests.running(LOAD) as guest:
        guest.says()
        said = asked(
            guests,
            """
idle = nv.nvmlDeviceGetUtilizationRates(nv.nvmlDeviceGetHandleByIndex(1)).gpu
until = time.monotonic() + 60
while nv.nvmlDeviceGetUtilizationRates(card).gpu < 100 and time.monotonic() < until:
    time.sleep(0.05)
samples = nv.nvmlDeviceGetSamples(card, nv.NVML_GPU_UTILIZATION_SAMPLES, 0)[1]
say([idle, nv.nvmlDeviceGetUtilizationRates(card).gpu, nv.nvmlDeviceGetProcessUtilization(card, 0)[0].smUtil,
     samples[-1].sampleValue.uiVal])
""",
        )

    assert said == [0, 100, 100, 100]


def test_errors_are_nvmls(guests):
    said = guests.run(
        """
import pynvml as nv
def error(call, *arguments):
    try:
        call(*arguments)
    except nv.NVMLError as problem:
        return type(problem).__name__
nv.nvmlInit()
card = nv.nvmlDeviceGetHandleByIndex(0)
said = [
    error(nv.nvmlDeviceGetHandleByIndex, 7),
    error(nv.nvmlDeviceGetHandleByUUID, "GPU-0"),
    error(nv.nvmlDeviceGetMigMode, card),
    error(nv.nvmlSystemGetProcessName, 2**30),
]
nv.nvmlShutdown()
say([*said, error(nv.nvmlDeviceGetCount)])
"""
    )

    assert said == [
        "NVMLError_InvalidArgument",
        "NVMLError_NotFound",
        "NVMLError_NotSupported",
        "NVMLError_NotFound",
        "NVMLError_Uninitialized",
    ]


def test_a_card_that_fell_off_the_bus_is_lost(guests):
    guests.control("lose", "0")

    said = guests.run(
        """
import pynvml as nv
nv.nvmlInit()
try:
    nv.nvmlDeviceGetMemoryInfo(nv.nvmlDeviceGetHandleByIndex(0))
except nv.NVMLError as problem:
    say(type(problem).__name__)
"""
    )

    assert said == "NVMLError_GpuIsLost"
