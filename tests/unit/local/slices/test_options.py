"""What an administrator writes about GPUs is right, or is told what to write."""

from __future__ import annotations

import pytest

from labspawner.errors import BadConfig
from labspawner.model import CardPolicy
from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.slices.options import PRETEND_GPU_ENV
from labspawner.providers.options import read_options


def read(**gpu: object) -> LocalSettings:
    return read_options(LocalSettings, {"gpu": gpu}, where="Provider local")  # type: ignore[dict-item]


def test_all_cards_are_shared_unless_something_else_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRETEND_GPU_ENV, raising=False)

    gpu = read_options(LocalSettings, {}, where="Provider local").gpu

    assert (gpu.cards, gpu.policy, gpu.splits, gpu.selftest, gpu.pretend) == (
        "auto",
        CardPolicy.BINPACK,
        10,
        "require",
        None,
    )


def test_every_key_is_read() -> None:
    gpu = read(
        cards=["GPU-12ab", "MIG-34cd"],
        policy="topology",
        splits=4,
        selftest="warn",
        cores_policy="force",
        oversubscribe=True,
        watchdog="report",
        pretend="2x24GiB",
    ).gpu

    assert (gpu.cards, gpu.policy, gpu.pretend) == (("GPU-12ab", "MIG-34cd"), CardPolicy.TOPOLOGY, "2x24576MiB")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cards": ["0"]}, "write its UUID"),
        ({"cards": "some"}, "gpu.cards"),
        ({"policy": "best"}, "gpu.policy"),
        ({"splits": 0}, "gpu.splits"),
        ({"selftest": "yes"}, "gpu.selftest"),
        ({"pretend": "24GB"}, "24GiB"),
        ({"pretend": "99x24GiB"}, "1 to 16"),
        ({"memory": "6GiB"}, "there is no setting"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(BadConfig) as refused:
        read(**wrong)

    assert words in refused.value.message


def test_labspawner_up_pretends_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRETEND_GPU_ENV, "2x8GiB")

    assert read_options(LocalSettings, {}, where="Provider local").gpu.pretend == "2x8192MiB"


def test_a_wrong_variable_is_refused_as_a_wrong_setting_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRETEND_GPU_ENV, "many")

    with pytest.raises(BadConfig):
        read_options(LocalSettings, {}, where="Provider local")


def test_a_profile_says_policy_and_selftest_only() -> None:
    variant = read_options(LocalVariant, {"gpu": {"policy": "force", "selftest": "warn"}}, where="Profile x")

    assert (variant.gpu.policy, variant.gpu.selftest) == ("force", "warn")
    with pytest.raises(BadConfig):
        read_options(LocalVariant, {"gpu": {"devices": ["/dev/nvidia0"]}}, where="Profile x")
