"""Jobs: what is done to which server is on record before, while and after it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW
from unit.store.clock import SHARED

from labspawner.sentences import Sentence
from labspawner.store import AuditEntry, Job, JobState, StepState, Store

SERVERS = [("ann", ""), ("bob", "gpu"), ("cat", "")]


async def begin(store: Store, **changes: Any) -> Job:
    return await store.jobs.begin(
        **{"course": "py101", "verb": "start", "actor": "teacher", "servers": SERVERS, "now": NOW, **changes}
    )


def entry(verb: str) -> AuditEntry:
    return AuditEntry(at=NOW, actor="teacher", verb=verb, course="py101")


async def test_a_job_is_on_record_with_all_its_steps_before_anything_is_done(store: Store):
    job = await begin(store, args={"minutes": 30}, audit=entry("job.start"))

    assert await store.jobs.get(job.id) == job
    assert (job.state, job.total, job.counts) == (JobState.RUNNING, 3, {StepState.WAITING: 3})
    steps = await store.jobs.steps(job.id)
    assert [(step.place, step.user, step.server, step.state) for step in steps] == [
        (0, "ann", "", StepState.WAITING),
        (1, "bob", "gpu", StepState.WAITING),
        (2, "cat", "", StepState.WAITING),
    ]
    assert len(await store.audit.search(verb="job.start")) == 1


async def test_what_became_of_each_step_is_kept_with_its_sentence(store: Store):
    job = await begin(store)
    said = Sentence("No room for {user}.", user="ann\x00")

    assert await store.jobs.step(job.id, 0, StepState.STARTED, now=NOW)
    assert await store.jobs.step(job.id, 0, StepState.FAILED, now=NOW, sentence=said, audit=entry("act.start"))
    assert await store.jobs.step(job.id, 1, StepState.OK, now=NOW)

    found = await store.jobs.get(job.id)
    assert found is not None
    assert found.counts == {StepState.FAILED: 1, StepState.OK: 1, StepState.WAITING: 1}
    first = (await store.jobs.steps(job.id))[0]
    assert first.sentence == said
    assert first.sentence is not None
    assert first.sentence.template == said.template
    assert [step.place for step in await store.jobs.steps(job.id, states=[StepState.WAITING])] == [2]
    assert len(await store.audit.search()) == 1


async def test_a_step_that_is_done_is_never_done_again(store: Store):
    job = await begin(store)
    await store.jobs.step(job.id, 0, StepState.OK, now=NOW)

    for state in StepState:
        assert not await store.jobs.step(job.id, 0, state, now=NOW, audit=entry("act.start"))

    assert (await store.jobs.steps(job.id))[0].state is StepState.OK
    assert await store.audit.search() == []


async def test_a_step_that_is_not_there_is_no_news(store: Store):
    job = await begin(store)

    assert not await store.jobs.step(job.id, 3, StepState.OK, now=NOW)
    assert not await store.jobs.step("j0", 0, StepState.OK, now=NOW)


async def test_what_was_started_is_still_there_after_a_restart(store: Store):
    job = await begin(store)
    await store.jobs.step(job.id, 0, StepState.OK, now=NOW)
    await store.jobs.step(job.id, 1, StepState.STARTED, now=NOW)

    (again,) = await store.jobs.unfinished()

    todo = await store.jobs.steps(again.id, states=[StepState.STARTED, StepState.WAITING])
    assert [(step.place, step.state) for step in todo] == [(1, StepState.STARTED), (2, StepState.WAITING)]


async def test_a_job_that_is_over_stays_as_it_is(store: Store):
    job = await begin(store)
    said = Sentence("You stopped this.")
    await store.jobs.step(job.id, 0, StepState.OK, now=NOW)

    assert await store.jobs.cancel(job.id, by="teacher", audit=entry("job.cancel"))
    assert not await store.jobs.cancel(job.id, by="another", audit=entry("job.cancel"))
    assert await store.jobs.finish(job.id, JobState.CANCELLED, now=NOW, sentence=said)
    assert not await store.jobs.finish(job.id, JobState.DONE, now=NOW)
    assert not await store.jobs.step(job.id, 1, StepState.OK, now=NOW)
    assert not await store.jobs.cancel(job.id, by="teacher")

    found = await store.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.cancelled_by, found.ended_at) == (JobState.CANCELLED, "teacher", NOW)
    assert [(step.state, step.sentence) for step in await store.jobs.steps(job.id)] == [
        (StepState.OK, None),
        (StepState.SKIPPED, said),
        (StepState.SKIPPED, said),
    ]
    assert await store.jobs.unfinished() == []
    assert len(await store.audit.search()) == 1


async def test_no_job_ends_as_running(store: Store):
    job = await begin(store)

    with pytest.raises(ValueError, match="running"):
        await store.jobs.finish(job.id, JobState.RUNNING, now=NOW)


async def test_the_jobs_of_a_course_are_listed_newest_first(store: Store):
    ids = [(await begin(store, now=NOW + timedelta(minutes=number))).id for number in range(3)]
    await begin(store, course="dl101", servers=[])

    assert [job.id for job in await store.jobs.of("py101")] == ids[::-1]
    assert [job.id for job in await store.jobs.of("py101", limit=1)] == ids[2:]
    assert len(await store.jobs.of()) == 4


async def test_a_job_for_nobody_has_no_steps(store: Store):
    job = await begin(store, servers=[])

    assert (job.total, job.counts, await store.jobs.steps(job.id)) == (0, {}, [])


async def test_only_jobs_that_ended_long_ago_are_dropped(store: Store):
    old, running, new = [await begin(store) for _ in range(3)]
    await store.jobs.finish(old.id, JobState.DONE, now=NOW)
    await store.jobs.finish(new.id, JobState.DONE, now=NOW + timedelta(days=2))

    assert await store.jobs.prune(NOW + timedelta(days=1)) == 1

    assert {job.id for job in await store.jobs.of()} == {running.id, new.id}
    assert await store.jobs.steps(old.id) == []


async def test_hubs_in_one_database_do_not_see_each_others_jobs(make_store: Callable[..., Store]):
    ours = make_store()
    await ours.migrate()
    theirs = Store(ours._engine, clock=ours._clock, hub_id="other")
    job = await begin(ours)

    assert await theirs.jobs.get(job.id) is None
    assert await theirs.jobs.steps(job.id) == []
    assert not await theirs.jobs.step(job.id, 0, StepState.OK, now=NOW)
    assert not await theirs.jobs.finish(job.id, JobState.DONE, now=NOW)
    assert not await theirs.jobs.cancel(job.id, by="eve")
    assert await ours.jobs.get(job.id) == job
    theirs._threads.shutdown()


@pytest.mark.parametrize("db_url", SHARED, indirect=True)
async def test_of_two_runners_one_ends_a_step_and_the_job(make_store: Callable[..., Store]):
    stores = [make_store(), make_store()]
    await stores[0].migrate()
    job = await begin(stores[0])

    steps = await asyncio.gather(
        *(store.jobs.step(job.id, place, StepState.OK, now=NOW) for place in range(3) for store in stores)
    )
    ends = await asyncio.gather(*(store.jobs.finish(job.id, JobState.DONE, now=NOW) for store in stores))

    assert sorted(steps) == [False, False, False, True, True, True]
    assert sorted(ends) == [False, True]
