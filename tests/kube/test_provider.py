"""A server as a pod, from its first checkpoint to its last word: claims, names, two hubs, room, and what is left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import BadConfig, NeverFits, NoRoom, SetupError, StartFailed
from labspawner.extension.slices import LOG_MARK
from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.model import Feature, HeldSlice, ReleaseMode, Resources, ServerState, Slice, SliceTest
from labspawner.providers.kubernetes.provider import KubernetesProvider
from labspawner.sentences import Sentence
from labspawner.store import Store
from labspawner.testing import tinyserver
from labspawner.testing.kube import KubeDouble, NotAdmitted, Pace, a_node
from labspawner.testing.waiting import eventually

from .providers import OpenProvider, Started, a_request, follow, provider_on

HUB = "hub-a"
STORAGE = {"storage": {"size": "1GiB"}}


@pytest.fixture
def still(new_double: Any) -> KubeDouble:
    """A cluster whose pods answer without a process: 8 cores, 32 GiB."""
    return new_double(runs="still")


@pytest.fixture
async def open_provider(still: KubeDouble, tmp_path: Path) -> Any:
    made: list[KubernetesProvider] = []

    def open_one(hub_id: str = HUB, cluster: KubeDouble | None = None, **settings: Any) -> KubernetesProvider:
        made.append(provider_on(cluster or still, tmp_path / f"{hub_id}-{len(made)}", hub_id, **settings))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(open_provider: OpenProvider) -> KubernetesProvider:
    return open_provider()


class Ear:
    """Hears what a provider tells its hub."""

    def __init__(self) -> None:
        self.ends: dict[str, Sentence | None] = {}
        self.rooms = 0

    def ended(self, lease_id: str, reason: Sentence | None) -> None:
        self.ends[lease_id] = reason

    def freed(self) -> None:
        self.rooms += 1


# -- the pod


async def test_a_start_is_one_write_and_its_pod_carries_lease_hub_and_user(
    provider: KubernetesProvider, still: KubeDouble
):
    request = a_request(still, user="Ann")

    started = await follow(provider, request)

    assert still.requests.writes() == 1
    pod = still.pod(started.pod)
    assert started.pod.endswith(request.lease_id)
    assert pod["metadata"]["labels"]["labspawner.io/lease"] == request.lease_id
    assert pod["metadata"]["labels"]["labspawner.io/hub"] == HUB
    assert pod["metadata"]["annotations"]["labspawner.io/user"] == "Ann"
    assert started.url == f"http://{pod['status']['podIP']}:8888"


async def test_twenty_starts_at_once_are_twenty_writes_and_no_question_per_pod(
    provider: KubernetesProvider, still: KubeDouble
):
    requests = [
        a_request(still, user=f"u{number}", resources=Resources(cpu=0.1, memory_bytes=2**20)) for number in range(20)
    ]

    await asyncio.gather(*(follow(provider, request) for request in requests))

    assert still.requests.writes() == 20
    assert still.requests.count("get", "pods") == 0
    assert len(await provider.owned()) == 20


async def test_the_hubs_settings_for_kubespawner_reach_the_pod(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(
        hub_config={
            "KubeSpawner": {"extra_labels": {"term": "spring"}, "uid": 1000, "pod_name_template": "lab-{username}"}
        }
    )

    started = await follow(provider, a_request(still, user="ann"))

    pod = still.pod(started.pod)
    assert started.pod.startswith("lab-ann-")
    assert pod["metadata"]["labels"]["term"] == "spring"
    assert pod["spec"]["containers"][0]["securityContext"]["runAsUser"] == 1000


async def test_hooks_of_the_administrator_see_kubespawner_and_the_pod(open_provider: OpenProvider, still: KubeDouble):
    seen: list[Any] = []

    def modify(spawner: Any, pod: Any) -> Any:
        pod.metadata.annotations["by"] = spawner.user.name
        return pod

    async def after(spawner: Any, pod: Any) -> None:
        seen.append((spawner.pod_name, pod["metadata"]["uid"]))

    provider = open_provider(hub_config={"KubeSpawner": {"modify_pod_hook": modify, "after_pod_created_hook": after}})

    started = await follow(provider, a_request(still, user="ann"))

    pod = still.pod(started.pod)
    assert pod["metadata"]["annotations"]["by"] == "ann"
    assert seen == [(started.pod, pod["metadata"]["uid"])]


@pytest.mark.parametrize("hook", ["modify_pod_hook", "after_pod_created_hook"])
async def test_a_hook_that_fails_ends_the_start_with_a_sentence_and_leaves_nothing(
    open_provider: OpenProvider, still: KubeDouble, hook: str
):
    def broken(spawner: Any, pod: Any) -> Any:
        raise KeyError("secret words")

    provider = open_provider(hub_config={"KubeSpawner": {hook: broken}})

    with pytest.raises(SetupError) as failure:
        await follow(provider, a_request(still))

    assert "secret words" not in failure.value.message
    assert "KeyError" in str(failure.value)
    assert still.pods() == []


async def test_with_services_a_server_is_reached_by_a_name_that_ends_with_its_pod(
    open_provider: OpenProvider, still: KubeDouble
):
    provider = open_provider(hub_config={"KubeSpawner": {"services_enabled": True}})
    start = asyncio.create_task(follow(provider, a_request(still)))  # which waits: nobody resolves the name here

    await eventually(lambda: start.done() or still.requests.count("create", "services", status=201), 60)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    assert still.requests.count("create", "services", status=201) == 1


async def test_a_setting_that_a_profile_may_not_make_is_refused_before_anything_is_made(
    provider: KubernetesProvider, still: KubeDouble
):
    for settings in ({"privileged": True}, {"environment": {"LD_PRELOAD": "x"}}, {"service_account": "admin"}):
        with pytest.raises(BadConfig, match="py101/base"):
            await follow(provider, a_request(still, settings=settings))

    assert still.requests.writes() == 0


# -- claims


async def test_a_students_claim_is_made_once_and_outlives_the_server(provider: KubernetesProvider, still: KubeDouble):
    first = await follow(provider, a_request(still, user="ann", settings=STORAGE))
    await provider.release(first.handle, ReleaseMode.DESTROY, grace_s=1)
    still.requests.clear()

    second = await follow(provider, a_request(still, user="ann", settings=STORAGE))

    assert still.requests.writes() == 1
    assert second.handle.data["claim"] == "claim-ann"
    assert [claim["metadata"]["name"] for claim in still.objects("persistentvolumeclaims")] == ["claim-ann"]
    (claim,) = still.objects("persistentvolumeclaims")
    assert claim["metadata"]["labels"]["labspawner.io/hub"] == HUB
    assert "labspawner.io/lease" not in claim["metadata"]["labels"]


async def test_a_volume_that_is_not_kept_needs_no_claim_of_ours(provider: KubernetesProvider, still: KubeDouble):
    started = await follow(provider, a_request(still, settings={"storage": {"size": "1GiB", "retain": "delete"}}))

    assert "claim" not in started.handle.data
    assert still.requests.writes("persistentvolumeclaims") == 0
    volumes = still.pod(started.pod)["spec"]["volumes"]
    assert any("ephemeral" in volume for volume in volumes)


async def test_a_student_of_another_hub_in_the_namespace_never_gets_this_ones_files(
    open_provider: OpenProvider, still: KubeDouble
):
    ours, theirs = open_provider(), open_provider("hub-b")
    await follow(ours, a_request(still, user="ann", settings=STORAGE))

    with pytest.raises(SetupError, match="belongs to hub hub-a") as failure:
        await follow(theirs, a_request(still, user="ann", settings=STORAGE, hub_id="hub-b"))

    assert "another hub" in failure.value.message
    await theirs.forget("ann", "")
    assert len(still.objects("persistentvolumeclaims")) == 1
    assert len(still.pods()) == 1


async def test_a_claim_that_kubespawner_made_before_us_is_taken_over(provider: KubernetesProvider, still: KubeDouble):
    still.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "claim-ann"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )

    started = await follow(provider, a_request(still, user="ann", settings=STORAGE))

    assert started.handle.data["claim"] == "claim-ann"
    assert still.requests.count("create", "persistentvolumeclaims", status=201) == 0


async def test_a_user_who_is_deleted_takes_their_claim_along_and_again_is_nothing(
    provider: KubernetesProvider, still: KubeDouble
):
    started = await follow(provider, a_request(still, user="ann", settings=STORAGE))
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    await provider.forget("ann", "")
    await provider.forget("ann", "")

    assert still.objects("persistentvolumeclaims") == []


@pytest.mark.parametrize(
    ("kubespawner", "server_name"),
    [({"delete_pvc": False}, ""), ({"pvc_name_template": "claim-{username}"}, "second")],
    ids=["the administrator keeps claims", "a named server shares its user's claim"],
)
async def test_a_claim_that_others_need_is_not_forgotten(
    open_provider: OpenProvider, still: KubeDouble, kubespawner: dict[str, Any], server_name: str
):
    provider = open_provider(hub_config={"KubeSpawner": kubespawner})
    await follow(provider, a_request(still, user="ann", settings=STORAGE))

    await provider.forget("ann", server_name)

    assert len(still.objects("persistentvolumeclaims")) == 1


async def test_a_claim_that_is_not_bound_is_said_and_leaves_no_pod(open_provider: OpenProvider, still: KubeDouble):
    still.faults.unbindable_claims()
    provider = open_provider()

    with pytest.raises((StartFailed, NoRoom)) as failure:
        await follow(provider, a_request(still, settings=STORAGE))

    assert "home folder" in str(failure.value.message).lower() or "disk" in str(failure.value.message).lower()
    assert still.pods() == []


# -- several at once


async def test_the_same_user_starting_twice_at_once_gets_two_pods_that_come_and_go_alone(
    provider: KubernetesProvider, still: KubeDouble
):
    first, second = await asyncio.gather(*(follow(provider, a_request(still, user="ann")) for _ in range(2)))

    await provider.release(first.handle, ReleaseMode.DESTROY, grace_s=1)

    assert first.pod != second.pod
    assert [pod["metadata"]["name"] for pod in still.pods()] == [second.pod]


async def test_a_start_while_the_last_pod_of_the_user_still_ends_does_not_wait_for_it(
    new_double: Any, open_provider: OpenProvider
):
    slow = new_double(runs="still", pace=Pace(stop_s=3600.0))
    provider = open_provider(cluster=slow)
    first = await follow(provider, a_request(slow, user="ann"))
    ending = asyncio.create_task(provider.release(first.handle, ReleaseMode.STOP, grace_s=3000))
    await eventually(lambda: slow.pod(first.pod)["metadata"].get("deletionTimestamp"))

    second = await follow(provider, a_request(slow, user="ann"))

    assert (await provider.observe([first.handle, second.handle])) == {
        first.handle.lease_id: ServerState.GONE,
        second.handle.lease_id: ServerState.RUNNING,
    }
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)


# -- room


async def test_what_no_node_could_hold_fails_at_once_and_leaves_nothing(
    provider: KubernetesProvider, still: KubeDouble
):
    with pytest.raises(NeverFits) as failure:
        await follow(provider, a_request(still, resources=Resources(memory_bytes=2**50)))

    assert str(failure.value.message)
    assert still.pods() == []


async def test_a_full_cluster_is_said_while_a_start_waits_and_it_goes_on_when_room_is_made(
    open_provider: OpenProvider, still: KubeDouble
):
    provider = open_provider(pending_s=3000.0)
    most = Resources(cpu=6.0)
    holder = await follow(provider, a_request(still, user="ann", resources=most))
    waiting = Started(a_request(still, user="bob", resources=most))
    start = asyncio.create_task(follow(provider, waiting.request, waiting))
    await eventually(
        lambda: any("CPU" in words or "processor" in words for words in waiting.words), what=str(waiting.words)
    )

    await provider.release(holder.handle, ReleaseMode.DESTROY, grace_s=1)

    assert (await start).url


async def test_a_cluster_that_stays_full_ends_the_start_with_what_lacks_and_not_with_a_timeout(
    provider: KubernetesProvider, still: KubeDouble
):
    most = Resources(cpu=6.0)
    await follow(provider, a_request(still, user="ann", resources=most))

    with pytest.raises(NoRoom) as failure:
        await follow(provider, a_request(still, user="bob", resources=most))

    assert "did not" not in failure.value.message
    assert len(still.pods()) == 1


async def test_capacity_counts_each_node_by_itself_without_what_pods_of_others_ask_for(
    new_double: Any, open_provider: OpenProvider
):
    cluster = new_double([a_node("a", cpu=4, memory="8Gi"), a_node("b", cpu=2, memory="4Gi")], runs="still")
    container = {"name": "c", "image": cluster.image, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    spec = {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": "b"}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "kube-system"}, "spec": spec}
    )
    provider = open_provider(cluster=cluster)
    await eventually(lambda: cluster.pods("kube-system")[0]["spec"].get("nodeName"))

    hosts = {host.name: host for host in (await provider.capacity()).hosts}

    assert {name: (host.cpu_total, host.cpu_free) for name, host in hosts.items()} == {"a": (4, 4), "b": (2, 1)}
    assert hosts["b"].memory_free_bytes == 3 * 2**30


async def test_a_node_that_is_kept_for_the_cluster_itself_is_no_room(new_double: Any, open_provider: OpenProvider):
    taint = {"key": "node-role.kubernetes.io/control-plane", "value": "", "effect": "NoSchedule"}
    cluster = new_double([a_node("a"), a_node("master", taints=[taint])], runs="still")

    assert [host.name for host in (await open_provider(cluster=cluster).capacity()).hosts] == ["a"]


async def test_a_server_is_counted_once_it_has_its_place_and_no_longer_when_it_is_gone(
    provider: KubernetesProvider, still: KubeDouble
):
    started = await follow(provider, a_request(still, resources=Resources(cpu=2.0)))
    during = await provider.capacity()
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)
    after = await provider.capacity()

    assert during.counted == {started.handle.lease_id}
    assert (during.hosts[0].cpu_free, after.hosts[0].cpu_free) == (6, 8)
    assert after.counted == frozenset()


async def test_an_administrator_who_overcommits_has_more_to_give(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(cpu_overcommit=4)
    await follow(provider, a_request(still, resources=Resources(cpu=8.0)))

    (host,) = (await provider.capacity()).hosts

    assert (host.cpu_total, host.cpu_free) == (32, 24)


async def test_without_a_right_to_see_nodes_starts_go_on_and_room_is_not_counted(
    provider: KubernetesProvider, still: KubeDouble, caplog: pytest.LogCaptureFixture
):
    still.faults.forbid("list", "nodes")

    capacity = await provider.capacity()
    await provider.capacity()
    started = await follow(provider, a_request(still))

    assert [host.cpu_free for host in capacity.hosts] == [None]
    assert started.url
    assert caplog.text.count("nodes list, watch") == 1


# -- accidents that another try mends


class Grudging:
    """A device manager that refuses the first `times` pods."""

    def __init__(self, times: int) -> None:
        self.left = times

    def allocate(self, node: str, pod: Any, container: Any) -> dict[str, str]:
        if self.left > 0:
            self.left -= 1
            raise NotAdmitted("Allocate failed due to no healthy devices present; cannot allocate unhealthy devices")
        return {}

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


async def test_a_pod_that_its_machine_did_not_take_is_started_once_more(
    provider: KubernetesProvider, still: KubeDouble
):
    still.use_devices(Grudging(1))

    started = await follow(provider, a_request(still))

    assert started.url
    assert any("once more" in words for words in started.words)
    assert still.requests.count("create", "pods", status=201) == 2
    assert len(still.pods()) == 1


async def test_a_pod_that_no_machine_takes_twice_ends_the_start_with_the_reason(
    provider: KubernetesProvider, still: KubeDouble
):
    still.use_devices(Grudging(99))

    with pytest.raises(StartFailed) as failure:
        await follow(provider, a_request(still))

    assert "UnexpectedAdmissionError" in str(failure.value)
    assert failure.value.message
    assert still.pods() == []


# -- slices


async def test_with_hami_the_slice_that_was_given_stands_in_the_handle(new_double: Any, open_provider: OpenProvider):
    from labspawner.testing.kube.hami import HamiCard, registered

    cluster = new_double([a_node(extended={"nvidia.com/gpu": 10})], runs="still")
    cluster.install_hami()
    cluster.annotate_node("labnode", registered([HamiCard("GPU-1")]))
    provider = open_provider(cluster=cluster, gpu={"strategy": "hami"})
    gpu = Slice(memory_bytes=6 * 2**30, compute_pct=25)

    before = await provider.capacity()
    started = await follow(
        provider, a_request(cluster, resources=Resources(gpu=gpu), settings={"gpu": {"selftest": "off"}})
    )
    after = await provider.capacity()

    assert provider.features == {Feature.LOGS, Feature.GPU_SLICES}
    held = HeldSlice.of(started.handle)
    assert held is not None
    assert (held.card, held.memory_bytes, held.compute_pct, held.tested) == ("GPU-1", 6 * 2**30, 25, SliceTest.OFF)
    free = [host.cards[0].memory_free_bytes for host in (*before.hosts, *after.hosts)]
    assert free[0] - free[1] == 6 * 2**30


@pytest.fixture
def with_hami(new_double: Any) -> KubeDouble:
    """A cluster of one node and one card of 24 GiB, shared by HAMi, whose pods are processes."""
    from labspawner.testing.kube.hami import HamiCard, registered

    cluster: KubeDouble = new_double([a_node(extended={"nvidia.com/gpu": 10})])
    cluster.install_hami()
    cluster.annotate_node("labnode", registered([HamiCard("GPU-1")]))
    return cluster


def a_server_that_found(verdict: str) -> tuple[str, ...]:
    """A server whose extension came to this verdict."""
    said = {part: {"verdict": verdict, "reason": "it gave too much"} for part in ("server", "kernel")}
    return tinyserver.command(say=LOG_MARK + json.dumps(said))


async def test_a_slice_that_was_tried_out_and_holds_carries_its_badge(
    with_hami: KubeDouble, open_provider: OpenProvider
):
    provider = open_provider(cluster=with_hami, gpu={"strategy": "hami", "selftest": "require"})
    gpu = Resources(gpu=Slice(memory_bytes=2**30))

    started = await follow(provider, a_request(with_hami, resources=gpu, command=a_server_that_found("passed")))

    held = HeldSlice.of(started.handle)
    assert held is not None
    assert held.tested is SliceTest.PASSED
    assert len(started.handles) == 2


async def test_a_slice_that_does_not_hold_ends_the_start_and_leaves_nothing(
    with_hami: KubeDouble, open_provider: OpenProvider
):
    provider = open_provider(cluster=with_hami, gpu={"strategy": "hami"})
    gpu = Resources(gpu=Slice(memory_bytes=2**30))

    with pytest.raises(StartFailed) as failure:
        await follow(provider, a_request(with_hami, resources=gpu, command=a_server_that_found("failed")))

    assert "it gave too much" in failure.value.message
    assert with_hami.pods() == []


async def test_a_slice_that_nobody_tries_out_is_given_as_untested_unless_somebody_insists(
    with_hami: KubeDouble, open_provider: OpenProvider
):
    gpu = Resources(gpu=Slice(memory_bytes=2**30, compute_pct=25))
    lenient = open_provider(cluster=with_hami, gpu={"strategy": "hami"})
    strict = open_provider(cluster=with_hami, gpu={"strategy": "hami", "selftest": "require"})

    started = await follow(lenient, a_request(with_hami, resources=gpu))
    with pytest.raises(StartFailed):
        await follow(strict, a_request(with_hami, resources=gpu, ready_timeout_s=3.0))

    held = HeldSlice.of(started.handle)
    assert held is not None
    assert held.tested is SliceTest.UNTESTED


async def test_the_names_that_hami_was_given_on_this_cluster_are_read_from_its_config(
    new_double: Any, open_provider: OpenProvider
):
    from labspawner.testing.kube.hami import HamiCard, HamiNames, registered

    names = HamiNames(count="lab.io/vgpu", memory="lab.io/vmem", cores="lab.io/vcores", priority="lab.io/prio")
    cluster = new_double([a_node(extended={"lab.io/vgpu": 10})], runs="still")
    cluster.install_hami(names=names)
    cluster.annotate_node("labnode", registered([HamiCard("GPU-1")]))
    text = (
        "nvidia:\n  resourceCountName: lab.io/vgpu\n  resourceMemoryName: lab.io/vmem\n"
        "  resourceCoreName: lab.io/vcores\n  resourcePriorityName: lab.io/prio\n"
    )
    metadata = {"name": "hami-scheduler-device", "namespace": "kube-system"}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"device-config.yaml": text}}
    cluster.apply(config)
    hami = {"config_map": "kube-system/hami-scheduler-device"}
    provider = open_provider(cluster=cluster, gpu={"strategy": "hami", "selftest": "off", "hami": hami})

    started = await follow(provider, a_request(cluster, resources=Resources(gpu=Slice(memory_bytes=2**30))))

    limits = cluster.pod(started.pod)["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["lab.io/vgpu"], limits["lab.io/vmem"]) == ("1", "1024")
    assert cluster.requests.count("get", "configmaps") == 1


async def test_a_slice_that_hamis_webhook_did_not_see_fails_at_once(new_double: Any, open_provider: OpenProvider):
    from labspawner.testing.kube.hami import HamiCard, registered

    cluster = new_double(
        [a_node(extended={"nvidia.com/gpu": 10, "nvidia.com/gpumem": 99999, "nvidia.com/gpucores": 100})]
    )
    cluster.annotate_node("labnode", registered([HamiCard("GPU-1")]))
    provider = open_provider(cluster=cluster, gpu={"strategy": "hami"})

    with pytest.raises((SetupError, StartFailed)) as failure:
        await follow(provider, a_request(cluster, resources=Resources(gpu=Slice(memory_bytes=2**30))))

    assert "HAMi" in failure.value.message or "GPU" in failure.value.message
    assert cluster.pods() == []


async def test_a_server_without_a_slice_is_told_that_there_is_no_card(provider: KubernetesProvider, still: KubeDouble):
    started = await follow(provider, a_request(still))

    env = {each["name"]: each.get("value") for each in still.pod(started.pod)["spec"]["containers"][0]["env"]}
    assert env["NVIDIA_VISIBLE_DEVICES"] in {"none", "void"}


async def test_who_is_next_in_line_gets_the_room_as_soon_as_the_pod_before_is_gone(
    provider: KubernetesProvider, still: KubeDouble, tmp_path: Path
):
    engine = Engine(
        store=Store.open(f"sqlite:///{tmp_path / 'leases.sqlite'}"),
        providers={"kubernetes": provider},
        settings=EngineSettings(hub_id=HUB, recheck_s=36000.0, observe_interval_s=36000.0),  # nobody looks by itself
    )
    most = Resources(cpu=6.0)

    def an_order(user: str) -> Order:
        request = a_request(still, user=user)
        variant = Variant(
            provider="kubernetes", resources=most, settings=request.settings, ready_timeout_s=request.ready_timeout_s
        )
        return Order(
            user=user,
            server_name="",
            profile="py101/base",
            variants=(variant,),
            base_url=request.base_url,
            command=request.command,
            environment=request.environment,
            wait_s=36000.0,
        )

    try:
        first = await engine.launch(an_order("ann"), lambda progress: None)
        told: list[str] = []
        start = asyncio.create_task(engine.launch(an_order("bob"), lambda progress: told.append(progress.message)))
        await eventually(lambda: told)

        assert first.handle is not None
        still.delete("pods", str(first.handle.data["pod"]))

        second = await start
        assert second.url
        assert [pod["metadata"]["name"] for pod in still.pods()] == [str(second.handle and second.handle.data["pod"])]
        notice = engine.notice("ann", "")
        assert notice is not None
        assert "deleted" in notice.ending.reason
    finally:
        await engine.close()


# -- ends that nobody asked for


@pytest.fixture
def ear(provider: KubernetesProvider) -> Ear:
    heard = Ear()
    provider.announce_to(heard)
    return heard


@pytest.mark.parametrize("accident", ["evicted", "deleted", "out of memory"])
async def test_a_server_that_the_cluster_ends_is_gone_and_its_hub_hears_why(
    provider: KubernetesProvider, still: KubeDouble, ear: Ear, accident: str
):
    started = await follow(provider, a_request(still, resources=Resources(memory_bytes=2**30)))

    if accident == "evicted":
        still.evict(started.pod)
    elif accident == "deleted":
        still.delete("pods", started.pod)
    else:
        still.kill(started.pod, out_of_memory=True)

    await eventually(lambda: started.handle.lease_id in ear.ends, 10)
    reason = ear.ends[started.handle.lease_id]
    assert reason
    words = {"evicted": "memory", "deleted": "deleted", "out of memory": "1 GiB"}
    assert words[accident] in reason


async def test_a_server_that_is_stopped_in_order_is_no_news_but_its_room_is(
    provider: KubernetesProvider, still: KubeDouble, ear: Ear
):
    started = await follow(provider, a_request(still))

    await provider.release(started.handle, ReleaseMode.STOP, grace_s=1)

    assert ear.rooms >= 1


async def test_of_a_server_on_a_lost_node_nobody_can_tell_and_when_it_is_back_it_runs(
    provider: KubernetesProvider, still: KubeDouble
):
    started = await follow(provider, a_request(still))
    still.faults.lose_node(kill=False)

    async def state() -> ServerState:
        return (await provider.observe([started.handle]))[started.handle.lease_id]

    async def is_unknown() -> bool:
        return await state() is ServerState.UNKNOWN

    await eventually(is_unknown, 10)
    still.faults.find_node()

    async def runs() -> bool:
        return await state() is ServerState.RUNNING

    await eventually(runs, 10)


async def test_a_pod_that_does_not_go_is_said_and_goes_when_its_node_is_back(
    open_provider: OpenProvider, still: KubeDouble
):
    from labspawner.errors import ProviderUnavailable

    provider = open_provider(stop_s=0.5)
    started = await follow(provider, a_request(still))
    still.faults.lose_node(kill=False)

    with pytest.raises(ProviderUnavailable, match="labnode") as failure:
        await provider.release(started.handle, ReleaseMode.STOP, grace_s=0)

    assert "confirmed" in failure.value.message
    assert await provider.observe([started.handle]) == {started.handle.lease_id: ServerState.GONE}
    assert len(await provider.owned()) == 1
    still.faults.find_node()
    patient = open_provider()
    await patient.release(started.handle, ReleaseMode.STOP, grace_s=1)
    assert await provider.owned() == []


async def test_a_pod_that_is_deleted_while_it_starts_ends_the_start(new_double: Any, open_provider: OpenProvider):
    slow = new_double(runs="still", pace=Pace(start_s=3600.0))
    provider = open_provider(cluster=slow)
    started = Started(a_request(slow))
    start = asyncio.create_task(follow(provider, started.request, started))
    await eventually(lambda: slow.pods() and slow.pods()[0]["spec"].get("nodeName"))

    slow.delete("pods", started.pod, grace_s=0)

    with pytest.raises(StartFailed) as failure:
        await start
    assert "deleted" in failure.value.message


async def test_a_pod_that_came_and_went_before_it_was_seen_ends_the_start(
    open_provider: OpenProvider, still: KubeDouble
):
    async def after(spawner: Any, pod: Any) -> None:
        still.delete("pods", spawner.pod_name, grace_s=0)
        pods = await provider.cluster.pods()
        await eventually(lambda: pods.reached(pod) and pods.get(spawner.pod_name) is None)

    provider = open_provider(hub_config={"KubeSpawner": {"after_pod_created_hook": after}})

    with pytest.raises(StartFailed) as failure:
        await follow(provider, a_request(still))
    assert "deleted" in failure.value.message


async def test_a_start_that_runs_out_of_time_says_what_it_waited_for(new_double: Any, open_provider: OpenProvider):
    slow = new_double(runs="still", pace=Pace(start_s=3600.0))
    provider = open_provider(cluster=slow)

    with pytest.raises(StartFailed) as failure:
        await follow(provider, a_request(slow, ready_timeout_s=1.0))

    assert failure.value.message
    assert slow.pods() == []
