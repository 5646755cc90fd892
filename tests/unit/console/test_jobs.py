"""Class actions: begun in a moment, done by a process that may die, told in sentences."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from unit.console.lab import Lab, a_lab, said

from labspawner.service.console.runner import AT_ONCE, RESUMED_FOR
from labspawner.testing.waiting import eventually


@pytest.fixture
async def lab(tmp_path):
    async with a_lab(tmp_path) as running:
        yield running


async def begun(lab: Lab, verb: str, users: list[str], who: str = "teacher", **args: object) -> str:
    """A job of py101; its id."""
    answer = await lab.ask("POST", "courses/py101/jobs", who, {"verb": verb, "users": users, "args": args})
    assert answer.code == 202, answer.body
    assert answer.headers["Location"].endswith(said(answer)["id"])
    return str(said(answer)["id"])


async def finished(lab: Lab, job: str) -> dict:
    async def over() -> dict | None:
        found = said(await lab.ask("GET", f"courses/py101/jobs/{job}"))
        return found if found["state"] != "running" else None

    found = await eventually(over, 30, f"the job {job} is over")
    assert found is not None
    return found


def results(job: dict) -> dict[str, tuple[str, str]]:
    """User -> state and sentence."""
    return {step["user"]: (step["state"], step["sentence"]) for step in job["steps"]}


async def test_a_class_is_started_with_the_profile_and_each_result_is_a_sentence(lab):
    lab.hub.servers["student2"] = "py101/base"

    job = await finished(lab, await begun(lab, "start", ["student1", "student2"], profile="base"))

    assert results(job) == {"student1": ("ok", "It is starting."), "student2": ("ok", "It runs already.")}
    assert (job["state"], job["total"], job["done"], job["failed"]) == ("done", 2, 2, 0)
    assert [act["args"] for act in lab.hub.acts] == [{"profile": "py101/base"}] * 2
    assert {act["actor"] for act in lab.hub.acts} == {"teacher"}


async def test_a_job_is_begun_before_any_of_it_is_done(lab):
    lab.hub.hold = asyncio.Event()

    job = await begun(lab, "start", ["student1", "student2", "student3"], profile="base")
    await eventually(lambda: lab.hub.at_once == 3, 20)
    told = said(await lab.ask("GET", f"courses/py101/jobs/{job}"))

    assert (told["state"], told["done"]) == ("running", 0)
    assert {step["state"] for step in told["steps"]} == {"started"}
    lab.hub.hold.set()
    assert (await finished(lab, job))["done"] == 3


async def test_a_few_go_on_at_once_and_no_more_whatever_many_jobs_there_are(lab):
    names = [f"s{number}" for number in range(30)]
    for name in names:
        lab.hub.person(name, "course-py101")
    lab.hub.hold = asyncio.Event()

    jobs = [await begun(lab, "start", names[start::2], profile="base") for start in (0, 1)]
    await eventually(lambda: lab.hub.at_once == AT_ONCE, 20)
    lab.hub.hold.set()
    over = [await finished(lab, job) for job in jobs]

    assert sum(job["done"] for job in over) == 30
    assert lab.hub.most_at_once == AT_ONCE


async def test_a_refusal_is_the_sentence_that_the_student_would_read_and_the_others_go_on(lab):
    lab.hub.groups["course-py101-instructors"].add("rival")

    def refuses(wish):
        if wish["user"] == "student2":
            lab.hub.groups["course-py101-instructors"].discard("teacher")

    lab.hub.act = refuses
    job = await begun(lab, "extend", ["student1", "student2", "student3"])
    lab.forget_who()

    async def over() -> bool:
        return said(await lab.ask("GET", f"courses/py101/jobs/{job}", "rival"))["state"] == "done"

    await eventually(over, 30)
    told = said(await lab.ask("GET", f"courses/py101/jobs/{job}", "rival"))

    assert told["done"] == 3
    refused = [step for step in told["steps"] if step["state"] == "failed"]
    assert all("not on the staff" in step["sentence"] for step in refused)


async def test_a_hub_that_says_later_is_asked_later(lab):
    lab.hub.hurried = 3

    job = await finished(lab, await begun(lab, "start", ["student1", "student2"], profile="base"))

    assert {state for state, _ in results(job).values()} == {"ok"}
    assert lab.hub.hurried == 0


async def test_a_hub_that_is_away_for_a_while_is_waited_for(lab):
    names = [f"s{number}" for number in range(AT_ONCE + 2)]
    for name in names:
        lab.hub.person(name, "course-py101")
    lab.hub.hold = asyncio.Event()
    job = await begun(lab, "stop", names)
    await eventually(lambda: lab.hub.at_once == AT_ONCE, 20)
    lab.hub.away = True
    lab.hub.hold.set()
    acts = "POST /hub/api/labspawner/v1/act"
    await eventually(lambda: lab.hub.asked.count(acts) > AT_ONCE, 20, "an act that nobody answers")
    lab.hub.away = False

    told = await finished(lab, job)

    assert {state for state, _ in results(told).values()} == {"ok"}
    assert len(lab.hub.acts) == len(names)


async def test_a_cancelled_job_begins_no_further_step(lab):
    names = [f"s{number}" for number in range(20)]
    for name in names:
        lab.hub.person(name, "course-py101")
    lab.hub.hold = asyncio.Event()
    job = await begun(lab, "start", names, profile="base")
    await eventually(lambda: lab.hub.at_once == AT_ONCE, 20)

    asked = said(await lab.ask("DELETE", f"courses/py101/jobs/{job}"))
    lab.hub.hold.set()
    told = await finished(lab, job)

    assert asked["cancelling"]
    assert told["state"] == "cancelled"
    assert len(lab.hub.acts) == AT_ONCE
    states = [state for state, _ in results(told).values()]
    assert (states.count("ok"), states.count("skipped")) == (AT_ONCE, 20 - AT_ONCE)


async def test_a_process_that_dies_leaves_a_job_that_the_next_one_finishes(tmp_path):
    async with a_lab(tmp_path) as lab:
        lab.hub.hold = asyncio.Event()
        job = await begun(lab, "start", ["student1", "student2", "student3"], profile="base")
        await eventually(lambda: lab.hub.at_once == 3, 20)
        await lab.beside.close()  # what it does not write any more, a killed process does not either
        lab.hub.hold.set()

    async with a_lab(tmp_path, working=True) as lab:
        told = await finished(lab, job)

    assert told["state"] == "done"
    assert {state for state, _ in results(told).values()} == {"ok"}


async def test_a_job_that_is_too_old_is_not_resumed_and_says_so(tmp_path):
    async with a_lab(tmp_path) as lab:
        long_ago = lab.house.now() - RESUMED_FOR - timedelta(minutes=1)
        job = await lab.house.store.jobs.begin(
            course="py101", verb="stop", actor="teacher", servers=[("student1", "")], now=long_ago
        )

    async with a_lab(tmp_path, working=True) as lab:
        lab.hub.servers["student1"] = "py101/base"
        told = await finished(lab, job.id)

        assert results(told)["student1"][0] == "skipped"
        assert "Begin it again" in results(told)["student1"][1]
        assert lab.hub.acts == []


async def test_each_step_names_the_instant_before_which_a_server_was_started(lab):
    job = await finished(lab, await begun(lab, "stop", ["student1"]))

    (act,) = lab.hub.acts
    assert datetime.fromisoformat(act["before"]) == datetime.fromisoformat(job["begun_at"].replace("Z", "+00:00"))


async def test_a_message_is_one_line_of_plain_text(lab):
    lab.hub.servers["student1"] = "py101/base"

    await finished(lab, await begun(lab, "message", ["student1"], text="  Save your\nwork,   please. "))

    assert lab.hub.acts[0]["args"] == {"text": "Save your work, please."}


BAD_JOBS = [
    ({"verb": "start", "users": ["student1"]}, 422),
    ({"verb": "start", "users": ["student1"], "args": {"profile": "dl101/base"}}, 422),
    ({"verb": "start", "users": ["student1"], "args": {"profile": "base", "options": {"a": 1}}}, 422),
    ({"verb": "start", "users": [], "args": {"profile": "base"}}, 422),
    ({"verb": "start", "users": ["boss"], "args": {"profile": "base"}}, 422),
    ({"verb": "message", "users": ["student1"]}, 422),
    ({"verb": "message", "users": ["student1"], "args": {"text": "x" * 501}}, 422),
    ({"verb": "message", "users": ["student1"], "args": {"text": " \n"}}, 422),
    ({"verb": "delete", "users": ["student1"]}, 422),
    ({"verb": "stop", "users": ["student1"], "args": {"mode": "destroy"}}, 422),
    ({"verb": "stop", "users": [f"s{number}" for number in range(2001)]}, 422),
]


async def test_a_job_that_cannot_be_is_refused_before_anything_is_done(lab):
    for body, status in BAD_JOBS:
        answer = await lab.ask("POST", "courses/py101/jobs", body=body)
        assert answer.code == status, (body, answer.body)

    assert lab.hub.acts == []
    assert said(await lab.ask("GET", "courses/py101/jobs"))["jobs"] == []


async def test_too_many_jobs_at_once_are_refused_until_some_are_over(lab):
    lab.hub.hold = asyncio.Event()
    jobs = [await begun(lab, "start", ["student1"], profile="base") for _ in range(5)]

    sixth = await lab.ask("POST", "courses/py101/jobs", body={"verb": "stop", "users": ["student1"], "args": {}})

    assert sixth.code == 429
    assert "Retry-After" in sixth.headers
    lab.hub.hold.set()
    for job in jobs:
        await finished(lab, job)


async def test_a_job_of_one_course_is_not_there_for_another(lab):
    job = await begun(lab, "extend", ["student1"])
    await lab.a_course("dl")

    assert (await lab.ask("GET", f"courses/dl/jobs/{job}")).code == 404
    assert (await lab.ask("DELETE", f"courses/dl/jobs/{job}")).code == 404
    assert (await lab.ask("DELETE", f"courses/py101/jobs/{job}", "helper")).code == 200
    stop = await begun(lab, "stop", ["student1"])
    assert (await lab.ask("DELETE", f"courses/py101/jobs/{stop}", "helper")).code == 403


async def test_each_step_is_in_the_audit_log(lab):
    await finished(lab, await begun(lab, "stop", ["student1", "student2"], reason="class is over"))

    entries = said(await lab.ask("GET", "audit?course=py101", "boss"))["entries"]

    assert sorted((entry["verb"], entry["actor"], entry["subject"], entry["result"]) for entry in entries) == [
        ("act.stop", "teacher", "student1", "ok"),
        ("act.stop", "teacher", "student2", "ok"),
        ("job.stop", "teacher", "", "ok"),
    ]


async def test_the_wall_shows_everybody_and_what_they_run(lab):
    lab.hub.servers.update({"student2": "py101/base", "boss": "py101/base", "student3": "dl101/base"})

    wall = said(await lab.ask("GET", "courses/py101/wall"))

    assert [(place["user"], place["role"], bool(place["server"])) for place in wall["places"]] == [
        ("boss", "", True),
        ("helper", "assistant", False),
        ("student1", "member", False),
        ("student2", "member", True),
        ("student3", "member", False),
        ("teacher", "instructor", False),
    ]


async def test_who_watches_hears_that_a_job_goes_on(lab):
    heard: list[bytes] = []
    watching = asyncio.ensure_future(lab.watch("courses/py101/events", heard.append))
    await eventually(lambda: b'"jobs": 0' in b"".join(heard), 10)

    await begun(lab, "extend", ["student1"])

    await eventually(lambda: any(b'"jobs": %d' % number in b"".join(heard) for number in range(1, 9)), 20)
    await lab.beside.close()
    await asyncio.wait_for(watching, 60)


async def test_usage_is_told_by_week_and_as_a_table(lab):
    weeks = said(await lab.ask("GET", "courses/py101/usage?weeks=3"))["weeks"]
    table = await lab.ask("GET", "courses/py101/usage.csv")

    assert len(weeks) == 3
    assert weeks[0]["hours"] == 0
    assert table.headers["Content-Disposition"] == 'attachment; filename="py101-usage.csv"'
    assert table.body.decode("utf-8-sig").splitlines() == ["week,user,hours,gpu_hours"]
    assert (await lab.ask("GET", "courses/py101/usage?weeks=0")).code == 400
    assert (await lab.ask("GET", "courses/py101/usage?weeks=1e9")).code == 400
