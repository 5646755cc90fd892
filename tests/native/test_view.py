"""What NVML shows inside a slice, asked by nvidia-ml-py and by ctypes, with the library preloaded."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from native.slices import GIB, UUIDS
from native.stub_guests import Guests, make_slice

from labspawner.gpu import limits, region
from labspawner.gpu.limits import CorePolicy, DeviceLimit
from labspawner.testing.waiting import eventually_sync

ABI = Path(__file__).resolve().parents[2] / "native/abi"
PYNVML = """
import pynvml as nv
def error(call, *arguments):
    try:
        return call(*arguments)
    except nv.NVMLError as problem:
        return type(problem).__name__
nv.nvmlInit()
card = nv.nvmlDeviceGetHandleByIndex(0)
"""
HOLD = "context({card}); alloc({gib} << 30); say(0); wait_for_line()"


@pytest.fixture
def guests(native, stub_state) -> Guests:
    """Programs outside any slice, on three cards."""
    return Guests(stubctl=native.stubctl, environment={**stub_state, "STUB_CUDA_DEVICES": "3x24564MiB"})


@pytest.fixture
def limits_file(tmp_path) -> Path:
    """A slice of 6 GiB and 50 % of the second card."""
    return make_slice(
        tmp_path / "slice",
        DeviceLimit(uuid=UUIDS[1], memory_bytes=6 * GIB, cores_pct=50),
        policy=CorePolicy.CAP,
    )


@pytest.fixture
def inside(guests, limits_file, native) -> Guests:
    """Programs in that slice."""
    return guests.inside(limits_file, native.libvgpu)


def test_a_slice_is_a_card_of_its_own_size(inside):
    said = inside.run(
        PYNVML
        + """
one, two = nv.nvmlDeviceGetMemoryInfo(card), nv.nvmlDeviceGetMemoryInfo(card, version=nv.nvmlMemory_v2)
say([nv.nvmlDeviceGetCount(), nv.nvmlDeviceGetUUID(card), nv.nvmlDeviceGetIndex(card), one.total, one.free, two.total,
     two.reserved, two.used])
"""
    )

    assert said == [1, UUIDS[1], 0, 6 * GIB, 6 * GIB, 6 * GIB, 0, 0]


def test_hidden_cards_are_not_there_by_any_name(guests, inside):
    outside = guests.run(
        PYNVML
        + """
other = nv.nvmlDeviceGetHandleByIndex(0)
say([nv.nvmlDeviceGetSerial(other), nv.nvmlDeviceGetPciInfo(other).busId])
"""
    )
    said = inside.run(
        PYNVML
        + f"""
say([
    error(nv.nvmlDeviceGetHandleByIndex, 1),
    error(nv.nvmlDeviceGetHandleByUUID, "{UUIDS[0]}"),
    error(nv.nvmlDeviceGetHandleBySerial, "{outside[0]}"),
    error(nv.nvmlDeviceGetHandleByPciBusId, "{outside[1]}"),
    error(nv.nvmlDeviceGetHandleByUUID, "GPU-nonsense"),
])
"""
    )

    assert said == ["NVMLError_InvalidArgument", *["NVMLError_NotFound"] * 4]


def test_the_own_card_is_found_by_all_its_names(inside):
    said = inside.run(
        PYNVML
        + """
names = nv.nvmlDeviceGetUUID(card), nv.nvmlDeviceGetSerial(card), nv.nvmlDeviceGetPciInfo(card).busId
found = [nv.nvmlDeviceGetHandleByUUID(names[0]), nv.nvmlDeviceGetHandleBySerial(names[1]),
         nv.nvmlDeviceGetHandleByPciBusId(names[2])]
say([nv.nvmlDeviceGetUUID(other) == names[0] for other in found])
"""
    )

    assert said == [True, True, True]


def test_a_hidden_card_whose_handle_is_guessed_is_an_invalid_argument(inside):
    said = inside.run(
        PYNVML
        + """
step = 4096
own = ctypes.cast(card, c_void_p).value
say(sorted({error(nv.nvmlDeviceGetMemoryInfo, ctypes.cast(own + n * 8, nv.c_nvmlDevice_t))
            for n in range(-step, step) if n}))
"""
    )

    assert said == ["NVMLError_InvalidArgument"]


def test_cards_stand_in_the_order_of_the_limits_file(guests, native, tmp_path):
    devices = [DeviceLimit(uuid=UUIDS[n], memory_bytes=(n + 1) * GIB) for n in (2, 0)]
    inside = guests.inside(make_slice(tmp_path / "two", *devices), native.libvgpu)

    said = inside.run(
        PYNVML
        + """
cards = [nv.nvmlDeviceGetHandleByIndex(n) for n in range(nv.nvmlDeviceGetCount())]
say([[nv.nvmlDeviceGetUUID(c), nv.nvmlDeviceGetMemoryInfo(c).total >> 30, nv.nvmlDeviceGetIndex(c)] for c in cards])
"""
    )

    assert said == [[UUIDS[2], 3, 0], [UUIDS[0], 1, 1]]


def test_processes_are_those_of_the_slice_with_what_they_hold(guests, inside):
    with guests.running(HOLD.format(card=1, gib=4)) as stranger, inside.running(HOLD.format(card=1, gib=2)) as mate:
        stranger.says()
        mate.says()
        said = inside.run(
            PYNVML
            + """
context(1)
alloc(1 << 30)
lists = [nv.nvmlDeviceGetComputeRunningProcesses_v2(card), nv.nvmlDeviceGetComputeRunningProcesses_v3(card)]
v1, count = (ctypes.c_uint64 * 8)(), c_uint(4)
nvml = ctypes.CDLL("libnvidia-ml.so.1")
ok(nvml.nvmlDeviceGetComputeRunningProcesses(card, byref(count), v1))
lists.append([type("P", (), {"pid": v1[2 * n] & 0xffffffff, "usedGpuMemory": v1[2 * n + 1]}) for n in range(count.value)])
held = [sorted([p.usedGpuMemory >> 30, p.pid] for p in found) for found in lists]
say([os.getpid(), held, nv.nvmlDeviceGetMemoryInfo(card).used >> 30, nv.nvmlDeviceGetGraphicsRunningProcesses(card),
     nv.nvmlDeviceGetMPSComputeRunningProcesses(card)])
"""
        )

    pid, held, used, graphics, mps = said
    assert held == [[[1, pid], [2, mate.pid]]] * 3
    assert (used, graphics, mps) == (3, [], [])


def test_the_detailed_list_tells_the_same(inside):
    said = inside.run(
        PYNVML
        + """
context(1)
alloc(1 << 30)
detail = nv.nvmlDeviceGetRunningProcessDetailList(card, nv.nvmlProcessDetailList_v1, 0)
found = nv.nvmlDeviceGetComputeRunningProcesses(card)
say([[found[0].pid == os.getpid(), found[0].usedGpuMemory >> 30],
     detail.numProcArrayEntries if hasattr(detail, "numProcArrayEntries") else len(detail)])
"""
    )

    assert said == [[True, 1], 1]


def test_a_list_too_short_says_how_long_it_should_be(inside):
    said = inside.run(
        PYNVML
        + """
context(1)
alloc(1 << 20)
nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), c_uint(0)
room = (ctypes.c_uint64 * 4)()
code = nvml.nvmlDeviceGetComputeRunningProcesses_v3(card, byref(count), None)
nowhere = nvml.nvmlDeviceGetComputeRunningProcesses_v3(card, byref(c_uint(3)), None)
say([code, count.value, nowhere, nvml.nvmlDeviceGetComputeRunningProcesses_v3(card, None, room)])
"""
    )

    assert said == [7, 1, 2, 2]


def test_a_killed_process_leaves_the_list(inside):
    count = PYNVML + "say(len(nv.nvmlDeviceGetComputeRunningProcesses(card)))"
    with inside.running(HOLD.format(card=1, gib=2)) as mate:
        mate.says()
        before = inside.run(count)
        mate.process.send_signal(signal.SIGKILL)
        mate.process.wait()

    assert before == 1
    assert eventually_sync(lambda: inside.run(count) == 0, 30)


def test_nvml_alone_takes_no_place_in_the_slice(inside, limits_file):
    with inside.running(PYNVML + "nv.nvmlDeviceGetMemoryInfo(card); say(0); wait_for_line()") as looker:
        looker.says()
        processes = region.read(limits_file.parent / "region").processes

    assert processes == ()


def test_names_are_those_of_visible_processes(inside):
    said = inside.run(
        PYNVML
        + """
say([nv.nvmlSystemGetProcessName(os.getpid()), error(nv.nvmlSystemGetProcessName, 2**22 + 1)])
"""
    )

    assert "python" in said[0]
    assert said[1] == "NVMLError_NotFound"


def test_accounting_tells_nothing(inside):
    said = inside.run(
        PYNVML
        + """
context(1)
alloc(1 << 20)
say([nv.nvmlDeviceGetAccountingMode(card), list(nv.nvmlDeviceGetAccountingPids(card)),
     error(nv.nvmlDeviceGetAccountingStats, card, os.getpid())])
"""
    )

    assert said == [0, [], "NVMLError_NotFound"]


def test_whatever_changes_a_card_is_denied_inside_and_passed_on_outside(guests, inside, native):
    denied = re.findall(r"^NVML_DENIED\((\w+),", (ABI / "nvml_functions.def").read_text(), re.M)
    text = (
        PYNVML
        + f"""
nvml = ctypes.CDLL("libnvidia-ml.so.1")
say(sorted({{getattr(nvml, name)(card, 0, 0, 0) for name in {denied!r}}}))
"""
    )

    assert len(denied) > 75
    assert inside.run(text) == [4]
    assert guests.having(LD_PRELOAD=str(native.libvgpu)).run(text) == [0]


def test_use_is_of_the_share_and_nobody_elses(guests, inside):
    busy = 'context(1); kernel = function("us_5000"); say(0)\nwhile True: ok(launch(kernel))'
    with guests.running('context(1); launch(function("us_3600000000")); say(0); wait_for_line()') as stranger:
        stranger.says()
        idle = inside.run(PYNVML + "say(nv.nvmlDeviceGetUtilizationRates(card).gpu)")
    with inside.running(busy) as worker:
        worker.says()
        seen = inside.run(
            PYNVML
            + """
until, best, part = time.monotonic() + 400, 0, 0
while not (best >= 80 and part > 30) and time.monotonic() < until:
    time.sleep(0.3)
    best, processes = nv.nvmlDeviceGetUtilizationRates(card).gpu, nv.nvmlDeviceGetProcessUtilization(card, 0)
    part = max((p.smUtil for p in processes), default=0)
say([best, [p.pid for p in processes], part > 30])
"""
        )

    assert idle == 0
    assert seen[0] >= 80  # of a share of 50 %: all of it, give or take what the limiter measures late
    assert seen[1:] == [[worker.pid], True]


def test_samples_of_an_idle_slice_are_nothing(guests, inside):
    with guests.running('context(1); launch(function("us_3600000000")); say(0); wait_for_line()') as stranger:
        stranger.says()
        said = inside.run(
            PYNVML
            + """
samples = nv.nvmlDeviceGetSamples(card, nv.NVML_GPU_UTILIZATION_SAMPLES, 0)[1]
say(sorted({s.sampleValue.uiVal for s in samples}))
"""
        )

    assert said == [0]


def test_a_new_limit_is_seen_at_once(inside, limits_file):
    with inside.running(
        PYNVML
        + """
say(nv.nvmlDeviceGetMemoryInfo(card).total >> 30)
wait_for_line()
say(nv.nvmlDeviceGetMemoryInfo(card).total >> 30)
"""
    ) as looker:
        before = looker.says()
        changed = limits.read(limits_file)
        devices = (DeviceLimit(uuid=UUIDS[1], memory_bytes=8 * GIB),)
        limits.write(limits.SliceLimits(name=changed.name, region=changed.region, devices=devices), limits_file)
        region.bump(limits_file.parent / "region")
        looker.tell()

        assert (before, looker.says()) == (6, 8)


def test_a_card_that_fell_off_the_bus_is_lost_here_too(guests, inside):
    with inside.running(PYNVML + "say(0); wait_for_line(); say(error(nv.nvmlDeviceGetMemoryInfo, card))") as looker:
        looker.says()
        guests.control("lose", "1")
        looker.tell()

        assert looker.says() == "NVMLError_GpuIsLost"


def test_nothing_is_answered_before_init_and_after_shutdown(inside):
    said = inside.run(
        """
import pynvml as nv
def error(call, *arguments):
    try:
        return call(*arguments)
    except nv.NVMLError as problem:
        return type(problem).__name__
nvml = ctypes.CDLL("libnvidia-ml.so.1")
early = nvml.nvmlDeviceGetCount_v2(byref(c_uint()))
nv.nvmlInit()
nv.nvmlInit()
nv.nvmlShutdown()
between = nv.nvmlDeviceGetCount()
nv.nvmlShutdown()
say([early, between, error(nv.nvmlDeviceGetCount), error(nv.nvmlShutdown)])
"""
    )

    assert said == [1, 1, "NVMLError_Uninitialized", "NVMLError_Uninitialized"]


def test_settings_that_cannot_be_read_mean_no_nvml_and_one_line(inside, limits_file):
    limits_file.write_text(limits_file.read_text().replace("\nend\n", "\n"))

    done = inside.completed(
        """
import pynvml as nv
for _ in range(2):
    try:
        nv.nvmlInit()
    except nv.NVMLError as problem:
        say(type(problem).__name__)
"""
    )

    assert done.stdout.splitlines() == ['"NVMLError_DriverNotLoaded"'] * 2
    assert re.fullmatch(r"labspawner: .+\n", done.stderr)


def test_without_a_slice_all_is_as_without_the_library(guests, native):
    text = (
        PYNVML
        + """
context(1)
alloc(1 << 30)
cards = [nv.nvmlDeviceGetHandleByIndex(n) for n in range(nv.nvmlDeviceGetCount())]
used = [nv.nvmlDeviceGetMemoryInfo(c).used >> 20 for c in cards]
found = [p.usedGpuMemory for p in nv.nvmlDeviceGetComputeRunningProcesses(cards[1])]
say([[nv.nvmlDeviceGetUUID(c) for c in cards], used, found, error(nv.nvmlDeviceGetMigMode, card)])
"""
    )

    assert guests.having(LD_PRELOAD=str(native.libvgpu)).run(text) == guests.run(text)
