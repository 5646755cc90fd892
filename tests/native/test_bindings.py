"""What people use runs in a slice and sees only the slice: nvidia-ml-py, pools as CuPy keeps them, cuda-python's bindings."""

from __future__ import annotations

from pathlib import Path

import pytest
from native.slices import GIB, UUIDS
from native.stub_guests import Guests, make_slice

from labspawner.gpu.limits import DeviceLimit


@pytest.fixture(params=["symbols", "other addresses"])
def inside(request, native, stub_state, tmp_path) -> Guests:
    """Programs in a slice of 4 GiB, the second of two cards; CUDA sees only that one. The driver's lookup gives its
    symbols, or addresses of its own."""
    environment = {
        **stub_state,
        "STUB_CUDA_DEVICES": "2x24564MiB",
        "CUDA_VISIBLE_DEVICES": "1",
        "STUB_CUDA_ALTERNATE": "1" if request.param == "other addresses" else "0",
    }
    limits_file: Path = make_slice(tmp_path / "slice", DeviceLimit(uuid=UUIDS[1], memory_bytes=4 * GIB))
    return Guests(stubctl=native.stubctl, environment=environment).inside(limits_file, native.libvgpu)


CUDA_PYTHON = """
from cuda.bindings import driver as d
def do(call, *arguments):
    code, *rest = call(*arguments)
    assert int(code) == 0, code
    return rest[0] if len(rest) == 1 else rest
do(d.cuInit, 0)
device = do(d.cuDeviceGet, 0)
do(d.cuCtxSetCurrent, do(d.cuDevicePrimaryCtxRetain, device))
"""


def test_cuda_python_sees_a_card_as_large_as_the_slice(inside):
    pytest.importorskip("cuda.bindings.driver")

    said = inside.run(
        CUDA_PYTHON
        + """
block = do(d.cuMemAlloc, 1 << 30)
say([do(d.cuDeviceGetCount), do(d.cuDeviceTotalMem, device), do(d.cuMemGetInfo), int(d.cuMemAlloc(4 << 30)[0])])
"""
    )

    assert said == [1, 4 * GIB, [3 * GIB, 4 * GIB], 2]


def test_cuda_pythons_streams_pools_and_graphs_are_counted(inside):
    pytest.importorskip("cuda.bindings.driver")

    said = inside.run(
        CUDA_PYTHON
        + """
left = lambda: do(d.cuMemGetInfo)[0] >> 20
stream = do(d.cuStreamCreate, 0)
block = do(d.cuMemAllocAsync, 64 << 20, stream)
pooled = left()
do(d.cuMemFreeAsync, block, stream)
do(d.cuStreamSynchronize, stream)
freed = left()
do(d.cuStreamBeginCapture, stream, d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
inner = do(d.cuMemAllocAsync, 32 << 20, stream)
do(d.cuMemFreeAsync, inner, stream)
run = do(d.cuGraphInstantiate, do(d.cuStreamEndCapture, stream), 0)
do(d.cuGraphLaunch, run, stream)
do(d.cuStreamSynchronize, stream)
launched = left()
do(d.cuDeviceGraphMemTrim, device)
do(d.cuCtxSynchronize)
say([pooled, freed, launched < 4096, int(d.cuMemAllocAsync(5 << 30, stream)[0]), left()])
"""
    )

    assert said == [4032, 4096, True, 2, 4096]


def test_cuda_pythons_virtual_memory_is_counted(inside):
    pytest.importorskip("cuda.bindings.driver")

    said = inside.run(
        CUDA_PYTHON
        + """
prop = d.CUmemAllocationProp()
prop.type = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
prop.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
prop.location.id = 0
address = do(d.cuMemAddressReserve, 8 << 30, 0, 0, 0)
handle = do(d.cuMemCreate, 3 << 30, prop, 0)
do(d.cuMemMap, address, 3 << 30, 0, handle, 0)
do(d.cuMemRelease, handle)
mapped = do(d.cuMemGetInfo)[0] >> 30
refused = int(d.cuMemCreate(2 << 30, prop, 0)[0])
do(d.cuMemUnmap, address, 3 << 30)
say([mapped, refused, do(d.cuMemGetInfo)[0] >> 30])
"""
    )

    assert said == [1, 2, 4]


def test_a_pool_that_keeps_its_blocks_fills_the_slice_and_no_more(inside):
    """CuPy's pool: blocks are kept when they are freed, and given back to the driver when it says no."""
    said = inside.run(
        """
        context()
        kept, live = {}, []
        def take(size):
            if kept.get(size):
                return kept[size].pop()
            code, block = alloc(size)
            if code == 2:
                for blocks in kept.values():
                    while blocks:
                        ok(cu.cuMemFree_v2(blocks.pop()))
                code, block = alloc(size)
            return block if code == 0 else None
        for size in (256 << 20, 512 << 20, 1 << 30):
            while (block := take(size)) is not None:
                live.append(block)
            say([size >> 20, len(live)])
            kept.setdefault(size, []).extend(live)
            live.clear()
        free, total = c_size_t(), c_size_t()
        ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
        say([sum(len(blocks) for blocks in kept.values()), free.value, total.value])
        """
    )

    assert said == [4, 0, 4 * GIB]


def test_nvidia_ml_py_and_the_driver_agree(inside):
    said = inside.run(
        """
        import pynvml as nv
        context()
        alloc(1 << 30)
        nv.nvmlInit()
        card = nv.nvmlDeviceGetHandleByIndex(0)
        memory, free, total = nv.nvmlDeviceGetMemoryInfo(card), c_size_t(), c_size_t()
        ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
        say([nv.nvmlDeviceGetCount(), memory.total == total.value, memory.free == free.value, memory.used])
        """
    )

    assert said == [1, True, True, GIB]
