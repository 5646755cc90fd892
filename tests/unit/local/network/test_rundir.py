"""Run folders: hub and proxy come to the server's own socket, wherever the student's links lead."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labspawner.model import LeaseId
from labspawner.providers.local.network.address import at_socket
from labspawner.providers.local.network.rundir import RunDirs, default_base

LEASE = LeaseId("l" + "a" * 15)


@pytest.fixture
def dirs() -> Iterator[RunDirs]:
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/tmp") as folder:
        yield RunDirs(Path(folder) / "labspawner" / "hub")


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def listen(path: Path, opened: list[socket.socket]) -> socket.socket:
    opened.append(socket.socket(socket.AF_UNIX))
    opened[-1].bind(str(path))
    opened[-1].listen()
    opened[-1].setblocking(False)
    return opened[-1]


def reaches(path: Path, server: socket.socket) -> bool:
    """Whether who connects at `path` comes to `server`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return False
    return True


def test_the_socket_of_a_keeper_is_found_under_both_names(dirs: RunDirs, listening: list[socket.socket]) -> None:
    dirs.prepare(LEASE)
    keeper = listen(dirs.socket(LEASE), listening)

    assert reaches(dirs.socket(LEASE), keeper)
    assert reaches(Path(f"{dirs.socket(LEASE)}:80"), keeper)


def test_nobody_else_gets_to_the_folders(dirs: RunDirs) -> None:
    inside = dirs.prepare(LEASE)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (dirs.base.parent, dirs.base, inside.parent, inside)]
    assert modes == [0o700, 0o711, 0o700, 0o700]


def test_folders_that_were_too_open_are_closed(dirs: RunDirs) -> None:
    dirs.base.mkdir(parents=True)
    dirs.base.chmod(0o777)
    dirs.base.parent.chmod(0o777)

    dirs.prepare(LEASE)

    assert stat.S_IMODE(dirs.base.parent.stat().st_mode) == 0o700


def test_a_link_in_place_of_the_base_is_refused(dirs: RunDirs, tmp_path: Path) -> None:
    dirs.base.parent.symlink_to(tmp_path)

    with pytest.raises(OSError):  # noqa: PT011 - ELOOP or ENOTDIR
        dirs.prepare(LEASE)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_base_that_belongs_to_somebody_else_is_refused(dirs: RunDirs) -> None:
    dirs.base.parent.mkdir()
    os.chown(dirs.base.parent, 65534, 65534)

    with pytest.raises(PermissionError, match="65534"):
        dirs.prepare(LEASE)


def test_prepared_again_it_is_empty(dirs: RunDirs, listening: list[socket.socket]) -> None:
    inside = dirs.prepare(LEASE)
    (inside / "left").write_text("x")
    listen(dirs.socket(LEASE), listening)

    again = dirs.prepare(LEASE)

    assert list(again.iterdir()) == []
    assert not dirs.socket(LEASE).exists()


def test_removed_it_is_gone_with_all_that_is_in_it_but_not_what_links_lead_to(dirs: RunDirs, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    inside = dirs.prepare(LEASE)
    (inside / "to-file").symlink_to(precious)
    (inside / "to-folder").symlink_to(tmp_path)
    (inside / "folder").mkdir()

    dirs.remove(LEASE)
    dirs.remove(LEASE)

    assert precious.exists()
    assert not dirs.base.exists()


def test_a_thousand_folders_in_one_another_are_removed_too(dirs: RunDirs) -> None:
    inside = dirs.prepare(LEASE)
    held = os.open(inside, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=held)
        deeper = os.open("d", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = deeper
    os.close(held)

    dirs.remove(LEASE)

    assert dirs.leases() == frozenset()


def test_the_leases_that_have_a_folder_are_listed(dirs: RunDirs) -> None:
    assert dirs.leases() == frozenset()
    other = LeaseId("l" + "b" * 15)
    dirs.prepare(LEASE)
    dirs.prepare(other)
    dirs.hub_socket.touch()

    assert dirs.leases() == {LEASE, other}


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("given", ["", "/run/user/1000", "/Run/User", "relative", "/run/" + "x" * 90])
@pytest.mark.parametrize("hub_id", ["hub", "a-hub-whose-name-is-32-bytes-long", "Ünï/../Hub"])
def test_the_base_is_short_lower_case_and_good_for_a_url(uid: int, given: str, hub_id: str) -> None:
    base = default_base(hub_id, environment={"XDG_RUNTIME_DIR": given}, uid=uid)

    assert base.is_absolute()
    assert at_socket(str(RunDirs(base).socket(LEASE))).url.startswith("http+unix://")


def test_root_uses_run_and_others_their_runtime_folder() -> None:
    given = {"XDG_RUNTIME_DIR": "/run/user/1000"}

    assert default_base("hub", environment=given, uid=0) == Path("/run/labspawner/hub")
    assert default_base("hub", environment=given, uid=1000) == Path("/run/user/1000/labspawner/hub")
    assert default_base("hub", environment={}, uid=1000) == Path("/tmp/labspawner-1000/hub")
