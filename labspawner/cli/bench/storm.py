"""`labspawner bench storm`: a whole course starts at once, beside JupyterHub with a spawner that only simulates; and what
is left when the hub is killed in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from labspawner.model import LeaseId, Phase
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.testing.hub import RealHub, major_version, server_path
from labspawner.testing.storm import Student, enrol, latencies, percentile, storm
from labspawner.testing.waiting import NotInTime, eventually_sync

RECONCILED_S = 60.0
SETTLED_S = 3.0
"""How long a hub runs before the storm, on both sides: a course does not start in the second in which its hub does."""
_PAGE = 100
_COURSE = """
course: bench
title: Bench
profiles:
  - {slug: sim, title: Simulated, variants: [{provider: sim}]}
"""
_OURS = """
c.Spawner.poll_interval = 30
"""
# JupyterHub as it comes, but for two settings in its favour: no start is refused because there are many, and a request
# does not wait for its server.
_UPSTREAM = """
import json, pathlib
from labspawner.testing.hubconfig import ADMIN_SCOPES, MemoryProxy
from labspawner.testing.simspawner import SimSpawner
spec = json.loads(pathlib.Path({spec!r}).read_text())
c.JupyterHub.hub_port = spec["port"]
c.JupyterHub.bind_url = f"http://127.0.0.1:{{spec['proxy_port']}}"
c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.load_groups = {{name: {{"users": users}} for name, users in spec["groups"].items()}}
c.JupyterHub.services = [{{"name": "tester", "api_token": spec["token"]}}]
c.JupyterHub.load_roles = [{{"name": "tester", "services": ["tester"], "scopes": ADMIN_SCOPES}}]
c.JupyterHub.cleanup_servers = False
c.JupyterHub.db_url = "sqlite:///" + str(pathlib.Path(spec["folder"]) / "jupyterhub.sqlite")
c.JupyterHub.cookie_secret_file = str(pathlib.Path(spec["folder"]) / "cookie_secret")
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.JupyterHub.spawner_class = SimSpawner
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """One storm. Seconds; latencies of the hub in milliseconds."""

    all_ready_s: float
    ready_p50_s: float
    heard_p95_s: float
    hub_p99_ms: float
    stall_ms: float
    hub_cpu_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. most: what ours may be, None where nothing is asked."""

    what: str
    upstream: float
    ours: float
    unit: str
    most: float | None = None

    @property
    def reached(self) -> bool:
        return self.most is None or self.ours <= self.most


def name_of(number: int) -> str:
    """A student."""
    return f"student{number}"


def a_hub(folder: Path, count: int, *, ours: bool) -> RealHub:
    """A hub with so many students, not started; upstream's has the spawner that only simulates."""
    hub = RealHub(
        folder,
        courses={"bench.yaml": _COURSE},
        groups={"course-bench": [name_of(number) for number in range(count)]},
        providers={"sim": {"start_s": 2.5, "jitter": 0.2}},
        settings={"observe_interval_s": 5.0, "reconcile_interval_s": 60.0, "courses_refresh_s": 5.0},
        config=_OURS,
    )
    if not ours:
        hub.config_file.write_text(_UPSTREAM.format(spec=str(folder / "spec.json")))
    return hub


@contextlib.contextmanager
def running(count: int, *, ours: bool) -> Iterator[RealHub]:
    """A hub that runs, and nothing of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        hub = a_hub(Path(name), count, ours=ours)
        try:
            hub.start()
            yield hub
        finally:
            hub.kill()
            hub.close()


def body_for(*, ours: bool, profile: str = "bench/sim") -> object:
    """What a student POSTs. JupyterHub 5 takes the body as the options."""
    if not ours:
        return {}
    choice = {"profile": profile}
    return {"user_options": choice} if major_version() >= 6 else choice


def measure(count: int, *, ours: bool) -> Reading:
    """One storm on a fresh hub. Raises ClickException where not everybody gets a server."""
    with running(count, ours=ours) as hub:
        assert hub.process is not None
        students = enrol(hub.folder / "jupyterhub.sqlite", [name_of(number) for number in range(count)])
        process = psutil.Process(hub.process.pid)
        time.sleep(SETTLED_S)
        with latencies(hub.port) as taken:
            before = process.cpu_times()
            seconds = asyncio.run(storm(hub.port, students, body_for(ours=ours)))
            after = process.cpu_times()
        failed = [student for student in students if student.failed]
        if failed:
            raise click.ClickException(f"{len(failed)} of {count} got no server; {failed[0].name}: {failed[0].failed}")
    return Reading(
        all_ready_s=seconds,
        ready_p50_s=percentile([student.ready or 0.0 for student in students], 50),
        heard_p95_s=percentile([student.heard or 0.0 for student in students], 95),
        hub_p99_ms=1000 * percentile(taken, 99),
        stall_ms=1000 * max(taken),
        hub_cpu_s=after.user + after.system - before.user - before.system,
    )


def compare(upstream: Reading, here: Reading) -> list[Row]:
    """The table, with the targets."""
    return [
        Row("all ready", upstream.all_ready_s, here.all_ready_s, "s", upstream.all_ready_s / 2),
        Row("ready, median", upstream.ready_p50_s, here.ready_p50_s, "s"),
        Row("first progress, p95", upstream.heard_p95_s, here.heard_p95_s, "s", 2.0),
        Row("hub answers, p99", upstream.hub_p99_ms, here.hub_p99_ms, "ms", 150),
        Row("hub answers, longest", upstream.stall_ms, here.stall_ms, "ms", 500),
        Row("CPU of the hub", upstream.hub_cpu_s, here.hub_cpu_s, "s"),
    ]


@dataclass(frozen=True, slots=True)
class Kill:
    """What one kill of the hub came to.

    after_s: when, since all asked. ready: servers that were ready then. reconciled_s: until no lease was half made,
    since the next hub answers. lost, leaked: servers that were ready and are not; resources without a lease.
    """

    after_s: float
    ready: int
    reconciled_s: float
    lost: int
    leaked: int


def kill_in_storms(kills: int, count: int, *, seed: int) -> list[Kill]:
    """So many storms of `count` students on one set of data, each cut off by `kill -9` at a random point."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with running(count, ours=True) as hub:
        students = enrol(hub.folder / "jupyterhub.sqlite", [name_of(number) for number in range(count)])
        asyncio.run(storm(hub.port, students, body_for(ours=True)))
        longest = max(student.ready or 1.0 for student in students)
        _stop_all(hub)
        return [_kill_once(hub, students, chance.uniform(0.0, longest)) for _ in range(kills)]


def _kill_once(hub: RealHub, students: Sequence[Student], after_s: float) -> Kill:
    fresh = [Student(student.name, student.token) for student in students]
    killer = threading.Timer(after_s, hub.kill)
    killer.start()
    asyncio.run(storm(hub.port, fresh, body_for(ours=True)))
    killer.join()
    ready = {lease.id for lease in hub.ready_leases()}
    hub.start()
    began = time.monotonic()
    try:
        eventually_sync(lambda: _settled(hub), RECONCILED_S, "no lease is half made")
        reconciled = time.monotonic() - began
    except NotInTime:
        reconciled = float("inf")
    with contextlib.suppress(NotInTime):  # the hub may have asked after a server before that lived again
        eventually_sync(lambda: _lost(hub, ready) == 0, RECONCILED_S, "no server is lost")
    lost, leaked = _lost(hub, ready), len(_owned(hub) ^ {lease.id for lease in hub.leases()})
    _stop_all(hub)
    return Kill(after_s, len(ready), reconciled, lost, leaked)


def _settled(hub: RealHub) -> bool:
    leases = hub.leases()
    return all(lease.phase is Phase.READY for lease in leases) and _owned(hub) == {lease.id for lease in leases}


def _lost(hub: RealHub, ready: set[LeaseId]) -> int:
    """Servers that were ready when the hub died, and are not now, or of which the hub knows nothing."""
    now = {lease.id: lease.user for lease in hub.ready_leases()}
    known = ready_users(hub)
    return sum(lease_id not in now or now[lease_id] not in known for lease_id in ready)


def ready_users(hub: RealHub) -> set[str]:
    """Those whose server the hub calls ready; it answers in pages."""
    found: set[str] = set()
    while True:
        path = f"/hub/api/users?state=ready&limit={_PAGE}&offset={len(found)}"
        page = {user["name"] for user in hub.api.call("GET", path).json()}
        found |= page
        if len(page) < _PAGE:
            return found


def _owned(hub: RealHub) -> set[LeaseId]:
    """The leases that something exists for in the simulated world."""

    async def ask() -> set[LeaseId]:
        context = ProviderContext(name="sim", hub_id=hub.hub_id, data_dir=hub.folder / "data" / "providers" / "sim")
        provider = SimProvider(context, {})
        try:
            return {resource.lease_id for resource in await provider.owned()}
        finally:
            await provider.close()

    return asyncio.run(ask())


def _stop_all(hub: RealHub) -> None:
    for user in ready_users(hub):
        hub.api.call("DELETE", server_path(user))
    eventually_sync(lambda: not hub.leases() and not ready_users(hub), 120.0, "all servers are gone")


@click.command("storm")
@click.option("--n", "count", type=click.IntRange(1, 5000), default=500, show_default=True, help="Starts at once.")
@click.option("--kills", type=click.IntRange(0, 200), default=0, show_default=True, help="Also kill the hub so often.")
@click.option("--kill-n", type=click.IntRange(1, 500), default=60, show_default=True, help="Starts at once per kill.")
@click.option("--seed", type=int, help="Of the random points; printed where not given.")
def command(count: int, kills: int, kill_n: int, seed: int | None) -> None:
    """All students of a course start at once, beside a JupyterHub whose spawner only simulates.

    Servers take 2 to 3 s on both sides; everything else is the hubs' work. Exits with 1 where a target is missed.
    """
    upstream, here = measure(count, ours=False), measure(count, ours=True)
    rows = compare(upstream, here)
    show(rows, count)
    fine = all(row.reached for row in rows)
    if kills:
        seed = random.randrange(10**6) if seed is None else seed  # noqa: S311 - no secret
        done = kill_in_storms(kills, kill_n, seed=seed)
        show_kills(done, seed)
        fine = fine and all(kill.lost == kill.leaked == 0 and kill.reconciled_s <= RECONCILED_S for kill in done)
    sys.exit(0 if fine else 1)


def show(rows: Sequence[Row], count: int) -> None:
    """The table."""
    cores = len(os.sched_getaffinity(0))
    title = f"{count} starts at once; JupyterHub {major_version()}, {cores} core(s)"
    table = Table("what", "JupyterHub alone", "labspawner", "at most", "", title=title)
    for row in rows:
        most = "" if row.most is None else f"{row.most:.1f} {row.unit}"
        verdict = "" if row.most is None else ("reached" if row.reached else "MISSED")
        table.add_row(row.what, f"{row.upstream:.1f} {row.unit}", f"{row.ours:.1f} {row.unit}", most, verdict)
    Console().print(table)


def show_kills(kills: Sequence[Kill], seed: int) -> None:
    """The second table."""
    table = Table(
        "killed after", "ready then", "reconciled in", "lost", "leaked", title=f"kill -9 of the hub; seed {seed}"
    )
    for kill in kills:
        table.add_row(
            f"{kill.after_s:.2f} s", str(kill.ready), f"{kill.reconciled_s:.1f} s", str(kill.lost), str(kill.leaked)
        )
    Console().print(table)
