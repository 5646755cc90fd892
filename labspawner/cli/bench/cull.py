"""`labspawner bench cull`: what one look of the culler at all servers costs, beside jupyterhub-idle-culler's."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.util import find_spec
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from labspawner.culler.hub import Hub
from labspawner.culler.sweep import Rules, Sweep
from labspawner.model import Activity, Evidence, HostLook, Lease, LeaseId, Phase, Work, WorkKind
from labspawner.naming import new_lease_id
from labspawner.store import Standing, Store

HUB_ID = "bench"
TOKEN = "of-the-bench"  # noqa: S105 - for a hub that exists for a minute, on loopback
MOST_CPU_S = 1.0
_PASSES = 3
_LIMIT_S = 1200.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass: what it took in a process of its own, the best of a few. culled: must be none."""

    cpu_s: float
    wall_s: float
    culled: int


@click.command()
@click.option("--n", "count", type=click.IntRange(1, 50_000), default=5000, show_default=True, help="Running servers.")
@click.option("--url", help="Lease database; default: SQLite in a temporary folder.")
def cull(count: int, url: str | None) -> None:
    """One pass over running servers, each with evidence of its use, none of them to be culled.

    Beside it jupyterhub-idle-culler's pass over the same list of the same simulated hub. Exits with 1 where ours takes
    more than a second of CPU for 5,000 servers.
    """
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as folder:
        store_url = url or f"sqlite:///{folder}/leases.sqlite"
        asyncio.run(_fill(store_url, count))
        with _hub(count) as api_url:
            ours = _in_a_process(partial(_our_pass, api_url, store_url))
            theirs = _in_a_process(partial(_their_pass, api_url)) if find_spec("jupyterhub_idle_culler") else None
    _print(count, ours, theirs)
    if ours.culled or ours.cpu_s > MOST_CPU_S * max(1.0, count / 5000):
        sys.exit(1)


def _print(count: int, ours: Reading, theirs: Reading | None) -> None:
    table = Table("culler", "CPU s", "wall s", "culled", title=f"one pass over {count} running servers")
    table.add_row("labspawner, by evidence", f"{ours.cpu_s:.2f}", f"{ours.wall_s:.2f}", str(ours.culled))
    if theirs is None:
        table.add_row("jupyterhub-idle-culler", "not installed", "-", "-")
    else:
        table.add_row("jupyterhub-idle-culler", f"{theirs.cpu_s:.2f}", f"{theirs.wall_s:.2f}", str(theirs.culled))
    table.add_row("target", f"{MOST_CPU_S:.2f}", "-", "0")
    Console().print(table)


# -- what is looked at -------------------------------------------------------------------------------------------------


async def _fill(store_url: str, count: int) -> None:
    """A lease and what is known of it for each server: a busy cell, a forgotten page within its limit, a missing report."""
    store, now = Store.open(store_url), datetime.now(timezone.utc)
    try:
        await store.migrate()
        leases = [_lease(number, now) for number in range(count)]
        for lease in leases:
            await store.add(lease)
        await store.put_standings({lease.id: _standing(number, now) for number, lease in enumerate(leases)})
    finally:
        await store.close()


def _lease(number: int, now: datetime) -> Lease:
    return Lease(
        id=LeaseId(new_lease_id()),
        hub_id=HUB_ID,
        user=f"student{number}",
        server_name="",
        provider="sim",
        profile="bench/sim",
        pinned={"cull": {"after_s": _LIMIT_S, "max_age_s": 86400.0, "warn_s": [600.0, 120.0], "action": "stop"}},
        phase=Phase.READY,
        created_at=now - timedelta(hours=2),
        phase_at=now - timedelta(hours=2),
        ready_at=now - timedelta(hours=2),
    )


def _standing(number: int, now: datetime) -> Standing:
    host = HostLook(since=now - timedelta(hours=2), looked_at=now, last_busy=now - timedelta(minutes=5))
    if number % 3 == 0:
        cell = Work(kind=WorkKind.KERNEL, what="train.ipynb", since=now - timedelta(hours=1))
        report = _report(now, now - timedelta(hours=1), work=(cell,), work_count=1)
    elif number % 3 == 1:
        report = _report(now, now - timedelta(minutes=9), clients=1)
    else:
        report = _report(now - timedelta(minutes=9), now - timedelta(minutes=10))
    return Standing(evidence=Evidence(expected=True, report=report, host=host))


def _report(taken_at: datetime, last_activity: datetime, **more: Any) -> Activity:
    valid_until = taken_at + timedelta(minutes=6)  # long enough for the bench
    return Activity(taken_at=taken_at, valid_until=valid_until, last_activity=last_activity, **more)


# -- the hub -----------------------------------------------------------------------------------------------------------


@contextmanager
def _hub(count: int) -> Iterator[str]:
    """A process that answers like JupyterHub's REST API with `count` running servers; its API's URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(count, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(300):
            raise click.ClickException("The simulated hub did not start.")
        yield f"http://127.0.0.1:{ours.recv()}/hub/api"
    finally:
        process.terminate()
        process.join()


def _serve(count: int, pipe: Any) -> None:  # pragma: no cover - in a process of its own
    asyncio.run(_answer_for_ever(count, pipe))


async def _answer_for_ever(count: int, pipe: Any) -> None:  # pragma: no cover - in a process of its own
    sockets = bind_sockets(0, "127.0.0.1")
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    models = [_user_model(number, now) for number in range(count)]
    server = HTTPServer(web.Application([(r"/hub/api/(.*)", _Api, {"models": models})]))
    server.add_sockets(sockets)
    pipe.send(sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def _user_model(number: int, now: datetime) -> dict[str, Any]:
    """As JupyterHub 6.1 shows a user to a culler."""
    name, used = f"student{number}", (now - timedelta(minutes=2)).isoformat() + "Z"
    server = {
        "name": "",
        "full_name": f"{name}/",
        "last_activity": used,
        "started": (now - timedelta(hours=2)).isoformat() + "Z",
        "pending": None,
        "ready": True,
        "stopped": False,
        "url": f"/user/{name}/",
        "user_options": {"profile": "bench/sim"},
        "progress_url": f"/hub/api/users/{name}/server/progress",
    }
    return {"kind": "user", "name": name, "admin": False, "last_activity": used, "servers": {"": server}}


class _Api(web.RequestHandler):  # pragma: no cover - in a process of its own
    def initialize(self, models: list[dict[str, Any]]) -> None:
        self.models = models

    def get(self, what: str) -> None:
        if not what:
            self.finish({"version": "6.1.1"})
            return
        offset, limit = int(self.get_argument("offset", "0")), min(int(self.get_argument("limit", "50")), 200)
        after, follow = offset + limit, None
        if after < len(self.models):
            query = f"state={self.get_argument('state')}&offset={after}&limit={limit}"
            follow = {"offset": after, "limit": limit, "url": f"http://{self.request.host}/hub/api/users?{query}"}
        pages = {"offset": offset, "limit": limit, "total": len(self.models), "next": follow}
        self.finish(json.dumps({"items": self.models[offset:after], "_pagination": pages}))


# -- the passes --------------------------------------------------------------------------------------------------------


def _in_a_process(work: Callable[[], Reading]) -> Reading:
    """What `work` answers, in a process that has done nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def _our_pass(api_url: str, store_url: str) -> Reading:
    return asyncio.run(_best(partial(_sweep, api_url, store_url)))


def _their_pass(api_url: str) -> Reading:
    return asyncio.run(_best(partial(_cull_idle, api_url)))


async def _sweep(api_url: str, store_url: str) -> Callable[[], Any]:
    logger = logging.getLogger("bench")
    sweep = Sweep(Hub(api_url, TOKEN), Store.open(store_url), Rules(hub_id=HUB_ID, dry_run=True), log=logger)

    async def one() -> int:
        summary = await sweep.run()
        return summary.culled + summary.not_applied

    return one


async def _cull_idle(api_url: str) -> Callable[[], Any]:
    from jupyterhub_idle_culler import cull_idle  # noqa: PLC0415 - a package for the bench alone

    logger = logging.getLogger("bench.upstream")

    async def one() -> int:
        await cull_idle(api_url, TOKEN, _LIMIT_S, logger, max_age=86400, api_page_size=100)
        return 0  # it has nobody to stop: all were used two minutes ago

    return one


async def _best(make: Callable[[], Any]) -> Reading:
    one = await make()
    readings = []
    for _ in range(_PASSES):
        cpu, wall = _cpu_s(), time.perf_counter()
        culled = await one()
        readings.append(Reading(_cpu_s() - cpu, time.perf_counter() - wall, culled))
    return min(readings, key=lambda reading: reading.cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
