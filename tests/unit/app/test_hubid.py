"""A hub's id belongs to its data folder, and one hub process of a machine has it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labspawner import hubid
from labspawner.hubid import FILE, SHAPE, Claim, kept_hub_id, machine_name

HOLD = """
import sys
from pathlib import Path
from labspawner.hubid import Claim
folder = Path(sys.argv[1])
claim = Claim.take(folder, make=lambda: folder.mkdir(exist_ok=True), wait_s=0)
print("mine" if claim else "another's", flush=True)
sys.stdin.read()
if sys.argv[2] == "release":
    claim.release()
"""


def test_two_data_folders_of_one_machine_are_two_hubs(tmp_path: Path):
    first, second = kept_hub_id(tmp_path / "a"), kept_hub_id(tmp_path / "b")

    assert first != second
    assert all(SHAPE.fullmatch(found) for found in (first, second))


def test_an_id_is_kept_for_the_life_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = kept_hub_id(tmp_path)
    (tmp_path / "labspawner.sqlite").touch()
    monkeypatch.setattr(hubid.socket, "gethostname", lambda: "renamed")

    assert kept_hub_id(tmp_path) == before


def test_a_folder_from_before_keeps_the_name_under_which_its_servers_run(tmp_path: Path):
    (tmp_path / "labspawner.sqlite").touch()

    assert kept_hub_id(tmp_path) == machine_name()


def test_processes_that_ask_at_once_get_one_id(tmp_path: Path):
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: kept_hub_id(tmp_path), range(64)))

    assert len(set(found)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("written", ["", "Not An Id\n", "x" * 40, "-", "\0"])
def test_a_file_that_names_nothing_is_written_anew(tmp_path: Path, written: str):
    (tmp_path / FILE).write_text(written)

    found = kept_hub_id(tmp_path)

    assert SHAPE.fullmatch(found)
    assert (tmp_path / FILE).read_text() == f"{found}\n"
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_folder_that_cannot_be_made_gives_the_machines_name(tmp_path: Path):
    (tmp_path / "file").touch()

    assert kept_hub_id(tmp_path / "file" / "data") == machine_name()


@pytest.mark.parametrize(
    ("machine", "name"), [("Lab-1.uni.example", "lab-1"), ("--", "hub"), ("ü" * 9, "hub"), ("a" * 60, "a" * 32)]
)
def test_any_machine_name_makes_a_valid_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, name: str):
    monkeypatch.setattr(hubid.socket, "gethostname", lambda: machine)

    assert machine_name() == name
    assert SHAPE.fullmatch(kept_hub_id(tmp_path))


def holder(folder: Path, how: str = "release") -> tuple[subprocess.Popen[str], str]:
    """Another process that claims, and what it said of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def take(folder: Path, wait_s: float = 0) -> Claim | None:
    return Claim.take(folder, make=lambda: folder.mkdir(exist_ok=True), wait_s=wait_s)


def test_a_second_process_does_not_get_what_a_first_one_has(tmp_path: Path):
    folder = tmp_path / "run"
    mine = take(folder)
    assert mine is not None
    try:
        other, said = holder(folder, "kill")
        other.communicate()
        assert said == "another's"
    finally:
        mine.release()

    assert not folder.exists()


@pytest.mark.parametrize("end", ["release", "kill"])
def test_a_claim_is_free_as_soon_as_its_process_ends_in_whatever_way(tmp_path: Path, end: str):
    folder = tmp_path / "run"
    other, said = holder(folder, end)
    assert said == "mine"
    assert take(folder) is None

    if end == "kill":
        other.kill()
    other.communicate()

    mine = take(folder)
    assert mine is not None
    mine.release()


def test_who_waits_gets_it_though_the_last_one_removes_the_folder(tmp_path: Path):
    folder = tmp_path / "run"
    other, _ = holder(folder)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(take, folder, 60)
        other.communicate()
        mine = waiting.result(60)

    assert mine is not None
    assert folder.is_dir()
    mine.release()


def test_hubs_of_one_process_are_one(tmp_path: Path):
    folder = tmp_path / "run"
    first = take(folder)
    assert first is not None

    assert take(folder) is first
    first.release()
    first.release()
