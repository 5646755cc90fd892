"""The stub as a driver: its symbols, its lookup, its cards that come and go, and faults on demand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from native.stub_guests import Guests

ABI = Path(__file__).resolve().parents[2] / "native/abi"


@pytest.fixture
def guests(native, stub_state) -> Guests:
    return Guests(stubctl=native.stubctl, environment=stub_state)


@pytest.mark.parametrize(
    ("library", "functions"),
    [("libcuda.so.1", "cuda_functions.def"), ("libnvidia-ml.so.1", "nvml_functions.def")],
)
def test_all_functions_of_the_abi_are_exported_and_nothing_else(native, library, functions):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(native.stub / library)], capture_output=True, text=True, check=True
    )
    wanted = {"nvmlErrorString"} if library.startswith("libnvidia") else set()
    for macro, name in re.findall(r"^(CUDA_FN\w*|NVML_\w+)\((\w+),", (ABI / functions).read_text(), re.M):
        wanted.add(name)
        if macro in {"CUDA_FN_PTSZ", "CUDA_FN_PTDS"}:
            wanted.add(name + macro[-5:].lower())

    assert {line.split()[-1] for line in listed.stdout.splitlines()} == wanted


LOOK_UP = """
    def get(name, version, flags=0):
        found, status = c_void_p(), c_int(-1)
        code = cu.cuGetProcAddress_v2(name.encode(), byref(found), version, c_uint64(flags), byref(status))
        return found.value, code, status.value
    def symbol(name):
        return ctypes.cast(getattr(cu, name), c_void_p).value
    """


def test_lookup_goes_by_name_version_and_stream_flag(guests):
    said = guests.run(
        LOOK_UP
        + """
    say([
        get("cuMemAlloc", 12000)[0] == symbol("cuMemAlloc_v2"),
        get("cuMemAlloc", 2000)[1:],
        get("cuMemAllocNothing", 12000)[1:],
        get("cuCtxCreate", 11000)[0] == symbol("cuCtxCreate_v2"),
        get("cuCtxCreate", 11040)[0] == symbol("cuCtxCreate_v3"),
        get("cuCtxCreate", 13000)[0] == symbol("cuCtxCreate_v4"),
        get("cuGetProcAddress", 11030)[0] == symbol("cuGetProcAddress"),
        get("cuGetProcAddress", 12000)[0] == symbol("cuGetProcAddress_v2"),
        get("cuLaunchKernel", 12000, 1)[0] == symbol("cuLaunchKernel"),
        get("cuLaunchKernel", 12000, 2)[0] == symbol("cuLaunchKernel_ptsz"),
        get("cuMemcpyHtoD", 12000, 2)[0] == symbol("cuMemcpyHtoD_v2_ptds"),
    ])
    """
    )

    assert said == [True, [500, 2], [500, 1], *[True] * 8]


def test_lookup_may_give_other_addresses_that_work(guests):
    said = guests.having(STUB_CUDA_ALTERNATE="1").run(
        LOOK_UP
        + """
    context()
    address, other = c_uint64(), get("cuMemAlloc", 12000)[0]
    make = ctypes.CFUNCTYPE(c_int, c_void_p, c_size_t)(other)
    say([other == symbol("cuMemAlloc_v2"), make(byref(address), 1 << 20), cu.cuMemFree_v2(address)])
    """
    )

    assert said == [False, 0, 0]


def test_the_next_calls_fail_on_demand(guests):
    guests.control("fault", "cuMemAlloc_v2", "2", "46")

    assert guests.run("context(); say([alloc(1)[0] for _ in range(4)])") == [46, 46, 0, 0]


def test_reset_forgets_faults_and_peaks(guests):
    guests.run("context(); alloc(1 << 30)")
    guests.control("fault", "*", "1000", "999")
    guests.control("reset")

    assert guests.card()["peak"] == 0
    assert guests.run("context(); say(alloc(1)[0])") == 0


def test_a_driver_may_be_of_any_version(guests):
    guests.control("version", "99990")

    assert guests.run("n = c_int(); ok(cu.cuDriverGetVersion(byref(n))); say(n.value)") == 99990


def test_a_card_that_falls_off_the_bus_takes_no_more(guests):
    with guests.running(
        "context(); alloc(1 << 20); say(0); wait_for_line(); say(alloc(1)[0]); wait_for_line()"
    ) as guest:
        guest.says()
        guests.control("lose", "0")
        guest.tell()

        assert guest.says() == 46
        guests.control("restore", "0")

    assert guests.run("context(); say(alloc(1)[0])") == 0


def test_cards_come_and_go(guests):
    count = "n = c_int(); code = cu.cuInit(0); cu.cuDeviceGetCount(byref(n)); say([code, n.value])"

    guests.control("add", "8192")
    two = guests.run(count)
    guests.control("remove", "0")
    guests.control("remove", "1")
    none = guests.run(count)

    assert two == [0, 2]
    assert none == [100, 0]


@pytest.mark.parametrize(
    ("wanted", "cards"),
    [
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-5afe0000-0000-4000-8000-000000000001", [1]),
        ("0,9,1", [0]),
        ("0,0", []),
        ("", []),
        ("none", []),
    ],
)
def test_cuda_visible_devices_says_which_cards_there_are(native, stub_state, wanted, cards):
    guests = Guests(stubctl=native.stubctl, environment={**stub_state, "STUB_CUDA_DEVICES": "2x8192MiB"})

    said = guests.having(CUDA_VISIBLE_DEVICES=wanted).run(
        """
        n, uuid, found = c_int(), ctypes.create_string_buffer(16), []
        code = cu.cuInit(0)
        if code == 0:
            ok(cu.cuDeviceGetCount(byref(n)))
            for number in range(n.value):
                ok(cu.cuDeviceGetUuid_v2(uuid, number))
                found.append(uuid.raw[15])
        say([code, found])
        """
    )

    assert said == [0 if cards else 100, cards]


@pytest.mark.parametrize("text", ["24564", "2x", "24GiB", "1x0MiB", "17x1MiB", "8MiB,", "-1MiB"])
def test_nonsense_in_the_list_of_cards_is_refused(guests, text):
    done = guests.having(STUB_CUDA_DEVICES=text).completed("say(cu.cuInit(0))")

    assert done.stdout == "304\n"
    assert f"STUB_CUDA_DEVICES={text}" in done.stderr


def test_a_file_that_is_no_state_is_left_alone(native, stub_state, tmp_path):
    (tmp_path / "letter").write_text("Dear driver")
    guests = Guests(stubctl=native.stubctl, environment={**stub_state, "STUB_CUDA_STATE": str(tmp_path / "letter")})

    assert guests.run("say(cu.cuInit(0))") == 304
    assert (tmp_path / "letter").read_text() == "Dear driver"
