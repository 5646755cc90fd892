"""What a student may try: the environment, files of his own, the dynamic linker, and a sandbox as the hub makes it.

What stays open is the last test of this file, and docs/gpu.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native.hook_guests import GUEST, MIB, Slice, make_slice, run

from labspawner.gpu import region
from labspawner.gpu.folder import LIMITS_ENV, REGION_INSIDE
from labspawner.gpu.limits import render

LIMIT = 512 * MIB
OUT_OF_MEMORY, NO_DEVICE = 2, 100
BEYOND = str(LIMIT + MIB)

MISLEADING = {
    "CUDA_DEVICE_MEMORY_LIMIT": "20000m",
    "CUDA_DEVICE_MEMORY_LIMIT_0": "20000m",
    "CUDA_DEVICE_SM_LIMIT": "100",
    "CUDA_DISABLE_CONTROL": "true",
    "CUDA_OVERSUBSCRIBE": "true",
    "ACTIVE_OOM_KILLER": "false",
    "CUDA_DEVICE_MEMORY_SHARED_CACHE": "/tmp/of-my-own.cache",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "CUDA_VISIBLE_DEVICES": "0",
}


@pytest.fixture
def a_slice(native, stub_state, tmp_path: Path) -> Slice:
    return make_slice(native, stub_state, tmp_path / "slice", LIMIT)


@pytest.fixture
def sandbox(native, stub_state, tmp_path):
    """A slice in a sandbox with the files where the hub puts them: runs words in it, with a changed environment."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("no bubblewrap here: `apt install bubblewrap`")
    probe = subprocess.run([bwrap, "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"bubblewrap may not make a sandbox here: {probe.stderr.strip()}")
    a_slice = make_slice(native, stub_state, tmp_path / "slice", LIMIT)
    limits = a_slice.folder.limits
    limits.write_text(render(a_slice.folder.read()).replace(str(a_slice.folder.region), REGION_INSIDE))
    empty = tmp_path / "etc"
    empty.mkdir()
    binds = ["--dev-bind", "/", "/", "--bind", str(tmp_path), str(tmp_path), *_etc(empty)]
    for place in a_slice.folder.places(library=native.libvgpu, node=None):
        binds += ["--bind" if place.writable else "--ro-bind", str(place.source), place.target]

    def inside(*words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        return run(bwrap, *binds, "--unshare-pid", "--", *words, environment={**stub_state, **changes})

    return inside


def _etc(empty: Path) -> list[str]:
    """An /etc of its own, since ours lacks the places to bind over: what is there now, bound again."""
    words = ["--bind", str(empty), "/etc"]
    for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group", "alternatives", "localtime"):
        if Path("/etc", name).exists():
            words += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return words


def test_the_environment_changes_nothing_once_there_is_a_limits_file(a_slice):
    assert a_slice.ask("total", **MISLEADING)["total"] == LIMIT
    assert a_slice.ask("refused", BEYOND, **MISLEADING) == OUT_OF_MEMORY


def test_in_a_sandbox_an_unset_preload_is_no_way_out(sandbox):
    done = sandbox(sys.executable, GUEST, "refused", BEYOND, LD_PRELOAD="")

    assert done.stdout == f"{OUT_OF_MEMORY}\n", done.stderr


def test_in_a_sandbox_an_emptied_environment_is_no_way_out(sandbox, stub_state):
    stub = [f"{name}={value}" for name, value in stub_state.items() if name.startswith(("STUB_", "LD_LIBRARY"))]

    done = sandbox("/usr/bin/env", "-i", *stub, sys.executable, GUEST, "refused", BEYOND)

    assert done.stdout == f"{OUT_OF_MEMORY}\n", done.stderr


def test_in_a_sandbox_a_limits_file_of_ones_own_is_not_read(sandbox, native, tmp_path):
    own = make_slice(native, {}, tmp_path / "mine", 64 * LIMIT)

    done = sandbox(sys.executable, GUEST, "total", **{LIMITS_ENV: str(own.folder.limits), **MISLEADING})

    assert f'"total": {LIMIT}' in done.stdout


@pytest.mark.parametrize("path", ["/etc/ld.so.preload", "/etc/labspawner/slice/limits", "/etc/labspawner/libvgpu.so"])
def test_in_a_sandbox_the_files_of_the_slice_cannot_be_changed(sandbox, path):
    written = sandbox("/bin/sh", "-c", f"echo x > {path}")
    removed = sandbox("/bin/rm", "-f", path)

    assert written.returncode != 0
    assert removed.returncode != 0
    assert sandbox(sys.executable, GUEST, "refused", BEYOND).stdout == f"{OUT_OF_MEMORY}\n"


def test_in_a_sandbox_a_region_that_was_overwritten_means_no_gpu_and_not_a_card_without_limit(sandbox):
    sandbox("/bin/sh", "-c", f"head -c 1000 /dev/zero > {REGION_INSIDE}")

    done = sandbox(sys.executable, GUEST, "init")

    assert done.stdout == f"{NO_DEVICE}\n"
    assert done.stderr.count("\n") == 1


def test_a_region_of_ones_own_is_not_used(a_slice, tmp_path):
    own = tmp_path / "mine"
    region.create(own, a_slice.folder.read())

    a_slice.ask("refused", str(MIB), CUDA_DEVICE_MEMORY_SHARED_CACHE=str(own))

    assert region.read(own).processes == ()
    assert region.read(own).devices[0].refusals == 0


@pytest.mark.parametrize("question", ["copy", "far"])
def test_a_copy_of_the_driver_is_not_handed_out(a_slice, tmp_path, question):
    copy = tmp_path / "mine.so"
    shutil.copy(a_slice.native.stub / "libcuda.so.1", copy)

    done = a_slice.run(a_slice.native.program("hook_lookup"), question, copy)

    assert "bare" not in done.stdout
    assert done.stdout.endswith("ok\n")


@pytest.mark.parametrize("way", ["table", "symbols", "lookup0", "lookup1", "lookup2"])
def test_whatever_way_a_program_finds_the_driver_the_limit_holds(a_slice, way):
    done = a_slice.run(a_slice.native.program("hook_storm"), "7", "2000", way)

    assert f'"total": {LIMIT}' in done.stdout
    assert a_slice.card()["peak"] <= LIMIT


def test_dlvsym_finds_hooks_too(a_slice):
    assert a_slice.run(a_slice.native.program("hook_lookup"), "versioned").stdout == "ok\n"


def test_a_program_that_reads_the_drivers_symbols_itself_gets_past_us_and_the_card_sees_it(a_slice):
    """What a preload cannot hold, so that nobody believes it can: this, static programs, and raw system calls. NVML and
    the watchdog see what such a program takes."""
    done = a_slice.run(a_slice.native.program("hook_lookup"), "around", str(2 * LIMIT))

    assert done.stdout == "ok\n"
    assert a_slice.card()["peak"] == 2 * LIMIT
