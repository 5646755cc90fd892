"""What a server with a slice sees, and what a server without one does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpudouble import a_card

from labspawner.gpu.cards import Device, Inventory, nodes_of
from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.pretend import Pretended
from labspawner.providers.local.slices.inside import (
    GpuInside,
    SliceFiles,
    in_sandbox,
    in_the_open,
    without_cards,
)

UUID = a_card().uuid
FILES = SliceFiles(
    folder=SliceFolder(Path("/run/labspawner/hub/lease/slice")),
    verdict=Path("/run/labspawner/hub/lease/verdict"),
    libvgpu=Path("/opt/lab/lib/libvgpu.so"),
    node=Path("/run/labspawner/hub/node"),
    refusals_at=192,
)
PRETENDED = Pretended(folder=Path("/opt/lab/lib/pretend"), state=Path("/run/labspawner/hub/pretended"))


def sandboxed(**changes: object) -> GpuInside:
    values: dict[str, object] = {"nodes": ("/dev/nvidia0",), "tested": True, "pretended": None, "base": {}}
    return in_sandbox(UUID, FILES, **{**values, **changes})  # type: ignore[arg-type]


def test_a_sandbox_shows_the_files_where_the_library_looks_and_only_shared_ones_can_be_written() -> None:
    shown = {bind.target: (bind.source, bind.writable) for bind in sandboxed().binds}

    assert shown["/etc/labspawner/slice"] == ("/run/labspawner/hub/lease/slice/slice", False)
    assert shown["/etc/labspawner/libvgpu.so"] == ("/opt/lab/lib/libvgpu.so", False)
    assert {target for target, (_, writable) in shown.items() if writable} == {
        "/etc/labspawner/region",
        "/etc/labspawner/node",
        "/etc/labspawner/verdict",
    }
    assert "/etc/ld.so.preload" not in shown
    assert sandboxed().preload == "/run/labspawner/hub/lease/slice/ld.so.preload"


def test_no_variable_of_the_loader_is_in_the_students_environment_and_the_interpreter_is_started_with_it() -> None:
    gpu = sandboxed()

    assert not [name for name in gpu.environment if name.startswith("LD_")]
    assert gpu.loader == {"LD_PRELOAD": "/opt/lab/lib/libvgpu.so"}


def test_programs_are_told_the_one_card_and_the_test_where_its_verdict_goes() -> None:
    environment = sandboxed().environment

    assert environment["NVIDIA_VISIBLE_DEVICES"] == environment["CUDA_VISIBLE_DEVICES"] == UUID
    assert environment["LABSPAWNER_VERDICT"] == "/etc/labspawner/verdict"
    assert environment["LABSPAWNER_GPU_REFUSALS"] == "/etc/labspawner/region:192"


def test_where_nobody_wants_a_test_there_is_none() -> None:
    gpu = sandboxed(tested=False)

    assert not any("SELFTEST" in name or "VERDICT" in name for name in gpu.environment)
    assert not any("verdict" in bind.target for bind in gpu.binds)


def test_a_pretended_card_has_its_driver_at_its_own_path_and_no_device_node() -> None:
    gpu = sandboxed(pretended=PRETENDED, base={"LD_LIBRARY_PATH": "/opt/x"})

    assert gpu.devices == ()
    assert gpu.environment["LD_LIBRARY_PATH"] == gpu.loader["LD_LIBRARY_PATH"] == "/opt/lab/lib/pretend:/opt/x"
    assert gpu.environment["STUB_CUDA_STATE"] == "/etc/labspawner/pretended"
    assert ("/opt/lab/lib/pretend", False) in {(bind.target, bind.writable) for bind in gpu.binds}


def test_a_plain_process_gets_the_library_by_courtesy() -> None:
    gpu = in_the_open(UUID, FILES, tested=True, pretended=None, base={"LD_PRELOAD": "/other.so"})

    assert gpu.environment["LD_PRELOAD"] == "/opt/lab/lib/libvgpu.so /other.so"
    assert gpu.environment["LABSPAWNER_GPU_LIMITS"] == "/run/labspawner/hub/lease/slice/slice/limits"
    assert (gpu.binds, gpu.devices, gpu.preload) == ((), (), None)


def test_only_the_node_of_the_own_card_is_given() -> None:
    inventory = Inventory(cards=(a_card(0), a_card(1)))

    nodes = nodes_of(a_card(1).uuid, inventory)

    assert "/dev/nvidia1" in nodes
    assert "/dev/nvidia0" not in nodes
    assert {"/dev/nvidiactl", "/dev/nvidia-uvm"} <= set(nodes)
    assert not any("caps" in node for node in nodes)


def test_a_mig_device_needs_the_node_of_its_card_and_its_rights() -> None:
    part = Device(uuid="MIG-1", name="1g.5gb", memory_total_bytes=2**32)
    inventory = Inventory(cards=(a_card(0), a_card(1, mig=True, parts=(part,))))

    nodes = nodes_of("MIG-1", inventory)

    assert "/dev/nvidia1" in nodes
    assert "/dev/nvidia-caps" in nodes


@pytest.mark.parametrize("inventory", [Inventory(), Inventory(cards=(a_card(minor=None),))])
def test_a_card_that_is_gone_has_no_node(inventory: Inventory) -> None:
    assert nodes_of(UUID, inventory) == ()


def test_what_every_server_sees_has_no_card_in_it() -> None:
    assert without_cards(["/dev/fuse", "/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]) == ("/dev/fuse",)
