"""Threads of one process: they share pools, maps and charges, and the sanitizers watch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from native.hook_guests import MIB, make_slice

LIMIT = 300 * MIB
QUIET = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66", "UBSAN_OPTIONS": "halt_on_error=1"}


def test_threads_that_free_what_others_allocated_never_hold_too_much_and_leak_nothing(
    native, stub_state, tmp_path: Path
):
    a_slice = make_slice(native, stub_state, tmp_path / "slice", LIMIT)

    done = a_slice.run(native.program("hook_threads"), "8", "1500")

    assert (done.stdout, done.stderr) == ("0\n", "")
    assert a_slice.card()["peak"] <= LIMIT


@pytest.mark.skipif("LABSPAWNER_NATIVE_BUILD" in os.environ, reason="a build of yours is tested, as it is")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_sanitizers_find_nothing(native_build, stub_state, tmp_path: Path, sanitizer):
    build = native_build(sanitizer)
    bare = {**stub_state, "LD_LIBRARY_PATH": str(build.stub), **QUIET}
    a_slice = make_slice(build, bare, tmp_path / "slice", LIMIT)

    for words in (["hook_threads", "8", "300"], ["hook_storm", "3", "1000", "table"], ["hook_lookup", "threads"]):
        done = a_slice.run(build.program(words[0]), *words[1:])

        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        assert "Sanitizer" not in done.stderr
