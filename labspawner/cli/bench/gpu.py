"""`labspawner bench gpu`: what a slice costs and how well it holds, on a pretend card, beside the same calls without it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from labspawner.cli.bench.gpu_promises import Row, promises
from labspawner.gpu.limits import CorePolicy
from labspawner.testing.slices import PretendCard, Shares, Slice, Tools

SOURCES = Path(__file__).resolve().parents[3] / "native"
KERNELS_US = (20, 100, 1000, 20000)
POINTS = 2.0
_LONG_S = 3600
_SPARE = 20  # windows more that are looked at where programs had no processor in some: those say nothing of a limit


def costs(card: PretendCard, rounds: int) -> Iterator[Row]:
    """What single calls cost in a slice, above what they cost without one."""
    free, limited = card.slice("free", 100), card.slice("limited", 50)
    plain: list[tuple[str, Slice, tuple[object, ...], float]] = [
        ("launch, memory limit only", free, ("launch",), 3),
        ("launch, with core limit", limited, ("launch",), 80),
        ("alloc + free, 1 live block", free, ("alloc", 0), 60),
        ("alloc + free, 1,000 live blocks", free, ("alloc", 1000), 60),
        ("alloc + free, 10,000 live blocks", free, ("alloc", 10000), 60),
        ("cuMemGetInfo", free, ("query",), 10),
        ("NVML memory query", free, ("nvml",), 10),
    ]
    for what, where, words, most in plain:
        yield _cost(card, what, where, words, most, "ns", rounds)
    yield _exec_cost(card, rounds)
    yield _cost(card, "cuInit", free, ("init",), 100, "us", rounds)
    for _ in range(15):
        card.start(free, "gpu_cost", "hold")
    yield _cost(card, "alloc + free, 16 processes", free, ("alloc", 0), 60, "ns", rounds)
    card.stop()


def _cost(
    card: PretendCard, what: str, where: Slice, words: Sequence[object], most: float, unit: str, rounds: int
) -> Row:
    """Bare and sliced by turns; the lowest of each counts, since all that can disturb only adds."""
    bare, ours = float("inf"), float("inf")
    for _ in range(rounds):
        bare = min(bare, float(card.call(None, "gpu_cost", *words)))
        ours = min(ours, float(card.call(where, "gpu_cost", *words)))
    return _cost_row(what, bare, ours, most, unit)


def _exec_cost(card: PretendCard, rounds: int) -> Row:
    """Of the library as an installer writes it: what a linker wrote in pieces is mapped piece by piece, at each exec."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as folder:
        library = Path(folder) / "libvgpu.so"
        library.write_bytes(card.tools.libvgpu.read_bytes())
        bare, ours = card.call(None, "gpu_cost", "exec", library, 200 * rounds).split()
    return _cost_row("exec of a program without CUDA", float(bare), float(ours), 20, "us")


def _cost_row(what: str, bare_ns: float, ours_ns: float, most: float, unit: str) -> Row:
    bare, ours = (value / (1000 if unit == "us" else 1) for value in (bare_ns, ours_ns))
    return Row(
        what=what,
        bare=f"{bare:.1f} {unit}",
        ours=f"{ours - bare:+.1f} {unit}",
        target=f"<= +{most:g} {unit}",
        reached=ours - bare <= most,
    )


def accuracy(card: PretendCard, seconds: int) -> Iterator[Row]:
    """How well the core limit holds, by the card's own books, in windows of a second."""
    loads = [(f"{us / 1000:g} ms kernels", ("kernel", us), 1) for us in KERNELS_US]
    loads += [("CUDA graph", ("graph", 1000), 1), ("cooperative launches", ("cooperative", 1000), 1)]
    loads += [("four processes of one slice", ("kernel", 1000), 4)]
    for number, (what, words, processes) in enumerate(loads):
        slice_ = card.slice(f"cap{number}", 30)
        bare = _bare(card, words, processes)
        with _loaded(card, [slice_], words, processes):
            yield _within(f"30 %: {what}", bare, _shares(card, [slice_], seconds), {slice_.name: 30})
    for us in KERNELS_US:
        pair = [(card.slice(f"a{us}", 30), us), (card.slice(f"b{us}", 60), us)]
        yield _side_by_side(card, pair, f"{us / 1000:g} ms kernels", seconds)
    mixed = [(card.slice("short", 30), 1000), (card.slice("long", 60), 20000)]
    yield _side_by_side(card, mixed, "1 ms kernels beside 20 ms", seconds)


def _side_by_side(card: PretendCard, pair: Sequence[tuple[Slice, int]], what: str, seconds: int) -> Row:
    """Two slices with kernels of so many microseconds each."""
    try:
        for slice_, us in pair:
            card.start(slice_, "gpu_load", "kernel", us, _LONG_S)
        shares = _shares(card, [slice_ for slice_, _ in pair], seconds)
    finally:
        card.stop()
    targets = {slice_.name: slice_.limits.devices[0].cores_pct for slice_, _ in pair}
    return _within(f"two slices at 30 and 60 %: {what}", "50 / 50 %", shares, targets)


def _shares(card: PretendCard, slices: Sequence[Slice], seconds: int) -> Shares:
    return card.shares(slices, settle_s=2, windows=seconds, spare=_SPARE)


def fairness(card: PretendCard, seconds: int) -> Iterator[Row]:
    """What `fair` promises: equal parts for equals, an idle card for one, and a guarantee that is soon back."""
    equals = [card.slice(f"equal{number}", 25, policy=CorePolicy.FAIR) for number in range(4)]
    with _loaded(card, equals, ("kernel", 1000)):
        index = _shares(card, equals, seconds).jain()
    yield Row(
        what="Jain index of four equal slices", bare="", ours=f"{index:.4f}", target=">= 0.99", reached=index >= 0.99
    )
    for us in (1000, 20000):
        lender, late = (card.slice(f"{name}{us}", 40, policy=CorePolicy.FAIR) for name in ("lender", "late"))
        with _loaded(card, [lender], ("kernel", us)):
            used = _shares(card, [lender], seconds).mean(lender.name)
            what = f"usable of an idle card, {us / 1000:g} ms kernels"
            yield Row(what=what, bare="", ours=f"{used:.1%}", target=">= 95 %", reached=used >= 0.95)
            yield _back(card, late, us)


def _back(card: PretendCard, late: Slice, us: int) -> Row:
    """From its first launch on, when does the slice have its guarantee, on average over the second that follows?"""
    card.start(late, "gpu_load", "kernel", us, _LONG_S)
    parts = card.shares([late], settle_s=0, windows=20, window_s=0.1).of[late.name]
    enough = 10 * (late.limits.devices[0].cores_pct - POINTS) / 100
    back_ms = next((100 * number for number in range(11) if sum(parts[number : number + 10]) >= enough), None)
    what = f"until the guarantee is back, {us / 1000:g} ms kernels"
    words = "never" if back_ms is None else f"{back_ms} ms"
    return Row(what=what, bare="", ours=words, target="<= 200 ms", reached=back_ms is not None and back_ms <= 200)


@contextmanager
def _loaded(card: PretendCard, slices: Sequence[Slice], words: Sequence[object], processes: int = 1) -> Iterator[None]:
    """The slices are busy for the length of the block."""
    try:
        for slice_ in slices:
            for _ in range(processes):
                card.start(slice_, "gpu_load", *words, _LONG_S)
        yield
    finally:
        card.stop()


def _bare(card: PretendCard, words: Sequence[object], processes: int = 1) -> str:
    """What part of the card the same programs have without a slice, each."""
    started = [card.start(None, "gpu_load", *words, _LONG_S) for _ in range(processes)]
    of = {str(process.pid): [process.pid] for process in started}
    shares = card.parts(of, settle_s=0.3, windows=1)
    card.stop()
    return " / ".join(f"{100 * shares.mean(name):.0f}" for name in of) + " %"


def _within(what: str, bare: str, shares: Shares, targets: dict[str, int]) -> Row:
    worst = {name: 100 * shares.worst(name, target / 100) for name, target in targets.items()}
    return Row(
        what=what,
        bare=bare,
        ours=" / ".join(f"{100 * shares.mean(name):.1f}" for name in targets)
        + f" % (worst {' / '.join(f'{value:.1f}' for value in worst.values())})",
        target=" / ".join(str(target) for target in targets.values()) + f" +-{POINTS:g}",
        reached=all(abs(value - targets[name]) <= POINTS for name, value in worst.items()),
    )


def build() -> Path:
    """Build native/ with its programs beside the other temporary files, and say where. Raises ClickException."""
    near = Path(sysconfig.get_path("scripts")) / "cmake"
    cmake = str(near) if near.is_file() else shutil.which("cmake")
    if cmake is None or not SOURCES.is_dir():
        raise click.ClickException("this needs a checkout of labspawner, a C compiler and cmake; or name a --build")
    checkout = hashlib.sha256(bytes(SOURCES.resolve())).hexdigest()[:8]  # cmake refuses the folder of another one
    folder = Path(tempfile.gettempdir()) / f"labspawner-bench-native-{os.getuid()}-{checkout}"
    for command in (
        [cmake, "-S", str(SOURCES), "-B", str(folder), "-DLABSPAWNER_TESTS=ON"],
        [cmake, "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise click.ClickException(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return folder


_PARTS: dict[str, Callable[[PretendCard, int], Iterator[Row]]] = {
    "costs": costs,
    "accuracy": accuracy,
    "fairness": fairness,
    "promises": promises,
}


@click.command("gpu")
@click.option(
    "--build", "folder", type=click.Path(path_type=Path, exists=True), help="A build of native/; default: build it."
)
@click.option(
    "--rounds", type=click.IntRange(1, 200), default=15, show_default=True, help="Of each cost; the lowest counts."
)
@click.option("--seconds", type=click.IntRange(1, 600), default=8, show_default=True, help="Windows of each accuracy.")
@click.option("--only", type=click.Choice(list(_PARTS)), help="One part of the table.")
def command(folder: Path | None, rounds: int, seconds: int, only: str | None) -> None:
    """What slicing a card costs, and how well it holds, beside the bare (pretend) card in the same run.

    Exits with 1 where a target is missed. Costs are of this machine's time: let nothing else run.
    """
    tools = Tools(folder=folder or build())
    rows: list[Row] = []
    for name, part in _PARTS.items():
        if only in {None, name}:
            with PretendCard(tools) as card:
                rows += list(part(card, rounds if name == "costs" else seconds))
    sys.exit(0 if show(rows) else 1)


def show(rows: Sequence[Row]) -> bool:
    """Print the table. Whether every target was reached."""
    load = os.getloadavg()[0]
    table = Table(
        "what",
        "bare card",
        "in a slice",
        "target",
        "",
        title=f"a pretend card; {os.cpu_count()} core(s), load {load:.1f}",
    )
    for row in rows:
        table.add_row(row.what, row.bare, row.ours, row.target, "reached" if row.reached else "MISSED")
    Console().print(table)
    return all(row.reached for row in rows)
