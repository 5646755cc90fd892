"""The hub trusts its console with no rule: whoever holds the console's own token gains by it only what the person may whom
they name, and the hub looks that up itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from labspawner.testing.days import a_far_day
from labspawner.testing.hub import RealHub
from labspawner.testing.web import Answer, Client

pytestmark = [pytest.mark.hub, pytest.mark.timeout(900)]

ACT = "/hub/api/labspawner/v1/act"
TOKEN = "the-token-of-a-console-that-lies"
COURSE = """
course: {slug}
title: {slug}
profiles:
  - {{slug: base, title: Notebook, variants: [{{provider: sim, settings: {{start_s: 0.1}}}}]}}
  - {{slug: night, title: At night, variants: [{{provider: sim}}], hours: [{{days: [{far}], from: "03:00", to: "03:01"}}]}}
timezone: Asia/Shanghai
"""
CONFIG = f"""
from labspawner import wiring
wiring.run_console(c)
for service in c.JupyterHub.services:
    if service["name"] == "labspawner":
        service["api_token"] = {TOKEN!r}
        del service["command"]  # nobody runs: this test is the console
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    """Two courses with staff of their own; a member of each has a server that runs."""
    running = RealHub(
        tmp_path_factory.mktemp("trust"),
        courses={f"{slug}.yaml": COURSE.format(slug=slug, far=a_far_day()) for slug in ("a", "b")},
        groups={
            "course-a": ["ann", "both"],
            "course-b": ["bob", "both"],
            "course-a-instructors": ["teacher-a"],
            "course-b-instructors": ["teacher-b"],
            "course-a-assistants": ["helper-a"],
        },
        providers={"sim": {}},
        config=CONFIG,
    )
    try:
        running.start()
        running.add_user("admin")
        running.start_server("ann", "a/base")
        running.start_server("bob", "b/base")
        yield running
    finally:
        running.close()


def act(hub: RealHub, actor: str, verb: str, user: str, **changes: Any) -> Answer:
    """What the hub answers to the console."""
    wish = {"actor": actor, "verb": verb, "user": user, "server": "", "lease": "", "course": "", "args": {}, **changes}
    return Client(hub.base, {"Authorization": f"token {TOKEN}"}).call("POST", ACT, wish)


@pytest.mark.parametrize(
    "actor", ["ann", "bob", "both", "teacher-b", "helper-a", "nobody-at-all", "labspawner", "course-a"]
)
@pytest.mark.parametrize("verb", ["stop", "reset"])
@pytest.mark.parametrize("course", ["", "a", "b"])
def test_nobody_but_its_instructors_ends_a_server_whatever_the_console_says(hub, actor, verb, course):
    lease = hub.lease("ann")

    for named in ("", lease.id):
        assert act(hub, actor, verb, "ann", course=course, lease=named).status in {403, 404}
    assert act(hub, actor, verb, "ann", course=course, service=True).status in {403, 404}

    assert hub.lease("ann").id == lease.id


def test_an_instructor_of_one_course_does_not_end_a_server_of_another(hub):
    lease = hub.lease("bob")

    for changes in ({}, {"course": "a"}, {"course": "b"}, {"lease": lease.id}, {"lease": lease.id, "course": "a"}):
        assert act(hub, "teacher-a", "stop", "bob", **changes).status == 403

    assert hub.lease("bob").id == lease.id


@pytest.mark.parametrize("verb", ["extend", "message"])
def test_an_assistant_of_another_course_does_not_even_send_a_message(hub, verb):
    assert act(hub, "helper-a", verb, "bob", args={"text": "hello"}).status == 403


@pytest.mark.parametrize(
    ("actor", "user", "profile"),
    [
        ("teacher-a", "bob", "a/base"),  # not a member: it is not theirs to start
        ("teacher-a", "both", "b/base"),  # a member, of a course that is not the teacher's
        ("teacher-a", "both", "a/night"),  # outside the hours of students
        ("teacher-a", "both", "a/no-such"),
        ("teacher-b", "both", "a/base"),
        ("both", "both", "a/base"),
        ("ann", "both", "a/base"),
    ],
)
def test_nobody_starts_for_a_student_what_the_student_may_not_or_the_starter_does_not_teach(hub, actor, user, profile):
    before = {lease.id for lease in hub.leases(user)}

    answer = act(hub, actor, "start", user, args={"profile": profile}, course=profile.partition("/")[0])

    assert answer.status in {400, 403, 404, 409}, answer.text
    assert {lease.id for lease in hub.leases(user)} == before


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"actor": 7}', b'{"actor": "admin", "verb": "sudo", "user": "ann"}', b"[" * 5000,
     b'{"actor": "admin", "verb": "message", "user": "ann", "args": {"text": ["x"]}}',
     b'{"actor": "admin", "verb": "stop", "user": "ann", "lease": {"a": 1}}'],
)  # fmt: skip
def test_what_cannot_be_read_is_no_act_and_no_error_of_ours(hub, body):
    lease = hub.lease("ann")

    answer = Client(hub.base, {"Authorization": f"token {TOKEN}"}).call("POST", ACT, body)

    assert 400 <= answer.status < 500
    assert hub.lease("ann").id == lease.id


def test_with_the_name_of_an_instructor_it_is_done(hub):
    said = act(hub, "teacher-a", "message", "ann", args={"text": "Save your work."}, course="a")

    assert said.status == 200, said.text
    assert "Save your work." in hub.login("ann").get("/hub/home").text
