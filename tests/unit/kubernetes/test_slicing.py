"""The strategy in force: HAMi's own names, as soon as they can be read, and those that are set until then."""

from __future__ import annotations

from typing import Any

import pytest

from labspawner.model import Slice
from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.slicing import Slicing
from labspawner.providers.kubernetes.strategies.options import SlicingSettings
from labspawner.providers.kubernetes.wishes import GpuWish

CONFIG = "nvidia: {resourceCountName: x.io/vgpu, resourceMemoryName: x.io/mem, resourceCoreName: x.io/cores}\n"
HAMI = {"strategy": "hami", "hami": {"config_map": "kube-system/hami-scheduler-device"}}
ONE = Slice(memory_bytes=2**30, compute_pct=25)


class Cluster:
    """Answers each call with the next of `answers`; the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    async def call(self, method: str, path: str) -> dict[str, Any]:
        self.paths.append(f"{method} {path}")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def limits(slicing: Slicing) -> list[str]:
    return list(slicing.patch(ONE, GpuWish()).limits)


async def test_hamis_names_are_read_once_and_are_in_force_from_then_on():
    cluster = Cluster({"data": {"device-config.yaml": CONFIG}})
    slicing = Slicing(SlicingSettings.model_validate(HAMI))
    assert limits(slicing)[0] == "nvidia.com/gpu"

    await slicing.settle(cluster.call)
    await slicing.settle(cluster.call)

    assert limits(slicing) == ["x.io/vgpu", "x.io/mem", "x.io/cores"]
    assert cluster.paths == ["GET /api/v1/namespaces/kube-system/configmaps/hami-scheduler-device"]


@pytest.mark.parametrize(
    "answer",
    [
        ApiRefused(403, {"reason": "Forbidden"}, "get configmaps"),
        ApiSilent("no answer"),
        {},
        {"data": None},
        {"data": {"device-config.yaml": "nvidia: ["}},
    ],
    ids=["forbidden", "silent", "empty", "no data", "broken"],
)
async def test_names_that_cannot_be_read_leave_those_that_are_set_and_are_not_asked_for_by_every_start(answer, caplog):
    cluster = Cluster(answer)
    slicing = Slicing(SlicingSettings.model_validate(HAMI))

    await slicing.settle(cluster.call)
    await slicing.settle(cluster.call)

    assert limits(slicing)[0] == "nvidia.com/gpu"
    assert len(cluster.paths) == 1
    assert "its names are as they are set" in caplog.text


@pytest.mark.parametrize(
    "gpu", [{"strategy": "none"}, {"strategy": "hami"}, {"strategy": "none", "hami": HAMI["hami"]}]
)
async def test_where_nothing_is_to_be_read_nobody_is_asked(gpu):
    cluster = Cluster({})

    await Slicing(SlicingSettings.model_validate(gpu)).settle(cluster.call)

    assert cluster.paths == []
