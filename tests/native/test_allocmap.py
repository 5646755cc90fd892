"""The allocation map: cases that run inside the C program, plain and under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CASES = (
    "one_block",
    "replaced",
    "counted",
    "random_operations",
    "threads",
    "dropped",
    "dropped_while_others_work",
    "forked",
    "million",
)


def run(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_the_map_keeps_its_promise(native, case):
    run(native.program("core_map"), case)


@pytest.mark.parametrize("case", ["random_operations", "dropped", "forked"])
def test_no_byte_is_touched_that_is_not_the_maps(native_build, case):
    run(native_build("address,undefined").program("core_map"), case)


@pytest.mark.parametrize("case", ["threads", "dropped_while_others_work"])
def test_threads_do_not_race(native_build, case):
    run(native_build("thread").program("core_map"), case)


def test_an_unknown_case_is_an_error(native):
    done = subprocess.run([native.program("core_map"), "nonsense"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
