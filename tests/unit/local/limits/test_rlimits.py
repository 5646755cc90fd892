"""Limits of processes, where there are no control groups."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys

import pytest

from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits.rlimits import FILES_HARD, NICE, RESERVED_BYTES, STACKS_BYTES, alone, in_group

MIB = 2**20
LIMITS = Limits(cpu=2, memory_bytes=512 * MIB, processes=100)
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
HERE = {"has_gpu": False, "user_namespace": True, "kernel": "6.1.0-13-amd64", "files_hard": 2**20}


def words(plan) -> str:
    return " ".join(plan.not_limited)


def test_everybody_gets_no_core_dumps_and_files_enough():
    for plan in (in_group(files_hard=2**20), alone(Limits(), **HERE)):
        assert plan.rlimits[resource.RLIMIT_CORE] == (0, 0)
        assert plan.rlimits[resource.RLIMIT_NOFILE] == (4096, FILES_HARD)
        assert plan.not_limited == ()


def test_nobody_goes_above_the_hubs_own_limit_of_files():
    assert in_group(files_hard=1024).rlimits[resource.RLIMIT_NOFILE] == (1024, 1024)
    assert in_group(files_hard=resource.RLIM_INFINITY).rlimits[resource.RLIMIT_NOFILE] == (4096, FILES_HARD)


def test_a_control_group_leaves_nothing_else_to_do():
    assert set(in_group(files_hard=4096).rlimits) == {resource.RLIMIT_CORE, resource.RLIMIT_NOFILE}
    assert in_group(files_hard=4096).nice == 0


def test_alone_memory_and_processes_are_limited_and_the_hub_goes_first():
    plan = alone(LIMITS, **HERE)

    assert plan.rlimits[resource.RLIMIT_NPROC] == (100, 100)
    assert plan.rlimits[resource.RLIMIT_DATA] == (512 * MIB + STACKS_BYTES, 512 * MIB + STACKS_BYTES)
    assert plan.rlimits[resource.RLIMIT_AS] == (512 * MIB + RESERVED_BYTES, 512 * MIB + RESERVED_BYTES)
    assert plan.nice == NICE
    assert "each process alone" in words(plan)
    assert "CPU is not limited" in words(plan)


def test_with_a_gpu_the_address_space_is_never_limited():
    plan = alone(LIMITS, **{**HERE, "has_gpu": True})

    assert not {resource.RLIMIT_AS, resource.RLIMIT_DATA} & plan.rlimits.keys()
    assert "CUDA" in words(plan)


@pytest.mark.parametrize(
    "changes", [{"user_namespace": False}, {"kernel": "5.10.0-28-amd64"}, {"kernel": "a kernel of one's own"}]
)
def test_processes_are_not_limited_where_all_students_would_be_counted_together(changes):
    plan = alone(LIMITS, **{**HERE, **changes})

    assert resource.RLIMIT_NPROC not in plan.rlimits
    assert "number of processes is not limited" in words(plan)


def test_what_is_not_asked_for_is_not_limited_and_not_complained_about():
    assert alone(Limits(), **HERE).not_limited == ()
    assert set(alone(Limits(), **HERE).rlimits) == {resource.RLIMIT_CORE, resource.RLIMIT_NOFILE}


def test_an_allocation_above_the_limit_fails_for_real():
    plan = alone(Limits(memory_bytes=256 * MIB), **{**HERE, "files_hard": FILES})

    result = limited(plan, sys.executable, "-c", "bytearray(1300 << 20)")

    assert b"MemoryError" in result.stderr


def test_a_mapping_of_100_gb_fails_for_real():
    plan = alone(Limits(memory_bytes=256 * MIB), **{**HERE, "files_hard": FILES})

    result = limited(
        plan, sys.executable, "-c", "import mmap; mmap.mmap(-1, 100 << 30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)"
    )

    assert result.returncode == 1
    assert b"memory" in result.stderr


def test_processes_are_counted_for_each_sandbox_apart_for_real():
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-U", "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    plan = alone(Limits(processes=8), **{**HERE, "kernel": os.uname().release, "files_hard": FILES})
    if resource.RLIMIT_NPROC not in plan.rlimits:
        pytest.skip("this kernel counts all students together")
    script = "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); done"

    result = limited(plan, unshare, "-U", "--kill-child", "-fp", "sh", "-c", script, uid=65533)

    assert result.returncode != 0
    assert b"fork" in result.stderr


def limited(plan, *command: str, uid: int | None = None) -> subprocess.CompletedProcess[bytes]:
    def before() -> None:
        if uid is not None and os.geteuid() == 0:
            os.setresuid(uid, uid, uid)
        for number, pair in plan.rlimits.items():
            resource.setrlimit(number, pair)

    return subprocess.run(
        command, preexec_fn=before, capture_output=True, timeout=300, check=False, env={"PATH": os.environ["PATH"]}
    )


def test_processes_of_a_uid_that_nobody_else_has_are_counted_on_every_kernel() -> None:
    plan = alone(Limits(processes=50), **{**HERE, "user_namespace": False, "own_uid": True, "kernel": "5.10.0"})

    assert plan.rlimits[resource.RLIMIT_NPROC] == (50, 50)
    assert plan.not_limited == ()
