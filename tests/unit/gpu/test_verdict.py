"""What a server writes about its slice is read as a stranger's words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from labspawner.gpu import verdict
from labspawner.model import SliceTest


def said(server: object = None, kernel: object = None) -> bytes:
    good = {"verdict": "passed", "reason": "the slice holds"}
    return json.dumps({"server": server or good, "kernel": kernel or good}).encode()


def bad(word: str, reason: str = "the driver shows 24 GiB") -> dict[str, str]:
    return {"verdict": word, "reason": reason}


def test_a_slice_that_holds_in_the_server_and_in_a_kernel_has_passed() -> None:
    assert verdict.judge(said()) == verdict.Verdict(SliceTest.PASSED)


@pytest.mark.parametrize("word", ["failed", "no-driver"])
@pytest.mark.parametrize("part", ["server", "kernel"])
def test_one_part_that_fails_is_enough(word: str, part: str) -> None:
    found = verdict.judge(said(**{part: bad(word)}))

    assert found == verdict.Verdict(SliceTest.FAILED, found.why if found else None)
    assert found is not None
    assert found.why == "the driver shows 24 GiB"


def test_a_part_that_cannot_tell_is_no_pass() -> None:
    found = verdict.judge(said(kernel=bad("unknown", "TimeoutExpired")))

    assert found is not None
    assert (found.tested, str(found.why)) == (SliceTest.UNTESTED, "TimeoutExpired")


def test_an_empty_file_means_that_nobody_tests() -> None:
    assert verdict.judge(b"") is verdict.NOBODY_TESTS


@pytest.mark.parametrize(
    "text", [b'{"begun": true}', b'{"server": {"verd', b"[]", b"7", b'{"server": {}}', b"\xff\xfe"]
)
def test_what_is_not_whole_is_waited_for(text: bytes) -> None:
    assert verdict.judge(text) is None


@pytest.mark.parametrize("part", [None, 7, "passed", [], {}, {"verdict": 1, "reason": 2}, {"verdict": "passed "}])
def test_nonsense_passes_nothing(part: object) -> None:
    found = verdict.judge(json.dumps({"server": part, "kernel": part}).encode())

    assert found is not None
    assert found.tested is SliceTest.UNTESTED


def test_a_reason_is_cut_to_what_people_read() -> None:
    found = verdict.judge(said(server=bad("failed", "x" * 5000)))

    assert found is not None
    assert found.why is not None
    assert len(found.why) == 300


def test_a_file_is_made_for_any_uid_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "verdict"
    verdict.make(path)
    before = verdict.read(path)
    path.write_bytes(said())

    assert path.stat().st_mode & 0o777 == 0o666
    assert before is verdict.NOBODY_TESTS
    assert verdict.read(path) == verdict.Verdict(SliceTest.PASSED)


def test_a_missing_file_a_link_and_a_pipe_are_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(said())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")

    assert {verdict.read(tmp_path / name) for name in ("missing", "link", "pipe")} == {verdict.NOBODY_TESTS}


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "verdict"
    path.write_bytes(said())
    os.truncate(path, 2**40)

    assert verdict.read(path) is None


@pytest.mark.parametrize("tested", [SliceTest.FAILED, SliceTest.UNTESTED])
def test_a_refusal_says_why_and_whom_to_tell(tested: SliceTest) -> None:
    error = verdict.refused(verdict.Verdict(tested, verdict.TOO_SLOW.why))

    assert "the test did not end in time" in error.message
    assert "Tell your administrator" in error.message
