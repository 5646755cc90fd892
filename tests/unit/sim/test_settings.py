from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from labspawner.errors import BadConfig
from labspawner.providers.sim import SimSettings, write_faults
from labspawner.providers.sim.faults import Faults
from labspawner.providers.sim.settings import read

GIB = 2**30


def settings(**changes: object) -> SimSettings:
    return read(SimSettings, changes, "provider sim")  # type: ignore[arg-type]


def test_sizes_carry_units():
    hosts = [{"name": "a", "memory": "64GiB", "cards": [{"uuid": "GPU-0", "memory": "24GiB"}]}]

    host = settings(hosts=hosts).hosts[0]

    assert (host.memory, host.cards[0].memory) == (64 * GIB, 24 * GIB)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strat_s": 1}, r"no setting 'strat_s' .*start_s"),
        ({"start_s": -1}, "start_s"),
        ({"start_s": float("inf")}, "start_s"),
        ({"jitter": 2}, "jitter"),
        ({"fail_kind": "sometimes"}, "fail_kind"),
        ({"fail_at": "nowhere"}, "no stage 'nowhere'.*reserve, create, boot"),
        ({"stall_at": "nowhere"}, "no stage 'nowhere'"),
        ({"stages": []}, "at least one stage"),
        ({"stages": ["a", "a"]}, "a name of its own"),
        ({"stages": ["a", ""]}, "a name of its own"),
        ({"hosts": []}, "hosts"),
        ({"hosts": [{"name": "a"}, {"name": "a"}]}, "of its own"),
        ({"hosts": [{"name": "a", "cards": [{"uuid": "G", "memory": "1GiB"}] * 2}]}, "of its own"),
        ({"hosts": [{"name": "a", "memory": 64}]}, "write 64GiB"),
        ({"hosts": [{"name": "a", "gpus": 1}]}, "gpus"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence_that_names_it(wrong, words):
    with pytest.raises(BadConfig, match=words) as failure:
        settings(**wrong)

    assert str(failure.value.message).startswith("provider sim: ")
    assert str(failure.value.message).endswith(".")


def test_the_faults_file_overrides_the_profile_which_overrides_the_provider(tmp_path: Path):
    faults = Faults(tmp_path, settings(start_s=1, stop_s=1))

    assert faults.knobs().start_s == 1
    assert faults.knobs({"start_s": 2}).start_s == 2
    write_faults(tmp_path, start_s=3)
    assert faults.knobs({"start_s": 2}).start_s == 3
    assert faults.knobs().stop_s == 1
    write_faults(tmp_path)
    assert faults.knobs({"start_s": 2}).start_s == 2


def test_without_the_file_all_is_back_to_normal(tmp_path: Path):
    faults = Faults(tmp_path, settings())
    write_faults(tmp_path, unavailable=True)
    assert faults.knobs().unavailable

    (tmp_path / "faults.json").unlink()

    assert not faults.knobs().unavailable


@pytest.mark.parametrize("wrong", [{"no_such_knob": 1}, {"hosts": []}, {"start_s": "soon"}])
def test_a_wrong_fault_is_refused_and_not_written(tmp_path: Path, wrong):
    with pytest.raises(BadConfig, match=next(iter(wrong))):
        write_faults(tmp_path, **wrong)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', '{"no_such_knob": 1}', '{"stall_at": "nowhere"}'])
def test_a_broken_faults_file_leaves_the_knobs_as_they_were_and_is_said_once(tmp_path: Path, caplog, text):
    faults = Faults(tmp_path, settings())
    write_faults(tmp_path, start_s=3)
    assert faults.knobs().start_s == 3

    (tmp_path / "draft").write_text(text)
    os.replace(tmp_path / "draft", tmp_path / "faults.json")

    assert [faults.knobs().start_s for _ in range(3)] == [3, 3, 3]
    assert len([record for record in caplog.records if "not readable" in record.message]) == 1


def test_a_profile_cannot_turn_the_knobs_of_the_host(tmp_path: Path):
    faults = Faults(tmp_path, settings())

    with pytest.raises(BadConfig, match="this profile: there is no setting 'unavailable'"):
        faults.knobs({"unavailable": True})


def test_what_a_profile_says_to_other_providers_is_passed_over(tmp_path: Path):
    faults = Faults(tmp_path, settings())

    assert faults.knobs({"gpu": {"policy": "fair"}, "image": "lab/pytorch", "template": "ubuntu"}) == faults.knobs()


def test_a_stage_of_the_provider_can_be_failed_by_file(tmp_path: Path):
    faults = Faults(tmp_path, settings(stages=["one", "two"]))

    (tmp_path / "faults.json").write_text(json.dumps({"fail_at": "two"}))

    assert faults.knobs().fail_at == "two"
