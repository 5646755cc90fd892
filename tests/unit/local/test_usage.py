"""What the local provider says its servers use."""

from __future__ import annotations

from pathlib import Path

from builders import a_request

from labspawner.model import Checkpoint, Handle, ReleaseMode, Resources
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider
from labspawner.testing import tinyserver

MIB = 2**20


async def used(provider: LocalProvider, tmp_path: Path):
    """A small server's usage; one that never ran is asked about too."""
    request = a_request(command=tinyserver.command(), resources=Resources(cpu=1.5, memory_bytes=256 * MIB))
    handles = [event.handle async for event in provider.launch(request) if isinstance(event, Checkpoint)]
    never = Handle(lease_id=new_lease_id(), provider="local")
    try:
        usage = await provider.usage([handles[-1], never])
        groups = (await provider.machine.found()).groups
    finally:
        await provider.release(handles[-1], ReleaseMode.DESTROY, grace_s=0)
        assert await provider.usage(handles[-1:]) == {}
        await provider.close()
    assert set(usage) == {request.lease_id}
    return usage[request.lease_id], groups


def opened(tmp_path: Path, **settings) -> LocalProvider:
    return LocalProvider(ProviderContext(name="local", hub_id=f"hub-{new_lease_id()}", data_dir=tmp_path), settings)


async def test_on_the_best_rung_of_this_machine_it_is_beside_what_is_enforced(tmp_path: Path):
    usage, groups = await used(opened(tmp_path), tmp_path)

    assert usage.memory_bytes > 0
    assert usage.cpu_s > 0
    assert usage.processes >= 1
    if groups is not None and groups.limits_memory:
        assert usage.memory_limit_bytes == 256 * MIB
    if groups is not None and groups.limits_cpu:
        assert usage.cpu_limit == 1.5


async def test_a_plain_process_has_no_limits_and_is_measured(tmp_path: Path):
    usage, _ = await used(opened(tmp_path, sandbox="plain"), tmp_path)

    assert usage.memory_bytes > MIB
    assert usage.memory_limit_bytes is None
    assert usage.cpu_limit is None
