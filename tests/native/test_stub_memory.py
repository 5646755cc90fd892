"""The stub driver's memory: what it says, what it books, and who it gives it back from."""

from __future__ import annotations

import signal

import pytest
from native.stub_guests import Guests

MIB = 2**20


@pytest.fixture
def guests(native, stub_state) -> Guests:
    return Guests(stubctl=native.stubctl, environment=stub_state)


def test_a_card_counts_what_it_holds_and_the_most_it_held(guests):
    with guests.running(
        """
        context()
        blocks = [alloc(size) for size in (1, 513, 1 << 20, (1 << 20) + 1, 5 << 20)]
        ok(cu.cuMemFree_v2(blocks[4][1]))
        say([code for code, _ in blocks])
        wait_for_line()
        """
    ) as guest:
        codes = guest.says()
        card = guests.card()

    kept = 512 + 1024 + MIB + 2 * MIB
    assert codes == [0] * 5
    assert card["used"] == kept
    assert card["peak"] == kept + 6 * MIB
    assert card["processes"][0]["held"] == kept


def test_wrong_calls_get_the_drivers_codes(guests):
    said = guests.run(
        """
        none = c_uint64()
        before_init = cu.cuMemAlloc_v2(byref(none), c_size_t(1))
        ok(cu.cuInit(0))
        without_context = cu.cuMemAlloc_v2(byref(none), c_size_t(1))
        context()
        code, block = alloc(100)
        say({
            "before cuInit": before_init,
            "without a context": without_context,
            "nothing": alloc(0)[0],
            "nowhere": cu.cuMemAlloc_v2(None, c_size_t(1)),
            "too much": alloc(1 << 60)[0],
            "wild": cu.cuMemFree_v2(c_uint64(12345)),
            "once": cu.cuMemFree_v2(block),
            "twice": cu.cuMemFree_v2(block),
            "no such card": cu.cuDeviceGet(byref(c_int()), 7),
            "wild stream": cu.cuStreamSynchronize(c_void_p(4096)),
            "wild event": cu.cuEventQuery(c_void_p(4096)),
            "no such kernel": cu.cuModuleGetFunction(byref(c_void_p()), c_void_p(64), b"us_1"),
        })
        """
    )

    assert said == {
        "before cuInit": 3,
        "without a context": 201,
        "nothing": 1,
        "nowhere": 1,
        "too much": 2,
        "wild": 1,
        "once": 0,
        "twice": 1,
        "no such card": 101,
        "wild stream": 400,
        "wild event": 400,
        "no such kernel": 400,
    }


def test_a_killed_process_holds_nothing(guests):
    with guests.running("context(); alloc(20 << 30); say(0); wait_for_line()") as guest:
        guest.says()
        assert guests.card()["used"] == 20 << 30
        guest.process.send_signal(signal.SIGKILL)
        guest.process.wait()

    assert guests.card()["used"] == 0
    assert guests.run("context(); say(alloc(20 << 30)[0])") == 0


def test_memory_of_a_dead_process_is_in_no_peak(guests):
    for _ in range(3):
        with guests.running("context(); alloc(10 << 30); say(0); wait_for_line()") as guest:
            guest.says()

    assert guests.card()["peak"] == 10 << 30


def test_processes_that_race_never_hold_more_than_the_card_has(guests):
    text = """
        context()
        wait_for_line()
        got = sum(alloc(64 << 20)[0] == 0 for _ in range(200))
        say(got)
        wait_for_line()
        """
    with guests.running(text) as a, guests.running(text) as b, guests.running(text) as c:
        for guest in (a, b, c):
            guest.tell()
        got = [guest.says() for guest in (a, b, c)]
        card = guests.card()

    assert sum(got) == 24564 // 64
    assert card["used"] == card["peak"] == sum(got) * 64 * MIB


def test_all_legal_frees_give_all_back(guests):
    held = guests.run(
        """
        context()
        pool = c_void_p()
        ok(cu.cuDeviceGetDefaultMemPool(byref(pool), 0))
        def from_pool(size):
            address = c_uint64()
            ok(cu.cuMemAllocFromPoolAsync(byref(address), c_size_t(size), pool, None))
            return address
        def later(size):
            address = c_uint64()
            ok(cu.cuMemAllocAsync(byref(address), c_size_t(size), None))
            return address
        def now(size):
            return alloc(size)[1]
        for make in (from_pool, later, now):
            ok(cu.cuMemFree_v2(make(3 << 20)))
            ok(cu.cuMemFreeAsync(make(3 << 20), None))
            ok(cu.cuMemFreeAsync_ptsz(make(3 << 20), None))
        ok(cu.cuCtxSynchronize())
        free, total = c_size_t(), c_size_t()
        ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
        say(total.value - free.value)
        """
    )

    assert held == 0


def test_a_pool_keeps_its_threshold_and_grows_by_chunks(guests):
    said = guests.run(
        """
        context()
        pool, value = c_void_p(), c_uint64(64 << 20)
        def reserved():
            ok(cu.cuMemPoolGetAttribute(pool, 5, byref(value)))
            return value.value >> 20
        ok(cu.cuDeviceGetDefaultMemPool(byref(pool), 0))
        ok(cu.cuMemPoolSetAttribute(pool, 4, byref(value)))
        blocks = [c_uint64() for _ in range(5)]
        for block in blocks:
            ok(cu.cuMemAllocAsync(byref(block), c_size_t(20 << 20), None))
        full = reserved()
        for block in blocks:
            ok(cu.cuMemFreeAsync(block, None))
        freed = reserved()
        ok(cu.cuCtxSynchronize())
        settled = reserved()
        ok(cu.cuMemPoolTrimTo(pool, c_size_t(0)))
        say([full, freed, settled, reserved()])
        """
    )

    assert said == [128, 128, 64, 0]


def test_virtual_memory_is_booked_by_its_handle(guests):
    said = guests.run(
        """
        context()
        class Prop(ctypes.Structure):
            _fields_ = [*((n, c_int) for n in ("type", "handles", "where", "id")), ("meta", c_void_p), ("flags", c_uint64)]
        prop, handle, address, again = Prop(1, 0, 1, 0), c_uint64(), c_uint64(), c_uint64()
        free, total = c_size_t(), c_size_t()
        def held():
            ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
            return (total.value - free.value) >> 20
        size = c_size_t(4 << 20)
        ok(cu.cuMemAddressReserve(byref(address), size, c_size_t(0), c_uint64(0), c_uint64(0)))
        reserved = held()
        odd = cu.cuMemCreate(byref(handle), c_size_t(1000), byref(prop), c_uint64(0))
        ok(cu.cuMemCreate(byref(handle), size, byref(prop), c_uint64(0)))
        ok(cu.cuMemMap(address, size, c_size_t(0), handle, c_uint64(0)))
        twice = cu.cuMemMap(address, size, c_size_t(0), handle, c_uint64(0))
        ok(cu.cuMemRetainAllocationHandle(byref(again), address))
        created = held()
        ok(cu.cuMemRelease(handle))
        ok(cu.cuMemUnmap(address, size))
        retained = held()
        ok(cu.cuMemRelease(again))
        ok(cu.cuMemAddressFree(address, size))
        say([reserved, odd, twice, created, retained, held(), cu.cuMemRelease(again)])
        """
    )

    assert said == [0, 1, 1, 4, 4, 0, 1]


def test_arrays_are_padded_and_mipmaps_are_all_their_levels(guests):
    with guests.running(
        """
        context()
        class Array(ctypes.Structure):
            _fields_ = [("w", c_size_t), ("h", c_size_t), ("format", c_uint), ("channels", c_uint)]
        class Array3(ctypes.Structure):
            _fields_ = [(name, c_size_t) for name in "whd"] + [(name, c_uint) for name in ("format", "channels", "flags")]
        array, mipmap = c_void_p(), c_void_p()
        ok(cu.cuArrayCreate_v2(byref(array), byref(Array(100, 100, 0x20, 1))))
        say(cu.cuArrayGetMemoryRequirements(byref((c_uint64 * 4)()), array, 0))
        wait_for_line()
        ok(cu.cuArrayDestroy(array))
        ok(cu.cuMipmappedArrayCreate(byref(mipmap), byref(Array3(1024, 1024, 0, 0x20, 4, 0)), 3))
        say(0)
        wait_for_line()
        ok(cu.cuMipmappedArrayDestroy(mipmap))
        say(cu.cuArrayDestroy(array))
        wait_for_line()
        """
    ) as guest:
        refused = guest.says()
        padded = guests.card()["used"]
        guest.tell()
        guest.says()
        levels = guests.card()["used"]
        guest.tell()
        twice = guest.says()
        nothing = guests.card()["used"]

    assert refused == 1  # only arrays whose memory is mapped later say what they need
    assert padded == 512 * 104
    assert levels == 22 * MIB
    assert (twice, nothing) == (400, 0)


def test_managed_memory_is_on_the_card_when_it_was_prefetched(guests):
    said = guests.run(
        """
        context()
        block, free, total = c_uint64(), c_size_t(), c_size_t()
        def held():
            ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
            return (total.value - free.value) >> 20
        ok(cu.cuMemAllocManaged(byref(block), c_size_t(100 << 30), 1))
        ok(cu.cuMemFree_v2(block))
        ok(cu.cuMemAllocManaged(byref(block), c_size_t(10 << 20), 1))
        made = held()
        ok(cu.cuMemPrefetchAsync(block, c_size_t(10 << 20), 0, None))
        there = held()
        ok(cu.cuMemPrefetchAsync(block, c_size_t(10 << 20), -1, None))
        back = held()
        ok(cu.cuMemFree_v2(block))
        say([made, there, back, held()])
        """
    )

    assert said == [0, 10, 0, 0]


def test_a_context_takes_its_memory_along(guests):
    said = guests.having(STUB_CUDA_CONTEXT_MIB="300").run(
        """
        ok(cu.cuInit(0))
        ctx, block, free, total = c_void_p(), c_uint64(), c_size_t(), c_size_t()
        primary = context()
        def held():
            ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
            return (total.value - free.value) >> 20
        one = held()
        ok(cu.cuCtxCreate_v2(byref(ctx), 0, 0))
        ok(cu.cuMemAlloc_v2(byref(block), c_size_t(8 << 20)))
        two = held()
        ok(cu.cuCtxDestroy_v2(ctx))
        gone = held()
        alloc(16 << 20)
        ok(cu.cuDevicePrimaryCtxReset_v2(0))
        say([one, two, gone, cu.cuMemGetInfo_v2(byref(free), byref(total)), cu.cuCtxDestroy_v2(ctx)])
        """
    )

    assert said == [300, 608, 300, 201, 201]
    assert guests.card()["used"] == 0


def test_memory_of_another_process_costs_nothing_more(guests):
    with guests.running(
        """
        context()
        handle = (ctypes.c_char * 64)()
        code, block = alloc(6 << 20)
        ok(cu.cuIpcGetMemHandle(handle, block))
        say(handle.raw.hex())
        wait_for_line()
        """
    ) as owner:
        handle = owner.says()
        code, own = guests.run(
            f"""
            context()
            class Handle(ctypes.Structure):
                _fields_ = [("bytes", ctypes.c_char * 64)]
            cu.cuIpcOpenMemHandle_v2.argtypes = [c_void_p, Handle, c_uint]
            address, size = c_uint64(), c_size_t()
            handle = Handle.from_buffer_copy(bytes.fromhex("{handle}"))
            code = cu.cuIpcOpenMemHandle_v2(byref(address), handle, 1)
            ok(cu.cuMemGetAddressRange_v2(None, byref(size), address))
            ok(cu.cuIpcCloseMemHandle(address))
            say([code, size.value])
            """
        )
        card = guests.card()

    assert (code, own) == (0, 6 * MIB)
    assert card["peak"] == 6 * MIB


def test_data_survive_the_way_to_the_card_and_back(guests):
    same = guests.run(
        """
        context()
        data = bytes(range(256)) * 64
        a, b = alloc(len(data))[1], alloc(len(data))[1]
        back = ctypes.create_string_buffer(len(data))
        ok(cu.cuMemcpyHtoD_v2(a, data, c_size_t(len(data))))
        ok(cu.cuMemcpyDtoDAsync_v2(b, a, c_size_t(len(data)), None))
        ok(cu.cuMemsetD8_v2(a, 7, c_size_t(len(data))))
        ok(cu.cuMemcpyDtoH_v2(back, b, c_size_t(len(data))))
        first = back.raw == data
        ok(cu.cuMemcpyDtoH_v2(back, a, c_size_t(len(data))))
        beyond = cu.cuMemcpyHtoD_v2(a, data, c_size_t(1 << 30))
        say([first, back.raw == bytes([7]) * len(data), beyond])
        """
    )

    assert same == [True, True, 1]


def test_a_child_of_fork_is_not_initialised_and_the_parent_goes_on(guests):
    said = guests.run(
        """
        context()
        alloc(4 << 20)
        read, write = os.pipe()
        if os.fork() == 0:
            codes = [cu.cuInit(0), cu.cuMemAlloc_v2(byref(c_uint64()), c_size_t(1))]
            os.write(write, json.dumps(codes).encode())
            os._exit(0)
        os.wait()
        say([json.loads(os.read(read, 100)), alloc(4 << 20)[0]])
        """
    )

    assert said == [[3, 3], 0]


def test_a_child_forked_before_cuinit_is_a_process_like_any(guests):
    said = guests.run(
        """
        cu.cuDriverGetVersion(byref(c_int()))
        if os.fork() == 0:
            context()
            os._exit(alloc(4 << 20)[0])
        say(os.waitstatus_to_exitcode(os.wait()[1]))
        """
    )

    assert said == 0
