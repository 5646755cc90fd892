"""Threads in the stub driver and in the view above it, under the sanitizers, too."""

from __future__ import annotations

import json
import subprocess

import pytest
from native.slices import GIB, UUIDS
from native.stub_guests import make_slice

from labspawner.gpu.limits import DeviceLimit

ROUNDS = 25


@pytest.mark.parametrize("sanitizer", [None, "address,undefined", "thread"])
@pytest.mark.parametrize("sliced", [False, True])
def test_threads_may_do_anything_at_once(native, native_build, stub_state, tmp_path, sanitizer, sliced):
    build = native if sanitizer is None else native_build(sanitizer)
    environment = {**stub_state, "LD_LIBRARY_PATH": str(build.stub)}
    if sliced:
        limits_file = make_slice(tmp_path / "slice", DeviceLimit(uuid=UUIDS[0], memory_bytes=GIB))
        environment |= {"LD_PRELOAD": str(build.libvgpu), "LABSPAWNER_GPU_LIMITS": str(limits_file)}
        if sanitizer == "address,undefined":
            environment["ASAN_OPTIONS"] = "verify_asan_link_order=0"  # the library comes before the program's runtime

    done = subprocess.run(
        [build.program("stub_threads"), "4", str(ROUNDS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"used": 0, "ran": 4 * ROUNDS}
