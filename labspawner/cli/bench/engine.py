"""`labspawner bench engine`: what leases and admission cost, without JupyterHub around them."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.store import Store

HUB_ID = "bench"


@dataclass(frozen=True, slots=True)
class Reading:
    """One phase of the storm. stall_ms: the longest time the event loop did not answer."""

    what: str
    wall_s: float
    cpu_s: float
    stall_ms: float


@click.command()
@click.option("--n", "count", type=click.IntRange(1, 5000), default=500, show_default=True, help="Starts at once.")
@click.option("--start-s", type=click.FloatRange(0, 60), default=2.0, show_default=True, help="What one start takes.")
@click.option("--url", help="Lease database; default: SQLite in a temporary folder.")
def engine(count: int, start_s: float, url: str | None) -> None:
    """Starts and stops at once through leases, admission and the simulated provider, without JupyterHub around them.

    This is what labspawner itself costs; a start may not end before the simulated server is ready.
    """
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as folder:
        readings = asyncio.run(_storm(Path(folder), count, start_s, url or f"sqlite:///{folder}/leases.sqlite"))
    table = Table("what", "wall s", "per second", "CPU ms each", "longest stall ms", title=f"{count} servers at once")
    for reading in readings:
        rate, each = count / reading.wall_s, 1000 * reading.cpu_s / count
        table.add_row(reading.what, f"{reading.wall_s:.2f}", f"{rate:.0f}", f"{each:.2f}", f"{reading.stall_ms:.0f}")
    Console().print(table)


async def _storm(folder: Path, count: int, start_s: float, url: str) -> list[Reading]:
    context = ProviderContext(name="sim", hub_id=HUB_ID, data_dir=folder)
    provider = SimProvider(context, {"start_s": start_s})
    made = Engine(store=Store.open(url), providers={"sim": provider}, settings=EngineSettings(hub_id=HUB_ID))
    await made.start()
    users = [f"student{number}" for number in range(count)]
    try:
        started = await _measured(
            "start, all ready", [made.launch(_order(user), lambda _progress: None) for user in users]
        )
        polled = await _measured("poll", [made.is_running(user, "") for user in users])
        stopped = await _measured("stop, all gone", [made.stop(user, "") for user in users])
    finally:
        await made.close()
    return [started, polled, stopped]


async def _measured(what: str, work: Sequence[Awaitable[object]]) -> Reading:
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            worst = max(worst, time.perf_counter() - before - 0.01)

    watching = asyncio.ensure_future(watch())
    cpu, wall = _cpu_s(), time.perf_counter()
    await asyncio.gather(*work)
    reading = Reading(what, time.perf_counter() - wall, _cpu_s() - cpu, 1000 * worst)
    watching.cancel()
    return reading


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _order(user: str) -> Order:
    return Order(
        user=user,
        server_name="",
        profile="bench/sim",
        variants=(Variant(provider="sim"),),
        wait_s=600,
        base_url=f"/user/{user}/",
        command=("true",),
        environment={},
    )
