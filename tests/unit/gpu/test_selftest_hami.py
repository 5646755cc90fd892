"""In a container of HAMi's the limits stand in the environment, and the self-test reads them there."""

from __future__ import annotations

import pytest

from labspawner.gpu import selftest

MIB = 2**20


def limits(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, int]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return {limit.uuid: limit.memory_bytes for limit in selftest._limits_of_hami()}


def test_each_card_has_the_limit_of_its_number(monkeypatch: pytest.MonkeyPatch):
    found = limits(
        monkeypatch,
        NVIDIA_VISIBLE_DEVICES="GPU-a,GPU-b",
        CUDA_DEVICE_MEMORY_LIMIT_0="6144m",
        CUDA_DEVICE_MEMORY_LIMIT_1="1024m",
    )

    assert found == {"GPU-a": 6144 * MIB, "GPU-b": 1024 * MIB}


def test_a_limit_without_a_number_is_every_cards(monkeypatch: pytest.MonkeyPatch):
    assert limits(monkeypatch, NVIDIA_VISIBLE_DEVICES="GPU-a", CUDA_DEVICE_MEMORY_LIMIT="512m") == {"GPU-a": 512 * MIB}


@pytest.mark.parametrize("text", ["", "6144", "6g", "-1m"])
def test_what_cannot_be_read_is_no_limit_so_the_test_fails_and_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, text: str
):
    assert limits(monkeypatch, NVIDIA_VISIBLE_DEVICES="GPU-a", CUDA_DEVICE_MEMORY_LIMIT_0=text) == {}
    assert selftest.examine(quick=True).verdict == selftest.FAILED


@pytest.mark.parametrize("cards", ["", "none", "all", "void"])
def test_without_a_card_there_is_no_slice(monkeypatch: pytest.MonkeyPatch, cards: str):
    assert limits(monkeypatch, NVIDIA_VISIBLE_DEVICES=cards, CUDA_DEVICE_MEMORY_LIMIT="512m") == {}
