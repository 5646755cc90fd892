"""What a container gets with its slices: limits, mounts, device nodes and variables, as values. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labspawner.gpu import region
from labspawner.gpu.agent import wire
from labspawner.gpu.agent.layout import MOST_PCT, Layout, Unit
from labspawner.gpu.agent.settings import Pool
from labspawner.gpu.cards import Inventory, nodes_of
from labspawner.gpu.folder import (
    NODE_INSIDE,
    REFUSALS_ENV,
    REGION_INSIDE,
    SELFTEST_ENV,
    SELFTEST_INSIDE,
    STATE_INSIDE,
    VERDICT_ENV,
    VERDICT_INSIDE,
    Place,
    SliceFolder,
)
from labspawner.gpu.limits import DeviceLimit, SliceLimits
from labspawner.gpu.pretend import STATE_ENV, Pretended

VISIBLE_ENV = "NVIDIA_VISIBLE_DEVICES"
CDI_KIND = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFiles:
    """All files that one container with slices gets. verdict: None where nobody tries slices out."""

    folder: SliceFolder
    node: Path
    libvgpu: Path
    selftest: Path
    verdict: Path | None


def slice_name(class_name: str, ids: Iterable[str]) -> str:
    """The name of what one container has, whatever the order of its units; also the name of its folder."""
    return f"{class_name}-{hashlib.sha256('+'.join(sorted(ids)).encode()).hexdigest()[:16]}"


def limits_of(name: str, units: Sequence[Unit], layout: Layout, pool: Pool) -> SliceLimits:
    """What a container with `units` may use: several on one card are one larger slice of it."""
    memory: dict[str, int] = {}
    cores: dict[str, int] = {}
    for unit in units:
        one = pool.classes[unit.class_name]
        memory[unit.card] = memory.get(unit.card, 0) + one.memory
        cores[unit.card] = min(MOST_PCT, cores.get(unit.card, 0) + one.cores)
    ordered = sorted(memory, key=lambda uuid: layout.cards[uuid].index)
    return SliceLimits(
        name=name,
        region=REGION_INSIDE,
        node=NODE_INSIDE,
        policy=pool.core_policy,
        oversubscribe=pool.oversubscribe,
        oom_killer=pool.oom_killer,
        devices=tuple(DeviceLimit(uuid=uuid, memory_bytes=memory[uuid], cores_pct=cores[uuid]) for uuid in ordered),
    )


def answer(
    limits: SliceLimits,
    files: SliceFiles,
    *,
    layout: Layout,
    pool: Pool,
    pretended: Pretended | None = None,
    there: Callable[[str], bool] = lambda _path: True,
) -> wire.ContainerAnswer:
    """What the kubelet is told to put into the container. there: whether the node has this device node; a container with
    one that is not there would not start."""
    uuids = [device.uuid for device in limits.devices]
    places = list(files.folder.places(library=files.libvgpu, node=files.node))
    environment = {**pool.environment, REFUSALS_ENV: f"{REGION_INSIDE}:{region.Header.refusals.offset}"}
    if files.verdict is not None:
        places += [Place(files.selftest, SELFTEST_INSIDE), Place(files.verdict, VERDICT_INSIDE, writable=True)]
        environment |= {SELFTEST_ENV: SELFTEST_INSIDE, VERDICT_ENV: VERDICT_INSIDE}
    if pool.driver is not None:
        places.append(Place(Path(pool.driver[0]), pool.driver[1]))
    if pretended is not None:
        places += [Place(pretended.folder, str(pretended.folder)), Place(pretended.state, STATE_INSIDE, writable=True)]
        environment |= {**pretended.environment(pool.environment), STATE_ENV: STATE_INSIDE}
        environment |= {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}
    elif pool.runtime == "nvidia":
        environment[VISIBLE_ENV] = ",".join(uuids)
    return wire.ContainerAnswer(
        envs=environment,
        mounts=tuple(wire.Mount(place.target, str(place.source), not place.writable) for place in places),
        devices=() if pretended is not None or pool.runtime == "cdi" else _nodes(uuids, layout, there),
        cdi_devices=tuple(wire.CdiDevice(f"{CDI_KIND}={uuid}") for uuid in uuids) if _by_cdi(pool, pretended) else (),
    )


def _by_cdi(pool: Pool, pretended: Pretended | None) -> bool:
    return pool.runtime == "cdi" and pretended is None


def _nodes(uuids: Iterable[str], layout: Layout, there: Callable[[str], bool]) -> tuple[wire.DeviceNode, ...]:
    inventory = Inventory(cards=tuple(layout.cards.values()))
    paths = dict.fromkeys(path for uuid in uuids for path in nodes_of(uuid, inventory))
    return tuple(wire.DeviceNode(path, path, "rw") for path in paths if there(path))
