"""What a student reads when the slice is full, in both languages."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from labspawner.gpu.region import Refusal
from labspawner.gpu.words import hints, is_full
from labspawner.pages.i18n import CHINESE, translate

GIB, MIB = 2**30, 2**20


def a_refusal(**changes: object) -> Refusal:
    values: dict[str, object] = {
        "number": 1,
        "at": datetime(2026, 11, 2, tzinfo=timezone.utc),
        "asked_bytes": 512 * MIB,
        "used_bytes": 6 * GIB - 300 * MIB,
        "limit_bytes": 6 * GIB,
        "who": "PyTorch",
        "command": "python3",
    }
    return Refusal(**{**values, **changes})  # type: ignore[arg-type]


def test_the_sentence_says_who_asked_for_how_much_and_what_was_left():
    words = is_full(a_refusal())

    assert words == "Your slice (6 GiB) is full: PyTorch asked for 512 MiB, 300 MiB left."
    assert translate(words, CHINESE) == "您的 GPU 切片（6 GiB）已满：PyTorch 申请 512 MiB，仅剩 300 MiB。"


@pytest.mark.parametrize(
    ("changes", "name"), [({"who": ""}, "python3"), ({"who": "", "command": ""}, "a program"), ({}, "PyTorch")]
)
def test_who_asked_is_the_library_else_the_command_else_a_program(changes: dict[str, object], name: str):
    assert f": {name} asked" in is_full(a_refusal(**changes))


def test_a_slice_that_shrank_below_what_is_used_has_nothing_left():
    assert "0 B left" in is_full(a_refusal(used_bytes=7 * GIB))


def test_the_first_hint_is_the_librarys_own():
    assert "empty_cache" in hints(a_refusal())[0]
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" in hints(a_refusal(who="JAX"))[0]
    assert "Restart the kernels" in hints(a_refusal(who=""))[0]


def test_who_asks_for_more_than_the_whole_slice_is_not_told_to_restart_kernels():
    assert not any("Restart" in hint for hint in hints(a_refusal(asked_bytes=7 * GIB)))


@pytest.mark.parametrize("who", ["PyTorch", "JAX", "TensorFlow", "CuPy", ""])
def test_every_hint_is_translated(who: str):
    for hint in hints(a_refusal(who=who)):
        assert translate(hint, CHINESE) != str(hint)
