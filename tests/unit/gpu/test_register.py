"""The register: what lives is listed, what is over is removed by whoever looks next, and nobody else's place is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest

from labspawner.errors import SetupError
from labspawner.gpu.limits import DeviceLimit, SliceLimits
from labspawner.gpu.register import REGISTER_ENV, About, Register, Registered, node_file

GIB = 2**30


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register.mine({REGISTER_ENV: str(tmp_path / "slices")})


def about(**changes: object) -> About:
    values: dict[str, object] = {
        "command": ("python", "train.py"),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "started": datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc),
        "sandboxed": True,
    }
    return About(**{**values, **changes})  # type: ignore[arg-type]


def limits_for(_: list[Registered], root: Path, name: str) -> SliceLimits:
    return SliceLimits(
        name=name, region=str(root / "region"), devices=(DeviceLimit(uuid="GPU-0", memory_bytes=6 * GIB),)
    )


@contextmanager
def a_slice(register: Register) -> Iterator[Registered]:
    with register.slice(limits_for, about=about(), preload="") as made:
        yield made


def test_a_slice_is_listed_while_it_lives_and_gone_afterwards(register: Register):
    with a_slice(register) as one, a_slice(register):
        found = register.slices()

        assert len(found) == 2
        assert one in found
        assert {entry.about.command for entry in found} == {("python", "train.py")}
    assert register.slices() == []
    assert os.listdir(register.root) == ["lock"]


def test_who_makes_a_slice_sees_those_there_are_before_and_nobody_comes_between(register: Register):
    seen: list[int] = []

    def choose(slices: list[Registered], root: Path, name: str) -> SliceLimits:
        seen.append(len([one for one in slices if one.folder.root.parent == register.root]))
        return limits_for(slices, root, name)

    with a_slice(register), register.slice(choose, about=about(), preload=""):
        pass

    assert seen == [1]


def test_a_slice_that_cannot_be_chosen_leaves_nothing(register: Register):
    def refuse(*_: object) -> SliceLimits:
        raise LookupError("full")

    with pytest.raises(LookupError), register.slice(refuse, about=about(), preload=""):
        pass

    assert os.listdir(register.root) == ["lock"]


RUNNER = """
import sys
sys.path.insert(0, {tests!r})
from test_register import *
with a_slice(Register.mine({{REGISTER_ENV: {root!r}}})):
    print("made", flush=True)
    sys.stdin.read()
"""


def test_the_slice_of_a_runner_that_was_killed_is_removed_by_the_next_look(register: Register):
    code = RUNNER.format(tests=str(Path(__file__).parent), root=str(register.root))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"made\n"
        assert len(register.slices()) == 1
        runner.send_signal(signal.SIGKILL)
        runner.wait(60)

    assert register.slices() == []
    assert os.listdir(register.root) == ["lock"]


def test_what_was_cut_off_while_it_was_made_is_removed(register: Register):
    (register.root / "run-1-abc").mkdir()
    (register.root / "run-1-abc" / "lock").touch()

    assert register.slices() == []
    assert os.listdir(register.root) == ["lock"]


def test_a_foreign_register_is_looked_at_and_left_as_it_is(register: Register):
    (register.root / "run-1-abc").mkdir()
    foreign = Register(register.root, foreign=True)
    with a_slice(register) as made:
        (register.root / "run-1-abc").mkdir(exist_ok=True)

        assert foreign.slices() == [made]
        assert (register.root / "run-1-abc").exists()


def test_a_place_that_others_may_write_to_is_refused(tmp_path: Path):
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices").chmod(0o777)

    with pytest.raises(SetupError, match="others may write"):
        Register.mine({REGISTER_ENV: str(tmp_path / "slices")})


def test_a_link_in_its_place_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "slices").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SetupError):
        Register.mine({REGISTER_ENV: str(tmp_path / "slices")})


def test_the_runtime_folder_of_the_user_is_preferred(tmp_path: Path):
    assert Register.mine({"XDG_RUNTIME_DIR": str(tmp_path)}).root == tmp_path / "labspawner-slices"


def test_the_node_file_is_the_machines_and_made_once(tmp_path: Path, register: Register):
    first = node_file(register, tmp_path, environment={})
    first.write_text("kept")

    assert node_file(register, tmp_path, environment={}) == first == tmp_path / "labspawner-gpu-node"
    assert (first.read_text(), first.stat().st_mode & 0o777) == ("kept", 0o666)


def test_a_link_in_place_of_the_node_file_is_passed_over(tmp_path: Path, register: Register):
    (tmp_path / "target").touch()
    (tmp_path / "labspawner-gpu-node").symlink_to(tmp_path / "target")

    assert node_file(register, tmp_path, environment={}).parent == register.root


def test_a_register_that_was_put_elsewhere_has_a_node_file_of_its_own(tmp_path: Path, register: Register):
    found = node_file(register, tmp_path, environment={REGISTER_ENV: str(register.root)})

    assert found.parent == register.root
    assert not (tmp_path / "labspawner-gpu-node").exists()
