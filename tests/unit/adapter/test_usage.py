"""What the adapter's servers use: told of those on this machine, by their marks."""

from __future__ import annotations

from pathlib import Path

from builders import a_request

from labspawner.errors import ProviderUnavailable
from labspawner.model import Checkpoint, Handle, ReleaseMode
from labspawner.naming import new_lease_id
from labspawner.providers.adapter import AdapterProvider
from labspawner.providers.contract import ProviderContext
from labspawner.testing import tinyserver


async def test_what_runs_here_is_measured_and_what_does_not_is_left_out(tmp_path: Path):
    context = ProviderContext(name="adapter", hub_id=f"hub-{new_lease_id()}", data_dir=tmp_path)
    settings = {"spawner_class": "simple", "config": {"home_dir_template": f"{tmp_path}/{{username}}"}}
    provider = AdapterProvider(context, settings)
    request = a_request(command=tinyserver.command())
    handles = [event.handle async for event in provider.launch(request) if isinstance(event, Checkpoint)]
    elsewhere = Handle(lease_id=new_lease_id(), provider="adapter")
    try:
        usage = await provider.usage([handles[-1], elsewhere])

        assert set(usage) == {request.lease_id}
        assert usage[request.lease_id].memory_bytes > 0
        assert usage[request.lease_id].processes >= 1
    finally:
        await provider.release(handles[-1], ReleaseMode.DESTROY, grace_s=0)
        await provider.close()


async def test_a_machine_that_cannot_be_listed_tells_nothing(tmp_path: Path, monkeypatch):
    context = ProviderContext(name="adapter", hub_id="hub", data_dir=tmp_path)
    provider = AdapterProvider(context, {"spawner_class": "simple"})

    async def unavailable(**_: object) -> None:
        raise ProviderUnavailable("no answer")

    monkeypatch.setattr(provider.host, "listing", unavailable)
    try:
        assert await provider.usage([Handle(lease_id=new_lease_id(), provider="adapter")]) == {}
    finally:
        await provider.close()
