"""What a new profile can begin with: a few starting points that fit this hub. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labspawner.model import Json
from labspawner.sentences import Sentence
from labspawner.units import human_bytes

GIB = 1024**3
SLICE_BYTES = (8 * GIB, 6 * GIB, 4 * GIB, 3 * GIB, 2 * GIB, 1 * GIB)
"""Sizes of slices that are offered first, the largest of which a card holds at least four."""
_SLICES_PER_CARD = 4
NO_GPU = Sentence("No GPU is known on this hub just now.")
NO_MACHINES = Sentence("This hub has no machines of that kind.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A provider as the gallery sees it. kind: `local`, `kubernetes`, `proxmox`, `sim`, ... cards: the memory of each of its
    GPUs in bytes, as far as they are known now."""

    name: str
    kind: str
    cards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """One card of the gallery. profile: as in a course file, without slug and title. missing: why it cannot be picked here.
    asks: whether a template has to be named."""

    key: str
    icon: str
    title: Sentence
    summary: Sentence
    titles: Mapping[str, str]
    profile: Mapping[str, Json]
    chips: tuple[Sentence, ...] = ()
    missing: Sentence | None = None
    asks: bool = False


def gallery(hosts: Sequence[Host]) -> tuple[StartingPoint, ...]:
    """The starting points of a hub with these providers, those that can be picked first."""
    points = [_notebook(hosts), _slice(hosts), _machine(hosts)]
    return tuple(sorted(points, key=lambda point: point.missing is not None))


def slice_bytes(cards: Sequence[int]) -> int:
    """How much of a GPU a student gets to begin with: four or more fit on each card of the smallest kind."""
    smallest = min(cards)
    return next((size for size in SLICE_BYTES if size * _SLICES_PER_CARD <= smallest), smallest // _SLICES_PER_CARD)


def _notebook(hosts: Sequence[Host]) -> StartingPoint:
    servers = [host for host in hosts if host.kind != "proxmox"]
    where = next(iter([host for host in servers if not host.cards] + servers), None)
    return StartingPoint(
        key="notebook",
        icon="📓",
        title=Sentence("Notebook"),
        summary=Sentence("JupyterLab with Python, for lectures and weekly exercises. No GPU."),
        titles={"en": "Notebook", "zh-CN": "笔记本"},
        profile=_profile(where, {"cpu": 1, "memory": "2GiB"}, idle="45m", longest="8h"),
        chips=(Sentence("{count} CPU", count="1"), Sentence("{size} memory", size="2 GiB")),
        missing=None if where else NO_MACHINES,
    )


def _slice(hosts: Sequence[Host]) -> StartingPoint:
    where = next((host for host in hosts if host.cards), None)
    size = slice_bytes(where.cards) if where else 6 * GIB
    mib = size // (1024 * 1024)
    written = f"{size // GIB}GiB" if size % GIB == 0 else f"{mib}MiB"
    gpu: dict[str, Json] = {"memory": written, "cores": "25%"}
    return StartingPoint(
        key="slice",
        icon="🧠",
        title=Sentence("GPU slice"),
        summary=Sentence("JupyterLab with a share of a GPU, for deep learning. Stops when the GPU is idle."),
        titles={"en": "Python on a GPU slice", "zh-CN": "Python（GPU 切片）"},
        profile=_profile(
            where, {"cpu": 2, "memory": "6GiB", "gpu": gpu}, idle="45m", longest="4h", gpu_idle="20m"
        ),
        chips=(
            Sentence("GPU {memory}", memory=human_bytes(size)),
            Sentence("{percent} % of a GPU's time", percent=25),
            Sentence("{count} CPU", count="2"),
            Sentence("{size} memory", size="6 GiB"),
        ),
        missing=None if where else NO_GPU,
    )  # fmt: skip


def _machine(hosts: Sequence[Host]) -> StartingPoint:
    where = next((host for host in hosts if host.kind == "proxmox"), None)
    return StartingPoint(
        key="machine",
        icon="🖥️",
        title=Sentence("Machine of their own"),
        summary=Sentence("A virtual machine per student, with a desktop, for system administration or other software."),
        titles={"en": "Virtual machine", "zh-CN": "虚拟机"},
        profile=_profile(
            where,
            {"template": "", "cpu": 2, "memory": "4GiB"},
            idle="60m", longest="12h", action="hibernate", retain="14d",
        ),
        chips=(Sentence("{count} CPU", count="2"), Sentence("{size} memory", size="4 GiB")),
        missing=None if where else NO_MACHINES,
        asks=where is not None,
    )  # fmt: skip


def _profile(
    where: Host | None, resources: Mapping[str, Json], *, idle: str, longest: str, gpu_idle: str = "", **more: Json
) -> dict[str, Json]:
    keys: dict[str, Json] = {"after": idle}
    if gpu_idle:
        keys["gpu_after"] = gpu_idle
    keys["warn"] = ["10m", "2m"]
    keys["extend"] = {"step": "30m"}
    return {
        "variants": [{"provider": where.name if where else "", **resources}],
        "idle": {**keys, **more},
        "limits": {"max_age": longest},
    }
