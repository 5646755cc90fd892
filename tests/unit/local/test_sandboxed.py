"""What the local provider does in a sandbox, beyond the conformance kit; looked at by servers from inside."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from builders import a_request

from labspawner.errors import LabError, SetupError, StartFailed
from labspawner.model import Checkpoint, Handle, Progress, Ready, ReleaseMode, Resources, ServerState
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider
from labspawner.providers.local.confinement import Limits, Rung
from labspawner.providers.local.ladder import find_sandbox
from labspawner.testing import tinyserver
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually

LOOK = """
import json, os, pwd
def can_read(path):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError:
        return False
    return True
json.dump({
    "env": dict(os.environ), "cwd": os.getcwd(), "uid": os.getuid(), "name": pwd.getpwuid(os.getuid()).pw_name,
    "pids": [int(pid) for pid in os.listdir("/proc") if pid.isdecimal()],
    "readable": [path for path in PATHS if can_read(path)],
    "path": [os.path.isdir(part) for part in os.environ["PATH"].split(os.pathsep)],
}, open("seen.json", "w"))
"""


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    if (missing := find_sandbox()) is not None:
        pytest.skip(f"no sandbox here: {missing}")


@pytest.fixture
def context(tmp_path: Path) -> ProviderContext:
    return ProviderContext(name="local", hub_id=f"hub-{new_lease_id()}", data_dir=tmp_path)


@pytest_asyncio.fixture
async def provider(context: ProviderContext) -> AsyncIterator[LocalProvider]:
    made = LocalProvider(context, {"network": "none"})
    yield made
    for resource in await made.owned():
        await made.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
    await made.close()


def tiny(**changes: Any) -> Any:
    return a_request(**{"command": tinyserver.command(), **changes})


def then_serve(code: str) -> tuple[str, ...]:
    """A command that runs `code`, then becomes a server."""
    return (sys.executable, "-c", f"{code}\nimport os, sys\nos.execv(sys.executable, {list(tinyserver.command())!r})")


async def start(provider: LocalProvider, request: Any) -> tuple[Handle, str, list[str]]:
    handle, url, said = None, "", []
    async for event in provider.launch(request):
        if isinstance(event, Checkpoint):
            handle = event.handle
        elif isinstance(event, Ready):
            url = event.url
        elif isinstance(event, Progress):
            said.append(str(event.message))
    assert handle is not None
    return handle, url, said


async def look(provider: LocalProvider, home: Path, *, paths: list[str], **changes: Any) -> dict[str, Any]:
    """What a server sees."""
    await start(provider, tiny(command=then_serve(f"PATHS = {paths!r}\n{LOOK}"), **changes))
    return json.loads((home / "seen.json").read_text())


async def test_a_server_is_its_student_at_home_and_reads_nothing_of_hub_and_others(
    provider: LocalProvider, tmp_path: Path
) -> None:
    await start(provider, tiny(user="bob"))
    (tmp_path / "hub.sqlite").write_text("the hub's own")
    (tmp_path / "homes" / "bob" / "thesis").write_text("bob's")
    theirs = [str(tmp_path), str(tmp_path / "hub.sqlite"), str(tmp_path / "homes" / "bob"), "/home/bob", "/etc/shadow"]

    seen = await look(provider, tmp_path / "homes" / "ann", paths=[*theirs, "/home/ann"], user="ann")

    assert (seen["cwd"], seen["name"], seen["env"]["HOME"]) == ("/home/ann", "ann", "/home/ann")
    assert seen["readable"] == ["/home/ann"]
    assert len(seen["pids"]) < 10
    if os.geteuid() == 0:
        assert seen["uid"] == (tmp_path / "homes" / "ann").stat().st_uid >= 200000


async def test_no_path_of_the_host_is_shown_to_a_student(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    request = tiny(user="ann")
    broken = {**request.environment, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    seen = await look(provider, tmp_path / "homes" / "ann", paths=[], user="ann", environment=broken)

    assert str(tmp_path) not in json.dumps({key: value for key, value in seen["env"].items() if key != "OLDPWD"})
    assert seen["path"][0]


async def test_the_end_of_the_keeper_is_the_end_of_all_that_a_server_left_behind(provider: LocalProvider) -> None:
    daemon = "import subprocess; subprocess.Popen(['setsid', 'sleep', '1000'], env={}, start_new_session=True)"
    handle, _, _ = await start(provider, tiny(command=then_serve(daemon)))
    keeper = psutil.Process(int(str(handle.data["pid"])))
    everything = keeper.children(recursive=True)

    keeper.kill()

    await eventually(lambda: not any(lives(one) for one in everything), 5)
    assert await provider.observe([handle]) == {handle.lease_id: ServerState.GONE}
    await provider.release(handle, ReleaseMode.DESTROY, grace_s=0)


async def test_a_handle_names_all_that_must_be_freed_and_release_frees_it(provider: LocalProvider) -> None:
    handle, _, _ = await start(provider, tiny(resources=Resources(memory_bytes=2**29, cpu=1.0)))
    found = await provider.machine.found()

    assert {"pid", "created", "port", "run_dir", "rung", "uid"} <= handle.data.keys()
    run_dir = Path(str(handle.data["run_dir"]))
    assert run_dir.is_dir()
    if found.rung is not Rung.RLIMIT:
        assert found.groups is not None
        group = found.groups.group(handle.lease_id)
        assert str(group.name) == handle.data["group"]
        assert group.limits_of().memory_bytes == 2**29
        assert group.pids_inside()

    await provider.release(handle, ReleaseMode.DESTROY, grace_s=1)

    assert not run_dir.exists()
    assert found.groups is None or not found.groups.group(handle.lease_id).exists()


async def test_a_control_group_that_a_crash_left_is_listed_and_can_be_freed(provider: LocalProvider) -> None:
    found = await provider.machine.found()
    if found.groups is None:
        pytest.skip("no control groups here")
    lost = new_lease_id()
    found.groups.create(lost, Limits())

    (resource,) = await provider.owned()
    await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)

    assert resource.lease_id == lost
    assert await provider.owned() == []
    assert not found.groups.group(lost).exists()


async def test_a_full_home_starts_with_a_word_and_with_what_jupyter_writes_elsewhere(
    context: ProviderContext, tmp_path: Path
) -> None:
    provider = LocalProvider(context, {"network": "none", "min_free_disk": "1000TiB"})

    handle, _, said = await start(
        provider,
        tiny(user="ann", command=then_serve("import os; print(os.environ['JUPYTER_RUNTIME_DIR'], flush=True)")),
    )
    logged = await provider.logs(handle, 5)
    await provider.release(handle, ReleaseMode.DESTROY, grace_s=0)
    await provider.close()

    assert any("home is full" in sentence for sentence in said)
    assert logged.startswith("/tmp/")


async def test_a_command_that_no_sandbox_shows_is_explained(provider: LocalProvider, tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "mine")

    with pytest.raises(SetupError, match="not visible"):
        await start(provider, tiny(command=(str(tmp_path / "mine"), "1")))


async def test_an_administrators_data_is_seen_and_cannot_be_changed(context: ProviderContext, tmp_path: Path) -> None:
    data = tmp_path / "data set"
    data.mkdir()
    (data / "rows.csv").write_text("1,2")
    provider = LocalProvider(context, {"network": "none", "read_only_paths": [str(data), "/no/such"]})

    seen = await look(provider, tmp_path / "homes" / "ann", paths=[f"{data}/rows.csv"], user="ann")
    for resource in await provider.owned():
        await provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
    await provider.close()

    assert seen["readable"] == [f"{data}/rows.csv"]


async def test_a_profile_with_its_own_interpreter_runs_on_it(provider: LocalProvider, tmp_path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        pytest.skip("there is no /usr/bin/python3")
    command = ("python3", *tinyserver.command()[1:])

    handle, _, _ = await start(provider, tiny(command=command, settings={"interpreter": python}))

    inside = [
        psutil.Process(process.pid).exe()
        for process in (await provider.host.listing()).of_lease(handle.lease_id, provider._hub_id)
        if "tinyserver" in " ".join(psutil.Process(process.pid).cmdline())
    ]
    assert [Path(exe).resolve() for exe in inside] == [Path(python).resolve()]


async def test_an_interpreter_in_a_students_home_is_never_run(provider: LocalProvider, tmp_path: Path) -> None:
    python = tmp_path / "homes" / "ann" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)

    with pytest.raises(SetupError, match="interpreter"):
        await start(provider, tiny(settings={"interpreter": str(python)}))

    assert not (tmp_path / "ran").exists()


async def test_egress_that_is_not_there_is_refused_and_not_forgotten(context: ProviderContext) -> None:
    provider = LocalProvider(context, {"network": "none"})

    with pytest.raises(SetupError, match="internet"):
        await start(provider, tiny(settings={"network": "egress"}))
    await provider.close()


async def test_without_a_sandbox_no_network_is_a_promise_that_is_not_made(context: ProviderContext) -> None:
    provider = LocalProvider(context, {"sandbox": "plain"})

    with pytest.raises(SetupError, match="without the internet"):
        await start(provider, tiny(settings={"network": "none"}))
    await provider.close()


async def test_a_home_of_a_sandboxed_student_is_not_opened_without_a_sandbox(
    provider: LocalProvider, context: ProviderContext
) -> None:
    if os.geteuid() != 0:
        pytest.skip("students have no uids of their own")
    handle, _, _ = await start(provider, tiny(user="ann"))
    await provider.release(handle, ReleaseMode.DESTROY, grace_s=0)
    plain = LocalProvider(context, {"sandbox": "plain"})

    with pytest.raises(SetupError):
        await start(plain, tiny(user="ann"))
    await plain.close()


async def test_a_rung_that_does_not_work_fails_the_start_in_words_and_releases_go_on(
    context: ProviderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = LocalProvider(context, {"sandbox": "systemd"})
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(SetupError, match="apt-get install bubblewrap"):
        await start(provider, tiny())
    with pytest.raises(LabError):
        await provider.describe_sandbox()
    await provider.warm_up()
    await provider.release(Handle(lease_id=new_lease_id(), provider="local"), ReleaseMode.STOP, grace_s=0)
    assert await provider.usage([]) == {}
    await provider.close()


async def test_the_admin_page_is_told_what_the_sandbox_keeps_apart(provider: LocalProvider) -> None:
    said = await provider.describe_sandbox()

    assert any("own home" in sentence for sentence in said)


async def test_a_start_that_was_released_meanwhile_leaves_no_server(provider: LocalProvider) -> None:
    request = tiny()
    launch: Any = provider.launch(request)
    first = await anext(launch)
    while not isinstance(await anext(launch), Checkpoint):
        pass
    await provider.release(first.handle, ReleaseMode.DESTROY, grace_s=0)

    with pytest.raises(StartFailed, match="released"):
        [event async for event in launch]

    assert await provider.owned() == []


async def test_a_secret_is_hidden_in_the_log_of_a_sandboxed_server(provider: LocalProvider) -> None:
    said = then_serve("import os; print('got', os.environ['JUPYTERHUB_API_TOKEN'], flush=True)")

    handle, _, _ = await start(provider, tiny(command=said))

    assert await provider.logs(handle, 5) == "got [hidden]"
