"""A pretend card with real slices on it: programs run under libvgpu against the stub driver, and the card says who had it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from labspawner.gpu import region
from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits, render

MIB = 2**20
CALM = 0.05  # of a window: how long programs may wait for a processor while their shares are measured
_NAMES = ("STUB_", "CUDA_", "NVIDIA_", "LABSPAWNER_GPU", "LD_PRELOAD", "LIBCUDA_", "GPU_CORE_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """A build of native/. folder: what CMake built into, with LABSPAWNER_TESTS."""

    folder: Path

    @property
    def libvgpu(self) -> Path:
        return self.folder / "src" / "libvgpu.so"

    @property
    def stub(self) -> Path:
        return self.folder / "stub"

    def program(self, name: str) -> str:
        """The path of a bench or test program."""
        for part in ("bench", "tests", "stub"):
            if (found := self.folder / part / name).exists():
                return str(found)
        raise FileNotFoundError(f"{self.folder}: no {name} was built")


@dataclass(frozen=True, slots=True)
class Look:
    """What the card said at one moment: device time that each process has had, in nanoseconds."""

    at_ns: int
    busy_ns: Mapping[int, int]
    card_ns: int


@dataclass(slots=True)
class Slice:
    """A slice on the card; `environment` puts a program into it."""

    name: str
    limits: SliceLimits
    file: Path
    environment: dict[str, str]
    pids: list[int] = field(default_factory=list)

    def change(self, **values: Any) -> None:
        """Give it other limits while its programs run: cores_pct, weight, policy or priority."""
        device = self.limits.devices[0]
        for key in ("cores_pct", "weight"):
            if key in values:
                device = replace(device, **{key: values.pop(key)})
        self.limits = replace(self.limits, devices=(device,), **values)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(render(self.limits))
        fresh.replace(self.file)
        region.bump(Path(self.limits.region))


class PretendCard:
    """One pretend card of 24 GiB in a folder of its own. A context manager: its programs end and its files go with it."""

    def __init__(self, tools: Tools, *, cards: str = "1x24564MiB") -> None:
        self.tools = tools
        tools.program("stubctl")  # before anything is made
        self.folder = Path(tempfile.mkdtemp(prefix="labspawner-card-", dir=_shared_memory()))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(_NAMES)}
        self.environment |= {
            "LD_LIBRARY_PATH": str(tools.stub),
            "STUB_CUDA_STATE": str(self.folder / "state"),
            "STUB_CUDA_DEVICES": cards,
        }
        self.running: list[subprocess.Popen[str]] = []
        (self.folder / "node").touch()
        self.uuid = str(self.status()["devices"][0]["uuid"])

    def __enter__(self) -> PretendCard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def slice(
        self,
        name: str,
        cores_pct: int,
        *,
        policy: CorePolicy = CorePolicy.CAP,
        weight: int = 1,
        priority: int = 0,
        memory_bytes: int = 4096 * MIB,
        node: bool = True,
    ) -> Slice:
        """Make a slice of the card. node: whether it learns of the others."""
        limits = SliceLimits(
            name=name,
            region=str(self.folder / f"{name}.region"),
            node=str(self.folder / "node") if node else None,
            policy=policy,
            priority=priority,
            devices=(DeviceLimit(uuid=self.uuid, memory_bytes=memory_bytes, cores_pct=cores_pct, weight=weight),),
        )
        region.create(Path(limits.region), limits)
        file = self.folder / f"{name}.limits"
        file.write_text(render(limits))
        inside = self.environment | {"LD_PRELOAD": str(self.tools.libvgpu), "LABSPAWNER_GPU_LIMITS": str(file)}
        return Slice(name, limits, file, inside)

    def call(self, where: Slice | None, *command: object) -> str:
        """Run a program to its end, in a slice or bare; what it printed."""
        environment = where.environment if where else self.environment
        words = [self.tools.program(str(command[0])), *map(str, command[1:])]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout  # noqa: S603

    def start(self, where: Slice | None, *command: object) -> subprocess.Popen[str]:
        """Start a program that says "ready"; it runs until `stop`."""
        environment = where.environment if where else self.environment
        words = [self.tools.program(str(command[0])), *map(str, command[1:])]
        process = subprocess.Popen(  # noqa: S603
            words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.running.append(process)
        _first_in_line(process.pid)
        assert process.stdout is not None
        if (line := process.stdout.readline()) != "ready\n":
            raise RuntimeError(f"{words[0]} said {line!r} and ended with {process.wait()}")
        if where:
            where.pids.append(process.pid)
        return process

    def stop(self) -> None:
        """End all programs that were started."""
        while self.running:
            process = self.running.pop()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def status(self) -> dict[str, Any]:
        """The card's own books."""
        answer = json.loads(self._stubctl("status"))
        assert isinstance(answer, dict)
        return answer

    def look(self) -> Look:
        """Who has had how much of the card by now."""
        status = self.status()
        card = status["devices"][0]
        busy = {int(process["pid"]): int(process["busy_ns"]) for process in card["processes"]}
        return Look(int(status["now_ns"]), busy, int(card["busy_ns"]))

    def shares(
        self, slices: Sequence[Slice], *, settle_s: float, windows: int, window_s: float = 1.0, spare: int = 0
    ) -> Shares:
        """What part of the card's time each slice had in each window, once `settle_s` seconds have passed.

        spare: so many windows more are looked at while programs had to wait for a processor, and then those in which
        they waited least are told. A program that gets no processor asks nothing of the card, so such a window says
        nothing of its limit; a card's own programs would not wait for the tests beside them.
        """
        return self.parts({made.name: made.pids for made in slices}, settle_s, windows, window_s, spare)

    def parts(
        self, of: Mapping[str, Sequence[int]], settle_s: float, windows: int, window_s: float = 1.0, spare: int = 0
    ) -> Shares:
        """The same for groups of processes by name."""
        pids = [pid for group in of.values() for pid in group]
        time.sleep(settle_s)
        looks, waits = [self.look()], [waited_s(pids)]
        waited: list[float] = []
        while len(waited) < windows + spare and sum(each <= CALM * window_s for each in waited) < windows:
            time.sleep(window_s)
            looks.append(self.look())
            waits.append(waited_s(pids))
            waited.append(waits[-1] - waits[-2])
        calmest = sorted(sorted(range(len(waited)), key=waited.__getitem__)[:windows])
        return Shares({name: list(_parts(looks, group, calmest)) for name, group in of.items()})

    def _stubctl(self, *words: str) -> str:
        command = [self.tools.program("stubctl"), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout  # noqa: S603


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the card's time, 0 to 1, by slice and window."""

    of: dict[str, list[float]]

    def mean(self, name: str) -> float:
        values = self.of[name]
        return sum(values) / len(values)

    def worst(self, name: str, target: float) -> float:
        """The window that is farthest from the target."""
        return max(self.of[name], key=lambda value: abs(value - target))

    def jain(self) -> float:
        """Jain's index of the means: 1 where all had the same."""
        means = [self.mean(name) for name in self.of]
        return sum(means) ** 2 / (len(means) * sum(value**2 for value in means))


def waited_s(pids: Sequence[int]) -> float:
    """How long, since they began, the threads of these processes were ready to run and had no processor."""
    waited_ns = 0
    for file in itertools.chain.from_iterable(Path(f"/proc/{pid}/task").glob("*/schedstat") for pid in pids):
        with contextlib.suppress(OSError):  # it ended just now
            waited_ns += int(file.read_text().split()[1])
    return waited_ns / 1e9


def _first_in_line(pid: int) -> None:
    """Let a card's program run before what is beside it, where we may: a card has no processor to wait for."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, -15)
        Path(f"/proc/{pid}/autogroup").write_text("-15")  # of its session: others would otherwise get as much as it


def _parts(looks: Sequence[Look], pids: Sequence[int], windows: Sequence[int]) -> Iterator[float]:
    for before, after in ((looks[number], looks[number + 1]) for number in windows):
        used = sum(after.busy_ns.get(pid, 0) - before.busy_ns.get(pid, 0) for pid in pids)
        yield used / (after.at_ns - before.at_ns)


def _shared_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - where the library's files live
