"""`labspawner bench kube`: a whole course starts and stops its pods at once, beside JupyterHub with KubeSpawner as it
comes, on the same API server double."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from labspawner.cli.bench.storm import Row, body_for
from labspawner.testing.hub import RealHub, major_version, server_path
from labspawner.testing.kube import HamiCard, Pace, a_node
from labspawner.testing.kube.apart import KubeApart, PodStory
from labspawner.testing.storm import Student, enrol, latencies, percentile, stop_all, storm
from labspawner.testing.waiting import eventually_sync

SETTLED_S = 3.0
LINE = 4
"""How many students want the one slice."""
_LONG_S = 60.0  # times PATIENCE
PACE = Pace(schedule_s=0.1, start_s=0.3, stop_s=0.5)
"""About what a real node was seen to take for a pod (0.45 s until it runs)."""
CARD_MIB = 6144
_COURSE = """
course: bench
title: Bench
profiles:
  - slug: sim
    title: A pod
    variants: [{{provider: kubernetes, image: "{image}", cpu: 0.1, memory: 64MiB}}]
  - slug: gpu
    title: A slice
    variants:
      - {{provider: kubernetes, image: "{image}", cpu: 0.1, memory: 64MiB,
         gpu: {{memory: 6GiB, cores: 100, selftest: "off"}}}}
"""
_OURS = """
c.Spawner.poll_interval = 30
"""
# JupyterHub and KubeSpawner as they come, but for two settings in their favour: no start is refused because there are
# many, and a request does not wait for its server.
_UPSTREAM = """
import json, os, pathlib
from labspawner.testing.hubconfig import ADMIN_SCOPES, MemoryProxy
spec = json.loads(pathlib.Path({spec!r}).read_text())
os.environ["KUBECONFIG"] = {kubeconfig!r}
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
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.KubeSpawner.namespace = {namespace!r}
c.KubeSpawner.image = {image!r}
c.KubeSpawner.cpu_limit = c.KubeSpawner.cpu_guarantee = 0.1
c.KubeSpawner.mem_limit = c.KubeSpawner.mem_guarantee = "64M"
c.KubeSpawner.start_timeout = 300
def gpu(spawner):
    if spawner.user.name.startswith("gpu"):
        spawner.extra_resource_limits = {{"nvidia.com/gpu": "1", "nvidia.com/gpumem": "6144", "nvidia.com/gpucores": "100"}}
c.KubeSpawner.pre_spawn_hook = gpu
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one hub did. Seconds; stalls and CPU of the hub in milliseconds, the latter per server.

    taken_s: for each freed slice, how long after its pod was gone the next pod was on the node.
    """

    all_ready_s: float
    ready_p50_s: float
    all_gone_s: float
    start_cpu_ms: float
    stop_cpu_ms: float
    p99_ms: float
    stall_ms: float
    writes_per_start: float
    taken_s: tuple[float, ...]


def name_of(number: int) -> str:
    """A student."""
    return f"student{number}"


def gpu_student(number: int) -> str:
    """One who wants the slice."""
    return f"gpu{number}"


@contextlib.contextmanager
def cluster_for(folder: Path, count: int) -> Iterator[KubeApart]:
    """A cluster with room for so many, and one card of one slice."""
    extended = {"nvidia.com/gpu": 1}
    node = a_node(cpu=max(8, count), memory="256Gi", pods=count + 2 * LINE + 10, extended=extended)
    with KubeApart(folder, [node], hami=[HamiCard("GPU-1", memory_mib=CARD_MIB, split=1)], pace=PACE) as cluster:
        yield cluster


def a_hub(folder: Path, cluster: KubeApart, count: int, *, ours: bool) -> RealHub:
    """A hub on this cluster with so many students, not started; upstream's spawns with KubeSpawner."""
    users = [name_of(number) for number in range(count)] + [gpu_student(number) for number in range(LINE)]
    where = {"kubeconfig": str(cluster.kubeconfig), "namespace": cluster.namespace}
    hub = RealHub(
        folder,
        courses={"bench.yaml": _COURSE.format(image=cluster.image)},
        groups={"course-bench": users},
        providers={"kubernetes": {**where, "gpu": {"strategy": "hami"}}},
        settings={"observe_interval_s": 5.0, "reconcile_interval_s": 60.0, "courses_refresh_s": 5.0},
        config=_OURS,
    )
    if not ours:
        text = _UPSTREAM.format(spec=str(folder / "spec.json"), image=cluster.image, **where)
        hub.config_file.write_text(text)
    return hub


@contextlib.contextmanager
def running(count: int, *, ours: bool) -> Iterator[tuple[RealHub, KubeApart]]:
    """A hub that runs on a cluster of its own, and nothing of both afterwards."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name, contextlib.ExitStack() as stack:
        (Path(name) / "cluster").mkdir()
        cluster = stack.enter_context(cluster_for(Path(name) / "cluster", count))
        hub = a_hub(Path(name) / "hub", cluster, count, ours=ours)
        stack.callback(hub.close)
        stack.callback(hub.kill)
        hub.start()
        yield hub, cluster


def measure(count: int, *, ours: bool) -> Reading:
    """One storm of starts, one of stops, and a line for the slice, on a fresh hub. Raises ClickException where not
    everybody gets a server."""
    with running(count, ours=ours) as (hub, cluster):
        assert hub.process is not None
        students = enrol(hub.folder / "jupyterhub.sqlite", [name_of(number) for number in range(count)])
        process = psutil.Process(hub.process.pid)
        time.sleep(SETTLED_S)
        cluster.clear()
        with latencies(hub.port) as taken:
            before = _cpu_s(process)
            seconds = asyncio.run(storm(hub.port, students, body_for(ours=ours, profile="bench/sim")))
            start_cpu = _cpu_s(process) - before
        _raise_failure(students, "got no server")
        writes = cluster.writes()
        before, began = _cpu_s(process), time.monotonic()
        asyncio.run(stop_all(hub.port, students))
        _raise_failure(students, "could not stop")
        gone = _wait_all_gone(hub, cluster)
        stop_cpu = _cpu_s(process) - before
        waits = slice_waits(hub, cluster, ours=ours)
    return Reading(
        all_ready_s=seconds,
        ready_p50_s=percentile([student.ready or 0.0 for student in students], 50),
        all_gone_s=gone - began,
        start_cpu_ms=1000 * start_cpu / count,
        stop_cpu_ms=1000 * stop_cpu / count,
        p99_ms=1000 * percentile(taken, 99),
        stall_ms=1000 * max(taken, default=0.0),
        writes_per_start=writes / count,
        taken_s=waits,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _raise_failure(students: Sequence[Student], what: str) -> None:
    failed = [student for student in students if student.failed]
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(students)} {what}; {failed[0].name}: {failed[0].failed}")


def _wait_all_gone(hub: RealHub, cluster: KubeApart) -> float:
    """When the last pod was gone, on the clock of time.monotonic(); returns when the hub knows it too."""

    def last() -> float | None:
        gone = [story.gone for story in cluster.stories().values()]
        return None if None in gone else max(when for when in gone if when is not None)

    found = eventually_sync(last, _LONG_S, "all pods are gone")
    assert found is not None
    eventually_sync(lambda: not hub.api.call("GET", "/hub/api/users?state=active").json(), _LONG_S, "all have stopped")
    return found


def slice_waits(hub: RealHub, cluster: KubeApart, *, ours: bool) -> tuple[float, ...]:
    """For each slice that is freed while others wait for it: seconds from the end of its pod until the next has its place."""
    cluster.clear()
    for number in range(LINE):
        _ask_for_a_slice(hub, cluster, gpu_student(number), ours=ours)
        if number == 0:
            eventually_sync(lambda: _is_ready(hub, gpu_student(0)), _LONG_S, "the first has the slice")
    taken: list[float | None] = []
    done: set[str] = set()
    while len(done) < LINE:
        holder = eventually_sync(lambda: _holder(cluster), _LONG_S, "somebody has the slice")
        assert holder is not None
        eventually_sync(partial(_is_ready, hub, holder.user), _LONG_S, f"{holder.user} is ready")
        done.add(holder.user)
        hub.api.call("DELETE", server_path(holder.user))
        if len(done) < LINE:
            taken.append(eventually_sync(partial(_passed_on, cluster, holder.user), _LONG_S, "it is taken"))
    return tuple(wait for wait in taken if wait is not None)


def _ask_for_a_slice(hub: RealHub, cluster: KubeApart, user: str, *, ours: bool) -> None:
    """Ask, and return when the user holds the slice or stands in line."""
    answer = hub.api.call("POST", server_path(user), body_for(ours=ours, profile="bench/gpu"))
    if answer.status not in {201, 202}:
        raise click.ClickException(f"{user}: {answer.status} {answer.text[:300]}")
    if ours:
        eventually_sync(lambda: hub.leases(user), _LONG_S, f"{user} is in line")
    else:
        eventually_sync(lambda: user in {s.user for s in cluster.stories().values()}, _LONG_S, f"{user} has a pod")


def _is_ready(hub: RealHub, user: str) -> bool:
    return any(server["ready"] for server in hub.servers(user).values())


def _holder(cluster: KubeApart) -> PodStory | None:
    """The pod that has the slice now."""
    return next((s for s in cluster.stories().values() if s.bound is not None and s.gone is None), None)


def _passed_on(cluster: KubeApart, user: str) -> float | None:
    """How long the slice of `user` was nobody's; None: it still is somebody's, or nobody's. At least a microsecond."""
    stories = list(cluster.stories().values())
    gone = next((story.gone for story in stories if story.user == user and story.gone is not None), None)
    if gone is None:
        return None
    after = [story.bound for story in stories if story.bound is not None and story.gone is None]
    return max(1e-6, min(after) - gone) if after else None


def compare(upstream: Reading, here: Reading) -> list[Row]:
    """The table, with the targets."""
    return [
        Row("all ready", upstream.all_ready_s, here.all_ready_s, "s", upstream.all_ready_s),
        Row("ready, median", upstream.ready_p50_s, here.ready_p50_s, "s"),
        Row("all gone", upstream.all_gone_s, here.all_gone_s, "s"),
        Row("CPU of the hub, a start", upstream.start_cpu_ms, here.start_cpu_ms, "ms", upstream.start_cpu_ms),
        Row("CPU of the hub, a stop", upstream.stop_cpu_ms, here.stop_cpu_ms, "ms", upstream.stop_cpu_ms),
        Row("hub answers, p99", upstream.p99_ms, here.p99_ms, "ms"),
        Row("hub answers, longest", upstream.stall_ms, here.stall_ms, "ms", 500),
        Row("API writes, a start", upstream.writes_per_start, here.writes_per_start, "", 1),
        Row("freed slice taken, longest", max(upstream.taken_s), max(here.taken_s), "s", 1),
    ]


@click.command("kube")
@click.option("--n", "count", type=click.IntRange(1, 5000), default=200, show_default=True, help="Starts at once.")
def command(count: int) -> None:
    """All students of a course start a pod at once, and stop it, beside a JupyterHub with KubeSpawner.

    The API server is the double, in a process of its own; its pods are no processes and answer at once. Exits with 1
    where a target is missed.
    """
    rows = compare(measure(count, ours=False), measure(count, ours=True))
    show(rows, count)
    sys.exit(0 if all(row.reached for row in rows) else 1)


def show(rows: Sequence[Row], count: int) -> None:
    """The table."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    title = f"{count} pods at once; JupyterHub {major_version()}, {cores} core(s), load {load:.1f} at the end"
    table = Table("what", "KubeSpawner", "labspawner", "at most", "", title=title)
    for row in rows:
        most = "" if row.most is None else _amount(row.most, row.unit)
        verdict = "" if row.most is None else ("reached" if row.reached else "MISSED")
        table.add_row(row.what, _amount(row.upstream, row.unit), _amount(row.ours, row.unit), most, verdict)
    Console().print(table)


def _amount(value: float, unit: str) -> str:
    return f"{value:.{0 if unit == 'ms' and value >= 100 else 2 if unit == 's' else 1}f} {unit}".rstrip()
