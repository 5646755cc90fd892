"""The region's layout is the same in C and in Python, and limits mean the same to both."""

from __future__ import annotations

import ctypes
import json
import subprocess

import pytest

from labspawner.gpu import region

MIRRORS = {
    "slice_region_header": region.Header,
    "slice_refusal": region.RefusalEntry,
    "slice_slot": region.Slot,
    "slice_line": region.Line,
    "slice_region_device": region.DeviceEntry,
}


@pytest.fixture(scope="module")
def layout(native) -> dict[str, dict[str, object]]:
    done = subprocess.run([native.program("core_layout")], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MIRRORS)
def test_every_field_stands_at_the_same_place(layout, name):
    mirror = MIRRORS[name]
    theirs = {field: tuple(place) for field, place in layout[name].items() if field != "sizeof"}

    ours = {
        field: (getattr(mirror, field).offset, getattr(mirror, field).size)
        for field, *_ in mirror._fields_
        if not field.startswith("reserved")
    }

    assert ours == theirs
    assert ctypes.sizeof(mirror) == layout[name]["sizeof"]


def test_the_parts_of_the_file_and_its_constants_agree(layout):
    assert layout["constants"] == {
        "magic": region.MAGIC,
        "version": region.VERSION,
        "slots": region.SLOTS,
        "devices": 16,
        "refusals": region.REFUSALS,
        "used_bits": region.USED_MASK.bit_length(),
        "size": region.SIZE,
        "ring_at": region.RING_AT,
        "slots_at": region.SLOTS_AT,
        "devices_at": region.DEVICES_AT,
    }
