"""The kernel's own limit, against a folder that looks like its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from labspawner.errors import SetupError
from labspawner.gpu.cards import Card, Inventory
from labspawner.gpu.dmem import find_dmem, parse

GIB = 2**30
REGION = "drm/0000:17:00.0/vram0"


def a_card(index: int, bus: str | None, **changes: object) -> Card:
    return Card(uuid=f"GPU-{index}", index=index, name="H200", memory_total_bytes=GIB, bus=bus, **changes)  # type: ignore[arg-type]


INVENTORY = Inventory(cards=(a_card(0, "00000000:17:00.0"), a_card(1, "00000000:65:00.0")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory dmem pids\n")
    (tmp_path / "dmem.capacity").write_text(f"{REGION} 150000000000\ndrm/0000:17:00.0/stolen 4096\n")
    group = tmp_path / "lease"
    group.mkdir()
    (group / "dmem.max").write_text(f"{REGION} max\n")
    (group / "dmem.current").write_text(f"{REGION} 1048576\n")
    return tmp_path


def test_a_card_is_found_by_its_address_and_its_largest_region(root: Path):
    found = find_dmem(INVENTORY, root)

    assert found is not None
    assert found.regions == {"GPU-0": REGION}


@pytest.mark.parametrize("missing", ["cgroup.controllers", "dmem.capacity"])
def test_a_kernel_without_it_is_none(root: Path, missing: str):
    (root / missing).unlink()

    assert find_dmem(INVENTORY, root) is None


def test_a_controller_that_is_off_or_knows_no_card_is_none(root: Path):
    assert find_dmem(Inventory(cards=(a_card(1, "00000000:65:00.0"), a_card(2, None))), root) is None
    assert find_dmem(Inventory(cards=(a_card(0, "00000000:17:00.0", mig=True),)), root) is None
    (root / "cgroup.controllers").write_text("cpu memory\n")
    assert find_dmem(INVENTORY, root) is None


def test_a_limit_is_written_and_what_is_held_is_read(root: Path):
    found = find_dmem(INVENTORY, root)
    assert found is not None

    found.limit(root / "lease", {"GPU-0": 6 * GIB})

    assert (root / "lease" / "dmem.max").read_text() == f"{REGION} {6 * GIB}\n"
    assert found.held(root / "lease") == {"GPU-0": 1048576}
    assert found.held(root / "gone") == {}


def test_a_card_that_the_slice_does_not_have_gets_a_limit_of_nothing(root: Path):
    found = find_dmem(INVENTORY, root)
    assert found is not None

    found.limit(root / "lease", {})

    assert (root / "lease" / "dmem.max").read_text() == f"{REGION} 0\n"


def test_a_card_without_a_region_is_refused_before_anything_is_written(root: Path):
    found = find_dmem(INVENTORY, root)
    assert found is not None

    with pytest.raises(SetupError, match="GPU-1"):
        found.limit(root / "lease", {"GPU-0": GIB, "GPU-1": GIB})
    assert (root / "lease" / "dmem.max").read_text() == f"{REGION} max\n"


def test_a_group_that_is_gone_is_refused_in_words(root: Path):
    found = find_dmem(INVENTORY, root)
    assert found is not None

    with pytest.raises(SetupError, match="gone"):
        found.limit(root / "gone", {"GPU-0": GIB})


@pytest.mark.parametrize("text", ["drm/x", "drm/x -1", "drm/x 1GiB", " 5", "x ", "a b c"])
def test_a_line_of_another_form_is_refused(text: str):
    with pytest.raises(ValueError, match="dmem"):
        parse(text)
