"""Hooks by address: whatever way a function of the driver is asked for, its address decides what the program gets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native.hook_guests import MIB, Slice, make_slice, run


@pytest.fixture
def a_slice(native, stub_state, tmp_path: Path) -> Slice:
    return make_slice(native, stub_state, tmp_path / "slice", 1024 * MIB)


@pytest.fixture
def a_copy(native, tmp_path: Path) -> Path:
    """Another copy of the driver."""
    copy = tmp_path / "libcuda_of_a_student.so"
    shutil.copy(native.stub / "libcuda.so.1", copy)
    return copy


def answer(a_slice: Slice, *words: str | Path, **more: str) -> str:
    return a_slice.run(a_slice.native.program("hook_lookup"), *words, **more).stdout.strip()


def test_functions_of_the_driver_are_hooked_whatever_handle_they_are_asked_of(a_slice):
    assert answer(a_slice, "driver") == "ok"


def test_a_driver_that_was_closed_and_opened_again_is_still_hooked(a_slice):
    assert answer(a_slice, "closed") == "ok"


def test_the_first_look_at_the_driver_may_come_from_many_threads(a_slice):
    assert {answer(a_slice, "threads") for _ in range(5)} == {"ok"}


def test_the_drivers_own_lookup_gives_hooks_for_all_versions_and_stream_flags(a_slice):
    assert answer(a_slice, "lookup") == "ok"


def test_a_driver_whose_lookup_gives_other_addresses_than_its_symbols_is_hooked_all_the_same(a_slice):
    assert answer(a_slice, "lookup", STUB_CUDA_ALTERNATE="1") == "ok"


def test_a_second_copy_of_the_driver_is_not_handed_out(a_slice, a_copy):
    assert answer(a_slice, "copy", a_copy) == "ok"


def test_a_driver_in_another_namespace_is_not_handed_out(a_slice, a_copy):
    assert answer(a_slice, "far", a_copy).splitlines() == ["nothing", "ok"]


def test_without_settings_another_copy_is_left_alone(native, stub_state, a_copy):
    environment = {**stub_state, "LD_PRELOAD": str(native.libvgpu)}

    done = run(native.program("hook_lookup"), "far", a_copy, environment=environment)

    assert done.stdout.splitlines() == ["bare", "ok"]
    assert done.stderr == ""


def test_ctypes_finds_hooks(a_slice):
    script = "import ctypes as c; d = c.CDLL('libcuda.so.1'); print(c.cast(d.cuMemAlloc_v2, c.c_void_p).value)"
    maps = "print([l.split()[0] for l in open('/proc/self/maps') if 'libvgpu.so' in l and 'x' in l.split()[1]][0])"

    address, span = a_slice.run(sys.executable, "-c", f"{script}\n{maps}").stdout.split()

    first, last = (int(end, 16) for end in span.split("-"))
    assert first <= int(address) < last


@pytest.fixture(scope="module")
def aarch64(native):
    """The library and its test programs, built for aarch64; what runs them."""
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: `apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user`")
    return native.sibling(
        "aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        compiler="aarch64-linux-gnu-gcc",
        targets=("vgpu", "stub_cuda", "hook_lookup", "hook_other", "hook_wrapper", "hook_plain"),
    )


def on_aarch64(build, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    limits = make_slice(build, {}, folder / "slice", 1024 * MIB).folder.limits
    inside = {
        "LD_PRELOAD": build.libvgpu,
        "LD_LIBRARY_PATH": build.stub,
        "STUB_CUDA_STATE": folder / "state",
        "LABSPAWNER_GPU_LIMITS": limits,
    }
    settings = [word for name, value in inside.items() for word in ("-E", f"{name}={value}")]
    return run("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", *settings, *words, environment={})


@pytest.mark.parametrize("question", ["driver", "closed", "lookup", "wrapper", "other"])
def test_the_same_holds_on_aarch64(aarch64, tmp_path, question):
    library = {"wrapper": ["tests/libhook_wrapper.so"], "other": ["tests/libhook_other.so"]}.get(question, [])

    done = on_aarch64(
        aarch64, tmp_path, aarch64.program("hook_lookup"), question, *(aarch64.folder / n for n in library)
    )

    assert done.stdout == "ok\n", done.stderr


def test_a_program_without_cuda_runs_on_aarch64(aarch64, tmp_path):
    done = on_aarch64(aarch64, tmp_path, aarch64.program("hook_plain"))

    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
