"""What the self-test inside a server came to. The server writes it, so it is read as a stranger's words."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from labspawner.errors import StartFailed
from labspawner.gpu.selftest import FAILED, NO_DRIVER, PASSED
from labspawner.model import SliceTest
from labspawner.sentences import Sentence, plain

MAX_BYTES = 64 * 1024
_LONGEST_REASON = 300
_PARTS = ("server", "kernel")  # in the server's own process, and in one as a kernel is


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the test, and why where it did not pass."""

    tested: SliceTest
    why: Sentence | None = None


NOBODY_TESTS = Verdict(SliceTest.UNTESTED, Sentence("nothing in this server tests it"))
TOO_SLOW = Verdict(SliceTest.UNTESTED, Sentence("the test did not end in time"))


def make(path: Path) -> None:
    """An empty file that the server may write its verdict into. Raises OSError."""
    path.write_bytes(b"")
    path.chmod(0o666)


def read(path: Path) -> Verdict | None:
    """The verdict; None while the test runs; `NOBODY_TESTS` while it has not begun."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return NOBODY_TESTS
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return NOBODY_TESTS
        return judge(file.read(MAX_BYTES))


def judge(text: bytes) -> Verdict | None:
    """The same of a file's content. Pure."""
    if not text.strip():
        return NOBODY_TESTS
    try:
        said = json.loads(text)
    except ValueError:  # half written
        return None
    if not isinstance(said, dict) or not all(part in said for part in _PARTS):
        return None
    for part in _PARTS:
        result = said[part] if isinstance(said[part], dict) else {}
        reason = str(result.get("reason") or "it does not say why")[:_LONGEST_REASON]
        if result.get("verdict") in {FAILED, NO_DRIVER}:
            return Verdict(SliceTest.FAILED, plain(reason))
        if result.get("verdict") != PASSED:
            return Verdict(SliceTest.UNTESTED, plain(reason))
    return Verdict(SliceTest.PASSED)


def refused(verdict: Verdict) -> StartFailed:
    """A slice that has to hold does not, or nobody knows."""
    return StartFailed(
        Sentence(
            "The GPU slice of your server was tried out and does not hold ({why}), so the server was not started. "
            "Tell your administrator."
            if verdict.tested is SliceTest.FAILED
            else "The GPU slice of your server could not be tried out ({why}), so the server was not started. "
            "Tell your administrator.",
            why=verdict.why or plain("?"),
        ),
        detail=f"self-test of the slice: {verdict.tested.value}: {verdict.why}",
    )
