"""What the host knows of a slice reaches the culler and the student: last work, and memory that there was not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from builders import NOW

from labspawner.evidence import BadReport
from labspawner.model import GpuRefusal, GpuUsage
from labspawner.sentences import Sentence

GIB = 2**30
FULL = Sentence(
    "Your slice ({slice}) is full: {program} asked for {asked}, {left} left.",
    slice="6 GiB",
    program="PyTorch",
    asked="512 MiB",
    left="300 MiB",
)
REFUSED = GpuRefusal(at=NOW, count=3, words=FULL, hints=(Sentence("Use a smaller batch or a smaller model."),))


def a_slice(*, busy_min_ago: float = 0.0, refused: GpuRefusal | None = None) -> GpuUsage:
    last = NOW - timedelta(minutes=busy_min_ago)
    return GpuUsage(memory_bytes=GIB, memory_limit_bytes=6 * GIB, last_busy=last, refused=refused)


@pytest.fixture
def gpu(desk):
    """`gpu(usage)`: what the host says from now on. Its list: what was asked."""
    asked = []

    def says(usage: GpuUsage | None):
        async def answer(_lease, refusals):
            asked.append(refusals)
            return usage

        desk.book = desk.make(gpu=answer)
        return asked

    return says


async def test_a_gpu_that_rests_ends_its_server_although_a_cell_runs(desk, gpu, minutes):
    gpu(a_slice(busy_min_ago=15))
    cell = {"id": "k", "path": "train.ipynb", "busy_since": (NOW - timedelta(hours=1)).isoformat()}

    said = await desk.report(await desk.lease(gpu_after_s=1200.0, warn_s=[]), kernels=[cell])

    assert minutes(said["ends_at"]) == 5
    assert said["cause"] == "idle"


async def test_the_culler_reads_the_last_work_of_the_gpu_from_the_store(desk, gpu):
    gpu(a_slice(busy_min_ago=15))
    lease = await desk.lease(gpu_after_s=1200.0)

    await desk.report(lease)
    await desk.restart()

    known = await desk.book.known(lease.id)
    assert known.report is not None
    assert known.report.gpu_last_busy == NOW - timedelta(minutes=15)


async def test_what_a_server_claims_of_its_gpu_does_not_count(desk, gpu):
    gpu(None)

    said = await desk.report(await desk.lease(gpu_after_s=1200.0), gpu_last_busy=NOW.isoformat())

    assert said["notice"] is None


async def test_refused_memory_is_in_the_answer_in_both_languages_with_hints(desk, gpu):
    gpu(a_slice(refused=REFUSED))

    said = await desk.report(await desk.lease())

    assert said["notice"]["id"] == 3
    assert said["notice"]["text"]["en"] == FULL
    assert said["notice"]["text"]["zh-CN"] == "您的 GPU 切片（6 GiB）已满：PyTorch 申请 512 MiB，仅剩 300 MiB。"
    assert [hint["en"] for hint in said["notice"]["hints"]] == ["Use a smaller batch or a smaller model."]


async def test_the_host_is_asked_with_what_the_server_counted(desk, gpu):
    asked = gpu(a_slice())

    await desk.report(await desk.lease(), gpu_refusals=7)
    await desk.report(await desk.lease())

    assert asked == [7, 0]


@pytest.mark.parametrize("count", [-1, "3", 1.5, True, [3]])
async def test_a_count_that_is_none_is_refused(desk, gpu, count):
    gpu(a_slice())

    with pytest.raises(BadReport, match="gpu_refusals"):
        await desk.report(await desk.lease(), gpu_refusals=count)


async def test_any_number_of_refusals_is_taken(desk, gpu):
    asked = gpu(a_slice())

    await desk.report(await desk.lease(), gpu_refusals=2**70)

    assert asked == [2**53]
