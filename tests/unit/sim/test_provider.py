"""What the simulation promises beyond the contract: knobs, room, listener. The contract is tests/conformance/test_sim.py."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from builders import a_request
from jupyterhub.utils import wait_for_http_server

from labspawner.errors import NeverFits, NoRoom, ProviderUnavailable, StartFailed
from labspawner.model import Checkpoint, Feature, Progress, Ready, ReleaseMode, Resources, ServerState, Slice
from labspawner.providers.sim import SimProvider
from labspawner.providers.sim.listener import normal_url, prefixes
from labspawner.testing.waiting import eventually

from .conftest import OpenSim, handle_in, launched

GIB = 2**30
HOSTS = [{"name": "a", "servers": 2, "memory": "8GiB", "cards": [{"uuid": "G0", "memory": "8GiB"}]}]


async def fetch(url: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    def go() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(go)


async def serving(provider: SimProvider, **changes: Any) -> tuple[str, Any]:
    events = await launched(provider, a_request(**changes))
    assert isinstance(events[-1], Ready)
    return events[-1].url, handle_in(events)


async def test_each_stage_leaves_a_checkpoint_and_then_progress(open_sim: OpenSim):
    sim = open_sim(stages=["clone", "boot"])

    events = await launched(sim, a_request())

    assert [type(event) for event in events] == [Checkpoint, Progress, Checkpoint, Progress, Ready]
    assert [event.handle.data for event in events if isinstance(event, Checkpoint)] == [
        {"stage": "clone"},
        {"stage": "boot"},
    ]
    assert [event.percent for event in events if isinstance(event, Progress)] == [33, 66]


async def test_the_thing_of_a_stage_exists_only_after_its_checkpoint_was_taken(sim: SimProvider):
    events: Any = sim.launch(a_request())

    await anext(events)
    before = await sim.owned()
    await anext(events)

    assert list(before) == []
    assert [resource.handle.data for resource in await sim.owned()] == [{"stage": "reserve"}]
    await events.aclose()


async def test_a_real_hub_accepts_the_server(sim: SimProvider):
    url, _ = await serving(sim)

    status, headers, body = await fetch(url, "/user/student1/api")
    await wait_for_http_server(url + "/user/student1/api", timeout=60)

    assert (status, body) == (200, f'{{"version": "{metadata.version("jupyterhub")}"}}')
    assert headers["X-Jupyterhub-Version".title()] == metadata.version("jupyterhub")


async def test_the_page_names_user_and_profile_and_never_runs_their_names(sim: SimProvider):
    url, _ = await serving(sim, user="<script>张", profile="c/p&q")

    status, headers, body = await fetch(url, "/user/student1/lab/tree?x=1")

    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "&lt;script&gt;张" in body
    assert "c/p&amp;q" in body
    assert "<script>" not in body


async def test_head_is_answered_like_get_without_a_body(sim: SimProvider):
    url, _ = await serving(sim)

    assert (await fetch(url, "/user/student1/api", "HEAD"))[0::2] == (200, "")


async def test_the_version_can_be_chosen(open_sim: OpenSim):
    url, _ = await serving(open_sim(version="5.9"))

    assert (await fetch(url, "/user/student1/api"))[1]["X-Jupyterhub-Version"] == "5.9"


@pytest.mark.parametrize("path", ["/", "/user/", "/user/nobody/api", "/user/student1x/api", "/" * 3000, "/hub/api"])
async def test_any_other_path_is_503(sim: SimProvider, path):
    url, _ = await serving(sim)

    assert (await fetch(url, path))[0] == 503


async def test_a_server_that_is_starting_dead_or_parked_is_503(open_sim: OpenSim):
    sim = open_sim()
    url, parked = await serving(sim)
    await sim.release(parked, ReleaseMode.HIBERNATE, grace_s=1)
    assert (await fetch(url, "/user/student1/api"))[0] == 503

    await serving(sim, user="b", base_url="/user/b/", settings={"die_after_ready_s": 0})
    assert (await fetch(url, "/user/b/api"))[0] == 503

    starting: Any = sim.launch(a_request(user="c", base_url="/user/c/"))
    await anext(starting)
    await anext(starting)
    assert (await fetch(url, "/user/c/api"))[0] == 503
    await starting.aclose()


async def test_the_server_with_the_longest_base_url_answers(sim: SimProvider):
    url, _ = await serving(sim, profile="c/outer")
    await serving(sim, profile="c/inner", server_name="lab", base_url="/user/student1/lab/")

    assert "c/inner" in (await fetch(url, "/user/student1/lab/x"))[2]
    assert "c/outer" in (await fetch(url, "/user/student1/x"))[2]


def test_base_urls_are_compared_in_one_encoding():
    assert normal_url("/user/a@b~/") == normal_url("/user/a%40b%7e/") == "/user/a%40b~/"
    assert prefixes("/user/a%2fb/api") == ["/user/a%2Fb/api/", "/user/a%2Fb/", "/user/", "/"]
    assert prefixes("/") == ["/"]


async def test_a_new_object_listens_where_the_old_one_did(open_sim: OpenSim):
    old = open_sim()
    url, handle = await serving(old)
    await old.close()
    new = open_sim()

    await new.observe([handle])

    assert (await fetch(url, "/user/student1/api"))[0] == 200


async def test_a_port_that_somebody_else_took_means_its_servers_are_gone(open_sim: OpenSim, caplog):
    old = open_sim()
    url, handle = await serving(old)
    await old.close()
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
        new = open_sim()

        async def gone() -> bool:
            return (await new.observe([handle]))[handle.lease_id] is ServerState.GONE

        await eventually(gone)
        fresh, _ = await serving(new)

    assert fresh != url
    assert "port taken" in caplog.text


async def test_room_is_counted_per_host_and_card_with_its_leases(open_sim: OpenSim):
    sim = open_sim(hosts=HOSTS)
    wants = Resources(memory_bytes=2 * GIB, gpu=Slice(memory_bytes=6 * GIB, compute_pct=25))
    _, handle = await serving(sim, resources=wants)

    full = await sim.capacity()
    with pytest.raises(NoRoom):
        await launched(sim, a_request(resources=wants))
    with pytest.raises(NeverFits):
        await launched(sim, a_request(resources=Resources(memory_bytes=9 * GIB)))
    await sim.release(handle, ReleaseMode.HIBERNATE, grace_s=1)
    parked = await sim.capacity()

    assert Feature.GPU_SLICES in sim.features
    assert full.counted == {handle.lease_id}
    assert (full.hosts[0].servers_free, full.hosts[0].memory_free_bytes) == (1, 6 * GIB)
    assert full.hosts[0].cards[0].memory_free_bytes == 2 * GIB
    assert parked.counted == frozenset()
    assert parked.hosts[0].cards[0].memory_free_bytes == 8 * GIB


async def test_twenty_users_and_one_last_slice_give_one_server(open_sim: OpenSim):
    sim = open_sim(hosts=HOSTS)
    wants = Resources(gpu=Slice(memory_bytes=5 * GIB))

    outcomes: list[Any] = await asyncio.gather(
        *(launched(sim, a_request(user=f"u{number}", resources=wants)) for number in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, NoRoom) for outcome in outcomes) == 19
    assert len(await sim.owned()) == 1


async def test_a_stall_ends_when_the_knob_is_taken_back(sim: SimProvider):
    sim.faults(stall_at="create")
    seen: list[Any] = []

    async def watch() -> None:
        async for event in sim.launch(a_request()):
            seen.append(event)

    task = asyncio.create_task(watch())
    await eventually(lambda: len(seen) == 4)
    sim.faults()

    await asyncio.wait_for(task, 120)
    assert isinstance(seen[-1], Ready)


async def test_a_hibernated_server_wakes_faster_than_a_stopped_one(open_sim: OpenSim):
    sim = open_sim(park=True)
    _, handle = await serving(sim)
    sim.faults(start_s=3600, resume_s=0)
    again = a_request(lease_id=handle.lease_id, parked=handle, ready_timeout_s=0.5)

    await sim.release(handle, ReleaseMode.HIBERNATE, grace_s=1)
    await launched(sim, replace(again, ready_timeout_s=120.0))
    await sim.release(handle, ReleaseMode.STOP, grace_s=1)
    with pytest.raises(StartFailed, match="not ready in time"):
        await launched(sim, again)


async def test_a_start_takes_as_long_as_told(open_sim: OpenSim):
    began = asyncio.get_running_loop().time()

    await serving(open_sim(start_s=0.3))

    assert asyncio.get_running_loop().time() - began >= 0.3


@pytest.mark.parametrize("mode", [ReleaseMode.STOP, ReleaseMode.HIBERNATE])
async def test_a_provider_that_keeps_nothing_says_so_and_keeps_nothing(open_sim: OpenSim, mode):
    sim = open_sim(hibernate=False)
    _, handle = await serving(sim)

    await sim.release(handle, mode, grace_s=1)

    assert sim.features == {Feature.LOGS, Feature.ACTIVITY}
    assert list(await sim.owned()) == []


async def test_stop_takes_as_long_as_told_but_never_longer_than_its_grace(open_sim: OpenSim):
    sim = open_sim(stop_s=3600)
    _, handle = await serving(sim)

    await asyncio.wait_for(sim.release(handle, ReleaseMode.STOP, grace_s=0.05), 120)

    assert list(await sim.owned()) == []


async def test_a_release_that_fails_keeps_everything_and_works_later(sim: SimProvider):
    url, handle = await serving(sim)

    sim.faults(release_fails=True)
    with pytest.raises(ProviderUnavailable):
        await sim.release(handle, ReleaseMode.DESTROY, grace_s=1)
    assert (await sim.observe([handle]))[handle.lease_id] is ServerState.RUNNING
    assert (await fetch(url, "/user/student1/api"))[0] == 200

    sim.faults()
    await sim.release(handle, ReleaseMode.DESTROY, grace_s=1)
    assert list(await sim.owned()) == []


async def test_a_launch_told_to_leak_leaves_its_things_in_the_listing(sim: SimProvider, caplog):
    request = a_request(settings={"leaks": True, "fail_at": "create"})

    with pytest.raises(StartFailed):
        await launched(sim, request)

    assert [resource.lease_id for resource in await sim.owned()] == [request.lease_id]
    assert "left behind" in caplog.text


async def test_a_dead_server_keeps_what_it_held_until_it_is_released(sim: SimProvider):
    _, handle = await serving(sim, settings={"die_after_ready_s": 0})

    assert (await sim.observe([handle]))[handle.lease_id] is ServerState.GONE
    assert "died" in await sim.logs(handle, 10)
    assert (await sim.capacity()).counted == {handle.lease_id}
    await sim.release(handle, ReleaseMode.STOP, grace_s=1)
    assert (await sim.capacity()).counted == frozenset()


async def test_a_host_that_goes_silent_during_a_launch_fails_it_and_nothing_is_left(sim: SimProvider):
    events: Any = sim.launch(a_request())
    await anext(events)
    await anext(events)
    sim.faults(unavailable=True)

    with pytest.raises(ProviderUnavailable):
        await anext(events)

    sim.faults()
    assert list(await sim.owned()) == []


@pytest.mark.parametrize("verb", ["activity", "logs"])
async def test_a_silent_host_gives_no_activity_and_no_logs(sim: SimProvider, verb):
    _, handle = await serving(sim)
    sim.faults(unavailable=True)

    with pytest.raises(ProviderUnavailable):
        await (sim.activity(handle) if verb == "activity" else sim.logs(handle, 5))


async def test_activity_is_the_last_page_asked_for(sim: SimProvider):
    url, handle = await serving(sim)
    first = await sim.activity(handle)
    assert first is not None

    await fetch(url, "/user/student1/lab")

    second = await sim.activity(handle)
    assert second is not None
    assert first.last_activity is not None
    assert second.last_activity is not None
    assert second.last_activity > first.last_activity
    assert second.busy is None


async def test_asking_for_the_api_is_no_sign_of_life(sim: SimProvider):
    url, handle = await serving(sim)
    before = await sim.activity(handle)

    await fetch(url, "/user/student1/api")

    assert await sim.activity(handle) == before


async def test_activity_can_be_played(sim: SimProvider):
    _, handle = await serving(sim)

    sim.faults(busy=True, idle_for_s=3600)

    activity = await sim.activity(handle)
    assert activity is not None
    assert activity.busy is True
    assert activity.last_activity is not None
    age = datetime.now(timezone.utc) - activity.last_activity
    assert timedelta(minutes=59) < age < timedelta(minutes=61)


async def test_what_does_not_serve_has_no_activity(sim: SimProvider):
    _, handle = await serving(sim)

    await sim.release(handle, ReleaseMode.HIBERNATE, grace_s=1)

    assert await sim.activity(handle) is None


async def test_logs_tell_the_stages_that_were_reached(sim: SimProvider):
    _, handle = await serving(sim)

    assert (await sim.logs(handle, 2)).splitlines() == ["[sim] boot: done", "[sim] serve: listening at /user/student1/"]


async def test_logs_of_a_launch_with_stages_of_its_own_still_say_where_it_is(sim: SimProvider):
    events: Any = sim.launch(a_request(settings={"stages": ["unpack"]}))
    handle = (await anext(events)).handle
    await anext(events)

    assert await sim.logs(handle, 5) == "[sim] unpack: done"
    await events.aclose()


async def test_a_lease_that_is_starting_is_not_started_twice(sim: SimProvider):
    request = a_request()
    events: Any = sim.launch(request)
    await anext(events)

    with pytest.raises(Exception, match="in use") as failure:
        await launched(sim, request)

    assert failure.value.status_code == 409  # type: ignore[attr-defined]
    await events.aclose()


async def test_a_release_between_checkpoint_and_thing_stops_the_launch(sim: SimProvider):
    events: Any = sim.launch(a_request())
    handle = (await anext(events)).handle

    await sim.release(handle, ReleaseMode.STOP, grace_s=1)

    with pytest.raises(StartFailed, match="released during launch"):
        await anext(events)
    assert list(await sim.owned()) == []


async def test_a_release_by_another_process_stops_the_launch_at_its_next_step(open_sim: OpenSim):
    ours, theirs = open_sim(), open_sim()
    events: Any = ours.launch(a_request())
    handle = (await anext(events)).handle
    await anext(events)

    await theirs.release(handle, ReleaseMode.DESTROY, grace_s=1)

    await anext(events)  # the next checkpoint makes nothing yet
    with pytest.raises(StartFailed, match="released during launch"):
        await anext(events)
    assert list(await theirs.owned()) == []


async def test_a_release_just_before_ready_is_not_overtaken(open_sim: OpenSim):
    ours, theirs = open_sim(), open_sim()
    events: Any = ours.launch(a_request(settings={"stages": ["only"]}))
    handle = (await anext(events)).handle
    await anext(events)

    await theirs.release(handle, ReleaseMode.DESTROY, grace_s=1)

    with pytest.raises(StartFailed, match="released during launch"):
        await anext(events)


async def test_after_close_it_cannot_tell_and_says_so(sim: SimProvider):
    _, handle = await serving(sim)

    await sim.close()

    assert await sim.observe([handle]) == {handle.lease_id: ServerState.UNKNOWN}
    with pytest.raises(ProviderUnavailable, match="closed"):
        await sim.owned()


async def test_closing_during_a_launch_is_said_and_left_to_the_reconciler(open_sim: OpenSim, caplog):
    sim = open_sim()
    events: Any = sim.launch(a_request())
    await anext(events)
    await anext(events)
    await sim.close()

    with caplog.at_level(logging.WARNING):
        await events.aclose()

    assert "launch not undone" in caplog.text
    assert len(await open_sim().owned()) == 1


@pytest.mark.parametrize("then", ["undone", "closed"])
async def test_a_launch_cancelled_twice_is_undone_all_the_same(open_sim: OpenSim, tmp_path: Path, then: str):
    sim = open_sim(start_s=30)
    seen: list[Any] = []

    async def watch() -> None:
        async for event in sim.launch(a_request()):
            seen.append(event)

    task = asyncio.create_task(watch())
    await eventually(lambda: len(seen) == 2)
    with closing(sqlite3.connect(tmp_path / "sim-world.sqlite", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")  # nobody can write, so the undoing has to wait
        for _ in range(2):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not task.done()
        if then == "closed":
            busy.execute("DROP TABLE servers")
        busy.execute("COMMIT")
    with pytest.raises(asyncio.CancelledError):
        await task

    if then == "undone":
        assert list(await sim.owned()) == []


async def test_five_hundred_starts_and_two_thousand_servers_are_cheap(sim: SimProvider):
    began = time.process_time()  # of all our threads: what it costs, however long the machine lets us wait for it
    await asyncio.gather(
        *(launched(sim, a_request(user=f"u{number}", base_url=f"/user/u{number}/")) for number in range(500))
    )
    started = time.process_time() - began
    handles = [resource.handle for resource in await sim.owned()]
    began = time.process_time()

    states = await sim.observe(handles * 4)

    assert started < 15
    assert time.process_time() - began < 0.5
    assert set(states.values()) == {ServerState.RUNNING}
