"""The self-test inside real slices on the stub driver: it passes where the slice holds, and says what is wrong elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native.slices import GIB, UUIDS, limits_of, python

from labspawner.gpu import region, selftest
from labspawner.gpu.folder import SliceFolder

Test = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> SliceFolder:
    return SliceFolder(tmp_path / "slice-1")


@pytest.fixture
def cards(native, tmp_path: Path) -> dict[str, str]:
    """Two cards of 24,564 MiB."""
    return {
        "LD_LIBRARY_PATH": str(native.stub),
        "STUB_CUDA_STATE": str(tmp_path / "cards"),
        "STUB_CUDA_DEVICES": "2x24564MiB",
    }


@pytest.fixture
def in_slice(native, folder: SliceFolder, cards: dict[str, str]) -> Test:
    def run(*words: str, **changes: str) -> tuple[int, dict[str, Any]]:
        environment = {**cards, **folder.courtesy(library=native.libvgpu, base={}), **changes}
        done = python("-I", str(selftest.__file__), *words, environment=environment)
        assert done.stderr == "" or "labspawner: " in done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


def said(result: dict[str, Any], check: str) -> list[Any]:
    return [one["ok"] for one in result["checks"] if one["check"] == check]


def test_a_slice_that_holds_passes_every_check(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    status, result = in_slice()

    assert (status, result["verdict"], result["pretended"]) == (0, "passed", True), result
    for check in ("library", "devices", "driver-total", "nvml-total", "context-total", "refusal"):
        assert said(result, check) == [True], check


def test_it_holds_on_each_of_several_cards(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6, 2))

    status, result = in_slice()

    assert (status, said(result, "refusal")) == (0, [True, True]), result


def test_a_card_that_is_not_the_slices_gives_nothing(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    _, result = in_slice()

    assert said(result, "others") in ([True], [])


def test_the_quick_test_makes_no_context_and_asks_for_no_memory(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    status, result = in_slice("--quick")

    assert (status, said(result, "refusal"), said(result, "context-total")) == (0, [], []), result
    assert region.read(folder.region).refusal_count == 0


def test_nothing_is_kept_and_the_refusal_it_provokes_is_told_from_a_students(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))
    in_slice()

    found = region.read(folder.region)

    assert (found.processes, found.refusals, found.refusal_count) == ((), (), 1)
    assert found.devices[0].used_bytes == 0


def test_a_process_without_the_library_fails(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    status, result = in_slice(LD_PRELOAD="")

    assert (status, result["verdict"]) == (1, "failed")
    assert "not loaded" in result["reason"]


def test_a_process_in_no_slice_fails(folder: SliceFolder, in_slice: Test):
    status, result = in_slice(LABSPAWNER_GPU_LIMITS="")

    assert (status, result["reason"]) == (1, "this process is in no slice: there are no limits for it")


def test_a_machine_without_a_driver_is_told_apart(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    status, result = in_slice(LD_LIBRARY_PATH="")

    assert (status, result["verdict"]) == (2, "no-driver"), result


def test_limits_that_are_half_written_fail(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))
    folder.limits.write_text(folder.limits.read_text().removesuffix("end\n"))

    status, result = in_slice()

    assert (status, result["verdict"]) == (1, "failed")
    assert "not whole" in result["reason"]


def test_a_library_that_refuses_its_settings_shows_no_card(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))
    folder.limits.write_text(folder.limits.read_text().replace("cores=25", "cores=four"))

    status, result = in_slice()

    assert (status, result["verdict"]) == (1, "failed")
    assert "no device" in result["reason"]


def test_a_slice_of_another_size_than_its_limits_say_fails_with_both_sizes(
    folder: SliceFolder, in_slice: Test, tmp_path: Path
):
    folder.make(limits_of(folder.region, 6))
    (tmp_path / "other").write_text(folder.limits.read_text().replace(str(6 * GIB), str(4 * GIB)))

    status, result = in_slice("--limits", str(tmp_path / "other"))

    assert (status, result["reason"]) == (1, f"the driver reports {6 * GIB} bytes, and the slice has {4 * GIB}")


def test_a_card_of_the_slice_that_is_not_there_fails(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6))

    status, result = in_slice(STUB_CUDA_DEVICES="1x24564MiB", LABSPAWNER_GPU_LIMITS=str(_renamed(folder)))

    assert status == 1, result


def _renamed(folder: SliceFolder) -> Path:
    folder.limits.write_text(folder.limits.read_text().replace(UUIDS[0], UUIDS[3]))
    return folder.limits


def test_a_slice_that_may_hold_more_than_fits_is_not_asked_to_refuse(folder: SliceFolder, in_slice: Test):
    folder.make(limits_of(folder.region, 6, oversubscribe=True))

    status, result = in_slice()

    assert (status, said(result, "refusal")) == (0, [None]), result


def test_any_python_runs_it(native, folder: SliceFolder, cards: dict[str, str]):
    system = shutil.which("python3", path="/usr/bin:/bin")
    if system is None:
        pytest.skip("this machine has no Python of its own")
    folder.make(limits_of(folder.region, 6))
    environment = {**os.environ, **cards, **folder.courtesy(library=native.libvgpu, base={})}

    done = subprocess.run(
        [system, selftest.__file__], env=environment, capture_output=True, text=True, timeout=600, check=False
    )

    assert json.loads(done.stdout)["verdict"] == "passed", done
