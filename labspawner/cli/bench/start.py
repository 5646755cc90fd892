"""`labspawner bench start`: from the request to a server that answers, and what idle servers hold of the memory."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import click
import psutil
from rich.console import Console
from rich.table import Table

from labspawner.providers.local.warm.memory import memory_of
from labspawner.testing.hub import RealHub, major_version
from labspawner.testing.waiting import eventually_sync
from labspawner.units import human_bytes

_READY_S = 300.0
_MOST_SERVERS = 200
_LOOK_EVERY_S = 0.02
_COURSE = """
course: bench
title: Bench
profiles:
  - slug: lab
    title: JupyterLab
    variants: [{provider: local}]
"""
_UPSTREAM = """
import json, os, pathlib
from labspawner.testing.hubconfig import ADMIN_SCOPES, MemoryProxy
spec = json.loads(pathlib.Path({spec!r}).read_text())
c.JupyterHub.hub_port = spec["port"]
c.JupyterHub.bind_url = f"http://127.0.0.1:{{spec['proxy_port']}}"
c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "tester", "api_token": spec["token"]}}]
c.JupyterHub.load_roles = [{{"name": "tester", "services": ["tester"], "scopes": ADMIN_SCOPES}}]
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 1}}
c.JupyterHub.db_url = "sqlite:///" + str(pathlib.Path(spec["folder"]) / "jupyterhub.sqlite")
c.JupyterHub.cookie_secret_file = str(pathlib.Path(spec["folder"]) / "cookie_secret")
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = os.path.join(spec["folder"], "homes", "{{username}}")
"""
# Both sides run the server that everybody runs, without what tests leave out of it to be faster.
_SERVER = """
import os, sys
os.environ.pop("PYTHONPATH", None)
c.Spawner.cmd = [os.path.join(os.path.dirname(sys.executable), "jupyterhub-singleuser")]
if os.geteuid() == 0 and {as_root}:
    c.Spawner.args = ["--allow-root"]
c.Spawner.start_timeout = 300
c.Spawner.http_timeout = 300
c.Spawner.poll_interval = 30
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of both sides. share: the most of upstream's that ours may be."""

    what: str
    upstream: float
    ours: float
    share: float
    unit: Callable[[float], str]

    @property
    def reached(self) -> bool:
        return self.ours <= self.upstream * self.share


def name_of(number: int) -> str:
    """A student."""
    return f"student{number}"


class Starts(Protocol):
    """What is measured."""

    def add(self, users: Sequence[str]) -> None: ...
    def seconds_to_ready(self, users: Sequence[str]) -> list[float]: ...
    def stop(self, users: Sequence[str]) -> None: ...
    def memory_bytes(self) -> int: ...


class Side:
    """A JupyterHub of its own, with upstream's spawner or with ours; all times are what a client of its API sees."""

    def __init__(self, folder: Path, *, ours: bool) -> None:
        self._ours = ours
        self.hub = RealHub(
            folder,
            courses={"bench.yaml": _COURSE},
            groups={"course-bench": [name_of(number) for number in range(_MOST_SERVERS)]},
            providers={"local": {}},
            config=_SERVER.format(as_root=False),
        )
        if not ours:
            text = _UPSTREAM.format(spec=str(folder / "spec.json")) + _SERVER.format(as_root=True)
            self.hub.config_file.write_text(text)

    def seconds_to_ready(self, users: Sequence[str]) -> list[float]:
        """How long each waits, when all ask for a server at once."""
        with ThreadPoolExecutor(max_workers=len(users)) as threads:
            return list(threads.map(self._one, users))

    def _one(self, user: str) -> float:
        began = time.perf_counter()
        answer = self.hub.ask(user, {"profile": "bench/lab"} if self._ours else None)
        if answer.status not in {201, 202}:
            raise click.ClickException(f"the hub refused to start a server: {answer.status} {answer.text[:500]}")
        while not self._ready(user):
            if time.perf_counter() - began > _READY_S:
                raise click.ClickException(f"not ready after {_READY_S:g} s:\n{self.hub.log()[-2000:]}")
            time.sleep(_LOOK_EVERY_S)
        return time.perf_counter() - began

    def _ready(self, user: str) -> bool:
        server = self.hub.servers(user).get("")
        if server is None:
            raise click.ClickException(f"the server of {user} did not start:\n{self.hub.log()[-2000:]}")
        return bool(server["ready"])

    def add(self, users: Sequence[str]) -> None:
        for user in users:
            self.hub.add_user(user)

    def stop(self, users: Sequence[str]) -> None:
        """Stop their servers, and wait until they are gone."""
        for user in users:
            self.hub.api.call("DELETE", f"/hub/api/users/{quote(user)}/server")
        for user in users:
            eventually_sync(lambda: not self.hub.servers(user), 120.0, f"the server of {user} is gone")  # noqa: B023

    def memory_bytes(self) -> int:
        """What all descendants of the hub hold now, each page once: servers, and whatever is there for their sake."""
        return memory_of(process.pid for process in self._descendants()).proportional_bytes

    def _descendants(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.hub.process.pid).children(recursive=True)) if self.hub.process else []
        except psutil.Error:  # it died
            return []

    def close(self) -> None:
        left = self._descendants()
        self.hub.close()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def a_side(*, ours: bool) -> Iterator[Side]:
    """A running hub, and nothing of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # what runs in a sandbox runs as somebody else
        side = Side(folder, ours=ours)
        try:
            side.hub.start()
            yield side
        finally:
            side.close()


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one side: medians in seconds, and bytes."""

    alone_s: float
    together_s: float
    memory_bytes: int


def measure(side: Starts, *, runs: int, together: int, idle: int, settle_s: float) -> Readings:
    """Starts one by one, then many at once, then a room of idle servers."""
    names = [name_of(number) for number in range(max(together, idle))]
    side.add(names)
    side.seconds_to_ready(names[:1])  # the first of a hub pays for more than its own start, on both sides
    side.stop(names[:1])
    alone = []
    for _ in range(runs):
        alone += side.seconds_to_ready(names[:1])
        side.stop(names[:1])
    at_once = side.seconds_to_ready(names[:together])
    more = names[together:idle]
    for start in range(0, len(more), together):
        side.seconds_to_ready(more[start : start + together])
    if together > idle:
        side.stop(names[idle:together])
    memory = _settled(side.memory_bytes, settle_s)
    side.stop(names)
    return Readings(statistics.median(alone), statistics.median(at_once), memory)


def _settled(read: Callable[[], int], settle_s: float) -> int:
    """A reading that has stopped to change by more than a hundredth, or the last after a minute."""
    until, last = time.monotonic() + 60.0, 0
    while True:
        time.sleep(settle_s)
        now = read()
        if abs(now - last) * 100 <= now or time.monotonic() >= until:
            return now
        last = now


def compare(upstream: Readings, here: Readings, *, together: int, idle: int) -> list[Row]:
    """The table's rows, with their targets."""
    return [
        Row("request to ready, one server", upstream.alone_s, here.alone_s, 1 / 5, _seconds),
        Row(f"request to ready, {together} at once", upstream.together_s, here.together_s, 1 / 5, _seconds),
        Row(f"memory of {idle} idle servers", upstream.memory_bytes, here.memory_bytes, 1 / 2, _bytes),
    ]


@click.command()
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Starts of one server; median.")
@click.option("--together", type=click.IntRange(1, 64), default=8, show_default=True, help="Starts at once.")
@click.option(
    "--idle", type=click.IntRange(1, _MOST_SERVERS), default=20, show_default=True, help="Servers for the memory row."
)
@click.option("--settle-s", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help="Between two looks.")
def start(runs: int, together: int, idle: int, settle_s: float) -> None:
    """From the request to a JupyterLab that answers, beside JupyterHub's SimpleLocalProcessSpawner in the same run.

    Two real hubs, one after the other, on this machine; takes a few minutes. Exits with 1 where a target is missed: at
    most a fifth of upstream's time, at most half of its memory (every page counted once, the zygotes' too).
    """
    readings = {}
    for ours in (False, True):
        with a_side(ours=ours) as side:
            readings[ours] = measure(side, runs=runs, together=together, idle=idle, settle_s=settle_s)
    rows = compare(readings[False], readings[True], together=together, idle=idle)
    show(rows)
    sys.exit(0 if all(row.reached for row in rows) else 1)


def show(rows: Sequence[Row]) -> None:
    """The table."""
    cores = len(os.sched_getaffinity(0))
    title = f"medians; JupyterHub {major_version()}, {cores} core(s)"
    table = Table("what", "SimpleLocalProcessSpawner", "labspawner", "share", "at most", "", title=title)
    for row in rows:
        verdict = "reached" if row.reached else "MISSED"
        share = f"{row.ours / row.upstream:.2f}"
        table.add_row(row.what, row.unit(row.upstream), row.unit(row.ours), share, f"{row.share:.2f}", verdict)
    Console().print(table)


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _bytes(value: float) -> str:
    return human_bytes(int(value))
