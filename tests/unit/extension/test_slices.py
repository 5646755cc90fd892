"""Where no agent of ours is on the node, the extension tests the slice, and its server's log says what came of it."""

from __future__ import annotations

import json

import pytest

from labspawner.extension import slices
from labspawner.providers.kubernetes.trying import verdict_in


def test_the_verdict_of_a_slice_that_is_none_stands_in_the_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("NVIDIA_VISIBLE_DEVICES", "LABSPAWNER_GPU_LIMITS"):
        monkeypatch.delenv(name, raising=False)
    thread = slices.begin_test({slices.SELFTEST: slices.OWN, slices.VERDICT: slices.LOG})
    assert thread is not None
    thread.join()

    text = capfd.readouterr().err
    begun, verdict = (line.removeprefix(slices.LOG_MARK) for line in text.splitlines())
    assert json.loads(begun) == {"begun": True}
    assert json.loads(verdict)["server"]["verdict"] == json.loads(verdict)["kernel"]["verdict"] == "failed"
    found = verdict_in(f"[I 12:00] something else\n{text}")
    assert found is not None
    assert found.tested.value == "failed"


def test_without_a_wish_nothing_is_tested():
    assert slices.begin_test({}) is None
