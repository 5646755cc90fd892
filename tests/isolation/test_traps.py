"""What a student leaves for the hub to step into: links, sockets and full homes, at the next start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from isolation.students import Enter, Lab, Student

from labspawner.errors import SetupError


def test_a_home_that_is_a_link_is_refused_and_what_it_leads_to_stays(lab: Lab, tmp_path: Path, enter: Enter) -> None:
    target = tmp_path / "etc"
    target.mkdir()
    before = target.stat()
    link = lab.home("eve")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)

    with pytest.raises(SetupError) as refused:
        lab.enter("eve")

    assert "not a plain folder" in str(refused.value.jupyterhub_message)
    assert (target.stat().st_uid, target.stat().st_mode) == (before.st_uid, before.st_mode)
    assert list(target.iterdir()) == []
    link.unlink()


def test_links_in_a_home_are_never_followed_by_the_hub(lab: Lab, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("as it was")
    seen = [(path.stat().st_uid, path.stat().st_mode) for path in (victim, victim / "file")]
    first = lab.enter("frank")
    first.does(
        f"for name in ('.local', '.jupyter', '.ipython', '.cache', '.config', 'x'):\n"
        f"    os.symlink({str(victim)!r}, f'/home/frank/{{name}}')\n"
        f"os.symlink({str(victim / 'file')!r}, '/home/frank/.labspawner')"
    )
    first.leave()
    if os.geteuid() == 0:
        os.chown(lab.home("frank"), 0, 0)  # as after a restore without owners: all below is handed over anew

    second = lab.enter("frank")

    assert second.works()
    second.leave()
    assert [(path.stat().st_uid, path.stat().st_mode) for path in (victim, victim / "file")] == seen
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "as it was"


def test_a_hard_link_in_a_home_hands_no_file_of_root_over(lab: Lab, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("homes are handed over by root only")
    victim = lab.folder / "victim"
    victim.write_text("root's")
    home = lab.home("grace")
    home.mkdir(parents=True)
    os.link(victim, home / "mine")

    grace = lab.enter("grace")

    assert victim.stat().st_uid == 0
    assert grace.does("answer = tried(lambda: open('/home/grace/mine', 'a').write('x'))") == "EACCES"
    grace.leave()


def test_a_student_puts_nothing_where_hub_and_proxy_connect_to(lab: Lab) -> None:
    """No symbolic link to a socket of the host, no stale socket, no file."""
    heidi = lab.enter("heidi")
    run_dir = Path(str(heidi.handle.data["run_dir"]))

    assert heidi.does("answer = tried(lambda: open('/run/labspawner/x', 'w'))") in {"EROFS", "EACCES"}
    made = heidi.does("answer = tried(lambda: os.symlink('/etc/passwd', '/run/labspawner/server.sock'))")
    assert made in {"EROFS", "EACCES"}
    heidi.leave()

    assert not run_dir.parent.exists()


def test_a_full_home_starts_so_that_its_student_can_delete(lab: Lab) -> None:
    if lab.start == "warm":
        pytest.skip("one start is enough: nothing of it differs")
    full = Lab(lab.rung, lab.start, min_free_disk="1000TiB")
    try:
        judy = full.enter("judy")

        assert judy.works()
        assert judy.does("answer = os.environ['JUPYTER_RUNTIME_DIR'].startswith('/tmp/')")
        judy.does("open('/home/judy/old', 'w').close(); os.unlink('/home/judy/old')")
    finally:
        full.close()


def test_the_agents_own_files_are_gone_with_the_lab(lab: Lab, enter: Enter) -> None:
    student: Student = enter()
    home = lab.home(student.name)

    student.leave()

    assert home.is_dir()
    shutil.rmtree(home)
