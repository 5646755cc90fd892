"""HAMi's environment: what its plugin writes means what it means there, and anything else is refused, never guessed."""

from __future__ import annotations

import subprocess

import pytest
from native.core_guests import NOWHERE, clean_environment

MIB, GIB = 2**20, 2**30
MEMORY = "CUDA_DEVICE_MEMORY_LIMIT"
CORES = "CUDA_DEVICE_SM_LIMIT"
WHOLE = 2**44


@pytest.fixture
def find(native):
    def ask(**environment: str) -> str:
        command = [native.program("core_settings"), NOWHERE]
        done = subprocess.run(command, env=clean_environment(**environment), capture_output=True, text=True, check=True)
        return done.stdout.rstrip("\n")

    return ask


def devices(found: str) -> list[tuple[str, int, int]]:
    """(uuid, bytes, cores) of each device."""
    words = [word.removeprefix("device=").split(",") for word in found.split() if word.startswith("device=")]
    return [(uuid, int(hard), int(cores)) for uuid, hard, _soft, cores, _weight in words]


def test_what_the_plugin_writes_is_understood(find):
    found = find(
        NVIDIA_VISIBLE_DEVICES="GPU-aaaa,GPU-bbbb",
        CUDA_DEVICE_MEMORY_LIMIT_0="4096m",
        CUDA_DEVICE_MEMORY_LIMIT_1="2000m",
        CUDA_DEVICE_SM_LIMIT="30",
        CUDA_DEVICE_MEMORY_SHARED_CACHE="/usr/local/vgpu/1234.cache",
        CUDA_OVERSUBSCRIBE="true",
        GPU_CORE_UTILIZATION_POLICY="force",
        CUDA_TASK_PRIORITY="1",
        ACTIVE_OOM_KILLER="true",
        LIBCUDA_LOG_LEVEL="3",
    )

    assert found.startswith(
        "active source=3 slice=hami region=/usr/local/vgpu/1234.cache.labspawner node= policy=cap priority=1 "
        "oversubscribe=1 killer=1 log=3 make=1 "
    )
    assert devices(found) == [("GPU-aaaa", 4096 * MIB, 30), ("GPU-bbbb", 2000 * MIB, 30)]


@pytest.mark.parametrize(
    ("value", "means"),
    [("4096m", 4 * GIB), ("4096M", 4 * GIB), ("4g", 4 * GIB), ("4G", 4 * GIB), ("65536k", 64 * MIB), ("65536K", 64 * MIB),
     ("4294967296", 4 * GIB), ("1", 1), ("16384g", WHOLE)],
)  # fmt: skip
def test_sizes_are_whole_numbers_with_a_letter(find, value, means):
    assert devices(find(CUDA_DEVICE_MEMORY_LIMIT_0=value)) == [("", means, 100)]


@pytest.mark.parametrize(
    "value",
    ["4GB", "4.5G", "-1", "four", "", "m", " 4g", "4g ", "4 g", "0", "0m", "4gi", "4Gi", "4GiB", "4t", "+4g", "0x10",
     "4e9", "16385g", "99999999999999999999", "18446744073709551616", "4096mm", "4096m,", "inf", "4٤m"],
)  # fmt: skip
def test_any_other_size_is_refused_with_the_name_the_value_and_what_to_write(find, value):
    found = find(CUDA_DEVICE_MEMORY_LIMIT_0=value)

    assert found.startswith(f"refused CUDA_DEVICE_MEMORY_LIMIT_0={value if value.isascii() else '4'}")
    assert "like 4096m" in found


@pytest.mark.parametrize(("value", "cores"), [("1", 1), ("30", 30), ("100", 100), ("0", 100), ("007", 7)])
def test_cores_are_a_percentage_and_0_is_what_the_plugin_writes_for_all(find, value, cores):
    assert devices(find(CUDA_DEVICE_SM_LIMIT=value))[0] == ("", WHOLE, cores)


@pytest.mark.parametrize("value", ["101", "-1", "30%", "thirty", "30.5", "", "1e1", "99999999999999999999"])
def test_any_other_percentage_is_refused(find, value):
    assert find(CUDA_DEVICE_SM_LIMIT_0=value).startswith(f"refused CUDA_DEVICE_SM_LIMIT_0={value}: no percentage")


def test_the_limit_of_one_card_beats_the_common_one(find):
    found = find(
        CUDA_DEVICE_MEMORY_LIMIT="2g", CUDA_DEVICE_MEMORY_LIMIT_1="1g", NVIDIA_VISIBLE_DEVICES="GPU-a,GPU-b,GPU-c"
    )

    assert [hard for _, hard, _ in devices(found)] == [2 * GIB, GIB, 2 * GIB]


def test_a_card_without_a_limit_beside_one_that_has_one_is_refused(find):
    found = find(CUDA_DEVICE_MEMORY_LIMIT_0="2g", NVIDIA_VISIBLE_DEVICES="GPU-a,GPU-b")

    assert found.startswith("refused CUDA_DEVICE_MEMORY_LIMIT_1 is not set")


@pytest.mark.parametrize("visible", ["all", "0,1", "none", "void", ""])
def test_one_limit_without_names_of_cards_holds_for_each_of_them(find, visible):
    assert devices(find(CUDA_DEVICE_MEMORY_LIMIT="2g", NVIDIA_VISIBLE_DEVICES=visible)) == [("", 2 * GIB, 100)] * 16


@pytest.mark.parametrize(
    "visible", ["GPU-a,,GPU-b", "GPU-a,", "GPU-" + "a" * 80, ",".join(f"GPU-{i}" for i in range(17))]
)
def test_a_list_of_cards_that_is_none_is_refused(find, visible):
    assert find(CUDA_DEVICE_MEMORY_LIMIT="2g", NVIDIA_VISIBLE_DEVICES=visible).startswith(
        "refused NVIDIA_VISIBLE_DEVICES="
    )


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("GPU_CORE_UTILIZATION_POLICY", "default", "policy=fair"), ("GPU_CORE_UTILIZATION_POLICY", "DISABLE", "policy=off"),
        ("GPU_CORE_UTILIZATION_POLICY", "", "policy=fair"), ("CUDA_TASK_PRIORITY", "0", "priority=0"),
        ("CUDA_TASK_PRIORITY", "", "priority=0"), ("CUDA_OVERSUBSCRIBE", "false", "oversubscribe=0"),
        ("CUDA_OVERSUBSCRIBE", "1", "oversubscribe=1"), ("ACTIVE_OOM_KILLER", "0", "killer=0"),
        ("LIBCUDA_LOG_LEVEL", "loud", "log=1"), ("LIBCUDA_LOG_LEVEL", "0", "log=0"),
    ],
)  # fmt: skip
def test_switches_mean_what_they_mean_there(find, variable, value, shown):
    assert f" {shown} " in find(CUDA_DEVICE_MEMORY_LIMIT="2g", **{variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPU_CORE_UTILIZATION_POLICY", "forced"), ("CUDA_TASK_PRIORITY", "2"), ("CUDA_TASK_PRIORITY", "-1"),
        ("CUDA_OVERSUBSCRIBE", "yes"), ("ACTIVE_OOM_KILLER", "on"), ("CUDA_DEVICE_MEMORY_SHARED_CACHE", "relative.cache"),
        ("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/" + "x" * 300),
    ],
)  # fmt: skip
def test_switches_that_mean_nothing_there_are_refused(find, variable, value):
    assert find(CUDA_DEVICE_MEMORY_LIMIT="2g", **{variable: value}).startswith(f"refused {variable}=")


def test_switches_alone_make_no_slice(find):
    assert find(NVIDIA_VISIBLE_DEVICES="GPU-a", CUDA_TASK_PRIORITY="7", CUDA_OVERSUBSCRIBE="true") == "none"
