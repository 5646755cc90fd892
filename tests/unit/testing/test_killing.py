"""The killer kills exactly where it was told, and in all else is the provider inside."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from labspawner.errors import LabError
from labspawner.model import ReleaseMode, ServerState
from labspawner.providers.contract import Provider, ProviderContext
from labspawner.testing.killing import KilledAt, killed_at, launch_and_die
from labspawner.testing.requests import launch_request, request_from_json, request_to_json

SIM = "labspawner.providers.sim:SimProvider"


@pytest.fixture
def context(tmp_path: Path) -> ProviderContext:
    return ProviderContext(name="sim", hub_id="test-hub", data_dir=tmp_path)


def spec(event_index: int, *, before: bool = False, **more: object) -> dict[str, object]:
    return {"entry_point": SIM, "settings": {"start_s": 0}, "event_index": event_index, "before": before, **more}


async def test_it_is_the_provider_inside_in_all_but_death(context: ProviderContext):
    provider = killed_at(context, spec(99))

    events = [event async for event in provider.launch(launch_request())]
    handle = events[0].handle  # type: ignore[union-attr]

    assert isinstance(provider, Provider)
    assert (provider.name, provider.features) == ("sim", provider.inner.features)
    assert await provider.observe([handle]) == {handle.lease_id: ServerState.RUNNING}
    assert [resource.lease_id for resource in await provider.owned()] == [handle.lease_id]
    assert (await provider.capacity()).counted == {handle.lease_id}
    assert await provider.activity(handle) is not None
    assert "boot" in await provider.logs(handle, 9)
    await provider.release(handle, ReleaseMode.DESTROY, grace_s=1)
    assert await provider.owned() == []
    await provider.close()


async def test_closing_its_launch_closes_the_one_inside(context: ProviderContext):
    provider = killed_at(context, spec(99))
    events = provider.launch(launch_request())
    for _ in range(2):
        await anext(events)

    await events.aclose()  # type: ignore[attr-defined]

    assert await provider.owned() == []
    await provider.close()


@pytest.mark.parametrize(("event_index", "before", "stored"), [(0, True, 0), (0, False, 1), (2, True, 2), (3, True, 3)])
async def test_it_dies_just_before_or_after_the_event_it_was_told(
    context: ProviderContext, tmp_path: Path, event_index: int, before: bool, stored: int
):
    doomed = await launch_and_die(
        entry_point=SIM,
        context=context,
        settings={"start_s": 0},
        request=launch_request(),
        event_index=event_index,
        before=before,
        folder=tmp_path,
    )

    assert doomed.returncode == -signal.SIGKILL
    assert len(doomed.handles) == stored
    assert doomed.url is None


async def test_a_launch_that_ends_earlier_is_told_with_its_url_or_its_error(context: ProviderContext, tmp_path: Path):
    async def run(**settings: object) -> object:
        return await launch_and_die(
            entry_point=SIM,
            context=context,
            settings={"start_s": 0, **settings},  # type: ignore[dict-item]
            request=launch_request(),
            event_index=99,
            before=True,
            folder=tmp_path,
        )

    lived, failed = await run(), await run(fail_at="boot")

    assert (lived.returncode, lived.url is not None) == (0, True)  # type: ignore[attr-defined]
    assert failed.returncode == 1  # type: ignore[attr-defined]
    assert "StartFailed" in failed.stderr  # type: ignore[attr-defined]


async def test_it_dies_once_where_a_file_remembers_it(context: ProviderContext, tmp_path: Path):
    once = tmp_path / "died"
    code = (
        "import asyncio, json, sys; from pathlib import Path\n"
        "from labspawner.testing.killing import killed_at; from labspawner.providers.contract import ProviderContext\n"
        "from labspawner.testing.requests import launch_request\n"
        f"context = ProviderContext(name='sim', hub_id='h', data_dir=Path({str(tmp_path)!r}))\n"
        "async def main():\n"
        f"    provider = killed_at(context, {spec(0, before=True, once=str(once))!r})\n"
        "    async for event in provider.launch(launch_request()): pass\n"
        "    await provider.close()\n"
        "asyncio.run(main())\n"
    )

    codes = []
    for _ in range(2):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        codes.append(await child.wait())

    assert codes == [-signal.SIGKILL, 0]
    assert once.exists()


async def test_errors_of_the_provider_inside_come_through(context: ProviderContext):
    provider = KilledAt(killed_at(context, spec(99)), 99, before=True)

    with pytest.raises(LabError):
        async for _ in provider.launch(launch_request(settings={"fail_at": "boot"})):
            pass
    await provider.close()


def test_a_request_comes_back_from_json_as_it_was(context: ProviderContext):
    from labspawner.model import Handle, LeaseId, Resources, Slice

    request = launch_request(
        user="张/三",
        server_name="a b",
        resources=Resources(cpu=1.5, gpu=Slice(memory_bytes=7, compute_pct=25)),
        parked=Handle(lease_id=LeaseId("l1"), provider="sim", data={"x": [1]}),
    )

    assert request_from_json(request_to_json(request)) == request
    assert request_from_json(request_to_json(launch_request())).parked is None
    assert request.base_url == "/user/%E5%BC%A0%2F%E4%B8%89/a%20b/"
