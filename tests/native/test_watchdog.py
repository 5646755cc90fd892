"""The watchdog beside the stub driver: who goes around the library is seen by the memory that he holds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native.slices import GIB, UUIDS, holding, limits_of, python

from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.register import MARK

WATCH = """
import json, psutil, sys
from pathlib import Path
from labspawner.cli.run.sight import mark_of
from labspawner.gpu.nvml import Nvml
from labspawner.gpu.watchdog import Watchdog, Watched

def identify(pid):
    try:
        return pid, psutil.Process(pid).create_time()
    except psutil.Error:
        return None

slices = [Watched("lab-1", {sys.argv[2]: int(sys.argv[3])})]
with Nvml.open(Path(sys.argv[1])) as nvml:
    watchdog = Watchdog(nvml.inventory, identify, mark_of, lambda: slices)
    for _ in range(int(sys.argv[4])):
        look = watchdog.look()
        print(json.dumps({
            "reported": [excess.slice_name for excess in look.decision.reported],
            "strangers": [holder.identity[0] for holder in look.decision.strangers],
            "ended": [holder.identity[0] for _, holder in look.ended],
        }))
"""
"""So many looks of a watchdog, in a process of its own: NVML is one per process."""


@pytest.fixture
def cards(native: Any, tmp_path: Path) -> dict[str, str]:
    return {
        "LD_LIBRARY_PATH": str(native.stub),
        "STUB_CUDA_STATE": str(tmp_path / "cards"),
        "STUB_CUDA_DEVICES": "2x24564MiB",
    }


@pytest.fixture
def watch(native: Any, cards: dict[str, str]):
    def looks(count: int) -> list[dict[str, list[Any]]]:
        words = ("-c", WATCH, str(native.stub / "libnvidia-ml.so.1"), UUIDS[0], str(6 * GIB), str(count))
        done = python(*words, environment=cards)
        assert done.returncode == 0, done
        return [json.loads(line) for line in done.stdout.splitlines()]

    return looks


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_who_goes_around_the_library_is_reported_then_killed(cards, watch, started):
    marked = {**cards, MARK: "lab-1"}
    started += [holding(0, 1, environment=marked), holding(0, 7, environment=marked)]
    assert [process.stdout.readline() for process in started] == ["0\n", "0\n"]

    first, second = watch(2)

    assert (first["reported"], first["ended"]) == (["lab-1"], [])
    assert second["ended"] == [started[1].pid]
    assert started[1].wait(60) == -9
    assert started[0].poll() is None


def test_who_is_in_the_slice_and_within_its_limit_is_left_alone(native, cards, watch, started, tmp_path):
    folder = SliceFolder(tmp_path / "slice-1")
    folder.make(limits_of(folder.region, 6))
    inside = {**cards, MARK: "lab-1", **folder.courtesy(library=native.libvgpu, base={})}
    started.append(holding(0, 6, environment=inside))
    assert started[0].stdout.readline() == "0\n"

    assert watch(2) == [{"reported": [], "strangers": [], "ended": []}] * 2
    assert started[0].poll() is None


def test_a_process_in_no_slice_is_reported_and_left_alone(cards, watch, started):
    started += [holding(0, 1, environment=cards), holding(1, 1, environment={**cards, MARK: "made-up"})]
    assert [process.stdout.readline() for process in started] == ["0\n", "0\n"]

    (look,) = watch(1)

    assert sorted(look["strangers"]) == sorted(process.pid for process in started)
    assert all(process.poll() is None for process in started)
