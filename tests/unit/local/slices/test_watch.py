"""Who goes around a limit is ended and told; what somebody made grow is cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from gpudouble import NvmlDouble, a_library

from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.gpu.region import SIZE
from labspawner.model import LeaseId, Slice
from labspawner.naming import new_lease_id
from labspawner.providers.local.network.rundir import RunDirs
from labspawner.providers.local.slices.options import GpuSettings, GpuVariant
from labspawner.providers.local.slices.slices import Slices
from labspawner.providers.processes import HostProcesses, marks

GIB = 2**30
HUB = "watch-hub"


@pytest_asyncio.fixture
async def host() -> AsyncIterator[HostProcesses]:
    processes = HostProcesses()
    yield processes
    await processes.close()


@pytest.fixture
def nvml() -> NvmlDouble:
    return NvmlDouble()


@pytest.fixture
def run_dirs(tmp_path: Path) -> RunDirs:
    (tmp_path / "run").mkdir(mode=0o700)
    return RunDirs(tmp_path / "run" / "hub")


@pytest.fixture
def open_slices(nvml, run_dirs, host, tmp_path, monkeypatch):
    monkeypatch.setenv(LIBRARY_ENV, str(a_library(tmp_path)))

    def opened(**gpu: object) -> Slices:
        settings = GpuSettings(**{"pretend": None, **gpu})
        return Slices(settings, run_dirs, host, provider="local", hub_id=HUB, open_nvml=nvml.open)

    return opened


async def a_slice(slices: Slices, run_dirs: RunDirs) -> LeaseId:
    lease_id = new_lease_id()
    held = await slices.take(lease_id, Slice(memory_bytes=6 * GIB), GpuVariant(), sandboxed=True)
    run_dirs.prepare(lease_id)
    slices.make(lease_id, held, GpuVariant(), sandboxed=True, base={})
    return lease_id


@pytest.fixture
def program() -> Iterator[object]:
    """`program(lease_id)`: a process with the marks of a lease; of nobody without one."""
    started: list[subprocess.Popen[bytes]] = []

    def run(lease_id: LeaseId | None = None) -> subprocess.Popen[bytes]:
        mark = marks(lease_id, hub_id=HUB, provider="local", user="ann") if lease_id else {}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(1000)"],
            env={"PATH": os.defpath, **mark},
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


async def looks(slices: Slices, times: int = 1) -> None:
    for _ in range(times):
        slices.watch._host.expire()
        await slices.watch.look()


async def test_a_program_that_holds_more_than_its_slice_is_ended_at_the_second_look_and_its_student_told(
    open_slices, run_dirs, nvml, program, caplog
) -> None:
    slices = open_slices()
    lease_id = await a_slice(slices, run_dirs)
    offender = program(lease_id)
    nvml.held_by(offender.pid, "7GiB")

    await looks(slices)
    after_one = offender.poll()
    await looks(slices)

    offender.wait(120)
    usage = slices.used([lease_id])[lease_id]
    assert after_one is None
    assert offender.returncode == -9
    assert usage.refused is not None
    assert (
        usage.refused.words
        == "A program of yours was ended: your server held 7 GiB of the GPU, and its slice is 6 GiB."
    )
    assert "killed: pid=" in caplog.text
    await slices.close()


async def test_a_program_within_its_slice_and_a_stranger_live(open_slices, run_dirs, nvml, program, caplog) -> None:
    slices = open_slices()
    lease_id = await a_slice(slices, run_dirs)
    inside, stranger = program(lease_id), program()
    nvml.held_by(inside.pid, "6GiB")
    nvml.held_by(stranger.pid, "20GiB")

    await looks(slices, 3)

    assert psutil.pid_exists(inside.pid)
    assert psutil.pid_exists(stranger.pid)
    assert "GPU used outside all slices" in caplog.text
    await slices.close()


async def test_what_an_administrator_tolerates_is_left_alone(open_slices, run_dirs, nvml, program) -> None:
    slices = open_slices(tolerance="1GiB")
    lease_id = await a_slice(slices, run_dirs)
    inside = program(lease_id)
    nvml.held_by(inside.pid, "7GiB")

    await looks(slices, 3)

    assert inside.poll() is None
    await slices.close()


@pytest.mark.parametrize("watchdog", ["report", "off"])
async def test_an_administrator_can_have_it_only_reported_or_not_watched_at_all(
    open_slices, run_dirs, nvml, program, caplog, watchdog
) -> None:
    slices = open_slices(watchdog=watchdog)
    lease_id = await a_slice(slices, run_dirs)
    offender = program(lease_id)
    nvml.held_by(offender.pid, "7GiB")

    await looks(slices, 3)

    assert offender.poll() is None
    assert ("over its GPU limit" in caplog.text) is (watchdog == "report")
    await slices.close()


async def test_a_shared_file_that_somebody_made_grow_is_cut_to_its_size(open_slices, run_dirs, caplog) -> None:
    slices = open_slices()
    lease_id = await a_slice(slices, run_dirs)
    folder, verdict, node = slices.shared_files(lease_id)
    for path in (folder.region, verdict, node):
        os.truncate(path, 2**30)

    await looks(slices)

    assert folder.region.stat().st_size == SIZE
    assert verdict.stat().st_size == 64 * 1024
    assert node.stat().st_size < 2**20
    assert slices.used([lease_id])[lease_id].memory_limit_bytes == 6 * GIB
    assert "made a file of a slice grow" in caplog.text
    await slices.close()


async def test_a_driver_that_does_not_answer_ends_no_watching(open_slices, run_dirs, nvml) -> None:
    slices = open_slices()
    await a_slice(slices, run_dirs)
    nvml.broken = True

    await looks(slices, 2)

    await slices.close()


async def test_without_slices_nobody_looks_at_the_driver(open_slices, nvml) -> None:
    slices = open_slices()

    await looks(slices)

    assert nvml.looks == 0
    await slices.close()


async def test_news_of_a_lease_go_with_it(open_slices, run_dirs, nvml, program) -> None:
    slices = open_slices()
    lease_id = await a_slice(slices, run_dirs)
    nvml.held_by(program(lease_id).pid, "7GiB")
    await looks(slices, 2)

    run_dirs.remove(lease_id)
    await looks(slices)

    assert slices.watch.killed == {}
    await slices.close()
