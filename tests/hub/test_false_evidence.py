"""What a student can do with reports of their own: false ones, and far too many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from labspawner.providers.sim import write_faults
from labspawner.testing.hub import RealHub
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

COURSE = """
course: py101
title: Python
profiles:
  - slug: short
    title: Short
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 3s, action: stop}
    limits: {max_age: 40s}
  - slug: long
    title: Long
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 2h, extend: {step: 30m, per_day: 2}, action: stop}
"""
KEEP_TOKENS = """
def _keep_token(spawner):
    draft = pathlib.Path("draft." + spawner.user.name)
    draft.write_text(spawner.api_token)
    draft.rename(f"token.{spawner.user.name}")

c.Spawner.pre_spawn_hook = _keep_token
"""
FLOODERS, EACH = 4, 100


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    hub = RealHub(
        tmp_path_factory.mktemp("false"),
        courses={"py101.yaml": COURSE},
        groups={"course-py101": [f"student{number}" for number in range(1, 6)]},
        providers={"sim": {}},
        settings={"culler_interval_s": 1},
        culler="on",
        config=KEEP_TOKENS,
    )
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


class Server:
    """What runs in a server and has its token: anything that a student writes."""

    def __init__(self, hub: RealHub, user: str, profile: str, *, held: bool = False) -> None:
        """held: before it is ready, so that a limit of seconds does not end what nobody has seen yet."""
        world = hub.folder / "data" / "providers" / "sim"
        world.mkdir(parents=True, exist_ok=True)
        write_faults(world, **({"stall_at": "boot"} if held else {}))
        try:
            assert hub.ask(user, {"profile": f"py101/{profile}"}).status in {201, 202}
            token = hub.folder / f"token.{user}"
            eventually_sync(token.exists, what="it begins")
            self.client = Client(hub.base, {"Authorization": f"token {token.read_text()}"})
            if held:
                eventually_sync(lambda: self.hold(3600) == 200, what="it is held")
        finally:
            write_faults(world)
        hub.wait_ready(user)

    def hold(self, seconds: int) -> int:
        return self.client.call("POST", "/hub/labspawner/hold", {"seconds": seconds}).status

    def report(self, **changes: Any) -> Answer:
        return self.client.call("POST", "/hub/labspawner/report", {"v": 1, "at": utcnow().isoformat(), **changes})


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


def busy(since: datetime) -> list[dict[str, str]]:
    return [{"id": "k", "name": "python3", "path": "lie.ipynb", "busy_since": since.isoformat()}]


def test_a_server_that_lies_of_being_busy_outlives_its_idle_limit_but_not_its_age(hub: RealHub) -> None:
    server = Server(hub, "student1", "short", held=True)

    def lie() -> Answer:
        return server.report(kernels=busy(utcnow()), last_activity=(utcnow() + timedelta(days=400)).isoformat())

    lie()
    hub.wait_reported("student1", lambda report: report.work_count > 0)
    server.hold(0)

    def ended() -> bool:
        lie()
        return not hub.servers("student1")

    eventually_sync(ended, 90, "its age ends it")

    assert hub.cull_of("student1").reason.startswith("running for ")


def test_a_last_use_in_the_future_counts_as_now_and_no_longer(hub: RealHub) -> None:
    server = Server(hub, "student2", "long")

    answer = server.report(last_activity=(utcnow() + timedelta(days=400)).isoformat()).json()

    left = datetime.fromisoformat(answer["ends_at"]) - datetime.fromisoformat(answer["now"])
    assert left <= timedelta(hours=2)


def test_words_of_a_report_are_shown_as_text_on_the_page(hub: RealHub) -> None:
    server = Server(hub, "student3", "long")
    attack = "<script>alert(1)</script>"

    answer = server.report(
        kernels=[{"id": "k", "name": "python3", "path": attack, "busy_since": utcnow().isoformat()}],
        terminals=[{"name": "1", "foreground": attack, "since": utcnow().isoformat()}],
        unsaved=[attack],
    )
    page = hub.login("student3").get("/hub/home").text

    assert answer.status == 200
    assert attack not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_flood_of_reports_leaves_the_hub_to_others_and_the_last_one_counts(hub: RealHub) -> None:
    flooding, quiet = Server(hub, "student4", "long"), Server(hub, "student5", "long")
    lines, running = len(hub.log().splitlines()), threading.Event()

    def flood(_: int) -> set[int]:
        running.set()
        return {flooding.report(kernels=busy(utcnow())).status for _ in range(EACH)}

    with ThreadPoolExecutor(FLOODERS) as pool:
        floods = [pool.submit(flood, number) for number in range(FLOODERS)]
        running.wait(120)
        assert quiet.report(unsaved=["a.ipynb"]).status == 200
        assert hub.login("student5").get("/hub/home").status == 200
        statuses = set().union(*(each.result() for each in floods))
    last = flooding.report(kernels=[], last_activity=utcnow().isoformat())

    assert statuses == {200}
    assert last.json()["verdict"] == "keep"
    assert "in use" not in last.json()["reason"]["en"]
    assert [line for line in hub.log().splitlines()[lines:] if "/report" in line] == []
    lease = hub.lease("student4")

    def written() -> bool:
        report = hub.with_store(lambda store: store.standings([lease.id]))[lease.id].evidence.report
        assert report is not None
        return report.work_count == 0

    eventually_sync(written, 30, "the last report stands in the store")
