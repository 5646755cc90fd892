"""`labspawner bench pve`: a class starts its virtual machines at once, beside a spawner that asks for an id, clones and
waits, on the same double of Proxmox VE; what an idle hour costs; a hibernated VM beside a cold one; and a soak of faults."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from labspawner.errors import LabError
from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.model import Lease, Resources
from labspawner.providers.contract import ProviderContext
from labspawner.providers.proxmox.addresses import AddressPool
from labspawner.providers.proxmox.answers import PveRefused, PveSilent
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.store import Store
from labspawner.store.reservations import Reservations
from labspawner.testing.pve import PveDouble
from labspawner.testing.pveapart import PveApart, Spec, settings_of
from labspawner.testing.pvesoak import Report, Soak, open_engine

HUB_ID = "bench"
STUDENTS = 20
_IDLE_VMS, _IDLE_MINUTES = 100, 6.0
_POLL_S, _USAGE_S, _OBSERVE_S, _RECONCILE_S = 30.0, 60.0, 5.0, 60.0  # as hubs do by default
_SLOW_BOOT_S = (84.0, 92.0)
"""A cold boot as it was measured, until the agent answers: 88 s (facts of a real cluster, emulated guests)."""
_NAIVE_S = 180.0
_LONG_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What one storm of starts did. Seconds of the cluster's time. stall_ms: the longest time the event loop was not free."""

    ready: int
    failures: Counter[str]
    all_ready_s: float
    requests: float
    stall_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. most, least: what ours may be; None where nothing is asked."""

    what: str
    naive: str
    ours: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the target, if there is one, is reached."""
        return (self.most is None or self.ours <= self.most) and (self.least is None or self.ours >= self.least)

    @property
    def target(self) -> str:
        """What is asked."""
        if self.most is not None:
            return f"<= {_amount(self.most, self.unit)}"
        return f">= {_amount(self.least, self.unit)}" if self.least is not None else ""


@click.command("pve")
@click.option("--spawns", type=click.IntRange(0, 100_000), default=1000, show_default=True, help="Starts of the soak.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the soak's faults.")
def command(spawns: int, seed: int) -> None:
    """20 virtual machines at once, an idle hour, a resume, and a soak of faults, on a double of Proxmox VE.

    Beside ours stands a spawner without a queue: nextid, clone, wait, start, wait. Times are the cluster's own. Exits with
    1 where a target is missed.
    """
    logging.getLogger("labspawner").setLevel(logging.CRITICAL)  # what breaks in a soak is no news
    rows = asyncio.run(measured())
    report = asyncio.run(soaked(spawns, seed)) if spawns else Report()
    rows += soak_rows(report) if spawns else []
    show(rows)
    for line in (*report.lost, *report.left, *report.unseen, *report.unsaid):
        click.echo(f"soak: {line}")
    sys.exit(0 if all(row.reached for row in rows) else 1)


async def measured() -> list[Row]:
    """All but the soak."""
    naive, ours = await naive_storm(), await our_storm()
    per_hour = await idle_hour()
    cold_s, resume_s = await cold_and_resumed()
    return compare(naive, ours, per_hour=per_hour, cold_s=cold_s, resume_s=resume_s)


def compare(naive: Storm, ours: Storm, *, per_hour: float, cold_s: float, resume_s: float) -> list[Row]:
    """The table, with the targets."""
    return [
        Row(f"ready, of {STUDENTS} at once", f"{naive.ready}", ours.ready, least=STUDENTS),
        Row("failures that students read", f"{sum(naive.failures.values())}", sum(ours.failures.values()), most=0),
        Row("all that came up, ready", f"{naive.all_ready_s:.0f} s", ours.all_ready_s, "s"),
        Row("API requests, a start", f"{naive.requests:.1f}", ours.requests, "", most=25),
        Row("event loop, longest stall", "blocking", ours.stall_ms, "ms", most=100),
        Row(f"API requests, idle hour, {_IDLE_VMS} VMs", "-", per_hour, "", most=800),
        Row("cold start", "-", cold_s, "s"),
        Row("resume of a hibernated VM", "-", resume_s, "s"),
        Row("resume, of a cold start", "-", 100 * resume_s / cold_s, "%", most=10),
    ]


def soak_rows(report: Report) -> list[Row]:
    """What the soak comes to."""
    return [
        Row("soak: starts, with faults", "-", report.spawns),
        Row("soak: faults", "-", sum(report.broke.values())),
        Row("soak: ready", "-", report.ready),
        Row("soak: lost, leaked or unseen", "-", len(report.lost) + len(report.left) + len(report.unseen), most=0),
        Row("soak: for an administrator", "-", report.corpses + len(report.manual)),
        Row("soak: failures without a sentence", "-", len(report.unsaid), most=0),
    ]


# -- the storms


async def naive_storm() -> Storm:
    """Everybody at once, as many spawners do it: no queue, no range of ids, no second try."""
    with PveApart() as cluster:
        pace = cluster.spec.pace
        async with _provider(cluster) as provider:
            pool = AddressPool.parse(cluster.settings["addresses"]["default"], name="default")
            failures: Counter[str] = Counter()
            done: list[float] = []
            began = time.monotonic()

            async def student(number: int, address: str) -> None:
                try:
                    await asyncio.wait_for(
                        _naive_start(provider, cluster, number, pool.ipconfig(address)), _NAIVE_S / pace
                    )
                except asyncio.TimeoutError:
                    failures["timeout"] += 1
                except (PveRefused, PveSilent, RuntimeError) as exc:
                    failures[str(exc)[:80]] += 1
                else:
                    done.append(time.monotonic() - began)

            addresses = pool.addresses()
            await asyncio.gather(*(student(number, next(addresses)) for number in range(STUDENTS)))
            asked = sum(provider.client.counts().values())
    return Storm(
        ready=len(done),
        failures=failures,
        all_ready_s=pace * max(done, default=0.0),
        requests=asked / STUDENTS,
        stall_ms=0.0,
    )


async def _naive_start(provider: ProxmoxProvider, cluster: PveApart, number: int, ipconfig: str) -> None:
    """Raises RuntimeError for a task that failed."""
    client, pause_s = provider.client, 1.0 / cluster.spec.pace

    async def ended(upid: str) -> None:
        end = await provider.tasks.end(upid, within_s=_LONG_S)
        if not end.ok:
            raise RuntimeError(end.exitstatus)

    node = f"pve{1 + number % 3}"
    vmid = int(await client.get("/cluster/nextid"))
    clone = {"newid": vmid, "name": f"naive{number}", "pool": cluster.settings["pool"], "target": node}
    await ended(await client.post(f"/nodes/pve1/qemu/{cluster.template}/clone", **clone))
    await client.put(f"/nodes/{node}/qemu/{vmid}/config", ipconfig0=ipconfig, ciupgrade=0)
    await ended(await client.post(f"/nodes/{node}/qemu/{vmid}/status/start"))
    while True:
        try:
            await client.post(f"/nodes/{node}/qemu/{vmid}/agent/ping")
        except PveRefused:
            await asyncio.sleep(pause_s)
        else:
            return


async def our_storm() -> Storm:
    """The same through leases, admission and the provider."""
    with PveApart() as cluster:
        pace = cluster.spec.pace
        async with _engine(cluster) as (engine, provider):
            await engine.start()
            before = sum(provider.client.counts().values())
            failures: Counter[str] = Counter()
            done: list[float] = []
            began = time.monotonic()

            async def student(number: int) -> None:
                try:
                    await engine.launch(_order(cluster, number), lambda _progress: None)
                except LabError as exc:
                    failures[str(exc.message)] += 1
                else:
                    done.append(time.monotonic() - began)

            stall_ms = await _stalled(asyncio.gather(*(student(number) for number in range(STUDENTS))))
            asked = sum(provider.client.counts().values()) - before
    return Storm(
        ready=len(done),
        failures=failures,
        all_ready_s=pace * max(done, default=0.0),
        requests=asked / STUDENTS,
        stall_ms=stall_ms,
    )


async def _stalled(work: Awaitable[object]) -> float:
    """The longest time, in milliseconds, for which this loop was not free while `work` went on."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before - 0.005)

    watching = asyncio.ensure_future(watch())
    try:
        await work
    finally:
        watching.cancel()
    return 1000 * worst


# -- an idle hour


async def idle_hour() -> float:
    """Requests in an hour in which 100 VMs run and nobody does anything, from some minutes of it."""
    with PveApart(Spec(boot_s=(1.0, 2.0))) as cluster:
        pace = cluster.spec.pace
        async with _engine(cluster, observe_s=_OBSERVE_S / pace, reconcile_s=_RECONCILE_S / pace) as (engine, provider):
            await engine.start()
            gate = asyncio.Semaphore(STUDENTS)

            async def start(number: int) -> Lease:
                async with gate:
                    return await engine.launch(_order(cluster, number), lambda _progress: None)

            leases = await asyncio.gather(*(start(number) for number in range(_IDLE_VMS)))
            await asyncio.sleep(60.0 / pace)  # what the starts set off is over
            before, minutes = sum(provider.client.counts().values()), 0.0
            handles = [lease.handle for lease in leases if lease.handle is not None]
            while minutes < _IDLE_MINUTES:
                await asyncio.sleep(_POLL_S / pace)
                minutes += _POLL_S / 60.0
                await engine.look()
                if minutes % (_USAGE_S / 60.0) == 0:
                    await provider.usage(handles)
            asked = sum(provider.client.counts().values()) - before
    return asked * 60.0 / _IDLE_MINUTES


# -- cold and resumed


async def cold_and_resumed() -> tuple[float, float]:
    """Seconds of the cluster's time from the order to a server that answers: of a new VM, and of a hibernated one."""
    with PveApart(Spec(pace=6.0, boot_s=_SLOW_BOOT_S)) as cluster:  # the machine's own time counts less than it would
        async with _engine(cluster) as (engine, _):
            await engine.start()
            order = replace(_order(cluster, 0), pinned={"cull": {"action": "hibernate"}})
            times = []
            for _again in range(2):
                began = time.monotonic()
                await engine.launch(order, lambda _progress: None)
                times.append((time.monotonic() - began) * cluster.spec.pace)
                await engine.stop(order.user, order.server_name)
    return times[0], times[1]


# -- the soak


async def soaked(spawns: int, seed: int) -> Report:
    """So many starts while everything breaks."""
    with PveDouble(seed=seed) as pve, tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        impatient = {"cool_down": "1s", "patience_s": 10, "lock_patience_s": 20, "boot_timeout_s": 30}
        settings = {**settings_of(pve, ("pve1", "pve2", "pve3")), **impatient}
        engine = open_engine(_opened(settings, Path(name)), Path(name) / "leases.sqlite", HUB_ID)
        try:
            await engine.start()
            return await Soak(pve, engine, seed=seed).run(spawns)
        finally:
            await engine.close()


# -- hands


def _opened(settings: dict[str, Any], folder: Path) -> ProxmoxProvider:
    reservations = Reservations.open(f"sqlite:///{folder / 'leases.sqlite'}", hub_id=HUB_ID, scope="proxmox")
    context = ProviderContext(name="proxmox", hub_id=HUB_ID, data_dir=folder, reservations=reservations)
    return ProxmoxProvider(context, settings)


@asynccontextmanager
async def _provider(cluster: PveApart) -> AsyncIterator[ProxmoxProvider]:
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        provider = _opened(cluster.settings, Path(name))
        try:
            yield provider
        finally:
            await provider.close()


@asynccontextmanager
async def _engine(
    cluster: PveApart, *, observe_s: float = _OBSERVE_S, reconcile_s: float = _RECONCILE_S
) -> AsyncIterator[tuple[Engine, ProxmoxProvider]]:
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        provider = _opened(cluster.settings, Path(name))
        engine = Engine(
            store=Store.open(f"sqlite:///{name}/leases.sqlite"),
            providers={"proxmox": provider},
            settings=EngineSettings(hub_id=HUB_ID, observe_interval_s=observe_s, reconcile_interval_s=reconcile_s),
        )
        try:
            yield engine, provider
        finally:
            await engine.close()


def _order(cluster: PveApart, number: int) -> Order:
    user = f"student{number}"
    return Order(
        user=user,
        server_name="",
        profile="bench/vm",
        variants=(
            Variant(
                provider="proxmox",
                resources=Resources(cpu=1, memory_bytes=2**30),
                settings={"template": str(cluster.template)},
                ready_timeout_s=600.0,
            ),
        ),
        base_url=f"/user/{user}/",
        command=("jupyterhub-singleuser",),
        environment={"JUPYTERHUB_API_TOKEN": "none", "JUPYTERHUB_SERVICE_PREFIX": f"/user/{user}/"},
        pinned={"cull": {"action": "stop"}},
    )


def show(rows: Sequence[Row]) -> None:
    """The table."""
    table = Table("what", "naive", "labspawner", "target", "", title="virtual machines on a double of Proxmox VE")
    for row in rows:
        verdict = "" if not row.target else ("reached" if row.reached else "MISSED")
        table.add_row(row.what, row.naive, _amount(row.ours, row.unit), row.target, verdict)
    Console().print(table)


def _amount(value: float | None, unit: str) -> str:
    shown = 0.0 if value is None else value
    return f"{shown:.{0 if shown == int(shown) or shown >= 100 else 1}f} {unit}".rstrip()
