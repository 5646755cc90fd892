"""What the local provider does beyond the conformance kit, with real processes and without a sandbox."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from builders import a_request

from labspawner.errors import BadConfig, LeaseConflict, SetupError, StartFailed
from labspawner.model import Checkpoint, Handle, Ready, ReleaseMode, ServerState
from labspawner.naming import new_lease_id, safe_name
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider
from labspawner.testing import tinyserver
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually

PLAIN = {"sandbox": "plain"}
SHOW = (
    "import json, os, signal, sys; open('seen.json', 'w').write(json.dumps("
    "{'env': dict(os.environ), 'cwd': os.getcwd(), 'stdin': sys.stdin.read(), 'sid': os.getsid(0) == os.getpid()}));"
)


@pytest.fixture
def context(tmp_path: Path) -> ProviderContext:
    return ProviderContext(name="local", hub_id=f"hub-{new_lease_id()}", data_dir=tmp_path)


@pytest_asyncio.fixture
async def provider(context: ProviderContext) -> AsyncIterator[LocalProvider]:
    made = LocalProvider(context, PLAIN)
    yield made
    for resource in await made.owned():
        await made.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
    await made.close()


def tiny(**changes: Any) -> Any:
    return a_request(**{"command": tinyserver.command(), **changes})


def then_serve(code: str) -> tuple[str, ...]:
    """A command that runs `code`, then becomes a server."""
    return (sys.executable, "-c", f"{code}\nimport os, sys\nos.execv(sys.executable, {list(tinyserver.command())!r})")


async def start(provider: LocalProvider, request: Any) -> tuple[Handle, str]:
    handle, url = None, ""
    async for event in provider.launch(request):
        if isinstance(event, Checkpoint):
            handle = event.handle
        if isinstance(event, Ready):
            url = event.url
    assert handle is not None
    return handle, url


async def test_a_server_has_its_home_its_mark_no_stdin_and_nothing_of_the_hubs_environment(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_SECRET_KEY", "do-not-leak")
    monkeypatch.setenv("LANG", "C.UTF-8")
    request = tiny(user="Ann Lee/../x", command=then_serve(SHOW))

    await start(provider, request)

    home = tmp_path / "homes" / safe_name("Ann Lee/../x")
    seen = json.loads((home / "seen.json").read_text())
    assert (seen["cwd"], seen["stdin"], seen["sid"]) == (str(home), "", True)
    assert seen["env"]["HOME"] == str(home)
    assert seen["env"]["LABSPAWNER_LEASE_ID"] == request.lease_id
    assert seen["env"]["LANG"] == "C.UTF-8"
    assert "HUB_SECRET_KEY" not in seen["env"]


async def test_no_environment_is_ever_logged(provider: LocalProvider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    request = tiny()

    handle, _ = await start(provider, request)
    await provider.release(handle, ReleaseMode.STOP, grace_s=1)

    assert request.environment["JUPYTERHUB_API_TOKEN"] not in caplog.text
    assert "server answers" in caplog.text


async def test_a_missing_singleuser_command_says_what_to_install(provider: LocalProvider) -> None:
    request = tiny(command=("jupyterhub-singleuser-nowhere",))

    with pytest.raises(SetupError) as failure:
        await start(provider, request)

    assert "pip install jupyterlab" in failure.value.message


async def test_a_command_that_may_not_be_run_is_explained(provider: LocalProvider, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("not a program")

    with pytest.raises(SetupError) as failure:
        await start(provider, tiny(command=(str(tmp_path / "data.txt"),)))

    assert "may not be run" in failure.value.message


async def test_the_log_of_a_failed_start_is_shown_without_its_token(provider: LocalProvider) -> None:
    request = tiny(
        command=(sys.executable, "-c", "import os, sys; sys.exit('token is ' + os.environ['JUPYTERHUB_API_TOKEN'])")
    )

    with pytest.raises(StartFailed) as failure:
        await start(provider, request)

    assert failure.value.log_tail == "token is [hidden]"


async def test_a_new_hub_process_still_hides_the_token_in_the_log(
    provider: LocalProvider, context: ProviderContext
) -> None:
    request = tiny(command=then_serve("import os; print('got', os.environ['JUPYTERHUB_API_TOKEN'], flush=True)"))
    handle, _ = await start(provider, request)
    later = LocalProvider(context, PLAIN)

    text = await later.logs(handle, 5)
    await later.close()

    assert text == "got [hidden]"


async def test_what_a_server_started_in_its_own_session_ends_with_it(provider: LocalProvider, tmp_path: Path) -> None:
    spawn = "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    shed = "import subprocess; subprocess.Popen(['sleep', '2000'], start_new_session=True, env={})"
    handle, _ = await start(provider, tiny(command=then_serve(f"{spawn}; {shed}")))
    main = psutil.Process(int(str(handle.data["pid"])))
    children = main.children(recursive=True)
    assert len(children) == 3  # the server too: its parent is its keeper

    await provider.release(handle, ReleaseMode.STOP, grace_s=2)

    assert not any(lives(child) for child in children)
    assert await provider.owned() == []


async def test_a_server_deaf_to_signals_is_killed_after_the_grace(provider: LocalProvider) -> None:
    handle, _ = await start(provider, tiny(command=tinyserver.command(deaf=True)))

    await provider.release(handle, ReleaseMode.STOP, grace_s=0.2)

    assert await provider.observe([handle]) == {handle.lease_id: ServerState.GONE}


async def test_a_zombie_is_gone_and_then_collected(provider: LocalProvider) -> None:
    handle, _ = await start(provider, tiny())
    pid = int(str(handle.data["pid"]))
    psutil.Process(pid).kill()

    async def gone() -> bool:
        return (await provider.observe([handle]))[handle.lease_id] is ServerState.GONE

    await eventually(gone, 5)
    await eventually(lambda: not psutil.pid_exists(pid), 5)


async def test_a_pid_that_was_reused_is_neither_seen_nor_killed(provider: LocalProvider) -> None:
    stranger = psutil.Popen(["sleep", "1000"])
    try:
        data = {"pid": stranger.pid, "created": stranger.create_time() - 3600}
        handle = Handle(lease_id=new_lease_id(), provider="local", data=data)

        state = await provider.observe([handle])
        await provider.release(handle, ReleaseMode.DESTROY, grace_s=0)

        assert state == {handle.lease_id: ServerState.GONE}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_taken_port_is_left_and_another_tried_once(provider: LocalProvider, tmp_path: Path) -> None:
    claim = (
        "import os, sys\n"
        "if not os.path.exists('tried'):\n"
        "    open('tried', 'w'); sys.exit('OSError: [Errno 98] Address already in use')"
    )
    request = tiny(command=then_serve(claim))
    events = [event async for event in provider.launch(request)]

    assert isinstance(events[-1], Ready)
    ports = [
        event.handle.data["port"] for event in events if isinstance(event, Checkpoint) and "port" in event.handle.data
    ]
    assert len(set(ports)) == 2


async def test_a_port_taken_twice_fails_with_a_sentence(provider: LocalProvider) -> None:
    code = "import sys; sys.exit('OSError: [Errno 98] Address already in use')"

    with pytest.raises(StartFailed) as failure:
        await start(provider, tiny(command=(sys.executable, "-c", code)))

    assert "network port" in failure.value.message


async def test_a_stranger_that_answers_on_the_port_is_not_taken_for_the_server(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    other = psutil.Popen(
        tinyserver.command(), env={**os.environ, "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/"}
    )
    try:
        request = tiny(command=tinyserver.command(never_listen=True), ready_timeout_s=2.0, user="bob")
        monkeypatch.setattr(provider._ports, "take", lambda *_, **__: port)
        with pytest.raises(StartFailed) as failure:
            await start(provider, request)
    finally:
        other.kill()
        other.wait()
    assert "did not answer" in failure.value.message


async def test_a_launch_of_a_lease_under_way_is_a_conflict(provider: LocalProvider) -> None:
    request = tiny()
    first: Any = provider.launch(request)
    await anext(first)

    with pytest.raises(LeaseConflict):
        await start(provider, request)

    await first.aclose()


async def test_a_release_between_two_checkpoints_stops_the_launch(provider: LocalProvider) -> None:
    launch: Any = provider.launch(tiny())
    first = await anext(launch)
    await provider.release(first.handle, ReleaseMode.DESTROY, grace_s=0)

    with pytest.raises(StartFailed, match="released"):
        [event async for event in launch]

    assert await provider.owned() == []


async def test_a_profile_with_an_unknown_key_is_refused_before_anything_is_made(
    provider: LocalProvider, tmp_path: Path
) -> None:
    with pytest.raises(BadConfig, match="image"):
        await start(provider, tiny(settings={"image": "x"}))

    assert list(tmp_path.iterdir()) == []


async def test_a_profile_may_bring_its_own_command(provider: LocalProvider) -> None:
    settings = {"command": list(tinyserver.command()), "default_url": "/tree"}

    handle, url = await start(provider, tiny(command=("nothing-of-the-sort",), settings=settings))

    assert url.endswith(f":{handle.data['port']}")


async def test_capacity_counts_what_runs_against_the_limit(context: ProviderContext) -> None:
    provider = LocalProvider(context, {**PLAIN, "max_servers": 2})
    handle, _ = await start(provider, tiny())

    capacity = await provider.capacity()
    await provider.release(handle, ReleaseMode.DESTROY, grace_s=1)
    await provider.close()

    (host,) = capacity.hosts
    assert (host.servers_total, host.servers_free) == (2, 1)
    assert capacity.counted == {handle.lease_id}
    assert 0 < (host.memory_free_bytes or 0) <= (host.memory_total_bytes or 0)


async def test_jupyterhubs_own_stand_in_gets_ready(provider: LocalProvider) -> None:
    handle, _ = await start(provider, a_request())

    assert "mock" in await provider.logs(handle, 50)


async def test_a_user_named_with_a_nul_is_a_setup_error_not_a_crash(provider: LocalProvider) -> None:
    request = tiny()
    broken = replace(request, environment={**request.environment, "JUPYTERHUB_USER": "a\0b"})

    with pytest.raises(SetupError):
        await start(provider, broken)


async def test_a_command_that_is_no_web_server_can_count_as_ready_when_it_runs(provider: LocalProvider) -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(600)")

    handle, _ = await start(provider, tiny(command=sleeper, settings={"ready": "started"}))

    assert (await provider.observe([handle]))[handle.lease_id] is ServerState.RUNNING
    assert provider.exit_status(handle.lease_id) is None


async def test_the_exit_status_of_an_ended_server_is_remembered(provider: LocalProvider) -> None:
    handle, _ = await start(provider, tiny(command=tinyserver.command(deaf=True)))

    await provider.release(handle, ReleaseMode.STOP, grace_s=0.1)

    assert provider.exit_status(handle.lease_id) == -signal.SIGKILL
    assert provider.exit_status(new_lease_id()) is None
