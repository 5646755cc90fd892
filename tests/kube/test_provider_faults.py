"""Whatever the API server does, a start ends well or with a sentence, and nothing that runs is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import LabError, NoRoom, ProviderUnavailable, SetupError, StartFailed
from labspawner.model import Handle, ReleaseMode, Resources, ServerState
from labspawner.providers.kubernetes import manifest
from labspawner.providers.kubernetes.provider import KubernetesProvider
from labspawner.testing import tinyserver
from labspawner.testing.kube import KubeDouble, Pace
from labspawner.testing.waiting import eventually

from .providers import OpenProvider, Started, a_request, follow, provider_on

HUB = "hub-a"


@pytest.fixture
def still(new_double: Any) -> KubeDouble:
    """A cluster whose pods answer without a process."""
    return new_double(runs="still")


@pytest.fixture
async def open_provider(still: KubeDouble, tmp_path: Path) -> Any:
    made: list[KubernetesProvider] = []

    def open_one(cluster: KubeDouble | None = None, **settings: Any) -> KubernetesProvider:
        made.append(provider_on(cluster or still, tmp_path / str(len(made)), HUB, **settings))
        return made[-1]

    yield open_one
    for provider in made:
        await provider.close()


@pytest.fixture
def provider(open_provider: OpenProvider) -> KubernetesProvider:
    return open_provider()


async def state_of(provider: KubernetesProvider, handle: Handle) -> ServerState:
    return (await provider.observe([handle]))[handle.lease_id]


async def becomes(provider: KubernetesProvider, handle: Handle, wanted: ServerState) -> None:
    async def is_so() -> bool:
        return await state_of(provider, handle) is wanted

    await eventually(is_so, 10, wanted.value)


# -- the API server away


async def test_while_the_api_server_is_away_nobody_can_tell_and_after_it_all_is_as_before(
    provider: KubernetesProvider, still: KubeDouble
):
    started = await follow(provider, a_request(still))

    still.faults.down()
    await becomes(provider, started.handle, ServerState.UNKNOWN)
    for _ in range(5):
        assert await state_of(provider, started.handle) is ServerState.UNKNOWN
        with pytest.raises(ProviderUnavailable):
            await provider.owned()
        with pytest.raises(ProviderUnavailable):
            await provider.capacity()
    still.faults.up()

    assert await state_of(provider, started.handle) is ServerState.RUNNING
    assert [resource.lease_id for resource in await provider.owned()] == [started.handle.lease_id]


async def test_a_start_waits_for_an_api_server_that_comes_back(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(patience_s=500.0)
    await follow(provider, a_request(still, user="first"))
    still.faults.refuse("create", "pods", 503, times=None)
    start = asyncio.create_task(follow(provider, a_request(still, user="ann")))
    await eventually(lambda: still.requests.count("create", "pods", status=503) >= 2)

    still.faults.heal()

    assert (await start).url


async def test_a_start_that_waits_in_vain_says_so_and_leaves_nothing(provider: KubernetesProvider, still: KubeDouble):
    await provider.capacity()
    still.faults.refuse("create", "pods", 500, times=None)

    with pytest.raises(ProviderUnavailable) as failure:
        await follow(provider, a_request(still))

    assert "does not answer" in failure.value.message
    still.faults.heal()
    assert await provider.owned() == []


async def test_an_api_server_that_goes_away_in_the_middle_of_a_start_costs_no_start(
    new_double: Any, open_provider: OpenProvider
):
    slow = new_double(runs="still", pace=Pace(start_s=1.0))
    provider = open_provider(slow, patience_s=500.0)
    start = asyncio.create_task(follow(provider, a_request(slow)))
    await eventually(lambda: slow.pods() and slow.pods()[0]["spec"].get("nodeName"))

    slow.faults.down()
    await eventually(lambda: not provider.cluster._pods.current)  # type: ignore[union-attr]
    slow.faults.up()

    assert (await start).url


async def test_a_start_that_the_api_server_never_confirms_is_unavailable_and_what_it_made_is_found_later(
    new_double: Any, open_provider: OpenProvider
):
    slow = new_double(runs="still", pace=Pace(start_s=3600.0))
    provider = open_provider(slow, patience_s=0.5)
    start = asyncio.create_task(follow(provider, a_request(slow, ready_timeout_s=8.0)))
    await eventually(slow.pods)

    slow.faults.down()

    with pytest.raises(ProviderUnavailable):
        await start
    slow.faults.up()
    (left,) = await provider.owned()
    await provider.release(left.handle, ReleaseMode.DESTROY, grace_s=1)
    assert slow.pods() == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_passing_errors_of_the_server_cost_a_start_nothing(
    open_provider: OpenProvider, still: KubeDouble, status: int
):
    provider = open_provider(patience_s=500.0)
    await provider.capacity()
    still.faults.refuse("create", "pods", status, times=2)

    assert (await follow(provider, a_request(still))).url
    assert len(still.pods()) == 1


async def test_a_stop_gets_through_passing_errors(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(patience_s=500.0)
    started = await follow(provider, a_request(still))
    still.faults.refuse("delete", "pods", 500, times=2)

    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert still.pods() == []


async def test_a_slow_api_server_is_borne(provider: KubernetesProvider, still: KubeDouble):
    still.faults.slow(0.2)

    started = await follow(provider, a_request(still))
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert still.pods() == []


async def test_a_pod_that_an_earlier_try_made_without_an_answer_is_taken_and_not_made_twice(
    provider: KubernetesProvider, still: KubeDouble
):
    request = a_request(still, user="ann")
    name = manifest.pod_name("jupyter-ann", request.lease_id)
    marks = manifest.Marks(lease_id=request.lease_id, hub_id=HUB, provider="kubernetes", user="ann")
    port = {"name": "notebook-port", "containerPort": 8888}
    container = {"name": "notebook", "image": still.image, "ports": [port]}
    metadata = {"name": name, "labels": marks.labels()}
    await provider.capacity()
    still.faults.silence_watches()
    still.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})

    started = await follow(provider, request)

    assert started.pod == name
    assert still.requests.count("create", "pods", status=409) == 1
    assert len(still.pods()) == 1


async def test_a_start_that_is_cancelled_while_its_pod_is_asked_for_leaves_nothing(
    provider: KubernetesProvider, still: KubeDouble
):
    await provider.capacity()
    still.faults.slow(0.5, "create")
    start = asyncio.create_task(follow(provider, a_request(still)))
    await eventually(lambda: provider._making)

    start.cancel()
    outcome = await asyncio.gather(start, return_exceptions=True)

    assert isinstance(outcome[0], asyncio.CancelledError)
    assert still.requests.count("create", "pods", status=201) == 1
    assert await provider.owned() == []
    assert still.pods() == []


async def test_a_start_that_is_cancelled_while_it_tries_again_and_again_gives_up_at_once(
    open_provider: OpenProvider, still: KubeDouble
):
    provider = open_provider(patience_s=500.0)
    await provider.capacity()
    still.faults.refuse("create", "pods", 503, times=None)
    start = asyncio.create_task(follow(provider, a_request(still, ready_timeout_s=36000.0)))
    await eventually(lambda: still.requests.count("create", "pods", status=503) >= 2)

    start.cancel()
    outcome = await asyncio.gather(start, return_exceptions=True)

    assert isinstance(outcome[0], asyncio.CancelledError)
    assert await provider.owned() == []


# -- watches


@pytest.mark.parametrize("fault", ["drop", "expire", "end", "duplicate"])
async def test_a_watch_that_breaks_or_repeats_itself_costs_a_start_nothing(
    new_double: Any, open_provider: OpenProvider, fault: str
):
    slow = new_double(runs="still", pace=Pace(start_s=0.5, ready_s=0.5))
    provider = open_provider(slow)
    await follow(provider, a_request(slow, user="first"))
    faults = slow.faults
    break_it = {
        "drop": faults.drop_watches,
        "expire": faults.expire,
        "end": faults.end_watches,
        "duplicate": faults.duplicate_events,
    }[fault]
    start = asyncio.create_task(follow(provider, a_request(slow, user="ann")))
    await eventually(lambda: len(slow.pods()) == 2)

    break_it()

    started = await start
    assert await state_of(provider, started.handle) is ServerState.RUNNING
    slow.delete("pods", started.pod, grace_s=0)
    await becomes(provider, started.handle, ServerState.GONE)


async def test_a_watch_that_falls_silent_is_doubted_so_that_starts_and_stops_go_on(
    provider: KubernetesProvider, still: KubeDouble
):
    await provider.capacity()
    still.faults.silence_watches(new=True)

    started = await follow(provider, a_request(still))
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert still.pods() == []
    assert await state_of(provider, started.handle) is ServerState.GONE


async def test_a_watch_that_is_silent_beyond_its_time_is_opened_anew(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(watch_s=1.0, relist_s=600.0)
    started = await follow(provider, a_request(still))
    still.faults.silence_watches()

    still.delete("pods", started.pod, grace_s=0)

    await becomes(provider, started.handle, ServerState.GONE)


async def test_a_quiet_cluster_costs_a_watch_now_and_then_and_no_list(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(watch_s=1.0)
    started = await follow(provider, a_request(still))
    still.requests.clear()

    def renewed_without_a_list() -> bool:  # a machine that stands still for a while may cost a list
        return still.requests.count("watch", "pods") - still.requests.count("list", "pods") >= 2

    await eventually(renewed_without_a_list, 20)

    assert await state_of(provider, started.handle) is ServerState.RUNNING


# -- credentials and rights


async def test_a_token_that_expired_is_read_again_from_its_file(
    provider: KubernetesProvider, still: KubeDouble, tmp_path: Path
):
    await follow(provider, a_request(still, user="first"))

    still.faults.expire_token()
    still.kubeconfig(tmp_path / "0")

    assert (await follow(provider, a_request(still, user="ann"))).url


async def test_a_token_that_stays_expired_is_said_and_nothing_is_lost(provider: KubernetesProvider, still: KubeDouble):
    started = await follow(provider, a_request(still))
    still.faults.expire_token()
    still.faults.drop_watches()

    await becomes(provider, started.handle, ServerState.UNKNOWN)

    with pytest.raises(ProviderUnavailable) as failure:
        await provider.owned()
    assert "expired" in failure.value.message
    assert len(still.pods()) == 1


async def test_without_the_right_to_watch_it_lists_at_a_bearable_pace_and_says_what_to_add(
    open_provider: OpenProvider, still: KubeDouble, caplog: pytest.LogCaptureFixture
):
    still.faults.forbid("watch", "pods")
    provider = open_provider(relist_s=1.0, whole_cluster=False)

    started = await follow(provider, a_request(still))
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert caplog.text.count("add the verb `watch` to its Role") == 1
    assert still.requests.count("watch", "pods") <= 1
    assert still.pods() == []


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_without_events_a_server_starts_and_stops(provider: KubernetesProvider, still: KubeDouble, verb: str):
    still.faults.forbid(verb, "events")

    started = await follow(provider, a_request(still))
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert still.pods() == []


@pytest.mark.parametrize(
    ("verb", "resource", "settings"),
    [("create", "pods", {}), ("create", "persistentvolumeclaims", {"storage": {"size": "1GiB"}})],
)
async def test_a_right_that_a_start_needs_is_named_in_its_failure(
    provider: KubernetesProvider, still: KubeDouble, verb: str, resource: str, settings: dict[str, Any]
):
    still.faults.forbid(verb, resource)

    with pytest.raises(SetupError) as failure:
        await follow(provider, a_request(still, settings=settings))

    assert verb in failure.value.message
    assert resource in failure.value.message
    assert still.pods() == []


async def test_without_the_right_to_list_pods_nothing_is_started(provider: KubernetesProvider, still: KubeDouble):
    still.faults.forbid("list", "pods")

    with pytest.raises(ProviderUnavailable) as failure:
        await follow(provider, a_request(still))

    assert "list pods" in failure.value.message
    assert still.requests.writes() == 0


async def test_without_the_right_to_delete_a_stop_ends_in_time_with_the_reason(
    provider: KubernetesProvider, still: KubeDouble
):
    started = await follow(provider, a_request(still))
    still.faults.forbid("delete", "pods")

    with pytest.raises(ProviderUnavailable) as failure:
        await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)

    assert "delete pods" in failure.value.message
    still.faults.allow("delete", "pods")
    await provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)


async def test_without_the_right_to_read_logs_a_death_is_said_all_the_same(
    new_double: Any, open_provider: OpenProvider
):
    cluster = new_double()
    cluster.faults.forbid("get", "pods/log")
    provider = open_provider(cluster)
    command = tinyserver.command(say="Traceback: boom", die_after_s=0.0, exit_code=3, never_listen=True)

    with pytest.raises(StartFailed) as failure:
        await follow(provider, a_request(cluster, command=command))

    assert "exit code 3" in failure.value.message


async def test_logs_hide_the_servers_tokens(new_double: Any, open_provider: OpenProvider):
    cluster = new_double()
    provider = open_provider(cluster)
    command = tinyserver.command(say="token is not-a-secret, and that was it")

    started = await follow(provider, a_request(cluster, command=command))

    text = await provider.logs(started.handle, 5)
    assert "that was it" in text
    assert "not-a-secret" not in text


# -- what the cluster does not allow


async def test_a_quota_that_is_used_up_is_no_room_and_one_that_is_too_small_is_the_administrators(
    provider: KubernetesProvider, still: KubeDouble
):
    still.faults.quota({"limits.memory": "4Gi", "pods": 10})
    wants = {"resources": Resources(cpu=1.0, memory_bytes=3 * 2**30)}
    await follow(provider, a_request(still, user="ann", **wants))

    with pytest.raises(NoRoom) as full:
        await follow(provider, a_request(still, user="bob", **wants))
    with pytest.raises(SetupError) as never:
        await follow(provider, a_request(still, user="carl", resources=Resources(cpu=1.0, memory_bytes=5 * 2**30)))

    assert "in use" in full.value.message
    assert "more than all servers together" in never.value.message
    assert len(still.pods()) == 1


async def test_a_namespace_that_is_missing_is_said(open_provider: OpenProvider, still: KubeDouble):
    provider = open_provider(namespace="nowhere")

    with pytest.raises(SetupError) as failure:
        await follow(provider, a_request(still))

    assert "namespace" in failure.value.message


async def test_a_misspelt_image_is_named_at_once(provider: KubernetesProvider, still: KubeDouble):
    with pytest.raises(LabError) as failure:
        await follow(provider, a_request(still, settings={"image": "lab/pytroch:2.9"}))

    assert "lab/pytroch:2.9" in failure.value.message
    assert still.pods() == []


async def test_an_api_server_behind_tls_is_trusted_by_its_own_authority_only(
    new_double: Any, open_provider: OpenProvider, tmp_path: Path
):
    cluster = new_double(runs="still", tls=True)
    provider = open_provider(cluster)

    assert (await follow(provider, a_request(cluster))).url

    config = tmp_path / "untrusted"
    config.mkdir()
    text = cluster.kubeconfig(config).read_text().replace('"certificate-authority"', '"x"')
    (config / "kubeconfig").write_text(text)
    stranger = open_provider(cluster, kubeconfig=str(config / "kubeconfig"))
    with pytest.raises(ProviderUnavailable):
        await stranger.owned()


async def test_a_stage_is_said_once_and_the_percentage_never_falls(new_double: Any, open_provider: OpenProvider):
    slow = new_double(runs="still", pace=Pace(schedule_s=0.3, start_s=0.3, ready_s=0.3))
    started: Started = await follow(open_provider(slow), a_request(slow))

    percents = [progress.percent for progress in started.said]
    assert percents == sorted(percents)
    assert len(set(started.words)) == len(started.words)
