"""The big promise under load: the limit holds to the byte, whoever races, is killed or has many threads."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from native.core_guests import a_slice, clean_environment

LIMIT = 1_000_000_007


@pytest.fixture
def storm(tmp_path: Path):
    folder = a_slice(tmp_path / "slice", memory_bytes=LIMIT)

    def blow(
        program: Path, *, workers: int, threads: int = 1, operations: int = 10**9, kills: int = 0
    ) -> dict[str, int]:
        numbers = map(str, (workers, threads, operations, kills))
        command = [program, folder.limits.parent, tmp_path / "ledger", *numbers]
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, timeout=600, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return blow


def assert_the_limit_held(found: dict[str, int]) -> None:
    assert found["violations"] == 0
    assert found["peak"] <= LIMIT
    assert found["left"] == 0
    assert found["failed_starts"] == 0
    assert found["granted"] > 0


def test_sixteen_processes_never_hold_a_byte_above_the_limit(native, storm):
    found = storm(native.program("core_storm"), workers=16, operations=2500)

    assert_the_limit_held(found)
    assert found["peak"] > LIMIT * 0.9  # it was full, so the limit was really tried


def test_many_threads_of_some_processes_never_hold_a_byte_above_the_limit(native, storm):
    assert_the_limit_held(storm(native.program("core_storm"), workers=4, threads=4, operations=2500))


@pytest.mark.parametrize("threads", [1, 3])
def test_kills_at_any_instant_lose_only_what_the_dead_held(native, storm, threads):
    found = storm(native.program("core_storm"), workers=5, threads=threads, kills=300)

    assert_the_limit_held(found)
    # A stall for each kill would be what HAMi's locks do. Single ones come from the machine.
    assert found["stalls_above_10ms"] < found["kills"] / 4 or threads > 1


def test_charges_do_not_race(native_build, storm):
    found = storm(native_build("thread").program("core_storm"), workers=2, threads=4, operations=500)

    assert_the_limit_held(found)


def test_no_byte_is_touched_that_is_not_ours(native_build, storm):
    found = storm(native_build("address,undefined").program("core_storm"), workers=4, operations=500)

    assert_the_limit_held(found)
