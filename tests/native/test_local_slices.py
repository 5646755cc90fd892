"""The local provider with the real library and pretended cards: starts, one after the other, and what is left of them.

Each story is played in a process of its own: a process knows one set of pretended cards for all its life.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from builders import a_request

from labspawner.errors import NoRoom
from labspawner.gpu.libvgpu import LIBRARY_ENV
from labspawner.gpu.pretend import PRETEND_ENV
from labspawner.gpu.selftest import __file__ as SELFTEST
from labspawner.model import Checkpoint, Handle, HeldSlice, Ready, ReleaseMode, Resources, Slice
from labspawner.naming import new_lease_id
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalProvider
from labspawner.providers.local.ladder import find_sandbox
from labspawner.providers.local.network.rundir import default_base
from labspawner.testing import tinyserver

pytestmark = pytest.mark.timeout(900)

SLICE = Resources(gpu=Slice(memory_bytes=6 * 2**30, compute_pct=25))
TESTED = (
    f"import subprocess, sys; open('said.json', 'w').write(subprocess.run([sys.executable, '-I', '-S', {SELFTEST!r}], "
    "capture_output=True, text=True).stdout)"
)
Story = Callable[["Lab"], Awaitable[Any]]


class Lab:
    """A hub's local provider with one pretended card."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub_id = f"hub-{new_lease_id()}"
        self.provider = self.open()

    def open(self) -> LocalProvider:
        context = ProviderContext(name="local", hub_id=self.hub_id, data_dir=self.folder)
        return LocalProvider(context, {"network": "none", "gpu": {"pretend": "24564MiB", "selftest": "off"}})

    def left(self) -> list[str]:
        base = default_base(self.hub_id, environment=os.environ, uid=os.geteuid())
        return [entry.name for entry in base.iterdir()] if base.exists() else []

    async def start(self, user: str) -> Handle:
        code = f"{TESTED}\nimport os\nos.execv(sys.executable, {list(tinyserver.command())!r})"
        request = a_request(
            user=user,
            hub_id=self.hub_id,
            command=(sys.executable, "-c", code),
            resources=SLICE,
            base_url=f"/user/{user}/",
        )
        handle, ready = None, False
        async for event in self.provider.launch(request):
            handle = event.handle if isinstance(event, Checkpoint) else handle
            ready = ready or isinstance(event, Ready)
        assert ready
        assert handle is not None
        return handle

    async def close(self) -> None:
        for resource in await self.provider.owned():
            await self.provider.release(resource.handle, ReleaseMode.DESTROY, grace_s=0)
        await self.provider.close()


async def _play(story: Story, folder: Path) -> Any:
    lab = Lab(folder)
    try:
        told = await story(lab)
    finally:
        await lab.close()
    assert lab.left() == []
    return told


def _in_a_process(story: Story, folder: Path) -> Any:
    return asyncio.run(_play(story, folder))


@pytest.fixture
def play(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], Any]:
    if (missing := find_sandbox()) is not None:
        pytest.skip(f"no sandbox here: {missing}")
    if LIBRARY_ENV not in os.environ or PRETEND_ENV not in os.environ:
        native = request.getfixturevalue("native")
        monkeypatch.setenv(LIBRARY_ENV, str(native.libvgpu))
        monkeypatch.setenv(PRETEND_ENV, str(native.stub))

    def played(story: Story) -> Any:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_in_a_process, story, tmp_path).result(timeout=600)

    return played


async def _two_one_after_the_other(lab: Lab) -> list[str]:
    said = []
    for user in ("ann", "bob"):
        handle = await lab.start(user)
        said.append((lab.folder / "homes" / user / "said.json").read_text())
        await lab.provider.release(handle, ReleaseMode.DESTROY, grace_s=0)
    return said


async def _freed_by_another_process(lab: Lab) -> bool:
    handle = await lab.start("ann")
    beside = lab.open()
    await beside.release(handle, ReleaseMode.DESTROY, grace_s=0)
    await beside.close()
    return HeldSlice.of(await lab.start("bob")) is not None


async def _three_and_a_fourth(lab: Lab) -> tuple[str, int, set[int]]:
    handles = [await lab.start(user) for user in ("ann", "bob", "carl")]
    refused = ""
    try:
        await lab.start("dora")
    except NoRoom as exc:
        refused = str(exc.message)
    capacity, usage = await lab.provider.capacity(), await lab.provider.usage(handles)
    limits = {one.gpu.memory_limit_bytes for one in usage.values() if one.gpu is not None}
    return refused, capacity.hosts[0].cards[0].memory_free_bytes, limits


def test_each_start_gets_a_slice_that_holds_also_after_all_others_have_ended(play: Callable[[Story], Any]) -> None:
    said = play(_two_one_after_the_other)

    assert all('"verdict": "passed"' in one for one in said), said


def test_another_process_that_frees_the_last_slice_takes_nothing_from_a_hub_that_runs(
    play: Callable[[Story], Any],
) -> None:
    assert play(_freed_by_another_process)


def test_three_students_share_a_card_and_the_fourth_is_told(play: Callable[[Story], Any]) -> None:
    refused, free_bytes, limits = play(_three_and_a_fourth)

    assert "All GPUs are busy" in refused
    assert free_bytes < 6 * 2**30
    assert limits == {6 * 2**30}
