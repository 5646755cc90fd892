"""Homes and their owners: private, never through a link, one uid for each student."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from labspawner.errors import SetupError
from labspawner.naming import safe_name
from labspawner.providers.local import accounts
from labspawner.providers.local.accounts import account_name
from labspawner.providers.local.homes import Home, prepare_home

UIDS = range(350000, 350010)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


def prepare(home: Path, *, min_free_bytes: int = 1, uids: range | None = None) -> Home:
    return prepare_home(home, home.name, min_free_bytes=min_free_bytes, uids=uids)


def fill(path: Path) -> None:
    """Write until nothing more can be written."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def owner(path: Path) -> int:
    return path.lstat().st_uid


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB and a dozen inodes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=12,mode=755", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounting.returncode:
        pytest.skip(f"no file system can be mounted: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_home_is_made_private_and_kept(tmp_path: Path) -> None:
    home = tmp_path / "homes" / "ann"
    prepare(home)
    (home / "thesis.ipynb").write_text("{}")
    home.chmod(0o755)

    prepared = prepare(home)

    assert (prepared.path, prepared.full, prepared.account.uid) == (home, False, os.geteuid())
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [path.name for path in home.iterdir()] == ["thesis.ipynb"]


def test_a_link_in_place_of_a_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "ann").symlink_to(tmp_path / "other")

    with pytest.raises(SetupError, match="home") as failure:
        prepare(tmp_path / "ann")

    assert "not a plain folder" in failure.value.message


def test_a_file_in_place_of_the_homes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "homes").write_text("")

    with pytest.raises(SetupError) as failure:
        prepare(tmp_path / "homes" / "ann")

    assert "not a plain folder" in failure.value.message


def test_a_home_that_cannot_be_made_is_explained() -> None:
    with pytest.raises(SetupError) as failure:
        prepare(Path("/proc/labspawner/ann"))

    assert "cannot be written to" in failure.value.message


@needs_root
def test_a_home_of_someone_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    os.chown(tmp_path / "ann", 12345, 12345)

    for uids in (None, UIDS):
        with pytest.raises(SetupError) as failure:
            prepare(tmp_path / "ann", uids=uids)
        assert "12345" in str(failure.value)
    assert owner(tmp_path / "ann") == 12345


def test_a_home_with_little_room_left_is_full_and_not_refused(tmp_path: Path) -> None:
    assert prepare(tmp_path / "ann", min_free_bytes=2**60).full


@needs_root
def test_a_home_to_which_no_byte_can_be_written_is_full_and_nothing_is_left_in_it(small_disk: Path) -> None:
    prepare(small_disk / "ann", uids=UIDS)
    fill(small_disk / "ann" / "data.bin")

    assert prepare(small_disk / "ann", min_free_bytes=0, uids=UIDS).full
    assert os.listdir(small_disk / "ann") == ["data.bin"]


@needs_root
def test_no_room_even_for_a_new_home_is_said(small_disk: Path) -> None:
    for number in itertools.count():
        if not os.statvfs(small_disk).f_favail:
            break
        (small_disk / f"file{number}").touch()

    with pytest.raises(SetupError) as failure:
        prepare(small_disk / "ann", min_free_bytes=0)

    assert "no disk space" in failure.value.message


@needs_root
def test_each_student_has_a_uid_which_is_the_owner_of_the_home_and_stays(tmp_path: Path) -> None:
    ann, bob = (prepare(tmp_path / name, uids=UIDS).account for name in ("ann", "bob"))

    assert ann.uid != bob.uid
    assert {ann.uid, bob.uid} <= set(UIDS)
    assert (owner(tmp_path / "ann"), ann.gid) == (ann.uid, ann.uid)
    assert prepare(tmp_path / "ann", uids=UIDS).account == ann


@needs_root
def test_the_uid_of_a_removed_home_is_given_to_somebody_else_last(tmp_path: Path) -> None:
    given = [prepare(tmp_path / f"s{number}", uids=UIDS).account.uid for number in range(3)]
    (tmp_path / "s1").rmdir()

    later = [prepare(tmp_path / f"t{number}", uids=UIDS).account.uid for number in range(len(UIDS) - 2)]

    assert later[-1] == given[1]
    assert len({given[0], given[2], *later}) == len(UIDS)


@needs_root
def test_no_uid_left_is_a_setup_error(tmp_path: Path) -> None:
    prepare(tmp_path / "ann", uids=UIDS[:1])

    with pytest.raises(SetupError) as failure:
        prepare(tmp_path / "bob", uids=UIDS[:1])

    assert "uid_range" in str(failure.value)


@needs_root
def test_a_uid_that_is_an_account_of_the_machine_is_never_given(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        prepare(tmp_path / "ann", uids=range(1, 4))  # daemon, bin, sys

    assert owner(tmp_path / "ann") == 0


@needs_root
def test_two_homes_with_one_owner_are_both_refused(tmp_path: Path) -> None:
    for name in ("ann", "copy"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, UIDS[0], UIDS[0])

    with pytest.raises(SetupError) as failure:
        prepare(tmp_path / "ann", uids=UIDS)

    assert "copy" in str(failure.value)


@needs_root
def test_many_who_come_at_once_get_different_uids(tmp_path: Path) -> None:
    uids = range(350100, 350200)
    barrier = threading.Barrier(8)
    given: list[int] = []

    def come(name: str) -> None:
        barrier.wait()
        given.append(prepare(tmp_path / name, uids=uids).account.uid)

    threads = [threading.Thread(target=come, args=(f"s{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(given)) == 8


@needs_root
def test_a_home_that_root_made_is_handed_over_without_following_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("hub's own")
    (tmp_path / "hard").write_text("hub's own")
    home = tmp_path / "homes" / "ann"
    (home / "a" / "b").mkdir(parents=True)
    (home / "a" / "b" / "note").write_text("x")
    (home / "link").symlink_to(outside)
    (home / "folder-link").symlink_to(tmp_path)
    os.link(tmp_path / "hard", home / "hard")
    os.mknod(home / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))

    uid = prepare(home, uids=UIDS).account.uid

    mine = [home, home / "a", home / "a" / "b", home / "a" / "b" / "note", home / "link", home / "folder-link"]
    assert {owner(path) for path in mine} == {uid}
    kept = [outside, tmp_path, tmp_path / "hard", home / "device", home / "hard"]
    assert {owner(path) for path in kept} == {0}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@needs_root
def test_a_handing_over_that_a_killed_hub_began_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "ann"
    home.mkdir()
    (home / "note").write_text("x")
    os.chown(home, UIDS[3], UIDS[3])
    home.chmod(accounts.HANDING_OVER)

    assert prepare(home, uids=UIDS).account.uid == UIDS[3]
    assert owner(home / "note") == UIDS[3]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("ann", "ann"),
        ("student-1", "student-1"),
        ("root", "u-root"),
        ("42", "u-42"),
        ("Ann Lee", safe_name("Ann Lee")),
        ("x" * 300, f"u-{safe_name('x' * 300)}"[:32]),
    ],
)
def test_an_account_inside_has_a_name_that_every_program_takes(user: str, name: str) -> None:
    assert account_name(user) == name.rstrip("-")
    assert len(account_name(user)) <= 32
