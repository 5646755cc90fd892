"""`labspawner bench console`: what it costs that a whole course watches what is free, how soon a page hears of a change, what
the console's pages take, and what a class action does to the hub. Hub and console are real, the servers simulated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from labspawner.cli.bench.storm import body_for
from labspawner.model import Json
from labspawner.testing import crowd
from labspawner.testing.hub import RealHub, free_ports, major_version
from labspawner.testing.storm import Student, enrol, latencies, percentile, storm
from labspawner.testing.waiting import NotInTime, eventually_sync
from labspawner.testing.web import Client

TEACHER, ADMIN = "teacher", "admin"
PREFIX = "/services/labspawner/"
SLUG, OWN = "bench", "own"
"""The course with the whole class stands in a file; another one is written in the console, with a history."""
PER_S = 50.0
CHANGE_EVERY_S = 5.0
"""A class of 300 that comes and goes within 90 minutes starts and stops 600 servers: one in 9 s. This is twice that."""
NEWS_S = 5.0
"""What has not reached a page by then has not reached it."""
WARM_UP_ROUNDS = 2
"""So often each page is asked for before it counts."""
_WALLS = 2
_RUNNING = 4
"""Servers that run from the beginning."""
_JOB_S = 600.0
_COURSE = """
course: bench
title: {en: Bench, zh-CN: 测试}
profiles:
  - slug: gpu
    title: {en: On a slice, zh-CN: 切片}
    variants: [{provider: sim, cpu: 1, memory: 2GiB, gpu: {memory: 2GiB, cores: 20%}}]
  - slug: base
    title: {en: Notebook, zh-CN: 笔记本}
    variants: [{provider: sim, cpu: 1, memory: 1GiB}]
"""
_CONFIG = """
from labspawner import wiring
c.Spawner.poll_interval = 30
wiring.run_console(c, url="http://127.0.0.1:{port}")
"""
_INTERVALS = {"observe_interval_s": 5.0, "reconcile_interval_s": 60.0, "courses_refresh_s": 5.0}
KINDS: Mapping[str, str] = {
    "my courses": "",
    "class": f"courses/{SLUG}/",
    "profiles": f"courses/{OWN}/profiles/",
    "editor": f"courses/{OWN}/profiles/gpu/edit",
    "YAML": f"courses/{OWN}/yaml",
    "people": f"courses/{SLUG}/roster",
    "links": f"courses/{OWN}/links",
    "usage": f"courses/{SLUG}/usage",
    "history": f"courses/{OWN}/history",
    "capacity": "admin/",
    "leases": "admin/leases",
    "audit log": "admin/audit",
}
"""The pages that are asked for, in turn and equally often, by an administrator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything. watch_s, pages_s: how long is looked."""

    students: int = 300
    watch_s: float = 60.0
    pages_s: float = 24.0
    acted_on: int = 200


QUICK = Size(students=12, watch_s=2.0, pages_s=1.0, acted_on=6)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. most: what it may be; None where nothing is asked."""

    what: str
    value: float
    unit: str
    most: float | None = None

    @property
    def reached(self) -> bool:
        return self.most is None or self.value <= self.most


@dataclass(kw_only=True)
class Place:
    """A hub with a console that runs, and the people who know it."""

    hub: RealHub
    console_port: int
    students: Sequence[Student]
    staff: Mapping[str, Student]
    console: psutil.Process = field(repr=False)

    def header(self, name: str) -> str:
        return f"Authorization: token {self.staff[name].token}\r\n"

    @property
    def process(self) -> psutil.Process:
        """The hub's."""
        assert self.hub.process is not None
        return psutil.Process(self.hub.process.pid)

    def cpu_s(self) -> float:
        """Processor seconds that hub and console have used."""
        return sum(sum(process.cpu_times()[:2]) for process in (self.process, self.console))


def a_hub(folder: Path, size: Size, console_port: int) -> RealHub:
    """A hub whose students share four hosts with two cards each, and its console, not started."""
    names = [name_of(number) for number in range(size.students)]
    cards: list[list[Json]] = [
        [{"uuid": f"GPU-{host}{card}", "memory": "24GiB"} for card in range(2)] for host in range(4)
    ]
    hosts: list[Json] = [
        {"name": f"n{n}", "servers": 60, "cpu": 96, "memory": "512GiB", "cards": cards[n]} for n in range(4)
    ]
    return RealHub(
        folder,
        courses={f"{SLUG}.yaml": _COURSE},
        groups={f"course-{SLUG}": names, f"course-{SLUG}-instructors": [TEACHER], "instructors": [TEACHER, ADMIN]},
        providers={"sim": {"start_s": 2.5, "jitter": 0.2, "hosts": hosts}},
        settings=dict(_INTERVALS),
        config=_CONFIG.format(port=console_port),
    )


def name_of(number: int) -> str:
    """A student."""
    return f"student{number}"


@contextlib.contextmanager
def running(size: Size) -> Iterator[Place]:
    """A place that answers, and nothing of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="labspawner-bench-") as name:
        (port,) = free_ports(1)
        hub = a_hub(Path(name), size, port)
        try:
            hub.start()
            yield _opened(hub, size, port)
        finally:
            hub.close()  # in order, so that the console has let go of the folder before it goes


def _opened(hub: RealHub, size: Size, port: int) -> Place:
    """The place, as soon as its console answers."""
    hub.add_user(ADMIN)
    database = hub.folder / "jupyterhub.sqlite"
    students = enrol(database, [name_of(number) for number in range(size.students)])
    staff = {student.name: student for student in enrol(database, [TEACHER, ADMIN])}
    place = Place(hub=hub, console_port=port, students=students, staff=staff, console=psutil.Process())
    header = place.header(TEACHER)

    def answers() -> bool:
        taken = asyncio.run(crowd.at_rate(port, [PREFIX], per_s=1000, seconds=0.001, headers=header, workers=1))
        return taken[0].status == 200

    eventually_sync(answers, 60.0, "the console answers")
    _write_course(place)
    place.console = next(child for child in place.process.children() if "labspawner.service.console" in child.cmdline())
    return place


def _write_course(place: Place) -> None:
    """The course that is written in the console, changed once. Raises ClickException where that is refused."""
    base = f"http://127.0.0.1:{place.console_port}"
    known = {"Authorization": f"token {place.staff[TEACHER].token}", "Content-Type": "application/json"}
    text = _COURSE.replace(f"course: {SLUG}", f"course: {OWN}")
    made = Client(base, known).call("POST", f"{PREFIX}api/v1/courses", {"slug": OWN, "text": text})
    if made.status == 201:
        current = {**known, "If-Match": f'"{made.json()["etag"]}"'}
        changed = {"text": text.replace("cpu: 1", "cpu: 2"), "comment": "more"}
        made = Client(base, current).call("PUT", f"{PREFIX}api/v1/courses/{OWN}", changed)
    if made.status not in {200, 201}:
        raise click.ClickException(f"a course cannot be written: {made.status} {made.text[:300]}")


# -- a course that watches ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """cpu_pct: of one core, hub and console together. news_ms: how long each page took to hear of each change, infinite where
    it did not."""

    cpu_pct: float
    news_ms: Sequence[float]


async def watch(place: Place, size: Size) -> Watched:
    """Let everybody watch while servers come and go."""
    port = place.hub.port
    known = crowd.cookies(place.hub.folder, [student.name for student in place.students])
    pages = [crowd.Page(student.name, known[student.name]) for student in place.students]
    walls = [crowd.Page(TEACHER, "x=y") for _ in range(_WALLS)]
    events = f"{PREFIX}api/v1/courses/{SLUG}/events"
    async with (
        crowd.watching(port, pages, "/hub/labspawner/events", event="availability"),
        crowd.watching(place.console_port, walls, events, event="changed", headers=place.header(TEACHER)),
    ):
        _all_watch([*pages, *walls])
        await asyncio.sleep(min(3.0, size.watch_s))  # what the first look of so many costs is not what watching costs
        before, began = place.cpu_s(), time.perf_counter()
        changes = [at async for at in _come_and_go(place, size)]
        await asyncio.sleep(max(0.0, began + size.watch_s - time.perf_counter()))
        cpu = 100 * (place.cpu_s() - before) / (time.perf_counter() - began)
        await asyncio.sleep(max(0.0, changes[-1] + NEWS_S - time.perf_counter()))
    _all_watch([*pages, *walls])
    news = [page.first_news(at, at + NEWS_S) for at in changes for page in pages]
    since = [at for at in changes for _ in pages]
    return Watched(cpu, [1000 * (at - was) if at else float("inf") for at, was in zip(news, since, strict=True)])


def _all_watch(pages: Sequence[crowd.Page]) -> None:
    failed = [page for page in pages if page.failed]
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(pages)} pages do not watch; {failed[0].failed}")


async def _come_and_go(place: Place, size: Size) -> AsyncIterator[float]:
    """Start a server, and stop it at the next turn; each at the instant that is given."""
    began = time.perf_counter()
    for number in range(max(1, int(size.watch_s / CHANGE_EVERY_S))):
        await asyncio.sleep(max(0.0, began + number * CHANGE_EVERY_S - time.perf_counter()))
        student = place.students[_RUNNING + number // 2]
        header = f"Authorization: token {student.token}\r\n"
        yield time.perf_counter()
        path = f"/hub/api/users/{student.name}/server"
        if number % 2 == 0:
            wish = body_for(ours=True, profile=f"{SLUG}/gpu")
            status, said = await crowd.send(place.hub.port, "POST", path, wish, headers=header)
        else:
            status, said = await crowd.send(place.hub.port, "DELETE", path, None, headers=header)
        if status not in {201, 202, 204}:
            raise click.ClickException(f"a change was answered with {status} {said[:200]!r}")


# -- the console's pages -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """took_ms: by kind, of each request. cpu_ms, hub_ms, asker_ms: processor time a page of the console, of the hub, and of
    this process, which asks and shares the machine with them."""

    took_ms: Mapping[str, Sequence[float]]
    cpu_ms: float
    hub_ms: float = 0.0
    asker_ms: float = 0.0


async def pages(place: Place, size: Size) -> Shown:
    """Ask for every kind of page in turn, at a steady rate. Raises ClickException where one is not answered with its page."""
    kinds = list(KINDS)
    wholes = [PREFIX + KINDS[kind] for kind in kinds]
    header = place.header(ADMIN)
    # What each page costs the first time (a template is compiled) is paid by nobody who is measured.
    await crowd.at_rate(place.console_port, wholes, per_s=10, seconds=WARM_UP_ROUNDS * len(kinds) / 10, headers=header)
    users = (place.console, place.process, psutil.Process())
    before = [sum(process.cpu_times()[:2]) for process in users]
    taken = await crowd.at_rate(place.console_port, wholes, per_s=PER_S, seconds=size.pages_s, headers=header)
    spent = [sum(process.cpu_times()[:2]) - was for process, was in zip(users, before, strict=True)]
    wrong = [one for one in taken if one.status != 200]
    if wrong:
        raise click.ClickException(f"{wrong[0].path} was answered with {wrong[0].status}")
    took = {
        kind: [1000 * one.seconds for one in taken if one.path == whole]
        for kind, whole in zip(kinds, wholes, strict=True)
    }
    return Shown(took, *(1000 * one / len(taken) for one in spent))


# -- a class action ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acted:
    """first_s: from the click to the first progress. all_s: to the last. stall_ms: the longest that the hub let somebody else
    wait meanwhile."""

    first_s: float
    all_s: float
    stall_ms: float


def act(place: Place, size: Size) -> Acted:
    """Start servers of a whole class by one action of its teacher, while somebody else asks the hub all the time."""
    header = place.header(TEACHER)
    jobs = f"{PREFIX}api/v1/courses/{SLUG}/jobs"
    names = [student.name for student in place.students[-size.acted_on :]]
    with latencies(place.hub.port) as taken:
        began = time.perf_counter()
        wish = {"verb": "start", "users": names, "args": {"profile": "base"}}
        status, said = asyncio.run(crowd.send(place.console_port, "POST", jobs, wish, headers=header))
        if status not in {200, 201, 202}:
            raise click.ClickException(f"the class action was answered with {status} {said[:300]!r}")
        path = f"{jobs}/{json.loads(said)['id']}"
        first = _until(place, path, began, lambda job: job["done"] > 0)
        whole = _until(place, path, began, lambda job: job["done"] >= job["total"])
    return Acted(first, whole, 1000 * max(taken))


def _until(place: Place, path: str, began: float, over: Callable[[Mapping[str, int]], bool]) -> float:
    """Seconds from `began` until the job is so far, as its page would see it."""
    client = Client(f"http://127.0.0.1:{place.console_port}", {"Authorization": f"token {place.staff[TEACHER].token}"})
    while time.perf_counter() - began < _JOB_S:
        if over(client.call("GET", path).json()):
            return time.perf_counter() - began
        time.sleep(0.05)
    raise click.ClickException("the class action does not come to an end")


# -- the table ---------------------------------------------------------------------------------------------------------


def measure(size: Size) -> list[Row]:
    """Everything on one hub. Raises ClickException where something does not answer."""
    with running(size) as place:
        asyncio.run(storm(place.hub.port, place.students[:_RUNNING], body_for(ours=True, profile="bench/gpu")))
        watched = asyncio.run(watch(place, size))
        shown = asyncio.run(pages(place, size))
        acted = act(place, size)
    return table_of(size, watched, shown, acted)


def table_of(size: Size, watched: Watched, shown: Shown, acted: Acted) -> list[Row]:
    """The rows, with the targets."""
    every = [taken for kind in shown.took_ms.values() for taken in kind]
    return [
        Row(f"{size.students} watch: hub and console", watched.cpu_pct, "% of a core", 10),
        Row("an event reaches the pages, p95", percentile(watched.news_ms, 95), "ms", 1000),
        Row(f"pages at {PER_S:.0f}/s, p95", percentile(every, 95), "ms", 100),
        Row("  median", percentile(every, 50), "ms"),
        *(Row(f"  {kind}, p95", percentile(taken, 95), "ms") for kind, taken in shown.took_ms.items()),
        Row("  CPU of the console, a page", shown.cpu_ms, "ms"),
        Row("  CPU of the hub, a page", shown.hub_ms, "ms"),
        Row("  CPU of who asks, a page", shown.asker_ms, "ms"),
        Row(f"action on {size.acted_on}: first progress", 1000 * acted.first_s, "ms", 1000),
        Row("  all of them", 1000 * acted.all_s, "ms"),
        Row("  hub answers others, longest", acted.stall_ms, "ms", 500),
    ]


@click.command("console")
@click.option(
    "--n", "students", type=click.IntRange(2, 3000), default=Size().students, show_default=True, help="Who watch."
)
@click.option("--quick", is_flag=True, help="A few students and seconds: whether it works, not how fast it is.")
def command(students: int, quick: bool) -> None:
    """A course that watches what is free, the console's pages at a steady rate, and a class action.

    Hub and console are real, the servers simulated; whoever asks shares this machine with them. Exits with 1 where a target
    is missed.
    """
    size = QUICK if quick else Size(students=students, acted_on=min(students, Size().acted_on))
    try:
        rows = measure(size)
    except NotInTime as exc:
        raise click.ClickException(str(exc)) from exc
    show(rows)
    sys.exit(0 if all(row.reached for row in rows) else 1)


def show(rows: Sequence[Row]) -> None:
    """The table."""
    cores = len(os.sched_getaffinity(0))
    mix = f"Pages: {len(KINDS)} kinds in turn, timed from when each is due; before, each {WARM_UP_ROUNDS} times unmeasured."
    title = f"console; JupyterHub {major_version()}, {cores} core(s)"
    table = Table("what", "measured", "at most", "", title=title, caption=mix)
    for row in rows:
        most = "" if row.most is None else f"{row.most:g} {row.unit}"
        verdict = "" if row.most is None else ("reached" if row.reached else "MISSED")
        table.add_row(row.what, f"{row.value:.1f} {row.unit}", most, verdict)
    Console().print(table)
