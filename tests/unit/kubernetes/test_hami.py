"""HAMi: exactly what its documentation asks of a pod, and what its annotations mean for each card."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from unit.kubernetes.objects import GIB, GPU_1, GPU_2, MIB, a_node, a_pod, an_event, unschedulable

from labspawner.courses.models import Profile
from labspawner.courses.resolve import resolve_profile
from labspawner.errors import BadConfig
from labspawner.model import Capacity, CardPolicy, HeldSlice, Resources, Slice
from labspawner.placement import Fits, Full, TooLarge, place, places
from labspawner.providers.kubernetes.strategies import hami_notes
from labspawner.providers.kubernetes.strategies.choosing import seen, strategy
from labspawner.providers.kubernetes.strategies.contract import Kind
from labspawner.providers.kubernetes.strategies.hami import Hami
from labspawner.providers.kubernetes.strategies.hami_config import with_device_config
from labspawner.providers.kubernetes.strategies.options import HamiSettings, SlicingSettings
from labspawner.providers.kubernetes.wishes import GpuWish

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
NO_WISH = GpuWish()

TEXT = (
    f"{GPU_1},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true:{GPU_2},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true:"
)
TEXT_OF_24564 = f"{GPU_1},10,24564,100,NVIDIA-NVIDIA GeForce RTX 4090,0,true,0,hami-core:"
JSON_OF_24564 = json.dumps(
    [
        {
            **{"id": GPU_1, "count": 10, "devmem": 24564, "devcore": 100, "type": "NVIDIA GeForce RTX 4090"},
            **{"mode": "hami-core", "health": True},
        },
        {"id": GPU_2, "index": 1, "count": 10, "devmem": 24564, "devcore": 100, "type": "NVIDIA GeForce RTX 4090"},
    ]
)
OVERSUBSCRIBED = json.dumps(
    [{"id": GPU_1, "count": 20, "devmem": 49128, "devcore": 200, "type": "NVIDIA RTX A5000", "health": True}]
)
MIG = json.dumps(
    [
        {
            "id": GPU_1,
            "count": 7,
            "devmem": 40960,
            "devcore": 100,
            "type": "NVIDIA A100-SXM4-40GB",
            "mode": "mig",
            "health": True,
        }
    ]
)
DEVICE_CONFIG = """
nvidia:
  resourceCountName: nvidia.com/vgpu
  resourceMemoryName: nvidia.com/vgpumem
  resourceMemoryPercentageName: nvidia.com/vgpumem-percentage
  resourceCoreName: nvidia.com/vgpucores
  resourcePriorityName: nvidia.com/vgpupriority
  overwriteEnv: false
  defaultMemory: 0
  knownMigGeometries:
  - models: [ "A30" ]
    allowedGeometries:
      - group: one
        geometries:
        - {name: 1g.6gb, memory: 6144, count: 4}
  - models: [ "A100-SXM4-40GB", "A100-PCIE-40GB" ]
    allowedGeometries:
      -
        - {name: 1g.5gb, memory: 5120, count: 7}
      -
        - {name: 2g.10gb, memory: 10240, count: 3}
        - {name: 1g.5gb, memory: 5120, count: 1}
      -
        - {name: 7g.40gb, memory: 40960, count: 1}
cambricon:
  resourceCountName: cambricon.com/vmlu
"""


def a_slice(mib: int, cores: int = 25) -> Slice:
    return Slice(memory_bytes=mib * MIB, compute_pct=cores)


def having(node, *pods, settings: HamiSettings | None = None) -> Capacity:
    hosts = Hami(settings or HamiSettings()).capacity([node], list(pods))
    return Capacity(hosts=hosts, taken_at=NOW)


def registered(text: str, **more):
    return a_node(annotations={hami_notes.REGISTER: text}, **more)


def a_holder(name: str, *uses: str, node: str = "node-1", **changes):
    given_to = "".join(f"{use}:" for use in uses) + ";"
    return a_pod(name, node=node, annotations={hami_notes.VGPU_NODE: node, hami_notes.ALLOCATED: given_to}, **changes)


# What a pod must carry, by HAMi's documentation: resources in `limits`, annotations, environment.
PROFILES = {
    "memory and cores are always both written": (
        {"memory": "6GiB", "cores": "25%"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {},
        {},
    ),
    "cores left out are the whole card's, said aloud": (
        {"memory": "512MiB"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 512, "nvidia.com/gpucores": 100},
        {},
        {},
    ),
    "the count is of cards, not of slices": (
        {"memory": "20GiB", "cores": 50, "cards": 2},
        {"nvidia.com/gpu": 2, "nvidia.com/gpumem": 20480, "nvidia.com/gpucores": 50},
        {},
        {},
    ),
    "card types to use and to leave": (
        {"memory": "6GiB", "cores": 25, "type": ["A100", "V100"], "not_type": ["1080"]},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {"nvidia.com/use-gputype": "A100,V100", "nvidia.com/nouse-gputype": "1080"},
        {},
    ),
    "binpack": (
        {"memory": "6GiB", "cores": 25, "place": "binpack"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {"hami.io/gpu-scheduler-policy": "binpack"},
        {},
    ),
    "spread": (
        {"memory": "6GiB", "cores": 25, "place": "spread"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {"hami.io/gpu-scheduler-policy": "spread"},
        {},
    ),
    "topology": (
        {"memory": "6GiB", "cores": 25, "cards": 2, "place": "topology"},
        {"nvidia.com/gpu": 2, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {"hami.io/gpu-scheduler-policy": "topology-aware"},
        {},
    ),
    "core policy fair": (
        {"memory": "6GiB", "cores": 25, "policy": "fair"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {},
        {"GPU_CORE_UTILIZATION_POLICY": "default"},
    ),
    "core policy force": (
        {"memory": "6GiB", "cores": 25, "policy": "force"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {},
        {"GPU_CORE_UTILIZATION_POLICY": "force"},
    ),
    "core policy off": (
        {"memory": "6GiB", "cores": 25, "policy": "off"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25},
        {},
        {"GPU_CORE_UTILIZATION_POLICY": "disable"},
    ),
    "high priority is 0": (
        {"memory": "6GiB", "cores": 25, "priority": "high"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25, "nvidia.com/priority": 0},
        {},
        {},
    ),
    "low priority is 1": (
        {"memory": "6GiB", "cores": 25, "priority": "low", "selftest": "require"},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25, "nvidia.com/priority": 1},
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_pod_of_a_profile_carries_exactly_what_hamis_documentation_asks_for(name):
    gpu, limits, annotations, environment = PROFILES[name]
    profile = Profile.model_validate(
        {"slug": "gpu", "title": "GPU", "variants": [{"provider": "kubernetes", "gpu": gpu}]}
    )

    variant = resolve_profile(profile, {}, 0)
    patch = Hami().patch(variant.resources.gpu, GpuWish.read(variant.settings, where="the profile"))

    assert dict(patch.limits) == limits
    assert all(type(amount) is int for amount in patch.limits.values()), "a quantity such as 6Gi empties the request"
    assert dict(patch.annotations) == annotations
    assert dict(patch.environment) == environment
    assert (patch.scheduler_name, patch.labels, patch.volumes) == (None, {}, ())


@pytest.mark.parametrize("name", ["A100,V100", "", "-A100", "A1\n00", "A" * 61])
def test_a_card_name_that_hami_would_read_as_something_else_is_refused(name):
    gpu = {"memory": "6GiB", "type": [name]}

    with pytest.raises(ValidationError):
        Profile.model_validate({"slug": "gpu", "title": "GPU", "variants": [{"provider": "kubernetes", "gpu": gpu}]})


def test_a_profile_without_a_gpu_sees_no_card_and_asks_for_none():
    patch = Hami().patch(None, NO_WISH)

    assert dict(patch.environment) == {"NVIDIA_VISIBLE_DEVICES": "none"}
    assert not patch.limits
    assert not patch.annotations


def test_names_node_policy_and_mode_are_the_administrators():
    settings = HamiSettings(
        memory="x.io/mem", node_policy="spread", mode="mig", set_scheduler=True, scheduler="gpu-sched"
    )

    patch = Hami(settings, CardPolicy.BINPACK).patch(a_slice(6144), NO_WISH)

    assert patch.limits["x.io/mem"] == 6144
    assert dict(patch.annotations) == {
        "nvidia.com/vgpu-mode": "mig",
        "hami.io/node-scheduler-policy": "spread",
        "hami.io/gpu-scheduler-policy": "binpack",
    }
    assert patch.scheduler_name == "gpu-sched"


def test_a_slice_is_never_smaller_than_what_was_asked_for():
    odd = Slice(memory_bytes=6 * GIB + 1, compute_pct=25)

    assert Hami().patch(odd, NO_WISH).limits["nvidia.com/gpumem"] == 6145
    assert Hami(HamiSettings(memory_factor=256)).patch(odd, NO_WISH).limits["nvidia.com/gpumem"] == 25


def test_resource_names_and_mig_geometries_are_read_from_hamis_device_config():
    settings = with_device_config(HamiSettings(), DEVICE_CONFIG)

    assert (settings.count, settings.memory, settings.cores, settings.priority) == (
        *("nvidia.com/vgpu", "nvidia.com/vgpumem", "nvidia.com/vgpucores", "nvidia.com/vgpupriority"),
    )
    assert [(model.models[0], len(model.geometries)) for model in settings.mig] == [("A30", 1), ("A100-SXM4-40GB", 3)]
    assert settings.mig[1].geometries[1][0].memory == 10240


@pytest.mark.parametrize("text", ["", "nvidia: 3", "[", "cambricon: {}", "nvidia: {resourceCountName: 'no slash'}"])
def test_a_device_config_that_cannot_be_read_is_said_and_not_guessed(text):
    with pytest.raises(BadConfig, match="device-config"):
        with_device_config(HamiSettings(), text)


def test_the_settings_choose_the_strategy():
    chosen = strategy(SlicingSettings.model_validate({"strategy": "hami"}), device_config=DEVICE_CONFIG)

    assert chosen.name == "hami"
    assert "nvidia.com/vgpu" in chosen.patch(a_slice(1), NO_WISH).limits
    assert seen([registered(TEXT), a_node("b", allocatable={"nvidia.com/gpu": 4})]) == {
        "hami": ("node-1",),
        "whole": ("b",),
    }


def test_an_inventory_as_text_is_read_card_by_card():
    capacity = having(registered(TEXT))

    assert [(card.uuid, card.memory_total_bytes, card.slots_free) for card in capacity.hosts[0].cards] == [
        (GPU_1, 32 * GIB, 10),
        (GPU_2, 32 * GIB, 10),
    ]


@pytest.mark.parametrize("text", [TEXT_OF_24564, JSON_OF_24564], ids=["text", "json"])
def test_four_slices_of_6_gib_do_not_fit_a_card_that_reports_24564_mib(text):
    need = Resources(gpu=a_slice(6144))

    assert places(need, having(registered(text)), {}, most=9) == 3


def test_a_card_that_is_not_said_to_be_healthy_gives_nothing_and_still_counts_as_one_that_could():
    cards = having(registered(JSON_OF_24564)).hosts[0].cards

    assert (cards[1].uuid, cards[1].memory_free_bytes, cards[1].memory_total_bytes) == (GPU_2, 0, 24564 * MIB)


def test_an_oversubscribed_card_holds_what_hami_says_it_holds():
    capacity = having(registered(OVERSUBSCRIBED))

    assert places(Resources(gpu=a_slice(6144)), capacity, {}, most=20) == 7, "by memory: 49,128 MiB"
    assert places(Resources(gpu=a_slice(1024, 25)), capacity, {}, most=20) == 8, "by cores: 200 %"
    assert places(Resources(gpu=a_slice(64, 1)), capacity, {}, most=30) == 20, "by its split count"


def test_what_pods_hold_is_taken_from_their_card_and_from_no_other():
    node = registered(TEXT)
    holders = [
        a_holder("a", f"{GPU_1},NVIDIA,20000,50"),
        a_holder("b", f"{GPU_2},NVIDIA,30000,10", f"{GPU_1},NVIDIA,1000,10"),
    ]

    cards = having(node, *holders).hosts[0].cards

    assert [(card.memory_free_bytes // MIB, card.compute_free_pct, card.slots_free) for card in cards] == [
        (32768 - 21000, 40, 8),
        (2768, 90, 9),
    ]
    assert place(Resources(gpu=a_slice(13000)), having(node, *holders), {}) == Full((32768 - 21000) * MIB), (
        "never a sum"
    )
    assert place(Resources(gpu=a_slice(40000)), having(node, *holders), {}) == TooLarge(40000 * MIB, 32 * GIB)


def test_a_pod_counts_from_hamis_choice_on_and_no_longer_when_it_ended():
    chosen = a_holder("a", f"{GPU_1},NVIDIA,8192,25")
    unbound = replace(chosen, node="")
    over = replace(chosen, phase="Failed")

    assert having(registered(TEXT), unbound).hosts[0].cards[0].slots_free == 9
    assert having(registered(TEXT), over).hosts[0].cards[0].slots_free == 10


def test_all_cores_of_a_card_are_given_only_to_somebody_who_has_it_alone():
    """HAMi refuses cores=100 on a card that anybody uses, even one who asked for no cores."""
    one = a_holder("a", f"{GPU_1},NVIDIA,1024,0")
    need = Resources(gpu=a_slice(1024, 100))

    assert isinstance(place(need, having(registered(TEXT_OF_24564), one), {}), Full)
    assert place(need, having(registered(TEXT_OF_24564)), {}) == Fits("node-1", GPU_1)


def test_an_empty_mig_card_is_one_place_until_it_is_cut():
    settings = with_device_config(HamiSettings(), DEVICE_CONFIG)

    cards = having(registered(MIG), settings=settings).hosts[0].cards

    assert [(card.uuid, card.memory_total_bytes, card.slots_free) for card in cards] == [(GPU_1, 40 * GIB, 1)]


def test_a_cut_mig_card_gives_the_instances_of_its_geometry_that_nobody_has():
    settings = with_device_config(HamiSettings(), DEVICE_CONFIG)
    holder = a_holder("a", f"{GPU_1}[1-0],NVIDIA,10240,28")

    capacity = having(registered(MIG), holder, settings=settings)

    free = [(card.uuid[-5:], card.memory_free_bytes // MIB) for card in capacity.hosts[0].cards if card.slots_free]
    assert free == [("[1-1]", 10240), ("[1-2]", 10240), ("[1-3]", 5120)]
    assert places(Resources(gpu=a_slice(8192)), capacity, {}, most=9) == 2
    assert isinstance(place(Resources(gpu=a_slice(20480)), capacity, {}), Full), (
        "it fits the card once it is empty again"
    )


def test_a_mig_card_without_known_geometries_is_counted_by_its_memory():
    holder = a_holder("a", f"{GPU_1}[0-0],NVIDIA,5120,14")

    card = having(registered(MIG), holder).hosts[0].cards[0]

    assert (card.memory_free_bytes, card.slots_free) == ((40960 - 5120) * MIB, 6)


@pytest.mark.parametrize(
    "text", ["", "no cards", "{}", "[", "[1, null]", f"{GPU_1},10", f"{GPU_1},a,b,c,d,e,f", "[" * 9999]
)
def test_an_inventory_that_cannot_be_read_is_no_capacity(text):
    assert having(registered(text)).hosts[0].cards == ()


@pytest.mark.parametrize(
    ("handshake", "free"),
    [
        ("Reported 2026-11-22 08:00:10.43 +0000 UTC m=+1104711.77", True),
        ("Requesting_2026.11.22 08:00:00", True),
        ("Requesting_2026.11.22 07:54:59", False),
        ("Deleted_2026.11.22 08:00:00", False),
        ("", True),
    ],
)
def test_a_node_whose_handshake_stands_still_gives_nothing(handshake, free):
    """The newest stamp of all nodes is the clock: stamps name no time zone."""
    node = a_node("a", annotations={hami_notes.REGISTER: TEXT, hami_notes.HANDSHAKE: handshake})
    other = a_node("b", annotations={hami_notes.REGISTER: TEXT, hami_notes.HANDSHAKE: "Requesting_2026.11.22 08:00:00"})

    cards = Hami().capacity([node, other], [])[0].cards

    assert (cards[0].memory_free_bytes > 0) is free
    assert cards[0].memory_total_bytes == 32 * GIB, "it comes back: wait, and do not fail for ever"


def test_a_handshake_that_no_version_of_hami_writes_any_more_is_no_reason_to_give_nothing():
    node = a_node(annotations={hami_notes.REGISTER: TEXT, hami_notes.HANDSHAKE: "Requesting_2024.05.14 07:07:33"})

    assert Hami().capacity([node], [])[0].cards[0].slots_free == 10


def test_a_node_whose_plugin_is_gone_gives_nothing():
    assert having(registered(TEXT, allocatable={"nvidia.com/gpu": "0"})).hosts[0].cards[0].slots_free == 0
    assert having(registered(TEXT, allocatable={"nvidia.com/gpu": "20"})).hosts[0].cards[0].slots_free == 10


@pytest.mark.parametrize(
    "node", [registered(TEXT, ready=False), registered(TEXT, cordoned=True)], ids=["lost", "cordoned"]
)
def test_on_a_node_that_takes_no_pods_nothing_is_free_and_nothing_is_too_large(node):
    assert isinstance(place(Resources(gpu=a_slice(6144)), having(node), {}), Full)


def test_processors_and_memory_of_a_node_are_what_its_pods_left():
    pods = [a_pod(f"p{n}", node="node-1", limits={"cpu": 1, "memory": "4Gi"}) for n in range(3)]

    host = having(registered(TEXT), *pods, a_pod("elsewhere", node="x", limits={"cpu": 4})).hosts[0]

    assert (host.cpu_total, host.cpu_free, host.memory_free_bytes) == (8.0, 5.0, 20 * GIB)
    assert (host.servers_total, host.servers_free) == (110, 107)


def test_nearness_of_cards_is_read_from_hamis_scores():
    scores = json.dumps([{"uuid": GPU_1, "score": {GPU_2: 100, "GPU-x": 10}}])
    node = a_node(annotations={hami_notes.REGISTER: TEXT, hami_notes.SCORES: scores})

    cards = Hami().capacity([node], [])[0].cards

    assert dict(cards[0].distances) == {GPU_2: 0, "GPU-x": 90}


def wants(**changes):
    changes.setdefault("limits", {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 6144, "nvidia.com/gpucores": 25})
    changes.setdefault("scheduler", "hami-scheduler")
    return a_pod(**changes)


def test_what_the_scheduler_wrote_back_is_what_the_lease_holds():
    pod = a_holder("a", f"{GPU_1},NVIDIA,6144,25")

    assert Hami().granted(pod) == (HeldSlice(card=GPU_1, memory_bytes=6 * GIB, compute_pct=25),)
    assert Hami().granted(wants()) is None
    assert Hami().granted(a_pod(annotations={hami_notes.ALLOCATED: f";{GPU_2},NVIDIA,1024,0:;"})) == (
        HeldSlice(card=GPU_2, memory_bytes=GIB, compute_pct=100),
    )


def test_a_pod_that_hamis_webhook_did_not_touch_fails_at_once_with_the_reason():
    pod = wants(scheduler="default-scheduler")

    found = Hami().why_waiting(pod, (), (), ())

    assert found is not None
    assert found.kind is Kind.FAILED
    assert "webhook" in found.message
    assert "default-scheduler" in found.detail


def test_a_pod_that_was_placed_past_hamis_scheduler_fails_at_once_with_the_reason():
    found = Hami().untouched(wants(node="node-1"))

    assert found is not None
    assert "HAMi's scheduler did not place it" in found
    assert Hami().untouched(a_pod(node="node-1")) is None, "a pod without a slice is none of HAMi's"
    assert Hami().untouched(replace(wants(node="node-1"), annotations={hami_notes.VGPU_NODE: "node-1"})) is None


def test_a_slice_that_the_node_could_not_give_may_be_tried_again():
    found = Hami().why_waiting(wants(annotations={hami_notes.BIND_PHASE: "failed"}), (), ())

    assert found is not None
    assert (found.kind, found.again) == (Kind.FAILED, True)


def test_full_now_and_never_are_told_apart_by_the_cards_and_not_by_the_text():
    text = "0/1 nodes are available: 1 node unregistered. preemption: 0/1 nodes are available: 1 No victims."
    events = [an_event("FilteringFailed", "1 nodes CardInsufficientMemory(node-1)")]
    holder = a_holder("other", f"{GPU_1},NVIDIA,20000,50")
    node = registered(TEXT_OF_24564)

    full = Hami().why_waiting(wants(status=unschedulable(text)), events, [node], [holder])
    limits = {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 30000, "nvidia.com/gpucores": 25}
    never = Hami().why_waiting(wants(limits=limits), (), [node], [holder])

    assert full is not None
    assert (full.kind, full.message) == (
        Kind.FULL,
        "No card has 6 GiB free now. Try again in a few minutes, or pick a smaller profile.",
    )
    assert never is not None
    assert never.kind is Kind.NEVER
    assert "the largest card has 24 GiB" in never.message


def test_who_waits_for_the_lock_of_a_node_is_next_and_has_not_failed():
    events = [an_event("BindingFailed", "node node-1 has been locked within 5 minutes")]

    found = Hami().why_waiting(wants(status=unschedulable("x")), events, [registered(TEXT)], ())

    assert found is not None
    assert found.kind is Kind.STARTING
    assert "yours is next" in found.message


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.text(alphabet=st.sampled_from('GPU-1,:;[]{}"idcount0123456789true \n'), max_size=300))
def test_nothing_in_an_annotation_makes_reading_raise(text):
    hami_notes.read_register(text)
    hami_notes.read_allocation(text)
    hami_notes.read_scores(text)
    having(registered(text), a_holder("a", text))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 100_000),
    st.integers(0, 20),
    st.integers(0, 200),
    st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 100)), max_size=12),
)
def test_no_card_is_ever_offered_beyond_its_memory_cores_and_split(memory, split, cores, held):
    text = f"{GPU_1},{split},{memory},{cores},T,0,true:"
    pods = [a_holder(f"p{n}", f"{GPU_1},NVIDIA,{mib},{pct}") for n, (mib, pct) in enumerate(held)]
    need = Resources(gpu=a_slice(700, 7))

    count = places(need, having(registered(text), *pods), {}, most=50)

    assert count == 0 or sum(mib for mib, _ in held) + 700 * count <= memory
    assert count == 0 or sum(pct for _, pct in held) + 7 * count <= cores
    assert count == 0 or len(held) + count <= split
