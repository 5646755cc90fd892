"""Servers report their use to a real hub, ask it for time, and are culled by what they said."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from labspawner.providers.sim import write_faults
from labspawner.testing.days import at_noon
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
  - slug: long
    title: Long
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 2h, warn: [10m, 2m], extend: {step: 30m, per_day: 2}, hold: 1h, action: stop}
  - slug: firm
    title: Firm
    variants: [{provider: sim, settings: {start_s: 0.01}}]
    idle: {after: 2h, action: stop}
  - slug: endless
    title: Endless
    variants: [{provider: sim, settings: {start_s: 0.01}}]
"""
KEEP_TOKENS = """
def _keep_token(spawner):
    draft = pathlib.Path("draft." + spawner.user.name)
    draft.write_text(spawner.api_token)
    draft.rename(f"token.{spawner.user.name}.{spawner.name}")

c.Spawner.pre_spawn_hook = _keep_token
"""
SHORT = timedelta(seconds=3)


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Server:
    """The extension inside one server of a hub, as far as the hub can tell."""

    def __init__(self, hub: RealHub, user: str, name: str = "") -> None:
        token = (hub.folder / f"token.{user}.{name}").read_text()
        self.client = Client(hub.base, {"Authorization": f"token {token}"})

    def report(self, **changes: Any) -> Answer:
        return self.client.call("POST", "/hub/labspawner/report", {"v": 1, "at": utcnow().isoformat(), **changes})

    def report_busy_cell(self) -> dict[str, Any]:
        kernel = {"id": "k", "name": "python3", "path": "train.ipynb", "busy_since": utcnow().isoformat()}
        return self.report(kernels=[kernel]).json()

    def post(self, what: str, body: object) -> Answer:
        return self.client.call("POST", f"/hub/labspawner/{what}", body)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = RealHub(
        tmp_path_factory.mktemp("evidence"),
        courses={"py101.yaml": COURSE},
        groups={"course-py101": [f"student{number}" for number in range(1, 12)]},
        providers={"sim": {}},
        settings={"culler_interval_s": 1},
        culler="on",
        config=KEEP_TOKENS + at_noon(),
    )
    hub.start()
    yield hub
    hub.close()


def started(hub: RealHub, user: str, profile: str = "py101/long", name: str = "") -> Server:
    hub.start_server(user, profile, name=name)
    return Server(hub, user, name)


def held(hub: RealHub, user: str, profile: str) -> Server:
    """A server that was held before it was ready: its limit of seconds ends nothing until the hold is given up."""
    world = hub.folder / "data" / "providers" / "sim"
    world.mkdir(parents=True, exist_ok=True)
    write_faults(world, stall_at="boot")
    try:
        assert hub.ask(user, {"profile": profile}).status in {201, 202}
        eventually_sync((hub.folder / f"token.{user}.").exists, what="it begins")
        server = Server(hub, user)
        eventually_sync(lambda: server.post("hold", {"seconds": 3600}).status == 200, what="it is held")
    finally:
        write_faults(world)
    hub.wait_ready(user)
    return server


def test_a_report_is_answered_with_what_becomes_of_the_server_and_kept(hub):
    server = started(hub, "student1")

    answer = server.report(last_activity=utcnow().isoformat(), clients={"connected": 1}, unsaved=["a.ipynb"])

    assert answer.status == 200, answer.text
    said = answer.json()
    left = at(said["ends_at"]) - at(said["now"])
    assert timedelta(minutes=119) < left <= timedelta(hours=2)
    assert (said["v"], said["verdict"], said["cause"], said["report_every_s"]) == (1, "keep", "idle", 60)
    assert at(said["ends_at"]) - at(said["warn_at"][1]) == timedelta(minutes=2)
    assert "空闲" in said["reason"]["zh-CN"]
    assert said["extend"] == {"step_s": 1800, "left_today": 2}
    assert said["hold"] == {"until": None, "left_s": 3600}
    lease = hub.lease("student1")

    def kept() -> bool:
        standing = hub.with_store(lambda store: store.standings([lease.id])).get(lease.id)
        report = standing.evidence.report if standing else None
        return report is not None and (report.clients, report.unsaved, standing.verdict) == (1, 1, "keep")

    eventually_sync(kept, 20, "the report stands in the store")


def test_nobody_but_the_server_itself_may_ask(hub):
    started(hub, "student2")
    browser = hub.login("student2")
    own = hub.api.call("POST", "/hub/api/users/student2/tokens", {}).json()["token"]
    askers = {
        "nobody": Client(hub.base),
        "a wrong token": Client(hub.base, {"Authorization": "token 0123"}),
        "the student's own token": Client(hub.base, {"Authorization": f"token {own}"}),
        "a service": hub.api,
        "a browser": browser,
    }

    for who, client in askers.items():
        for what, body in {"report": {"v": 1}, "extend": {}, "hold": {"seconds": 60}}.items():
            answer = client.call("POST", f"/hub/labspawner/{what}", body)
            assert answer.status == 403, (who, what, answer.text)
            assert answer.json()["message"].keys() == {"en", "zh-CN"}
    assert client.call("GET", "/hub/labspawner/report").status == 405


def test_a_server_asks_for_itself_alone(hub):
    first, second = started(hub, "student3"), started(hub, "student3", name="two")
    before = second.report().json()

    assert first.post("extend", {"server": "two", "user": "student3"}).status == 200
    assert first.post("hold", {"seconds": 60, "lease_id": hub.lease("student3", "two").id}).status == 200

    after = second.report().json()
    assert after["extend"]["left_today"] == 2
    assert after["hold"] == before["hold"]


UNREADABLE = [
    b"",
    b"\xff{",
    b"[]",
    b"[" * 60_000,
    {},
    {"v": 2, "at": "2026-11-02T10:00:00Z"},
    {"v": 1, "at": "now"},
    {"v": 1, "at": "2026-11-02T10:00:00Z", "unsaved": ["x" * 70_000]},
]


@pytest.mark.parametrize("body", UNREADABLE)
def test_a_report_that_cannot_be_read_is_refused_with_a_sentence(hub, body):
    if "student4" not in {lease.user for lease in hub.leases()}:
        hub.start_server("student4", "py101/long")

    answer = Server(hub, "student4").client.call("POST", "/hub/labspawner/report", body)

    assert answer.status == 400, answer.text
    assert answer.json()["message"]["en"].startswith("The report")


def test_extend_moves_the_end_as_often_as_the_profile_says_however_many_click(hub):
    server = started(hub, "student5")
    before = at(server.report().json()["ends_at"])

    with ThreadPoolExecutor(6) as tabs:
        answers = list(tabs.map(lambda _: server.post("extend", {}), range(6)))

    assert sorted(answer.status for answer in answers) == [200, 200, 409, 409, 409, 409]
    refused = next(answer.json() for answer in answers if answer.status == 409)
    assert "2 times today" in refused["message"]["en"]
    after = server.report().json()
    assert timedelta(minutes=59) < at(after["ends_at"]) - before <= timedelta(minutes=60)
    assert after["extend"]["left_today"] == 0


def test_a_profile_without_extension_or_limit_refuses(hub):
    firm, endless = started(hub, "student6", "py101/firm"), started(hub, "student6", "py101/endless", "two")

    assert endless.report().json()["ends_at"] is None
    for server, what, body in [(firm, "extend", {}), (endless, "extend", {}), (endless, "hold", {"seconds": 60})]:
        answer = server.post(what, body)
        assert answer.status == 409, answer.text
        assert answer.json()["message"]["zh-CN"]


def test_hold_holds_within_the_days_budget(hub):
    server = started(hub, "student7")

    held = server.post("hold", {"seconds": 1800}).json()["hold"]
    too_long = server.post("hold", {"seconds": 7200})
    given_up = server.post("hold", {"seconds": 0}).json()["hold"]

    assert timedelta(minutes=29) < at(held["until"]) - utcnow() <= timedelta(minutes=30)
    assert held["left_s"] == 1800
    assert too_long.status == 409
    assert "more today, and not longer" in too_long.json()["message"]["en"]
    assert given_up["until"] is None
    assert given_up["left_s"] > 3000
    assert server.post("hold", {"seconds": "an hour"}).status == 400


def test_a_held_idle_server_lives_and_a_released_one_does_not(hub):
    server = held(hub, "student8", "py101/short")
    begin = utcnow()

    def outlived() -> bool:
        assert hub.servers("student8")
        return at(server.report().json()["now"]) - begin > 3 * SHORT

    eventually_sync(outlived, 40, "the held server outlives three times its limit")
    server.post("hold", {"seconds": 0})
    hub.wait_gone("student8", deadline_s=60)


def test_a_silent_cell_with_a_closed_tab_lives_and_a_forgotten_tab_ends_with_its_evidence_in_the_reason(hub):
    server = held(hub, "student9", "py101/short")
    server.report_busy_cell()
    hub.wait_reported("student9", lambda report: report.work_count > 0)
    server.post("hold", {"seconds": 0})
    begin = utcnow()

    def outlived() -> bool:
        said = server.report_busy_cell()
        assert "train.ipynb" in said["reason"]["en"]
        return at(said["now"]) - begin > 3 * SHORT

    eventually_sync(outlived, 40, "the busy server outlives three times its limit")

    def culled() -> bool:
        server.report(clients={"connected": 1, "visible": True})
        return not hub.servers("student9")

    eventually_sync(culled, 60, "the forgotten tab is culled")
    hub.wait_gone("student9")
    page = hub.login("student9").get("/hub/home").text
    assert "a page was open, but nobody used it" in page
    decision = hub.cull_of("student9")
    assert decision.evidence["open_pages"] == 1
    assert decision.evidence["reported_at"]


def test_the_token_of_a_stopped_server_is_worth_nothing(hub):
    server = started(hub, "student10")
    assert server.report().status == 200

    hub.stop_server("student10")

    assert server.report().status in {403, 404}
    assert server.post("extend", {}).status in {403, 404}


def test_after_a_restart_of_the_hub_reports_go_on_and_what_was_granted_holds(hub):
    server = started(hub, "student11")
    server.post("extend", {})
    end = at(server.report().json()["ends_at"])

    hub.kill()
    hub.start()

    said = server.report().json()
    assert abs(at(said["ends_at"]) - end) < timedelta(minutes=1)
    assert said["extend"]["left_today"] == 1
