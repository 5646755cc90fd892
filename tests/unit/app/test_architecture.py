"""docs/architecture.md names tests as proofs; they are there, under these names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = {"U": ROOT / "tests" / "unit", "H": ROOT / "tests" / "hub", "W": ROOT / "tests" / "web",
         "K": ROOT / "labspawner" / "testing" / "conformance"}  # fmt: skip
NAMED = re.compile(r"`(?P<room>[UHWK]) (?P<file>[\w/]+\.py)::(?P<test>\w+)`")


def named() -> list[tuple[str, str, str]]:
    return sorted(set(NAMED.findall(PAGE.read_text(encoding="utf-8"))))


def test_the_page_names_its_proofs():
    assert len(named()) > 80


@pytest.mark.parametrize(("room", "file", "test"), named())
def test_a_test_that_the_page_names_is_there(room, file, test):
    text = (ROOMS[room] / file).read_text(encoding="utf-8")

    assert re.search(rf"def {test}\b", text), f"{file} has no {test}"
