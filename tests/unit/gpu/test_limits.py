"""The limits file: one form, whole or refused, replaced in one step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labspawner.gpu.limits import (
    MAX_MEMORY_BYTES,
    BadLimits,
    CorePolicy,
    DeviceLimit,
    SliceLimits,
    parse,
    read,
    render,
    write,
)

GIB = 2**30

TEXT = """\
labspawner-limits 1
slice lab-1
region /etc/labspawner/region
node /etc/labspawner/node
policy cap
priority 0
oversubscribe 0
oom-killer 1
device GPU-0a memory=6442450944 soft=6442450944 cores=25 weight=25
end
"""


def limits_of(**changes: object) -> SliceLimits:
    values: dict[str, object] = {
        "name": "lab-1",
        "region": "/etc/labspawner/region",
        "node": "/etc/labspawner/node",
        "policy": CorePolicy.CAP,
        "priority": 0,
        "oom_killer": True,
        "devices": (DeviceLimit(uuid="GPU-0a", memory_bytes=6 * GIB, cores_pct=25),),
    }
    return SliceLimits(**{**values, **changes})  # type: ignore[arg-type]


names = st.from_regex(r"[A-Za-z0-9._-]{1,63}", fullmatch=True)
paths = st.from_regex(r"/[A-Za-z0-9._/-]{0,200}", fullmatch=True)
devices = st.integers(1, MAX_MEMORY_BYTES).flatmap(
    lambda memory: st.builds(
        DeviceLimit,
        uuid=st.from_regex(r"(GPU|MIG)-[0-9a-f-]{1,50}", fullmatch=True),
        memory_bytes=st.just(memory),
        soft_bytes=st.integers(1, memory),
        cores_pct=st.integers(1, 100),
        weight=st.integers(1, 10_000),
    )
)
any_limits = st.builds(
    SliceLimits,
    name=names,
    region=paths,
    node=st.none() | paths,
    policy=st.sampled_from(CorePolicy),
    priority=st.sampled_from([0, 1]),
    oversubscribe=st.booleans(),
    oom_killer=st.booleans(),
    devices=st.lists(devices, min_size=1, max_size=16, unique_by=lambda device: device.uuid).map(tuple),
)


def test_the_file_has_its_one_form():
    assert render(limits_of()) == TEXT
    assert parse(TEXT) == limits_of()


@given(any_limits)
def test_what_is_rendered_is_read_back(limits):
    assert parse(render(limits)) == limits
    assert len(render(limits)) < 16 * 1024


@given(st.integers(0, len(TEXT) - 1))
def test_a_half_written_file_is_refused(length):
    with pytest.raises(BadLimits):
        parse(TEXT[:length])


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("limits 1", "limits 2", "first line"),
        ("slice lab-1", "slice lab 1", "slice"),
        ("slice lab-1", "slice ", "slice"),
        ("region /etc", "region etc", "region"),
        ("policy cap", "policy force", "policy"),
        ("priority 0", "priority 2", "priority"),
        ("priority 0\n", "", "priority"),
        ("memory=6442450944", "memory=6GiB", "memory"),
        ("memory=6442450944", "memory=-1", "memory"),
        ("memory=6442450944", "memory=0", "memory"),
        ("memory=6442450944", "memory=06442450944", "memory"),
        ("memory=6442450944", "memory=99999999999999999999", "memory"),
        ("soft=6442450944", "soft=6442450945", "soft"),
        ("cores=25", "cores=101", "cores"),
        ("cores=25", "cores=four", "cores"),
        ("weight=25", "weight=10001", "weight"),
        (" weight=25", "", "device line"),
        ("cores=25 weight=25", "weight=25 cores=25", "device line"),
        ("\nend\n", "\n\nend\n", "device"),
        ("\nend\n", "\nend\nend\n", "device"),
        ("device GPU-0a", "device GPU-0a ", "device line"),
        ("\n", "\r\n", "half written"),
        ("GPU-0a", "GPU-\u00e9", "device"),
    ],
)
def test_anything_else_is_refused_and_the_text_names_it(old: str, new: str, word: str):
    assert old in TEXT

    with pytest.raises(BadLimits, match=word):
        parse(TEXT.replace(old, new))


def test_a_card_that_is_named_twice_is_refused():
    line = next(line for line in TEXT.splitlines() if line.startswith("device"))

    with pytest.raises(BadLimits, match="each card once"):
        parse(TEXT.replace(line, f"{line}\n{line}"))


@pytest.mark.parametrize(
    "changes",
    [{"memory_bytes": 0}, {"memory_bytes": -1}, {"cores_pct": 0}, {"cores_pct": 101}, {"soft_bytes": 2}, {"uuid": ""}],
    ids=str,
)
def test_a_limit_out_of_range_cannot_be_made(changes: dict[str, object]):
    with pytest.raises(BadLimits):
        DeviceLimit(**{"uuid": "GPU-0", "memory_bytes": 1, **changes})  # type: ignore[arg-type]


def test_a_new_file_takes_the_place_of_the_old_one_in_one_step_and_all_may_read_it(tmp_path: Path):
    path = tmp_path / "limits"
    write(limits_of(), path)
    with path.open() as opened_before:
        write(limits_of(name="lab-2"), path)

        assert opened_before.read() == TEXT
    assert read(path).name == "lab-2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["limits"]


def test_a_folder_that_is_gone_leaves_nothing(tmp_path: Path):
    with pytest.raises(OSError, match="gone"):
        write(limits_of(), tmp_path / "gone" / "limits")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "limits").write_bytes(b"\xff\xfe")

    with pytest.raises(BadLimits, match="ASCII"):
        read(tmp_path / "limits")
