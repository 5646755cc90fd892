"""The console beside a real hub: what it may, what the hub does not let it, and what outlives it."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from labspawner.testing.days import at_noon
from labspawner.testing.hub import RealHub
from labspawner.testing.processes import lives
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Answer, Client

pytestmark = pytest.mark.hub

API = "/services/labspawner/api/v1/"
INNER = "/hub/api/labspawner/v1/"
COURSE = """
course: {slug}
title: {{en: Python Basics, zh-CN: Python 程序设计基础}}
profiles:
  - slug: base
    title: Base
    variants: [{{provider: sim, memory: 1GiB, settings: {{start_s: 0.05}}}}]
    idle: {{after: 30m, warn: [10m], extend: {{step: 30m, per_day: 1}}}}
  - slug: slow
    title: Slow
    variants: [{{provider: sim, settings: {{start_s: 2}}}}]
"""
CONFIG = """
from labspawner import wiring
wiring.run_console(c)
c.JupyterHub.services += [{{"name": "inner", "api_token": {token!r}}}]
c.JupyterHub.load_roles += [{{"name": "inner", "services": ["inner"], "scopes": ["custom:labspawner:console"]}}]
"""
STUDENTS = [f"s{number}" for number in range(8)]


class Campus:
    """A hub with its console; `inner` holds the console's own scope, `ask` asks the console by somebody's token."""

    def __init__(self, hub: RealHub, token: str) -> None:
        self.hub = hub
        self.inner = Client(hub.base, {"Authorization": f"token {token}", "Content-Type": "application/json"})
        self._tokens: dict[str, Client] = {}

    @property
    def base(self) -> str:
        port = int((self.hub.folder / "data" / "console.port").read_text())
        return f"http://127.0.0.1:{port}"

    def wait(self) -> None:
        """Returns when the console answers."""

        def up() -> bool:
            try:
                return Client(self.base).call("GET", f"{API}openapi.json").status == 200
            except OSError:
                return False

        eventually_sync(up, 30.0, "the console answers")

    def of(self, user: str) -> Client:
        """The console, asked by a token of this user."""
        if user not in self._tokens:
            made = self.hub.api.call("POST", f"/hub/api/users/{user}/tokens", {})
            assert made.status == 201, made.text
            headers = {"Authorization": f"token {made.json()['token']}", "Content-Type": "application/json"}
            self._tokens[user] = Client(self.base, headers)
        return self._tokens[user]

    def hub_of(self, user: str) -> Client:
        """The hub, asked by the same token."""
        return Client(self.hub.base, self.of(user)._headers)

    def audit(self) -> list[dict[str, Any]]:
        """The audit log, as an administrator reads it."""
        answer = self.ask("admin", "GET", "audit?course=py101")
        assert answer.status == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["entries"]
        return rows

    def ask(self, user: str, method: str, path: str, body: object = None) -> Answer:
        return self.of(user).call(method, API + path, body)

    def act(self, **wish: Any) -> Answer:
        """What the console itself would have the hub do."""
        return self.inner.call("POST", f"{INNER}act", {"args": {}, **wish})

    def job(self, user: str, verb: str, users: list[str], course: str = "py101", **args: Any) -> dict[str, Any]:
        """A class action, when it is over."""
        begun = self.ask(user, "POST", f"courses/{course}/jobs", {"verb": verb, "users": users, "args": args})
        assert begun.status == 202, begun.text
        return self.over(user, begun.json()["id"], course)

    def over(self, user: str, job: str, course: str = "py101") -> dict[str, Any]:
        def done() -> dict[str, Any] | None:
            try:
                answer = self.ask(user, "GET", f"courses/{course}/jobs/{job}")
            except OSError:  # the console starts again
                return None
            assert answer.status in {200, 503}, answer.text
            return answer.json() if answer.status == 200 and answer.json()["state"] != "running" else None

        found = eventually_sync(done, 60.0, f"the job {job} is over")
        assert found is not None
        return found

    def process(self) -> psutil.Process:
        """The console's process."""
        assert self.hub.process is not None
        for child in psutil.Process(self.hub.process.pid).children():
            try:
                if "labspawner.service.console" in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        raise AssertionError("the console does not run")


@pytest.fixture(scope="module")
def campus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campus]:
    """One for all tests of this file; each has people of its own where it changes something."""
    token = secrets.token_hex(32)
    hub = RealHub(
        tmp_path_factory.mktemp("campus"),
        courses={"py101.yaml": COURSE.format(slug="py101"), "other.yaml": COURSE.format(slug="other")},
        groups={
            "course-py101": STUDENTS,
            "course-py101-instructors": ["teacher", "leaver"],
            "course-py101-assistants": ["helper"],
            "course-other": STUDENTS[:1],
            "course-other-instructors": ["rival"],
            "instructors": ["teacher", "rival"],
        },
        providers={"sim": {}},
        config=CONFIG.format(token=token) + at_noon(),
    )
    try:
        hub.start()
        found = Campus(hub, token)
        found.wait()
        yield found
    finally:
        hub.close()


def sentences(job: dict[str, Any]) -> set[tuple[str, str]]:
    return {(step["state"], step["sentence"]) for step in job["steps"]}


def test_a_class_is_started_extended_told_something_and_stopped(campus):
    started = campus.job("teacher", "start", ["s1", "s2"], profile="base")
    assert sentences(started) == {("ok", "It is starting.")}
    for user in ("s1", "s2"):
        campus.hub.wait_ready(user)

    wall = campus.ask("teacher", "GET", "courses/py101/wall").json()
    rows = {place["user"]: place["server"] for place in wall["places"]}
    assert (rows["s1"]["phase"], rows["s1"]["profile"], rows["s3"]) == ("ready", "py101/base", None)

    assert sentences(campus.job("teacher", "extend", ["s1"])) == {("ok", "It has more time now.")}
    (used_up,) = sentences(campus.job("teacher", "extend", ["s1"]))
    assert used_up[0] == "failed"
    told = campus.job("helper", "message", ["s1", "s3"], text="Ten minutes left")
    assert sentences(told) == {
        ("ok", "The message was sent."),
        ("skipped", "It is not running, so nobody would read the message."),
    }

    stopped = campus.job("teacher", "stop", ["s1", "s2", "s3"], reason="class is over")
    assert sentences(stopped) == {("ok", "It was stopped."), ("ok", "It was not running.")}
    for user in ("s1", "s2"):
        campus.hub.wait_gone(user)
    home = campus.hub.login("s1").get("/hub/spawn").text
    assert "teacher, who teaches this course, stopped your server: class is over" in home


def test_a_start_has_the_students_own_rights_and_its_refusal_is_the_students_sentence(campus):
    campus.hub.api.call("POST", "/hub/api/groups/course-py101/users", {"users": ["teacher"]})

    unknown = campus.job("teacher", "start", ["s4"], profile="nothing")

    assert sentences(unknown) == {("failed", "You have no profile 'py101/nothing'. Pick one from the list.")}
    assert campus.hub.leases("s4") == []


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"actor": "s1", "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "rival", "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "rival", "verb": "stop", "user": "s5", "course": "other"}, 403),
        ({"actor": "rival", "verb": "stop", "user": "s5"}, 403),
        ({"actor": "helper", "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "nobody", "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "teacher", "service": True, "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "tester", "service": True, "verb": "stop", "user": "s5", "course": "py101"}, 403),
        ({"actor": "rival", "verb": "start", "user": "s5", "course": "other", "args": {"profile": "py101/base"}}, 403),
        ({"actor": "rival", "verb": "start", "user": "s5", "course": "other", "args": {"profile": "other/base"}}, 403),
        ({"actor": "teacher", "verb": "stop", "user": "s5", "course": "py101", "lease": "another"}, 404),
        (
            {
                "actor": "teacher",
                "verb": "stop",
                "user": "s5",
                "course": "py101",
                "before": "2026-01-01T00:00:00+00:00",
            },
            200,
        ),
        (
            {
                "actor": "teacher",
                "verb": "reset",
                "user": "s5",
                "course": "py101",
                "before": "2026-01-01T00:00:00+00:00",
            },
            200,
        ),
        ({"actor": "teacher", "verb": "stop", "user": "s5", "course": "py101", "before": "2026-01-01T00:00:00"}, 400),
        ({"actor": "teacher", "verb": "stop", "user": "s5", "course": "py101", "before": 5}, 400),
        ({"actor": "teacher", "verb": "delete", "user": "s5", "course": "py101"}, 400),
        ({"actor": "", "verb": "stop", "user": "s5"}, 400),
        ({"actor": "teacher", "verb": "stop", "user": 5}, 400),
        ({"actor": "teacher", "verb": "start", "user": "s5", "course": "py101", "args": {"profile": 5}}, 400),
        ({"actor": "teacher", "verb": "message", "user": "s5", "course": "py101", "args": {"text": "x" * 501}}, 400),
    ],
)
def test_the_hub_looks_up_by_itself_who_may_whatever_the_console_says(campus, wish, status):
    if not campus.hub.leases("s5"):
        campus.hub.start_server("s5", "py101/base")

    answer = campus.act(**wish)

    assert answer.status == status, answer.text
    assert len(campus.hub.leases("s5")) == 1


def test_an_act_without_a_course_is_about_the_course_of_the_server(campus):
    campus.hub.start_server("s6", "py101/base")

    assert campus.act(actor="rival", verb="stop", user="s6").status == 403
    assert campus.act(actor="teacher", verb="stop", user="s6").status == 200
    campus.hub.wait_gone("s6")
    assert campus.act(actor="teacher", verb="stop", user="s6").status == 400  # and of none, where nothing runs


def test_the_inner_api_is_for_the_consoles_own_scope_alone(campus):
    for client in (campus.hub.api, campus.hub_of("teacher"), campus.hub.login("admin"), Client(campus.hub.base)):
        for method, path in (("POST", "act"), ("POST", "courses/refresh"), ("GET", "about"), ("GET", "state")):
            assert client.call(method, INNER + path, {} if method == "POST" else None).status in {401, 403}


def test_a_student_and_an_instructor_of_another_course_see_nothing(campus):
    for user in ("s1", "rival"):
        assert campus.ask(user, "GET", "courses/py101/wall").status == 404
        assert campus.ask(user, "POST", "courses/py101/jobs", {"verb": "stop", "users": ["s6"]}).status == 404
    assert [one["slug"] for one in campus.ask("s1", "GET", "courses").json()["courses"]] == []


def test_a_removed_instructor_is_out_within_seconds(campus):
    assert campus.ask("leaver", "GET", "courses/py101/wall").status == 200

    campus.hub.api.call("DELETE", "/hub/api/groups/course-py101-instructors/users", {"users": ["leaver"]})

    eventually_sync(lambda: campus.ask("leaver", "GET", "courses/py101/wall").status == 404, 10.0)
    assert campus.act(actor="leaver", verb="stop", user="s6", course="py101").status == 403


def test_a_course_is_written_published_and_started_by_a_newcomer_of_its_roster(campus):
    text = "course: fresh\ntitle: Fresh\nprofiles: [{slug: base, title: Base, variants: [{provider: sim}]}]\n"
    made = campus.ask("teacher", "POST", "courses", {"slug": "fresh", "text": text})
    assert made.status == 201, made.text
    assert campus.ask("teacher", "POST", "courses/fresh/roster/add", {"names": ["newcomer", "s7"]}).status == 200
    assert campus.hub.ask("s7", {"profile": "fresh/base"}).status == 403  # a draft is for its staff

    headers = {**campus.of("teacher")._headers, "If-Match": made.headers["Etag"]}
    published = Client(campus.base, headers).call("PATCH", f"{API}courses/fresh", {"state": "published"})

    assert published.status == 200, published.text
    campus.hub.login("newcomer")

    def is_in() -> bool:
        return "newcomer" in campus.hub.api.call("GET", "/hub/api/groups/course-fresh").json()["users"]

    eventually_sync(is_in, 30.0, "the newcomer is in their course")
    campus.hub.start_server("newcomer", "fresh/base")
    assert campus.hub.lease("newcomer").profile == "fresh/base"


def test_a_students_server_is_opened_only_when_they_agree_and_only_that_one(campus):
    campus.hub.start_server("s4", "py101/base")
    visits = "courses/py101/visits"
    there = "access:servers!server=s4/"

    def may_enter() -> bool:
        return there in campus.hub_of("teacher").call("GET", "/hub/api/user").json()["scopes"]

    def answered(browser: Client, what: str) -> int:
        browser.get("/hub/home")
        return browser.post_form("/hub/labspawner/visits/s4", {"do": what, "visitor": "teacher"}).status

    assert campus.ask("teacher", "POST", visits, {"user": "s4"}).json()["state"] == "asked"
    assert campus.ask("helper", "POST", visits, {"user": "s4"}).status == 403
    assert campus.ask("rival", "POST", visits, {"user": "s4"}).status == 404
    assert not may_enter()

    student = campus.hub.login("s4")
    assert "teacher, of the course" in student.get("/hub/home").text
    for stranger in ("admin", "teacher", "s3"):
        assert answered(campus.hub.login(stranger), "agree") == 403
    assert not may_enter()

    assert answered(student, "agree") == 302
    told = campus.ask("teacher", "POST", visits, {"user": "s4"}).json()
    assert (told["state"], told["path"]) == ("open", "/user/s4/")
    assert may_enter()

    campus.hub.stop_server("s4")
    campus.hub.start_server("s4", "py101/base")
    assert not may_enter()
    verbs = [one["verb"] for one in campus.audit() if "s4" in {one["actor"], one["subject"]}]
    assert {"act.visit", "visit.agree"} <= set(verbs)


def test_a_killed_console_comes_back_and_finishes_its_jobs(campus):
    begun = campus.ask(
        "teacher", "POST", "courses/py101/jobs", {"verb": "start", "users": STUDENTS, "args": {"profile": "slow"}}
    )
    assert begun.status == 202
    console = campus.process()

    os.kill(console.pid, signal.SIGKILL)
    eventually_sync(lambda: not lives(console), 20.0, "the console is dead")
    campus.wait()
    job = campus.over("teacher", begun.json()["id"])

    assert job["state"] == "done"
    assert job["done"] == len(STUDENTS)
    assert {state for state, _ in sentences(job)} <= {"ok"}, sentences(job)


def test_a_hub_that_is_killed_and_started_again_has_its_console_again(campus):
    before = campus.process()

    campus.hub.kill()
    eventually_sync(lambda: not lives(before), 20.0, "the console went with its hub")
    campus.hub.start()
    campus.wait()

    def answers() -> bool:
        return campus.ask("teacher", "GET", "courses/py101").status == 200

    eventually_sync(answers, 30.0)
