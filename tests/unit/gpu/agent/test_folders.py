"""The files of slices: ready before anybody asks, exchanged when a pod is gone, never taken from one that runs."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from labspawner.gpu import region
from labspawner.gpu.agent.folders import Folders
from labspawner.gpu.agent.settings import BadSettings
from labspawner.gpu.limits import DeviceLimit, SliceLimits


def limits(name: str = "small-1", gib: int = 6) -> SliceLimits:
    device = DeviceLimit(uuid="GPU-0", memory_bytes=gib * 2**30, cores_pct=25)
    return SliceLimits(name=name, region="/etc/labspawner/region", node="/etc/labspawner/node", devices=(device,))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return opened(tmp_path)


def opened(folder: Path, **changes: Any) -> Folders:
    library = folder / "built.so"
    if not library.exists():
        library.write_bytes(b"the first")
    made = Folders(folder / "state", folder / "library", libvgpu=library, **changes)
    made.open()
    return made


@contextmanager
def living_in(path: Path) -> Iterator[None]:
    """A process of the slice, as the library marks one: a taken slot, and a lock on it."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), (1).to_bytes(4, "little"), region.SLOTS_AT)
        lock = struct.pack("hh4xqqi4x", fcntl.F_WRLCK, os.SEEK_SET, region.SLOTS_AT, 1, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
        yield


def inode(folders: Folders, name: str = "small-1") -> int:
    return folders.files(name).folder.region.stat().st_ino


def test_a_slice_that_is_ready_is_given_as_it_is(folders: Folders):
    folders.prepare(limits())
    before = inode(folders)

    files = folders.give(limits())

    assert inode(folders) == before
    assert files.folder.read() == limits()
    assert files.verdict is not None
    assert files.verdict.stat().st_mode & 0o777 == 0o666
    assert list(folders.given()) == ["small-1"]


def test_nobody_but_root_looks_into_the_folder_of_a_slice(folders: Folders):
    assert folders.give(limits()).folder.root.stat().st_mode & 0o777 == 0o700


def test_a_slice_that_is_given_again_is_a_fresh_one(folders: Folders):
    files = folders.give(limits())
    before = inode(folders)
    files.folder.region.write_bytes(b"what somebody left")

    folders.give(limits())

    assert inode(folders) != before
    assert region.read(files.folder.region).refusal_count == 0


def test_what_is_given_away_stays_as_it_is_through_every_restart(folders: Folders, tmp_path: Path):
    folders.give(limits())
    before = inode(folders)

    again = opened(tmp_path)
    again.prepare(limits(gib=4))
    again.keep_only([])

    assert inode(again) == before
    assert again.limits("small-1") == limits()


def test_a_slice_that_nobody_has_gets_the_limits_of_a_new_layout(folders: Folders, tmp_path: Path):
    folders.prepare(limits())

    again = opened(tmp_path)
    again.prepare(limits(gib=4))

    assert again.limits("small-1") == limits(gib=4)


def test_a_slice_that_is_in_no_layout_any_more_goes(folders: Folders):
    folders.prepare(limits())

    folders.keep_only(["small-2"])
    folders.tidy()

    assert folders.limits("small-1") is None


def test_a_slice_is_taken_back_when_its_pod_is_gone(folders: Folders, tmp_path: Path):
    folders.give(limits())
    before = inode(folders)

    assert folders.take_back("small-1", limits())
    folders.tidy()

    assert inode(folders) != before
    assert folders.given() == {}
    assert list((tmp_path / "state" / "old").iterdir()) == []


def test_a_slice_of_several_is_not_made_again(folders: Folders):
    folders.give(limits())

    assert folders.take_back("small-1", None)

    assert folders.limits("small-1") is None


def test_a_slice_with_a_process_in_it_is_not_taken_back(folders: Folders):
    files = folders.give(limits())

    with living_in(files.folder.region):
        assert not folders.take_back("small-1", limits())
    assert folders.take_back("small-1", limits())


def test_files_that_a_process_still_uses_are_kept_until_it_ends(folders: Folders, tmp_path: Path):
    files = folders.give(limits())
    old = tmp_path / "state" / "old"

    with living_in(files.folder.region):
        folders.give(limits())
        folders.tidy()
        assert len(list(old.iterdir())) == 1
    folders.tidy()

    assert list(old.iterdir()) == []


def test_what_a_program_made_grow_is_cut_off(folders: Folders):
    files = folders.give(limits())
    with files.folder.region.open("ab") as file:
        file.truncate(region.SIZE + 2**20)
    files.node.write_bytes(b"x" * 2**20)

    folders.tidy()

    assert files.folder.region.stat().st_size == region.SIZE
    assert files.node.stat().st_size < 2**20


def test_a_verdict_is_known_when_it_is_written(folders: Folders):
    files = folders.give(limits())
    assert files.verdict is not None
    assert folders.verdict("small-1") is None

    files.verdict.write_text('{"server": {"verdict": "passed"}, "kernel": {"verdict": "failed", "reason": "no"}}')

    found = folders.verdict("small-1")
    assert found is not None
    assert (found.tested.value, str(found.why)) == ("failed", "no")


def test_nothing_is_tried_out_where_nobody_wants_it(tmp_path: Path):
    folders = opened(tmp_path, tested=False)

    assert folders.give(limits()).verdict is None


def test_a_new_library_does_not_replace_the_one_that_containers_have(folders: Folders, tmp_path: Path):
    before = folders.libvgpu
    (tmp_path / "built.so").write_bytes(b"the second")

    after = opened(tmp_path).libvgpu

    assert (before.read_bytes(), after.read_bytes()) == (b"the first", b"the second")
    assert after.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "built.so").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BadSettings, match="cannot be used"):
        Folders(tmp_path / "file" / "state", tmp_path / "library", libvgpu=tmp_path / "built.so").open()


def test_a_slice_whose_files_cannot_be_made_leaves_nothing_half_made(folders: Folders, tmp_path: Path):
    (tmp_path / "state" / "slices" / "small-1").parent.rmdir()

    with pytest.raises(OSError, match="small-1"):
        folders.give(limits())

    assert list((tmp_path / "state" / "new").iterdir()) == []


def test_the_pretended_driver_is_put_where_containers_see_it(folders: Folders, tmp_path: Path):
    driver = tmp_path / "pretend"
    driver.mkdir()
    (driver / "libcuda.so.1").write_bytes(b"stub")
    (driver / "stubctl").write_bytes(b"")

    found = folders.put_driver(driver)

    assert [path.name for path in found.iterdir()] == ["libcuda.so.1"]
    assert folders.put_driver(driver) == found


def test_readings_of_files_that_are_no_region_are_not_known(folders: Folders):
    files = folders.give(limits())
    assert folders.reading("small-1") is not None

    files.folder.region.write_bytes(b"what a student may write")

    assert folders.reading("small-1") is None
    assert folders.reading("small-7") is None
