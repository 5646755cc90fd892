"""The node's annotation: what is written is read back, and what is not ours is refused with a reason."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from labspawner.gpu.agent.inventory import (
    BadInventory,
    CardState,
    ClassUse,
    NodeInventory,
    Share,
    SliceUse,
    parse,
    render,
    resource_of,
)

AT = datetime(2026, 11, 22, 8, 0, tzinfo=timezone.utc)
CARD = CardState(
    uuid="GPU-0",
    index=0,
    name="Double RTX",
    memory_mib=24564,
    classes={"small": ClassUse(memory_mib=6144, cores_pct=25, count=3, used=1)},
    distances={"GPU-1": 20},
)
SLICE = SliceUse(
    name="small-1",
    class_name="small",
    devices=("small-0-GPU-0",),
    cards={"GPU-0": Share(6144, 25)},
    namespace="jhub",
    pod="jupyter-ann",
    container="notebook",
    tested="passed",
)
WHOLE = NodeInventory(at=AT, pool="a5000", cards=(CARD,), slices=(SLICE,))


def test_what_is_written_is_read_back():
    assert parse(render(WHOLE)) == WHOLE


def test_a_hub_finds_the_slices_of_its_pod():
    assert WHOLE.of_pod("jhub", "jupyter-ann") == (SLICE,)
    assert WHOLE.of_pod("other", "jupyter-ann") == ()


def test_a_class_is_a_resource_of_our_domain():
    assert resource_of("small") == "labspawner.io/gpu-small"


def test_a_verdict_that_a_later_agent_knows_is_no_pass():
    text = render(WHOLE).replace('"tested":"passed"', '"tested":"splendid"')

    assert parse(text).slices[0].tested == "untested"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version"),
        ({"at": "2026-11-22T08:00:00"}, "time zone"),
        ({"cards": [{"uuid": "GPU-0"}]}, "cannot be read"),
        ({"cards": None}, "cannot be read"),
        ({"slices": ["small"]}, "cannot be read"),
    ],
)
def test_what_is_no_inventory_is_refused_with_a_reason(change, why):
    data = {**json.loads(render(WHOLE)), **change}

    with pytest.raises(BadInventory, match=why):
        parse(json.dumps(data))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"version": true}'])
def test_any_other_text_is_refused(text):
    with pytest.raises(BadInventory):
        parse(text)


def test_a_card_with_less_than_nothing_is_refused():
    with pytest.raises(BadInventory, match="whole number"):
        parse(render(WHOLE).replace("24564", "-24564"))
