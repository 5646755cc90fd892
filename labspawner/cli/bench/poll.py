"""`labspawner bench poll`: what it costs a hub to know that thousands of servers run."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import click
import psutil
from rich.console import Console
from rich.table import Table

from labspawner.cli.bench.storm import a_hub, name_of, ready_users
from labspawner.lifecycle import Engine, EngineSettings, Order, Variant
from labspawner.providers.contract import ProviderContext
from labspawner.providers.sim import SimProvider
from labspawner.store import Store
from labspawner.testing.hub import RealHub, free_ports, major_version
from labspawner.testing.waiting import eventually_sync

MOST = 0.02
_ADOPT_S = 300.0
_STARTERS = 50
# A restarted upstream hub finds its servers where the one before left them.
_UPSTREAM_PORT = "\nSimSpawner.port_of_all({port})\n"


def measure(count: int, seconds: float, *, ours: bool) -> float:
    """The share of one core that a hub takes with so many running servers, each polled every 30 s."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        folder = Path(name)
        hub = a_hub(folder, count, ours=ours)
        try:
            hub.start(wait=False)  # thousands of users take it longer than the minute that a start is given
            eventually_sync(lambda: _adopted(hub, 0), _ADOPT_S, "the hub answers")
            hub.stop()
            _run_servers(hub, count, ours=ours)
            hub.start(wait=False)
            eventually_sync(lambda: _adopted(hub, count), _ADOPT_S, f"the hub knows {count} servers")
            assert hub.process is not None
            process = psutil.Process(hub.process.pid)
            before, began = process.cpu_times(), time.monotonic()
            time.sleep(seconds)
            after, took = process.cpu_times(), time.monotonic() - began
            if not _adopted(hub, count):
                raise click.ClickException(f"the hub lost servers while it polled them:\n{hub.log()[-2000:]}")
        finally:
            hub.kill()
            hub.close()
    return float(after.user + after.system - before.user - before.system) / took


def _adopted(hub: RealHub, count: int) -> bool:
    if hub.process is None or hub.process.poll() is not None:
        raise click.ClickException(f"the hub died:\n{hub.log()[-2000:]}")
    try:
        return len(ready_users(hub)) == count
    except OSError:
        return False


def _run_servers(hub: RealHub, count: int, *, ours: bool) -> None:
    """Let the servers run, and the hub's database say so, without a hub's having started each."""
    if ours:
        states = {
            user: (port, json.dumps({"v": 1, "lease_id": lease_id}))
            for user, port, lease_id in asyncio.run(_launch_all(hub, count))
        }
    else:
        (port,) = free_ports(1)
        with hub.config_file.open("a") as file:
            file.write(_UPSTREAM_PORT.format(port=port))
        states = {name_of(number): (port, '{"running": true}') for number in range(count)}
    now = datetime.now(timezone.utc).replace(tzinfo=None).isoformat(" ")
    with closing(sqlite3.connect(hub.folder / "jupyterhub.sqlite", timeout=20)) as db, db:
        ids = dict(db.execute("SELECT name, id FROM users"))
        for user, (port, state) in states.items():
            server = db.execute(
                "INSERT INTO servers (proto, ip, port, base_url, cookie_name) VALUES ('http', '127.0.0.1', ?, ?, ?)",
                (port, f"/user/{user}/", f"jupyterhub-user-{user}"),
            ).lastrowid
            db.execute("DELETE FROM spawners WHERE user_id = ?", (ids[user],))
            db.execute(
                "INSERT INTO spawners (user_id, server_id, state, name, started, last_activity, user_options)"
                " VALUES (?, ?, ?, '', ?, ?, '{}')",
                (ids[user], server, state, now, now),
            )


async def _launch_all(hub: RealHub, count: int) -> list[tuple[str, int, str]]:
    """User, port and lease of servers that an engine of our own started for the hub."""
    context = ProviderContext(name="sim", hub_id=hub.hub_id, data_dir=hub.folder / "data" / "providers" / "sim")
    context.data_dir.mkdir(parents=True, exist_ok=True)
    provider = SimProvider(context, {"start_s": 0.0})
    engine = Engine(
        store=Store.open(hub.store_url), providers={"sim": provider}, settings=EngineSettings(hub_id=hub.hub_id)
    )
    found = []
    try:
        for start in range(0, count, _STARTERS):
            orders = [_order(name_of(number)) for number in range(start, min(count, start + _STARTERS))]
            leases = await asyncio.gather(*(engine.launch(order, lambda _progress: None) for order in orders))
            found += [(lease.user, urlsplit(lease.url or "").port or 0, str(lease.id)) for lease in leases]
    finally:
        await engine.close()
    return found


def _order(user: str) -> Order:
    return Order(
        user=user,
        server_name="",
        profile="bench/sim",
        variants=(Variant(provider="sim"),),
        base_url=f"/user/{user}/",
        command=("true",),
        environment={},
    )


@click.command("poll")
@click.option("--n", "count", type=click.IntRange(1, 20000), default=2000, show_default=True, help="Running servers.")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="How long to look.")
def command(count: int, seconds: float) -> None:
    """What a hub spends on knowing that its servers run, beside a JupyterHub whose spawner answers at once.

    Every server is polled every 30 s. Exits with 1 where ours takes more than a fiftieth of a core.
    """
    upstream, here = measure(count, seconds, ours=False), measure(count, seconds, ours=True)
    cores = len(os.sched_getaffinity(0))
    title = f"{count} running servers; JupyterHub {major_version()}, {cores} core(s)"
    table = Table("what", "JupyterHub alone", "labspawner", "at most", "", title=title)
    verdict = "reached" if here <= MOST else "MISSED"
    table.add_row("share of one core", f"{upstream:.2%}", f"{here:.2%}", f"{MOST:.2%}", verdict)
    Console().print(table)
    sys.exit(0 if here <= MOST else 1)
