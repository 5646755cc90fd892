"""What one server sees of its slice, as a value. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labspawner.gpu import selftest
from labspawner.gpu.folder import (
    INSIDE,
    PRELOAD_INSIDE,
    REFUSALS_ENV,
    SELFTEST_ENV,
    SELFTEST_INSIDE,
    STATE_INSIDE,
    VERDICT_ENV,
    VERDICT_INSIDE,
    SliceFolder,
)
from labspawner.gpu.pretend import STATE_ENV, Pretended
from labspawner.providers.local.confinement import Bind

NO_CARD = {"NVIDIA_VISIBLE_DEVICES": "none", "CUDA_VISIBLE_DEVICES": ""}
"""For programs of a server without a slice. They may set something else; what they see is decided elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInside:
    """What a server is started with because of its slice.

    environment: for its programs, which may change it. preload: the file of the host that stands as /etc/ld.so.preload.
    loader: see `StartOrder.loader`.
    """

    environment: Mapping[str, str]
    binds: tuple[Bind, ...] = ()
    devices: tuple[str, ...] = ()
    preload: str | None = None
    loader: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFiles:
    """All files of one slice on the host. verdict: where the self-test writes; refusals_at: where in the region stands
    how often memory was refused."""

    folder: SliceFolder
    verdict: Path
    libvgpu: Path
    node: Path
    refusals_at: int

    @property
    def selftest(self) -> Path:
        """The program that tests a slice."""
        return Path(selftest.__file__)


def without_cards(devices: Iterable[str]) -> tuple[str, ...]:
    """The device nodes that every server sees, without those of the cards: those are given out one by one."""
    return tuple(device for device in devices if not device.startswith("/dev/nvidia"))


def in_sandbox(
    uuid: str,
    files: SliceFiles,
    *,
    nodes: tuple[str, ...],
    tested: bool,
    pretended: Pretended | None,
    base: Mapping[str, str],
) -> GpuInside:
    """A sandbox with a slice: files where the library looks first, which the student cannot change. base: the
    environment so far."""
    places = files.folder.places(library=files.libvgpu, node=files.node)
    binds = [
        Bind(source=str(place.source), target=place.target, writable=place.writable)
        for place in places
        if place.target != PRELOAD_INSIDE
    ]
    environment = {**_visible(uuid), REFUSALS_ENV: f"{INSIDE}/region:{files.refusals_at}"}
    loader = {"LD_PRELOAD": str(files.libvgpu)}
    if tested:
        binds += [
            Bind(source=str(files.selftest), target=SELFTEST_INSIDE),
            Bind(source=str(files.verdict), target=VERDICT_INSIDE, writable=True),
        ]
        environment |= {SELFTEST_ENV: SELFTEST_INSIDE, VERDICT_ENV: VERDICT_INSIDE}
    if pretended is not None:
        driver = str(pretended.folder)  # at its own path, which a fork's loader knows
        binds.append(Bind(source=driver, target=driver))
        binds.append(Bind(source=str(pretended.state), target=STATE_INSIDE, writable=True))
        environment |= {**pretended.environment(base), STATE_ENV: STATE_INSIDE}
        loader["LD_LIBRARY_PATH"] = environment["LD_LIBRARY_PATH"]
    return GpuInside(
        environment=environment,
        binds=tuple(binds),
        devices=() if pretended is not None else nodes,
        preload=str(files.folder.preload),
        loader=loader,
    )


def in_the_open(
    uuid: str, files: SliceFiles, *, tested: bool, pretended: Pretended | None, base: Mapping[str, str]
) -> GpuInside:
    """A plain process with a slice: a courtesy, which it can leave by unsetting a variable."""
    environment = {
        **_visible(uuid),
        REFUSALS_ENV: f"{files.folder.region}:{files.refusals_at}",
        **(pretended.environment(base) if pretended is not None else {}),
        **files.folder.courtesy(library=files.libvgpu, base=base),
    }
    if tested:
        environment |= {SELFTEST_ENV: str(files.selftest), VERDICT_ENV: str(files.verdict)}
    return GpuInside(environment=environment)


def _visible(uuid: str) -> dict[str, str]:
    return {"NVIDIA_VISIBLE_DEVICES": uuid, "CUDA_VISIBLE_DEVICES": uuid}
