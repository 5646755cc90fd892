"""What a container gets with its slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpudouble import a_card

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.answers import SliceFiles, answer, limits_of, slice_name
from labspawner.gpu.agent.layout import Layout, lay_out
from labspawner.gpu.agent.settings import Pool, parse_settings
from labspawner.gpu.cards import Inventory
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import CorePolicy
from labspawner.gpu.pretend import Pretended

UUIDS = [a_card(index).uuid for index in range(2)]
FILES = SliceFiles(
    folder=SliceFolder(Path("/run/labspawner/gpu/slices/small-1")),
    node=Path("/run/labspawner/gpu/node"),
    libvgpu=Path("/var/lib/labspawner/gpu/libvgpu-1.so"),
    selftest=Path("/var/lib/labspawner/gpu/selftest-1.py"),
    verdict=Path("/run/labspawner/gpu/slices/small-1/verdict"),
)


def a_pool(**changes: Any) -> Pool:
    return parse_settings({"classes": {"small": {"memory": "6GiB", "cores": 40, "per_card": 2}}, **changes}).pool(None)[
        1
    ]


def layout(pool: Pool) -> Layout:
    return lay_out(Inventory(cards=(a_card(0), a_card(1))), pool)


def asked(pool: Pool, *numbers: int, **changes: Any) -> wire.ContainerAnswer:
    """The answer for the slices with these numbers: 0 and 1 on the first card, 2 and 3 on the second."""
    found = layout(pool)
    units = [list(found.units.values())[number] for number in numbers]
    limits = limits_of("small-1", units, found, pool)
    return answer(limits, changes.pop("files", FILES), layout=found, pool=pool, **changes)


def test_several_slices_of_a_card_are_one_larger_one_and_those_of_another_are_beside_it():
    pool = a_pool(cores_policy="force")
    found = layout(pool)

    limits = limits_of("small-1", list(found.units.values())[:3], found, pool)

    assert [(one.uuid, one.memory_bytes, one.cores_pct) for one in limits.devices] == [
        (UUIDS[0], 12 * 2**30, 80),
        (UUIDS[1], 6 * 2**30, 40),
    ]
    assert limits.policy is CorePolicy.CAP


def test_compute_time_never_adds_up_to_more_than_a_card():
    pool = a_pool(classes={"small": {"memory": "6GiB", "cores": 60, "per_card": 2}}, cores_policy="off")
    found = layout(pool)

    assert limits_of("small-1", list(found.units.values())[:2], found, pool).devices[0].cores_pct == 100


def test_the_files_stand_where_the_library_and_our_extension_look_first():
    found = asked(a_pool(), 0)

    targets = {mount.container_path: (mount.host_path, mount.read_only) for mount in found.mounts}
    assert targets == {
        "/etc/labspawner/slice": (f"{FILES.folder.root}/slice", True),
        "/etc/labspawner/region": (f"{FILES.folder.root}/region", False),
        "/etc/labspawner/libvgpu.so": (str(FILES.libvgpu), True),
        "/etc/ld.so.preload": (f"{FILES.folder.root}/ld.so.preload", True),
        "/etc/labspawner/node": (str(FILES.node), False),
        "/etc/labspawner/selftest.py": (str(FILES.selftest), True),
        "/etc/labspawner/verdict": (str(FILES.verdict), False),
    }
    assert found.envs["LABSPAWNER_SELFTEST"] == "/etc/labspawner/selftest.py"
    assert found.envs["LABSPAWNER_VERDICT"] == "/etc/labspawner/verdict"
    assert found.envs["LABSPAWNER_GPU_REFUSALS"].startswith("/etc/labspawner/region:")


def test_a_card_is_named_to_the_runtime_that_needs_it():
    by_runtime = {runtime: asked(a_pool(runtime=runtime), 0, 2) for runtime in ("nvidia", "cdi", "plain")}

    assert by_runtime["nvidia"].envs["NVIDIA_VISIBLE_DEVICES"] == ",".join(UUIDS)
    assert [one.name for one in by_runtime["cdi"].cdi_devices] == [f"nvidia.com/gpu={uuid}" for uuid in UUIDS]
    assert by_runtime["cdi"].devices == ()
    for runtime in ("cdi", "plain"):
        assert "NVIDIA_VISIBLE_DEVICES" not in by_runtime[runtime].envs


def test_only_the_device_nodes_of_its_cards_that_are_there_are_given():
    found = asked(a_pool(runtime="plain"), 2, there=lambda path: path != "/dev/nvidia-uvm-tools")

    assert [node.host_path for node in found.devices] == ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert {node.permissions for node in found.devices} == {"rw"}


def test_what_an_administrator_adds_is_there_and_cannot_replace_what_is_ours():
    pool = a_pool(
        environment={"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}, driver=["/opt/nvidia", "/usr/local/nvidia"]
    )

    found = asked(pool, 0)

    assert found.envs["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert wire.Mount("/usr/local/nvidia", "/opt/nvidia", True) in found.mounts


def test_without_a_self_test_nothing_speaks_of_it():
    found = asked(a_pool(selftest=False), 0, files=SliceFiles(
        folder=FILES.folder, node=FILES.node, libvgpu=FILES.libvgpu, selftest=FILES.selftest, verdict=None
    ))  # fmt: skip

    assert not any("selftest" in mount.container_path or "verdict" in mount.container_path for mount in found.mounts)
    assert "LABSPAWNER_SELFTEST" not in found.envs


def test_a_pretended_card_brings_its_driver_and_no_device():
    pretended = Pretended(
        folder=Path("/var/lib/labspawner/gpu/pretended-1"), state=Path("/run/labspawner/gpu/pretended")
    )

    found = asked(a_pool(), 0, pretended=pretended)

    assert found.devices == ()
    assert found.envs["LD_LIBRARY_PATH"] == str(pretended.folder)
    assert found.envs["STUB_CUDA_STATE"] == "/etc/labspawner/pretended"
    assert found.envs["CUDA_VISIBLE_DEVICES"] == UUIDS[0]
    assert "NVIDIA_VISIBLE_DEVICES" not in found.envs


def test_the_name_of_a_slice_says_its_class_and_does_not_depend_on_the_order():
    assert slice_name("small", ["a", "b"]) == slice_name("small", ["b", "a"]) != slice_name("small", ["a"])
    assert slice_name("a" * 20, ["a"]).startswith("a" * 20 + "-")
    assert len(slice_name("a" * 20, ["a"])) < 63
