"""Slices of fixed classes: which class serves a wish, what is left of each, and what a pod was given."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from pydantic import ValidationError
from unit.kubernetes.objects import GIB, GPU_1, GPU_2, MIB, a_node, a_pod, unschedulable

from labspawner.errors import BadConfig, NeverFits
from labspawner.gpu.agent.inventory import ANNOTATION, CardState, ClassUse, NodeInventory, Share, SliceUse, render
from labspawner.model import Capacity, CardPolicy, HeldSlice, Resources, Slice, SliceTest
from labspawner.placement import Fits, Full, TooLarge, place, places
from labspawner.providers.kubernetes.strategies.choosing import seen, strategy
from labspawner.providers.kubernetes.strategies.contract import Kind, Strategy
from labspawner.providers.kubernetes.strategies.device_plugin import DevicePlugin
from labspawner.providers.kubernetes.strategies.environment import forbidden
from labspawner.providers.kubernetes.strategies.hami import Hami
from labspawner.providers.kubernetes.strategies.none import NoGpus
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.wishes import GpuWish

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)
SMALL, LARGE = "labspawner.io/gpu-small", "labspawner.io/gpu-large"
NO_WISH = GpuWish()


def settings(**classes) -> SlicingSettings:
    given = classes or {
        "small": {"memory": "6GiB", "cores": 25, "per_card": 3},
        "large": {"memory": "12GiB", "cores": "50%"},
    }
    return SlicingSettings.model_validate({"strategy": "device-plugin", "classes": given})


PLUGIN = DevicePlugin(settings().classes)


def gib(memory: float, cores: int = 25) -> Slice:
    return Slice(memory_bytes=int(memory * GIB), compute_pct=cores)


def capacity(*nodes, pods=()) -> Capacity:
    return Capacity(hosts=PLUGIN.capacity(list(nodes), list(pods)), taken_at=NOW)


def an_inventory(*, healthy: bool = True, used: int = 0, slices: tuple[SliceUse, ...] = ()) -> str:
    """Two cards of three small places and one large each; of the second, `used` small ones are held."""

    def classes(taken: int) -> dict[str, ClassUse]:
        return {
            "small": ClassUse(memory_mib=6144, cores_pct=25, count=2, used=taken),
            "large": ClassUse(memory_mib=12288, cores_pct=50, count=1),
        }

    cards = (
        CardState(uuid=GPU_1, index=0, name="A5000", memory_mib=24564, classes=classes(0)),
        CardState(uuid=GPU_2, index=1, name="A5000", memory_mib=24564, healthy=healthy, classes=classes(used)),
    )
    return render(NodeInventory(at=NOW, cards=cards, slices=slices))


@pytest.mark.parametrize(
    ("wanted", "resource"),
    [
        (gib(6), SMALL),
        (gib(1, 1), SMALL),
        (gib(6, 26), LARGE),
        (gib(6.5), LARGE),
        (gib(12, 50), LARGE),
    ],
)
def test_the_smallest_class_that_holds_a_slice_serves_it(wanted, resource):
    patch = PLUGIN.patch(wanted, NO_WISH)

    assert dict(patch.limits) == {resource: 1}
    assert (patch.environment, patch.annotations, patch.scheduler_name) == ({}, {}, None)


@pytest.mark.parametrize("wanted", [gib(12.1), gib(1, 51), gib(80, 100)])
def test_a_slice_that_no_class_holds_is_refused_with_the_classes_there_are(wanted):
    with pytest.raises(NeverFits) as caught:
        PLUGIN.patch(wanted, NO_WISH)

    assert "small: 6 GiB / 25 %, large: 12 GiB / 50 %" in caught.value.message


@pytest.mark.parametrize(
    "wish",
    [
        {"type": ("A100",)},
        {"not_type": ("V100",)},
        {"cards": 2},
        {"place": CardPolicy.SPREAD},
        {"priority": "high"},
        {"policy": "force"},
    ],
    ids=str,
)
def test_what_fixed_classes_cannot_grant_is_said_and_not_left_out(wish):
    with pytest.raises(BadConfig, match="This profile"):
        PLUGIN.patch(gib(6), GpuWish.model_validate(wish))


def test_the_policy_that_the_agents_are_set_to_is_granted():
    plugin = DevicePlugin(settings(small={"memory": "6GiB", "policy": "force"}).classes)

    assert plugin.patch(gib(6), GpuWish(policy="force")).limits == {SMALL: 1}
    assert PLUGIN.patch(gib(6), GpuWish(policy="fair", selftest="require")).limits == {SMALL: 1}


def test_places_are_what_the_kubelet_offers_less_what_pods_ask_for():
    node = a_node(allocatable={SMALL: "4", LARGE: 2}, annotations={ANNOTATION: an_inventory()})
    pods = [a_pod(f"p{n}", node="node-1", limits={SMALL: 1}) for n in range(3)]

    now = capacity(node, pods=pods)

    assert places(Resources(gpu=gib(6)), now, {}, most=9) == 1
    assert places(Resources(gpu=gib(12)), now, {}, most=9) == 2
    assert {card.uuid.split("/")[0] for card in now.hosts[0].cards} == {GPU_1, GPU_2}
    assert len({card.uuid for card in now.hosts[0].cards}) == 6, "each place is one of its own"


def test_small_wishes_wait_for_a_small_place_and_take_no_large_one():
    node = a_node(allocatable={SMALL: 1, LARGE: 2}, annotations={ANNOTATION: an_inventory()})
    holder = a_pod("holder", node="node-1", limits={SMALL: 1})

    now = capacity(node, pods=[holder])

    assert isinstance(place(Resources(gpu=gib(4)), now, {}), Full)
    assert isinstance(place(Resources(gpu=gib(8)), now, {}), Fits)


def test_a_place_that_a_pod_left_is_free_before_the_agent_says_so():
    node = a_node(allocatable={SMALL: 4}, annotations={ANNOTATION: an_inventory(used=2)})

    free = [
        card.uuid for card in capacity(node).hosts[0].cards if card.slots_free and card.memory_total_bytes == 6 * GIB
    ]

    assert len(free) == 4
    assert free[:2] == [f"{GPU_1}/small-0", f"{GPU_1}/small-1"], "those that nobody has by any account come first"


def test_a_card_that_does_not_answer_has_its_size_and_no_room():
    """The kubelet offers only the places of healthy cards."""
    node = a_node(allocatable={SMALL: 2, LARGE: 0}, annotations={ANNOTATION: an_inventory(healthy=False)})

    cards = {card.uuid: card for card in capacity(node).hosts[0].cards}

    assert [uuid for uuid, card in cards.items() if card.slots_free] == [f"{GPU_1}/small-0", f"{GPU_1}/small-1"]
    assert isinstance(place(Resources(gpu=gib(12, 50)), capacity(node), {}), Full), "it may come back"


@pytest.mark.parametrize("text", ["", "{}", "[", '{"version": 99}'])
def test_without_a_readable_annotation_the_kubelets_numbers_are_enough(text):
    node = a_node(allocatable={SMALL: 2}, annotations={ANNOTATION: text} if text else {})

    assert places(Resources(gpu=gib(6)), capacity(node), {}, most=9) == 2
    assert isinstance(place(Resources(gpu=gib(13)), capacity(node), {}), TooLarge)


def test_what_the_agent_says_of_a_pod_is_what_the_lease_holds_with_the_verdict_of_its_test():
    use = SliceUse(
        name="small-1",
        class_name="small",
        devices=("small-0",),
        cards={GPU_1: Share(6144, 25)},
        namespace="jhub",
        pod="jupyter-ann",
        container="notebook",
        tested="failed",
        why="the library is not loaded",
    )
    node = a_node(annotations={ANNOTATION: an_inventory(slices=(use,))})

    held = PLUGIN.granted(a_pod(node="node-1"), [a_node("other"), node])

    assert held == (
        HeldSlice(
            card=GPU_1,
            memory_bytes=6144 * MIB,
            compute_pct=25,
            tested=SliceTest.FAILED,
            why=held[0].why,  # type: ignore[index]
        ),
    )
    assert str(held[0].why) == "the library is not loaded"
    assert PLUGIN.granted(a_pod("somebody", node="node-1"), [node]) is None
    assert PLUGIN.granted(a_pod(node="node-1"), []) is None


def test_a_pod_that_waits_for_a_place_reads_what_is_short():
    text = "0/1 nodes are available: 1 Insufficient labspawner.io/gpu-small."
    node = a_node(allocatable={SMALL: 1}, annotations={ANNOTATION: an_inventory()})
    pod = a_pod(limits={SMALL: 1}, status=unschedulable(text))

    found = PLUGIN.why_waiting(pod, (), [node], [pod, a_pod("holder", node="node-1", limits={SMALL: 1})])

    assert found is not None
    assert (found.kind, found.detail) == (Kind.FULL, text)
    assert "No card has 6 GiB free now" in found.message


def test_a_cluster_whose_nodes_have_no_agent_says_so():
    found = PLUGIN.why_waiting(a_pod(limits={SMALL: 1}), (), [a_node()], ())

    assert found is not None
    assert (found.kind, found.message) == (
        Kind.NEVER,
        "No machine of this cluster shares a GPU. Tell your administrator.",
    )


def test_without_gpus_a_profile_sees_no_card_and_one_that_wants_a_slice_is_refused():
    assert NoGpus().patch(None, NO_WISH).environment == {"NVIDIA_VISIBLE_DEVICES": "none"}
    assert NoGpus().granted(a_pod()) is None
    assert NoGpus().untouched(a_pod()) is None
    assert NoGpus().capacity([a_node()], [])[0].cards == ()
    with pytest.raises(BadConfig, match="none"):
        NoGpus().patch(gib(6), NO_WISH)


@pytest.mark.parametrize("chosen", [NoGpus(), PLUGIN, Hami()], ids=lambda chosen: chosen.name)
def test_every_strategy_hides_the_cards_from_a_server_without_a_slice(chosen: Strategy):
    patch = chosen.patch(None, NO_WISH)

    assert patch.environment["NVIDIA_VISIBLE_DEVICES"] == "none"
    assert not patch.limits


@pytest.mark.parametrize(
    "classes",
    [
        {"a": {"memory": "6GiB"}, "b": {"memory": "6GiB"}},
        {"Bad Name": {"memory": "6GiB"}},
        {"a": {"memory": 6}},
        {"a": {"memory": "6GiB", "cores": 0}},
        {"a": {"memory": "6GiB", "core": 5}},
    ],
    ids=str,
)
def test_classes_that_cannot_be_meant_are_refused(classes):
    with pytest.raises(ValidationError):
        settings(**classes)


def test_a_device_plugin_without_classes_says_what_to_write():
    with pytest.raises(BadConfig, match="'small'"):
        strategy(SlicingSettings(strategy="device-plugin"))


def test_the_signs_of_an_agent_are_its_annotation_or_its_resources():
    nodes = [a_node("a", annotations={ANNOTATION: an_inventory()}), a_node("b", allocatable={SMALL: 0}), a_node("c")]

    assert seen(nodes) == {"device-plugin": ("a", "b")}


def test_no_profile_may_set_a_variable_that_decides_about_a_slice():
    names = ["CUDA_DISABLE_CONTROL", "LD_PRELOAD", "CUDA_DEVICE_MEMORY_LIMIT_0", "NVIDIA_VISIBLE_DEVICES", "COURSE"]

    assert forbidden(names) == tuple(names[:4])


@pytest.mark.parametrize(
    ("key", "opened"),
    [
        ("node-role.kubernetes.io/control-plane", False),
        ("node.kubernetes.io/memory-pressure", False),
        ("nvidia.com/gpu", True),
    ],
)
def test_a_node_that_is_kept_for_the_clusters_own_work_has_no_room_for_servers(key, opened):
    host = NoGpus().capacity([a_node(taints=[{"key": key, "effect": "NoSchedule"}])], [])[0]

    assert (host.servers_free != 0) is opened
    assert host.memory_total_bytes == 32 * GIB
