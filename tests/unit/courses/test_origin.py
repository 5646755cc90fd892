"""Where a course file comes from, asked of a real git, which is given no chance to run anything else."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from unit.courses.course_files import text_of

from labspawner.courses.origin import Origins, origin
from labspawner.testing.processes import alive
from labspawner.testing.waiting import eventually

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)

AT = "2026-10-01T08:00:00+08:00"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with one committed course file, a.yaml."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tree = tmp_path / "lab"
    tree.mkdir()
    git(tree, "init", "-q")
    (tree / "a.yaml").write_text(text_of(), encoding="utf-8")
    commit(tree, "a.yaml", "Course: more memory\n\nwhy")
    return tree


def git(tree: Path, *arguments: str) -> str:
    names = {
        f"GIT_{who}_{what}": "Ann 中" if what == "NAME" else "ann@example.edu"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    environment = {**os.environ, **names, "GIT_AUTHOR_DATE": AT, "GIT_COMMITTER_DATE": AT}
    done = subprocess.run(["git", *arguments], cwd=tree, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(tree: Path, name: str, message: str) -> None:
    git(tree, "add", "--", name)
    git(tree, "commit", "-q", "-m", message)


async def test_a_committed_file_says_who_changed_it_last_and_why(tree: Path):
    found = await origin(tree / "a.yaml")

    assert found is not None
    assert found.hash == git(tree, "rev-parse", "HEAD")
    assert found.short == found.hash[:10]
    assert (found.subject, found.author, found.changed) == ("Course: more memory", "Ann 中", False)
    assert found.at == datetime(2026, 10, 1, 0, 0, tzinfo=timezone.utc)


async def test_the_last_commit_of_the_file_counts_and_not_of_the_tree(tree: Path):
    before = git(tree, "rev-parse", "HEAD")
    (tree / "b.yaml").write_text("x")
    commit(tree, "b.yaml", "another")

    found = await origin(tree / "a.yaml")

    assert found is not None
    assert found.hash == before


async def test_a_file_that_was_edited_since_says_so(tree: Path):
    (tree / "a.yaml").write_text(text_of(title="Edited"), encoding="utf-8")

    found = await origin(tree / "a.yaml")

    assert found is not None
    assert found.changed


async def test_a_link_into_a_work_tree_is_followed(tree: Path, tmp_path: Path):
    (tmp_path / "courses").mkdir()
    (tmp_path / "courses" / "a.yaml").symlink_to(tree / "a.yaml")

    assert await origin(tmp_path / "courses" / "a.yaml") == await origin(tree / "a.yaml")


@pytest.mark.parametrize("name", ["-n", "*.yaml", ":(top)a.yaml", "a b;touch x.yaml", "ü中.yaml", "--output=x"])
async def test_a_files_name_is_never_an_option_or_a_pattern(tree: Path, name: str):
    (tree / name).write_text(text_of(), encoding="utf-8")
    assert await origin(tree / name) is None  # not committed yet

    git(tree, "add", "--", f":(literal){name}")
    git(tree, "commit", "-q", "-m", "odd")
    found = await origin(tree / name)

    assert found is not None
    assert found.subject == "odd"
    assert sorted(os.listdir(tree)) == sorted([".git", "a.yaml", name])


async def test_what_has_no_commit_has_no_origin(tree: Path, tmp_path: Path):
    (tree / "new.yaml").write_text("x")
    (tmp_path / "alone.yaml").write_text("x")

    for path in (tree / "new.yaml", tmp_path / "alone.yaml", tree / "gone.yaml", tmp_path / "no" / "folder.yaml"):
        assert await origin(path) is None


async def test_without_git_there_is_no_origin(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nonexistent")

    assert await origin(tree / "a.yaml") is None


async def test_a_work_tree_that_names_programs_gets_none_of_them_run(tree: Path, tmp_path: Path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "pager.log",
        "gpg.program",
        "core.sshCommand",
        "diff.external",
        "core.editor",
    ):
        git(tree, "config", key, str(trap))
    git(tree, "config", "log.showSignature", "true")
    git(tree, "config", "filter.x.clean", str(trap))
    (tree / ".git" / "info" / "attributes").write_text("*.yaml filter=x\n")

    found = await origin(tree / "a.yaml")

    assert found is not None
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def slow_git(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git that says its process id in a file, and nothing else, ever."""
    folder = tmp_path / "bin"
    folder.mkdir()
    slow = folder / "git"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/pid\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "pid"


async def test_a_git_that_does_not_answer_is_not_waited_for(tree: Path, slow_git: Path):
    assert await origin(tree / "a.yaml", deadline_s=0.1) is None


async def test_a_look_that_is_broken_off_leaves_no_process(tree: Path, slow_git: Path):
    look = asyncio.create_task(origin(tree / "a.yaml", deadline_s=600))
    await eventually(slow_git.exists, deadline_s=60)

    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await look

    assert not alive(int(slow_git.read_text()))


async def test_git_is_asked_once_for_a_file_as_it_is(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    origins, path = Origins(), tree / "a.yaml"
    first = await origins.of(path)
    monkeypatch.setenv("PATH", "/nonexistent")

    assert first is not None
    assert await origins.of(path) is first

    path.write_text(text_of(title="Edited"), encoding="utf-8")
    assert await origins.of(path) is None  # it was asked again, and there is no git
