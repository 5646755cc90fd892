"""The agent in this process, between a kubelet's double and cards that come, go and do not answer."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gpudouble import MEMORY, NvmlDouble, a_card
from kube.agentlab import SMALL

from labspawner.gpu.agent.agent import Agent
from labspawner.gpu.agent.cards import NodeCards
from labspawner.gpu.agent.layout import DoesNotFit
from labspawner.gpu.agent.plugin import identity
from labspawner.gpu.agent.settings import parse_settings
from labspawner.gpu.agent.snapshot import inventory_of
from labspawner.gpu.cards import Inventory
from labspawner.testing.kubelet import AdmissionError, KubeletDouble, NotEnough
from labspawner.testing.waiting import eventually

DEADLINE_S = 20.0
VERDICT = '{"server": {"verdict": "WORD", "reason": "so"}, "kernel": {"verdict": "passed"}}'
CGROUP = f"0::/kubepods/pod34fd27b6-3c67-43a6-8e39-68e95a6d1602/{'a' * 64}\n"
Start = Callable[..., Any]


class Node:
    """A running agent, the kubelet it is registered at, and the cards it sees."""

    def __init__(self, agent: Agent, kubelet: KubeletDouble, nvml: NvmlDouble) -> None:
        self.agent, self.kubelet, self.nvml = agent, kubelet, nvml

    async def admit(self, pod: str, count: int = 1, resource: str = SMALL) -> Any:
        return await asyncio.to_thread(self.kubelet.admit, "jhub", pod, {resource: count})

    def killed(self) -> float:
        return self.agent.metrics.registry.get_sample_value("labspawner_gpu_watchdog_killed_total")

    async def has(self, count: int, resource: str = SMALL) -> None:
        """Wait until so many are allocatable, and the agent has looked at its slices once."""
        await eventually(
            lambda: self.agent.snapshot is not None and self.kubelet.allocatable(resource) == count, DEADLINE_S
        )


@pytest.fixture
async def kubelet() -> AsyncIterator[KubeletDouble]:
    with KubeletDouble() as made:
        yield made


@pytest.fixture
def state() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="agent-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(kubelet: KubeletDouble, state: Path, tmp_path: Path) -> Start:
    library = tmp_path / "libvgpu.so"
    library.write_bytes(b"no library")

    @asynccontextmanager
    async def started(
        nvml: NvmlDouble, *, grace_s: float = 60.0, proc: Path = Path("/proc"), **settings: Any
    ) -> AsyncIterator[Node]:
        found = parse_settings(
            {
                "classes": {"small": {"memory": "6GiB", "cores": 25, "per_card": 3}},
                "plugins": str(kubelet.plugins),
                "pod_resources": str(kubelet.pod_resources),
                "state": str(state),
                "libvgpu_dir": str(tmp_path / "library"),
                "every": "0.05s",
                "watchdog": "off",
                **settings,
            }
        )
        cards = NodeCards(open_nvml=nvml.open)
        agent = Agent(found, "default", libvgpu=library, cards=cards, proc=proc, poll_s=0.05, grace_s=grace_s)
        stop = asyncio.Event()
        task = asyncio.get_running_loop().create_task(agent.run(stop))
        try:
            yield Node(agent, kubelet, nvml)
        finally:
            stop.set()
            await asyncio.to_thread(kubelet.stop)
            await task

    return started


async def test_a_card_that_dies_takes_its_free_slices_away_and_brings_them_back(start: Start):
    nvml = NvmlDouble([a_card(0), a_card(1)])
    async with start(nvml) as node:
        await node.has(6)
        grant = await node.admit("jupyter-ann", 2)

        nvml.cards = [a_card(0)]
        await node.has(3)
        state = await eventually(lambda: node.agent.snapshot.lost and inventory_of(node.agent.snapshot), DEADLINE_S)
        nvml.cards = [a_card(0), a_card(1)]
        await node.has(6)

    assert [card.healthy for card in state.cards] == [True, False]
    assert "does not list it" in state.cards[1].why
    assert len(state.slices[0].devices) == len(grant.devices[SMALL]) == 2


async def test_a_driver_that_does_not_answer_makes_all_slices_unhealthy(start: Start, caplog: pytest.LogCaptureFixture):
    nvml = NvmlDouble()
    with caplog.at_level(logging.INFO):
        async with start(nvml) as node:
            await node.has(3)
            nvml.broken = True
            await node.has(0)
            with pytest.raises(NotEnough):
                await node.admit("jupyter-ann")
            nvml.broken = False
            await node.has(3)

    assert node.kubelet.capacity(SMALL) == 3
    assert caplog.text.count("does not answer any more") == 1


async def test_a_card_that_comes_later_is_shared_too(start: Start):
    nvml = NvmlDouble([a_card(0)])
    async with start(nvml) as node:
        await node.has(3)

        nvml.cards = [a_card(0), a_card(1)]

        await node.has(6)


async def test_a_card_that_comes_and_is_too_small_changes_nothing(start: Start, caplog: pytest.LogCaptureFixture):
    nvml = NvmlDouble([a_card(0)])
    async with start(nvml) as node:
        await node.has(3)
        nvml.cards = [a_card(0), a_card(1, memory_total_bytes=8 * 2**30)]
        await eventually(lambda: "does not fit the slice classes" in caplog.text, DEADLINE_S)

        await node.admit("jupyter-ann")
        await node.has(3)


async def test_cards_that_do_not_fit_at_the_start_end_the_agent_with_the_numbers(start: Start):
    nvml = NvmlDouble([a_card(0, memory_total_bytes=8 * 2**30)])

    async def run() -> None:
        async with start(nvml):
            await eventually(lambda: nvml.looks, DEADLINE_S)

    with pytest.raises(DoesNotFit, match=r"8192 MiB.*per_card: 1"):
        await run()


async def test_allocate_gives_the_nodes_of_its_card_and_names_it_to_the_runtime(start: Start):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        grant = await node.admit("jupyter-ann")

    targets = {mount.container_path: mount.read_only for mount in grant.mounts}
    assert grant.environment["NVIDIA_VISIBLE_DEVICES"] == a_card().uuid
    assert targets == {
        "/etc/labspawner/slice": True,
        "/etc/labspawner/region": False,
        "/etc/labspawner/libvgpu.so": True,
        "/etc/ld.so.preload": True,
        "/etc/labspawner/node": False,
        "/etc/labspawner/selftest.py": True,
        "/etc/labspawner/verdict": False,
    }


async def test_several_classes_are_resources_of_their_own_on_one_card(start: Start):
    classes = {
        "small": {"memory": "4GiB", "cores": 20, "per_card": 3},
        "large": {"memory": "11GiB", "cores": 40, "per_card": 1},
    }
    async with start(NvmlDouble(), classes=classes) as node:
        await node.has(3)
        await node.has(1, "labspawner.io/gpu-large")
        await node.admit("jupyter-ann", 1, "labspawner.io/gpu-large")
        with pytest.raises(NotEnough):
            await node.admit("jupyter-bob", 1, "labspawner.io/gpu-large")
        await node.admit("jupyter-bob")


async def test_a_kubelet_that_is_new_is_told_even_if_our_socket_is_still_there(start: Start):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        ours = identity(node.kubelet.plugins / "labspawner-small.sock")
        await asyncio.to_thread(node.kubelet.stop)

        await asyncio.to_thread(node.kubelet.start, keep_sockets=True)
        await node.has(3)

        assert identity(node.kubelet.plugins / "labspawner-small.sock") == ours


async def test_a_socket_that_somebody_removes_is_made_again(start: Start):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        (node.kubelet.plugins / "labspawner-small.sock").unlink()

        await eventually(lambda: len(node.kubelet.said("Register")) >= 2, DEADLINE_S)
        await node.has(3)

        await node.admit("jupyter-ann")


async def test_a_driver_that_hangs_holds_up_no_pod(start: Start):
    nvml, go_on = NvmlDouble(), threading.Event()
    async with start(nvml) as node:
        await node.has(3)
        quick, hanging = nvml.inventory, threading.Event()

        def hangs() -> Inventory:
            hanging.set()
            assert go_on.wait(600)
            return quick()

        nvml.inventory = hangs  # type: ignore[method-assign]
        assert await asyncio.to_thread(hanging.wait, 120)
        try:
            for user in ("ann", "bob", "carl"):
                await node.admit(f"jupyter-{user}")
            await eventually(lambda: len(node.agent.snapshot.slices) == 3, DEADLINE_S)
        finally:
            go_on.set()


async def test_a_pod_that_is_gone_leaves_a_fresh_slice_and_one_that_runs_is_not_touched(start: Start, state: Path):
    async with start(NvmlDouble(), grace_s=0.0) as node:
        await node.has(3)
        ann, bob = await node.admit("jupyter-ann"), await node.admit("jupyter-bob")
        regions = [Path(grant.mounts[1].host_path) for grant in (ann, bob)]
        before = [path.stat().st_ino for path in regions]
        await eventually(lambda: len(node.agent.snapshot.slices) == 2, DEADLINE_S)

        await asyncio.to_thread(node.kubelet.remove, "jhub", "jupyter-ann")
        await eventually(lambda: regions[0].exists() and regions[0].stat().st_ino != before[0], DEADLINE_S)
        await eventually(lambda: not list((state / "old").iterdir()), DEADLINE_S)

        assert regions[1].stat().st_ino == before[1]
        assert [one.owner.pod for one in node.agent.snapshot.slices] == ["jupyter-bob"]


async def test_the_first_verdict_of_a_pod_counts_and_the_next_pod_has_one_of_its_own(start: Start):
    async with start(NvmlDouble(), grace_s=0.0) as node:
        await node.has(3)

        async def tested(pod: str, word: str) -> None:
            found = await eventually(lambda: inventory_of(node.agent.snapshot).of_pod("jhub", pod), DEADLINE_S)
            await eventually(
                lambda: (of := inventory_of(node.agent.snapshot).of_pod("jhub", pod)) and of[0].tested == word,
                DEADLINE_S,
            )
            assert len(found) == 1

        grant = await node.admit("jupyter-ann")
        verdict = Path(grant.mounts[-1].host_path)
        await tested("jupyter-ann", "pending")
        verdict.write_text(VERDICT.replace("WORD", "failed"))
        await tested("jupyter-ann", "failed")

        verdict.write_text(VERDICT.replace("WORD", "passed"))
        before = node.agent.snapshot.at
        await eventually(lambda: node.agent.snapshot.at > before, DEADLINE_S)
        await tested("jupyter-ann", "failed")

        await asyncio.to_thread(node.kubelet.remove, "jhub", "jupyter-ann")
        await node.admit("jupyter-bob")
        await tested("jupyter-bob", "pending")


async def test_a_kubelet_that_does_not_list_pods_frees_nothing(start: Start):
    async with start(NvmlDouble(), grace_s=0.0) as node:
        await node.has(3)
        grant = await node.admit("jupyter-ann")
        region = Path(grant.mounts[1].host_path)
        before = region.stat().st_ino
        await eventually(lambda: node.agent.snapshot.slices, DEADLINE_S)

        await asyncio.to_thread(node.kubelet.stop)
        looks = node.nvml.looks
        await eventually(lambda: node.nvml.looks > looks + 10, DEADLINE_S)

        assert region.stat().st_ino == before
        assert [one.owner.pod for one in node.agent.snapshot.slices] == ["jupyter-ann"]


async def test_files_of_pods_that_run_are_made_again_after_the_machine_was_started_anew(start: Start, state: Path):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        grant = await node.admit("jupyter-ann", 2)
    shutil.rmtree(state / "slices")
    await asyncio.to_thread(node.kubelet.start)

    async with start(NvmlDouble()) as node:
        await node.has(3)
        await eventually(lambda: node.agent.snapshot.slices, DEADLINE_S)

        assert all(Path(mount.host_path).exists() for mount in grant.mounts)
        assert node.agent.snapshot.slices[0].limits.devices[0].memory_bytes == 12 * 2**30


async def test_files_that_cannot_be_made_refuse_the_pod_with_a_reason(start: Start, state: Path):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        (state / "slices").rename(state / "gone")  # at once: the agent may be making files in it

        with pytest.raises(AdmissionError, match="the files of the slice cannot be made"):
            await node.admit("jupyter-ann")


async def test_memory_is_what_the_driver_reports(start: Start):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        await eventually(lambda: node.agent.snapshot, DEADLINE_S)

    assert inventory_of(node.agent.snapshot).cards[0].memory_mib == MEMORY // 2**20 == 24564


async def test_a_new_layout_gives_nothing_that_pods_of_the_old_one_still_have(start: Start):
    async with start(NvmlDouble()) as node:
        await node.has(3)
        await node.admit("jupyter-ann", 2)
    await asyncio.to_thread(node.kubelet.start)

    large = {"large": {"memory": "12000MiB", "cores": 50, "per_card": 2}}
    async with start(NvmlDouble(), grace_s=0.0, classes=large) as node:
        await node.has(1, "labspawner.io/gpu-large")
        await eventually(lambda: node.agent.snapshot and node.agent.snapshot.slices, DEADLINE_S)
        assert node.agent.snapshot.slices[0].limits.devices[0].memory_bytes == 12 * 2**30

        await asyncio.to_thread(node.kubelet.remove, "jhub", "jupyter-ann")

        await node.has(2, "labspawner.io/gpu-large")


async def test_a_process_that_goes_around_its_slice_is_reported_then_killed_and_counted(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    nvml, proc = NvmlDouble(), tmp_path / "proc"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        async with start(nvml, watchdog="kill", proc=proc) as node:
            await node.has(3)
            grant = await node.admit("jupyter-ann")
            await eventually(lambda: node.agent.snapshot.slices, DEADLINE_S)
            folder = Path(grant.mounts[0].host_path)
            (proc / str(process.pid)).mkdir(parents=True)
            (proc / str(process.pid) / "mountinfo").write_text(
                f"1 0 0:25 {folder} /etc/labspawner/slice ro - tmpfs t rw"
            )
            (proc / str(process.pid) / "cgroup").write_text(CGROUP)
            nvml.held_by(process.pid, "7GiB")

            status = await asyncio.to_thread(process.wait, 120)
            await eventually(lambda: node.killed() == 1, DEADLINE_S)

    assert status == -9
    assert "over its GPU limit" in caplog.text


async def test_a_process_of_no_pod_is_reported_and_left_alone(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    nvml = NvmlDouble()
    nvml.held_by(os.getpid(), "20GiB")
    async with start(nvml, watchdog="kill", proc=tmp_path) as node:
        await node.has(3)
        await eventually(lambda: "GPU used outside all slices" in caplog.text, DEADLINE_S)
        looks = nvml.looks
        await eventually(lambda: nvml.looks > looks + 3, DEADLINE_S)

        assert node.killed() == 0
