"""Disk quotas of homes: what can be had where, what is asked of the tools, and what goes wrong."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from labspawner.providers.local.limits import quota
from labspawner.providers.local.limits.quota import Disk, Quotas, probe_quota

GIB = 2**30
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "{here}/calls"
[ -e "{here}/refuse" ] && {{ cat "{here}/refuse" >&2; exit 1; }}
[ "$(basename "$0")" = repquota ] && cat "{here}/report"
exit 0
"""
REPORT = """Project,BlockStatus,FileStatus,BlockUsed,BlockSoftLimit,BlockHardLimit,BlockGrace,FileUsed
#0,ok,ok,20,0,0,,2
#20001,ok,ok,2048,5242880,5242880,,7
somebody,ok,ok,1,1,1,,1
"""


class Tools:
    """`setquota` and `repquota` that write down what they are told."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.say("report", REPORT)
        for name in ("setquota", "repquota"):
            (here / name).write_text(TOOL.format(here=here))
            (here / name).chmod(0o755)

    def say(self, name: str, text: str) -> None:
        (self.here / name).write_text(text)

    def calls(self) -> list[str]:
        calls = self.here / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    here = tmp_path / "bin"
    here.mkdir()
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    return Tools(here)


@pytest.fixture
def mounted(tmp_path: Path):
    """A list of mounts in which `tmp_path/data` has the given type and options."""

    def write(kind: str, options: str) -> Path:
        path = tmp_path / "mounts"
        path.write_text(
            f"/dev/a / ext4 rw 0 0\n/dev/b {tmp_path}/data {kind} {options} 0 0\n/dev/c /elsewhere xfs rw,prjquota 0 0\n"
        )
        return path

    return write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "homes" / "student1"
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("kind", "options", "own_uids", "found"),
    [
        ("ext4", "rw,prjquota", True, "project"),
        ("xfs", "rw,pquota", False, "project"),
        ("ext4", "rw,usrquota,prjquota", True, "user"),
        ("ext4", "rw,usrjquota=aquota.user,jqfmt=vfsv1", True, "user"),
        ("xfs", "rw,usrquota,prjquota", False, "project"),
    ],
)
def test_a_users_quota_is_taken_where_each_student_has_a_uid_and_a_projects_elsewhere(
    tools, mounted, home, tmp_path, kind, options, own_uids, found
):
    result = probe_quota(home, own_uids=own_uids, root=True, mounts=mounted(kind, options))

    assert result.quotas is not None, result.words
    assert result.quotas.kind == found
    assert result.quotas.point == f"{tmp_path}/data"
    assert result.words == f"homes have {found} quotas on {tmp_path}/data"


@pytest.mark.parametrize(
    ("kind", "options", "own_uids", "words"),
    [
        ("ext4", "rw", True, "is not mounted with usrquota"),
        ("ext4", "rw,usrquota", False, "is not mounted with prjquota"),
        ("btrfs", "rw,prjquota", True, "type btrfs; ext4 and xfs have quotas"),
    ],
)
def test_where_there_is_none_the_words_say_what_to_do(tools, mounted, home, kind, options, own_uids, words):
    result = probe_quota(home, own_uids=own_uids, root=True, mounts=mounted(kind, options))

    assert result.quotas is None
    assert words in result.words


def test_an_ordinary_user_cannot_set_one(home):
    assert probe_quota(home, own_uids=True, root=False).words == "no disk quota: only root may set one"


def test_without_the_tools_there_is_none(mounted, home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    words = probe_quota(home, own_uids=True, root=True, mounts=mounted("ext4", "rw,usrquota")).words

    assert words == "no disk quota: setquota and repquota not found; install the package quota"


def test_a_file_system_where_quota_is_off_after_all_is_said_in_its_own_words(tools, mounted, home):
    tools.say("refuse", "repquota: Mountpoint (or device) /x not found or has no quota enabled.\nmore\n")

    words = probe_quota(home, own_uids=True, root=True, mounts=mounted("ext4", "rw,usrquota")).words

    assert words == "no disk quota: repquota: Mountpoint (or device) /x not found or has no quota enabled."


def test_homes_that_are_not_there_yet_are_looked_for_above(tools, mounted, tmp_path):
    (tmp_path / "data").mkdir()

    found = probe_quota(tmp_path / "data/not/yet", own_uids=True, root=True, mounts=mounted("ext4", "usrquota"))

    assert found.quotas is not None


def test_without_a_list_of_mounts_there_is_none(home, tmp_path):
    assert "unknown" in probe_quota(home, own_uids=True, root=True, mounts=tmp_path / "none").words


def test_a_users_limit_is_one_call_and_touches_no_file(tools, home):
    problem = Quotas("/data", "user").limit(home, 20001, 5 * GIB)

    assert problem is None
    assert tools.calls() == ["setquota -u 20001 5242880 5242880 0 0 /data"]


def test_no_limit_takes_an_older_one_away(tools, home):
    Quotas("/data", "user").limit(home, 20001, None)

    assert tools.calls() == ["setquota -u 20001 0 0 0 0 /data"]


def test_a_limit_that_cannot_be_set_is_a_sentence_logged_once(tools, home, caplog):
    tools.say("refuse", "setquota: Cannot set quota for project 7: Invalid argument\n")
    quotas = Quotas("/data", "user")

    with caplog.at_level(logging.WARNING):
        problems = [quotas.limit(home, owner, GIB) for owner in (1, 2, 3)]

    assert all("Invalid argument" in problem for problem in problems)
    assert len(caplog.records) == 1


def test_a_tool_that_vanished_or_says_nothing_is_a_sentence(tools, home, monkeypatch, tmp_path):
    tools.say("refuse", "")
    assert "status 1" in Quotas("/data", "user").limit(home, 1, GIB)

    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "setquota" in Quotas("/data", "user").limit(home, 1, GIB)


def test_usage_of_all_homes_is_one_listing(tools):
    usage = Quotas("/data", "project").usage()

    assert usage == {
        0: Disk(used_bytes=20 * 1024, limit_bytes=None),
        20001: Disk(used_bytes=2 * 2**20, limit_bytes=5 * GIB),
    }
    assert tools.calls() == ["repquota -P -n -O csv /data"]


def test_usage_that_cannot_be_read_is_empty_and_logged_once(tools, caplog):
    tools.say("refuse", "repquota: no\n")
    quotas = Quotas("/data", "project")

    with caplog.at_level(logging.WARNING):
        assert quotas.usage() == quotas.usage() == {}

    assert len(caplog.records) == 1


@pytest.fixture
def projects(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """Flags and project of each inode, as a file system with projects keeps them."""
    kept: dict[int, tuple[int, int]] = {}

    def ioctl(descriptor: int, request: int, data: bytes) -> bytes:
        inode = os.fstat(descriptor).st_ino
        if request == quota._SET_XATTR:
            flags, _, _, project, _ = quota._FSXATTR.unpack(data)
            kept[inode] = (flags, project)
        flags, project = kept.get(inode, (0, 0))
        return quota._FSXATTR.pack(flags, 0, 0, project, 0)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return kept


def test_a_home_and_all_in_it_get_the_project_and_what_links_point_to_does_not(tools, home, projects, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    (home / "deep").mkdir()
    (home / "deep/file").write_text("")
    (home / "link").symlink_to(outside)
    (home / "deep/file-link").symlink_to(outside / "secret")
    os.mkfifo(home / "fifo")

    assert Quotas("/data", "project").limit(home, 20001, GIB) is None

    tagged = {path for path in [home, *home.rglob("*")] if projects.get(path.lstat().st_ino, (0, 0))[1] == 20001}
    assert tagged == {home, home / "deep", home / "deep/file"}
    assert projects[home.stat().st_ino] == (quota._INHERIT, 20001)
    assert outside.stat().st_ino not in projects
    assert (outside / "secret").stat().st_ino not in projects
    assert tools.calls() == ["setquota -P 20001 1048576 1048576 0 0 /data"]


def test_a_home_that_has_its_project_is_not_walked_again(tools, home, projects):
    quotas = Quotas("/data", "project")
    quotas.limit(home, 20001, GIB)
    (home / "new").write_text("")  # the file system tags it; our double does not

    quotas.limit(home, 20001, GIB)

    assert (home / "new").stat().st_ino not in projects


def test_a_link_in_the_place_of_a_home_is_refused(tools, tmp_path, projects):
    (tmp_path / "target").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "target")

    assert Quotas("/data", "project").limit(tmp_path / "home", 1, GIB) is not None

    assert not projects
    assert tools.calls() == []


def test_a_file_system_without_projects_is_a_sentence_for_real(tools, home):
    problem = Quotas("/data", "project").limit(home, 20001, GIB)

    if problem is None:
        pytest.skip("this file system has projects")
    assert "project" in problem
    assert tools.calls() == []


def test_a_home_cannot_grow_beyond_its_quota_for_real(tmp_path: Path):
    """On a small ext4 of our own; needs root, a loop device and a kernel with quotas."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if not all(map(shutil.which, ("mkfs.ext4", "mount", "setquota", "repquota"))):
        pytest.skip("mkfs.ext4, mount and the package quota are needed")
    image, point = tmp_path / "disk", tmp_path / "point"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    point.mkdir()
    done(["mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=usrquota:prjquota", str(image)])
    done(["mount", "-o", "loop,usrquota,prjquota", str(image), str(point)])
    try:
        home = point / "homes" / "student1"
        home.mkdir(parents=True)
        os.chown(home, 20001, 20001)
        quotas = probe_quota(home, own_uids=True).quotas

        assert quotas is not None
        assert quotas.limit(home, 20001, 2 * 2**20) is None
        fill = ["dd", "if=/dev/zero", f"of={home}/file", "bs=64k", "count=100"]
        filled = subprocess.run(fill, user=20001, capture_output=True, check=False)
        assert b"quota" in filled.stderr.lower()
        assert quotas.usage()[20001].limit_bytes == 2 * 2**20
    finally:
        done(["umount", str(point)])


def done(words: list[str]) -> None:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"{words[0]}: {result.stderr.strip().splitlines()[0]}")
