"""What the adapter does beyond the conformance kit."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jupyterhub.spawner
import psutil
import pytest
import pytest_asyncio
from builders import a_request
from odd_spawners import Elsewhere

from labspawner.errors import BadConfig, LabError, ProviderUnavailable, StartFailed
from labspawner.model import Checkpoint, Handle, Ready, ReleaseMode, Resources, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.adapter import AdapterProvider
from labspawner.providers.contract import ProviderContext
from labspawner.testing import tinyserver
from labspawner.testing.hub import free_ports
from labspawner.testing.waiting import eventually

Open = Callable[..., AdapterProvider]
ELSEWHERE = "odd_spawners:Elsewhere"


@pytest.fixture(autouse=True)
def _empty_host() -> None:
    Elsewhere.host.clear()


@pytest_asyncio.fixture
async def open_provider(tmp_path: Path) -> AsyncIterator[Open]:
    made: list[AdapterProvider] = []
    hub_id = f"hub-{new_lease_id()}"

    def open_one(spawner_class: str = "simple", **settings: Any) -> AdapterProvider:
        if spawner_class == "simple":
            settings.setdefault("config", {"home_dir_template": f"{tmp_path}/{{username}}"})
        context = ProviderContext(name="adapter", hub_id=hub_id, data_dir=tmp_path)
        made.append(AdapterProvider(context, {"spawner_class": spawner_class, **settings}))
        return made[-1]

    yield open_one
    for provider in made:
        for resource in await provider.owned():
            await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
        await provider.close()


async def start(provider: AdapterProvider, request: Any) -> tuple[Handle, str]:
    handle, url = None, ""
    async for event in provider.launch(request):
        if isinstance(event, Checkpoint):
            handle = event.handle
        if isinstance(event, Ready):
            url = event.url
    assert handle is not None
    return handle, url


async def test_the_server_gets_the_requests_environment_and_nothing_of_the_hubs(
    open_provider: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HUB_SECRET_KEY", "do-not-leak")
    provider, request = open_provider(), a_request()

    _, url = await start(provider, request)

    with urllib.request.urlopen(url + request.base_url + "env") as answer:
        seen = json.load(answer)
    assert seen.items() >= request.environment_at(url).items()
    assert seen.keys() - request.environment_at(url).keys() <= {
        *("LABSPAWNER_LEASE_ID", "LABSPAWNER_HUB_ID", "LABSPAWNER_PROVIDER", "LABSPAWNER_USER"),
        *("USER", "HOME", "SHELL", "LC_CTYPE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"),
    }
    assert seen["HOME"] == f"{tmp_path}/student1"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The ports that JupyterHub chooses next; somebody has the first of them."""
    ports = free_ports(2)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", ports[0]))
        monkeypatch.setattr(jupyterhub.spawner, "random_port", lambda: ports.pop(0))
        yield ports


async def test_a_server_whose_port_was_taken_is_started_once_more_on_another(
    open_provider: Open, taken: list[int]
) -> None:
    _, other = taken
    provider, request = open_provider(), a_request(command=tinyserver.command())

    handle, url = await start(provider, request)

    assert url == f"http://127.0.0.1:{other}"
    assert await provider.observe([handle]) == {handle.lease_id: ServerState.RUNNING}


async def test_a_port_that_was_taken_twice_or_is_the_administrators_fails_the_start(
    open_provider: Open, taken: list[int], tmp_path: Path
) -> None:
    config = {"home_dir_template": f"{tmp_path}/{{username}}"}
    first, _ = taken
    taken[1] = first
    for provider in (open_provider(), open_provider(config={**config, "port": first})):
        with pytest.raises(StartFailed, match="exit_status=1"):
            await start(provider, a_request(command=tinyserver.command()))
        assert await provider.owned() == []


async def test_a_server_that_dies_by_itself_is_not_started_again(open_provider: Open, tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", f"echo began >> {tmp_path}/starts; exit 3")

    with pytest.raises(StartFailed, match="exit_status=3"):
        await start(open_provider(), a_request(command=command))

    assert (tmp_path / "starts").read_text() == "began\n"


async def test_a_start_cancelled_after_its_process_began_leaves_neither_process_nor_zombie(
    open_provider: Open, tmp_path: Path
) -> None:
    provider = open_provider("odd_spawners:Halfway", config={"home_dir_template": f"{tmp_path}/{{username}}"})
    task = asyncio.ensure_future(start(provider, a_request(command=tinyserver.command(never_listen=True, deaf=True))))
    children = psutil.Process().children
    before = set(children())
    (child,) = await eventually(lambda: set(children()) - before)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def collected() -> bool:
        await provider.owned()
        return not psutil.pid_exists(child.pid)

    await eventually(collected)
    del task
    gc.collect()  # a process that nobody waits for is complained about here


async def test_a_pid_that_was_reused_is_neither_seen_nor_killed(open_provider: Open) -> None:
    provider = open_provider()
    handle, _ = await start(provider, a_request(command=tinyserver.command()))
    await provider.release(handle, ReleaseMode.STOP, grace_s=1)
    stranger = psutil.Popen(["sleep", "1000"])
    try:
        stale = Handle(
            lease_id=handle.lease_id, provider="adapter", data={**handle.data, "state": {"pid": stranger.pid}}
        )

        state = await provider.observe([stale])
        await provider.release(stale, ReleaseMode.DESTROY, grace_s=0)

        assert state == {handle.lease_id: ServerState.GONE}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_server_deaf_to_signals_is_killed_after_the_grace(open_provider: Open) -> None:
    provider = open_provider()
    handle, _ = await start(provider, a_request(command=tinyserver.command(deaf=True)))

    await provider.release(handle, ReleaseMode.STOP, grace_s=0.2)

    assert await provider.observe([handle]) == {handle.lease_id: ServerState.GONE}


async def test_a_profile_may_set_only_what_the_provider_lists(open_provider: Open) -> None:
    provider = open_provider(ELSEWHERE, variant_traits=["mood"])

    with pytest.raises(BadConfig, match="where"):
        await start(provider, a_request(settings={"where": "http://evil.example"}))
    with pytest.raises(BadConfig, match="mood"):
        await start(provider, a_request(settings={"mood": 7}))


async def test_a_server_elsewhere_is_found_again_by_its_state(open_provider: Open) -> None:
    url = await serve(open_provider)
    provider = open_provider(ELSEWHERE, config={"where": url + "/ignored"})
    handle, ready = await start(provider, a_request())
    later = open_provider(ELSEWHERE)

    running = await later.observe([handle])
    await later.release(handle, ReleaseMode.STOP, grace_s=1)

    assert ready == url
    assert handle.data["state"] == {"job": "job-student1"}
    assert running == {handle.lease_id: ServerState.RUNNING}
    assert Elsewhere.host == {}
    assert await later.observe([handle]) == {handle.lease_id: ServerState.GONE}


async def test_the_state_is_a_checkpoint_while_the_start_still_waits(open_provider: Open) -> None:
    provider = open_provider(ELSEWHERE, config={"mood": "slow"})
    launch: Any = provider.launch(a_request(resources=Resources(cpu=1.0, memory_bytes=2**30)))
    handle = None
    async for event in launch:
        if isinstance(event, Checkpoint) and event.handle.data["state"]:
            handle = event.handle
            break

    await launch.aclose()

    assert handle is not None
    assert handle.data["state"] == {"job": "job-student1"}
    assert Elsewhere.host == {}


async def test_a_start_that_never_returns_fails_in_time_and_is_undone(open_provider: Open) -> None:
    provider = open_provider(ELSEWHERE, config={"mood": "slow"})

    with pytest.raises(StartFailed, match="no answer"):
        await start(provider, a_request(ready_timeout_s=0.3))

    assert Elsewhere.host == {}


async def test_a_server_that_never_answers_elsewhere_is_undone(open_provider: Open) -> None:
    provider = open_provider(ELSEWHERE)

    with pytest.raises(StartFailed, match="no answer"):
        await start(provider, a_request(ready_timeout_s=0.3))

    assert Elsewhere.host == {}


@pytest.mark.parametrize(
    ("mood", "said"), [("words", "closed on Sundays"), ("crash", "could not be started")], ids=["words", "crash"]
)
async def test_what_the_spawner_says_to_the_student_is_kept_and_its_internals_are_not(
    open_provider: Open, mood: str, said: str
) -> None:
    with pytest.raises(StartFailed) as failure:
        await start(open_provider(ELSEWHERE, config={"mood": mood}), a_request())

    assert said in failure.value.message
    assert "detail" not in failure.value.message


@pytest.mark.parametrize("mood", ["angry", "silent"])
async def test_a_poll_that_raises_or_hangs_is_unknown(open_provider: Open, mood: str) -> None:
    handle, _ = await start(open_provider(ELSEWHERE, config={"where": await serve(open_provider)}), a_request())
    later = open_provider(ELSEWHERE, config={"mood": mood}, poll_timeout_s=0.1)

    assert await later.observe([handle]) == {handle.lease_id: ServerState.UNKNOWN}


async def test_a_release_is_not_taken_for_done_while_the_host_cannot_tell(open_provider: Open) -> None:
    handle, _ = await start(open_provider(ELSEWHERE, config={"where": await serve(open_provider)}), a_request())
    later = open_provider(ELSEWHERE, config={"mood": "angry"})

    with pytest.raises(ProviderUnavailable):
        await later.release(handle, ReleaseMode.STOP, grace_s=0)


async def test_a_server_that_cannot_be_stopped_is_said_so_and_not_forgotten(open_provider: Open) -> None:
    handle, _ = await start(open_provider(ELSEWHERE, config={"where": await serve(open_provider)}), a_request())
    later = open_provider(ELSEWHERE, config={"mood": "immortal"})

    with pytest.raises(ProviderUnavailable):
        await later.release(handle, ReleaseMode.STOP, grace_s=0)

    assert await later.observe([handle]) == {handle.lease_id: ServerState.RUNNING}


async def test_a_class_that_cannot_be_built_fails_the_start_and_leaves_the_rest_unknown(open_provider: Open) -> None:
    provider = open_provider("odd_spawners:Unbuildable")
    handle, _ = await start(open_provider(), a_request(command=tinyserver.command()))

    with pytest.raises(StartFailed):
        await start(provider, a_request())

    assert await provider.observe([handle]) == {handle.lease_id: ServerState.UNKNOWN}


async def test_a_missing_command_is_told_apart(open_provider: Open) -> None:
    with pytest.raises(LabError, match="FileNotFoundError"):
        await start(open_provider(), a_request(command=("no-such-command",)))


async def test_capacity_is_the_number_of_servers(open_provider: Open) -> None:
    provider = open_provider(max_servers=3)
    handle, _ = await start(provider, a_request(command=tinyserver.command()))

    capacity = await provider.capacity()

    assert capacity.hosts[0].servers_free == 2
    assert capacity.counted == {handle.lease_id}


async def serve(open_provider: Open) -> str:
    """The URL of some server that answers everything."""
    _, url = await start(open_provider(), a_request(command=tinyserver.command()))
    return url
