"""What Prometheus reads: real figures of cards and slices, with bounds where a student writes them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from gpudouble import MEMORY, a_card
from prometheus_client import generate_latest

from labspawner.gpu.agent.inventory import parse, render
from labspawner.gpu.agent.kubelet import Owner
from labspawner.gpu.agent.layout import lay_out
from labspawner.gpu.agent.metrics import AgentMetrics
from labspawner.gpu.agent.settings import parse_settings
from labspawner.gpu.agent.snapshot import SliceState, Snapshot, inventory_of
from labspawner.gpu.cards import Inventory
from labspawner.gpu.limits import MAX_MEMORY_BYTES, DeviceLimit, SliceLimits
from labspawner.gpu.region import DeviceUse, Reading
from labspawner.gpu.verdict import Verdict
from labspawner.model import SliceTest
from labspawner.sentences import plain

GIB = 2**30
UUID = a_card().uuid
POOL = parse_settings({"classes": {"small": {"memory": "6GiB", "cores": 25, "per_card": 3}}}).pool(None)[1]
SEEN = Inventory(cards=(a_card(0, memory_used_bytes=5 * GIB, utilisation_pct=40), a_card(1)))
LAYOUT = lay_out(SEEN, POOL)
OF_SLICE = {"namespace": "jhub", "pod": "jupyter-ann", "container": "notebook", "class": "small", "uuid": UUID}


def a_reading(**changes: Any) -> Reading:
    device = {"used_bytes": 2 * GIB, "physical_bytes": None, "gpu_time_s": 12.5, "last_launch": None, "refusals": 3}
    return Reading(
        slice_name="small-1",
        generation=0,
        devices=(DeviceUse(**{**device, **changes}),),
        processes=(),
        refusals=(),
        refusal_count=3,
        turned_away=0,
    )


def a_snapshot(**changes: Any) -> Snapshot:
    state = SliceState(
        class_name="small",
        ids=frozenset({f"small-0-{UUID}"}),
        owner=Owner("jhub", "jupyter-ann", "notebook"),
        limits=SliceLimits(name="small-1", region="/r", devices=(DeviceLimit(uuid=UUID, memory_bytes=6 * GIB),)),
        reading=changes.pop("reading", a_reading()),
        verdict=changes.pop("verdict", Verdict(SliceTest.PASSED)),
    )
    values = {"slices": (state,), "registered": {"small": True}, "lost": {a_card(1).uuid: "GPU is lost"}}
    at = datetime(2026, 11, 22, tzinfo=timezone.utc)
    return Snapshot(at=at, pool_name="default", pool=POOL, layout=LAYOUT, seen=SEEN, **{**values, **changes})


def read(snapshot: Snapshot | None) -> AgentMetrics:
    return AgentMetrics(lambda: snapshot)


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("labspawner_gpu_card_healthy", {"uuid": UUID, "card": "Double RTX"}, 1),
        ("labspawner_gpu_card_healthy", {"uuid": a_card(1).uuid, "card": "Double RTX"}, 0),
        ("labspawner_gpu_card_memory_bytes", {"uuid": UUID, "card": "Double RTX"}, MEMORY),
        ("labspawner_gpu_card_memory_used_bytes", {"uuid": UUID, "card": "Double RTX"}, 5 * GIB),
        ("labspawner_gpu_card_utilisation_ratio", {"uuid": UUID, "card": "Double RTX"}, 0.4),
        ("labspawner_gpu_slices", {"class": "small", "uuid": UUID}, 3),
        ("labspawner_gpu_slices_used", {"class": "small", "uuid": UUID}, 1),
        ("labspawner_gpu_agent_registered", {"resource": "labspawner.io/gpu-small"}, 1),
        ("labspawner_gpu_slice_memory_limit_bytes", OF_SLICE, 6 * GIB),
        ("labspawner_gpu_slice_memory_used_bytes", OF_SLICE, 2 * GIB),
        ("labspawner_gpu_slice_gpu_seconds_total", OF_SLICE, 12.5),
        ("labspawner_gpu_slice_refused_allocations_total", OF_SLICE, 3),
        ("labspawner_gpu_slice_tested", {"namespace": "jhub", "pod": "jupyter-ann", "verdict": "passed"}, 1),
        ("labspawner_gpu_watchdog_killed_total", {}, 0),
        ("labspawner_gpu_agent_publish_failures_total", {}, 0),
    ],
)
def test_each_figure_is_there_with_its_unit_in_its_name(name: str, labels: dict[str, str], value: float):
    assert read(a_snapshot()).registry.get_sample_value(name, labels) == value


def test_nothing_is_said_of_cards_before_they_were_looked_at():
    assert b"labspawner_gpu_card" not in generate_latest(read(None).registry)


def test_a_card_that_does_not_say_what_it_does_is_left_out_of_that_figure():
    found = read(a_snapshot()).registry

    labels = {"uuid": a_card(1).uuid, "card": "Double RTX"}
    assert found.get_sample_value("labspawner_gpu_card_utilisation_ratio", labels) is None
    assert found.get_sample_value("labspawner_gpu_card_memory_bytes", labels) == MEMORY


def test_figures_that_a_student_wrote_are_not_believed_beyond_sense():
    found = read(a_snapshot(reading=a_reading(used_bytes=2**63, gpu_time_s=1e300))).registry

    assert found.get_sample_value("labspawner_gpu_slice_memory_used_bytes", OF_SLICE) == MAX_MEMORY_BYTES
    assert found.get_sample_value("labspawner_gpu_slice_gpu_seconds_total", OF_SLICE) < 1e9


def test_a_slice_whose_files_say_nothing_has_its_limit_alone():
    found = read(a_snapshot(reading=None, verdict=None)).registry

    assert found.get_sample_value("labspawner_gpu_slice_memory_used_bytes", OF_SLICE) is None
    assert found.get_sample_value("labspawner_gpu_slice_memory_limit_bytes", OF_SLICE) == 6 * GIB


def test_hubs_are_told_the_same_moment():
    snapshot = a_snapshot(verdict=Verdict(SliceTest.FAILED, plain("the library is not loaded")))

    found = parse(render(inventory_of(snapshot)))

    assert [(card.healthy, card.why, card.classes["small"].used) for card in found.cards] == [
        (True, "", 1),
        (False, "GPU is lost", 0),
    ]
    (mine,) = found.of_pod("jhub", "jupyter-ann")
    assert (mine.tested, mine.why, mine.cards[UUID].memory_mib) == ("failed", "the library is not loaded", 6144)
    assert inventory_of(a_snapshot(verdict=None)).slices[0].tested == "pending"


def test_there_is_no_news_in_another_instant():
    first = inventory_of(a_snapshot())

    assert first.same_but_for_time(parse(render(first)))
    assert not first.same_but_for_time(inventory_of(a_snapshot(slices=())))
    assert not first.same_but_for_time(None)
