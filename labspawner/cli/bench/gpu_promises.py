"""What a slice promises, tried out on a pretend card: never a byte above the limit, nothing left behind, no stall at a kill.

The tests of native/ try all of it, and more of each; here it stands beside what it costs.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from labspawner.gpu.folder import SliceFolder
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits
from labspawner.testing.slices import MIB, PretendCard, Slice
from labspawner.units import human_bytes

BAD_SIZES = ("4GB", "4.5G", "four", "-1")
_LIMIT_BYTES = 600 * MIB
_STALL_US = 10_000
_PATIENCE_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table. reached: whether ours is what it must be; `target` says that in words."""

    what: str
    bare: str
    ours: str
    target: str
    reached: bool


def promises(card: PretendCard, seconds: int) -> Iterator[Row]:
    """What must hold whatever programs do. seconds: how long each storm is, about."""
    yield from _race(card, 200 * seconds)
    yield from _kills(card, 100 * seconds)
    yield _exports(card)
    yield _bad_sizes(card)


def _race(card: PretendCard, operations: int) -> Iterator[Row]:
    """Eight processes with every kind of memory and every legal way to free it; the card's own books decide."""
    made = card.slice("race", 100, policy=CorePolicy.OFF, memory_bytes=_LIMIT_BYTES)
    command = card.tools.program("hook_storm")
    crowd = [_storm([command, str(seed + 1), str(operations), "symbols"], made) for seed in range(8)]
    said = [json.loads(process.communicate(timeout=_PATIENCE_S)[0]) for process in crowd]
    status = card.status()["devices"][0]
    refused = sum(one["refused"] for one in said)
    above = int(status["peak"]) - _LIMIT_BYTES
    yield Row(
        what="8 processes race for 600 MiB, all kinds of memory",
        bare="",
        ours=f"peak {human_bytes(int(status['peak']))}, {refused} refused",
        target="never above, by a byte",
        reached=above <= 0 < refused,
    )
    left = int(status["used"])
    yield Row(
        what="left when all of it was freed, in any legal way",
        bare="",
        ours=human_bytes(left),
        target="nothing",
        reached=left == 0,
    )


def _storm(command: Sequence[str], where: Slice) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        command, env=where.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


def _kills(card: PretendCard, kills: int) -> Iterator[Row]:
    """Random `kill -9` among five processes that charge and refund. Waits for a processor are no stall of ours."""
    folder = SliceFolder(card.folder / "kills")
    limit = DeviceLimit(uuid=card.uuid, memory_bytes=_LIMIT_BYTES)
    folder.make(SliceLimits(name="kills", region=str(folder.region), devices=(limit,)))
    command = [card.tools.program("core_storm"), folder.limits.parent, card.folder / "ledger", 5, 1, 10**9, kills]
    done = subprocess.run(  # noqa: S603
        [str(word) for word in command],
        env=card.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=_PATIENCE_S,
    )
    found: dict[str, int] = json.loads(done.stdout)
    yield Row(
        what=f"longest stall at {found['kills']} random kill -9",
        bare="",
        ours=f"{found['longest_stall_us'] / 1000:.1f} ms",
        target=f"<= {_STALL_US // 1000} ms",
        reached=found["longest_stall_us"] <= _STALL_US,
    )
    yield Row(
        what="what the killed held",
        bare="",
        ours=f"{found['left']} bytes left, {found['violations']} times too much",
        target="all of it is back",
        reached=found["left"] == found["violations"] == found["failed_starts"] == 0,
    )


def _exports(card: PretendCard) -> Row:
    """Names that programs see of the library, beside those of the driver."""
    done = subprocess.run(  # noqa: S603
        ["nm", "-D", "--defined-only", str(card.tools.libvgpu)],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    others = sorted(name for name in names if not re.match(r"cu[A-Z]|nvml[A-Z]", name))
    return Row(
        what="exported symbols",
        bare="",
        ours=f"{len(names)}; not the driver's: {', '.join(others)}",
        target="the hooks, dlsym, dlvsym",
        reached=others == ["dlsym", "dlvsym"],
    )


def _bad_sizes(card: PretendCard) -> Row:
    """Sizes that we cannot be sure to understand: cuInit fails, after one line of ours."""
    outcomes = []
    for text in BAD_SIZES:
        inside = {"LD_PRELOAD": str(card.tools.libvgpu), "CUDA_DEVICE_MEMORY_LIMIT": text}
        inside["CUDA_DEVICE_MEMORY_SHARED_CACHE"] = str(card.folder / "cache")
        done = subprocess.run(  # noqa: S603
            [card.tools.program("gpu_cost"), "init"],
            env=card.environment | inside,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
        ours = [line for line in done.stderr.splitlines() if line.startswith("labspawner: ")]
        outcomes.append(done.returncode != 0 and len(ours) == 1)
    return Row(
        what=f"limits {', '.join(BAD_SIZES)}",
        bare="",
        ours="no GPU, one line" if all(outcomes) else f"taken: {outcomes.count(False)}",
        target="no GPU, one line",
        reached=all(outcomes),
    )
