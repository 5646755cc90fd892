"""Class actions: begun here in a moment, done by the runner, watched by anybody of the course's staff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from labspawner.model import Json
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.doing import rosters
from labspawner.service.console.doing.recording import entry
from labspawner.service.console.house import House
from labspawner.service.console.names import MAX_PEOPLE
from labspawner.service.console.problems import Invalid, Missing, TooMany
from labspawner.service.console.rights import Caller, Verb
from labspawner.store import Job, JobState, Step, StepState

MAX_TEXT = 500
MOST_AT_ONCE = 5
VERBS = ("start", "stop", "extend", "message", "reset")

NOBODY = Sentence("Pick somebody first.")
STRANGERS = Sentence("{name} is not in this course.")
WHICH_PROFILE = Sentence("Say which profile of this course is to be started.")
WHICH_TEXT = Sentence("A message has 1 to {most} letters.", most=MAX_TEXT)
BUSY = Sentence("Some class actions of this course are still going on. Wait for them, or cancel them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A class action. state: `running`, `done` or `cancelled`; cancelling: it is asked to end, and finishes what is under
    way. done: steps with a result, of them `failed` without success. steps: left out of lists."""

    id: str
    course: str
    verb: str
    actor: str
    state: str
    total: int
    done: int
    failed: int
    begun_at: datetime
    ended_at: datetime | None = None
    cancelling: bool = False
    args: Mapping[str, Json]
    steps: tuple[Step, ...] = ()


async def begin(
    house: House, caller: Caller, slug: str, verb: str, users: Sequence[str], args: Mapping[str, Any] | None = None
) -> JobRecord:
    """Begin to do something to the servers of these people, and answer at once with the job's id.

    args: for start `{"profile": "<slug>", "options": {}}`, for message `{"text"}`, for stop and reset `{"reason"}`. Raises
    Refused, Invalid, and TooMany while too many jobs of the course go on.
    """
    if verb not in VERBS:
        raise Invalid(words.UNREADABLE)
    await house.require_course(caller, Verb(f"act:{verb}"), slug)
    given = _args(slug, verb, dict(args or {}))
    names = list(dict.fromkeys(users))
    if not names:
        raise Invalid(NOBODY)
    if len(names) > MAX_PEOPLE:
        raise Invalid(Sentence("At most {most} people at once.", most=MAX_PEOPLE))
    running = [job for job in await house.store.jobs.of(slug, limit=20) if job.state is JobState.RUNNING]
    if len(running) >= MOST_AT_ONCE:
        raise TooMany(BUSY)
    servers = await _servers(house, caller, slug, verb, names)
    options = given.get("options")
    told: dict[str, Json] = {**given, **({"options": list(options)} if isinstance(options, dict) else {})}
    audit = entry(house, caller, f"job.{verb}", course=slug, detail={"users": len(names), **told})
    job = await house.store.jobs.begin(
        course=slug, verb=verb, actor=audit.actor, servers=servers, now=house.now(), args=given, audit=audit
    )
    house.runner.run(job)
    return _record(job, await house.store.jobs.steps(job.id))


async def get(house: House, caller: Caller, slug: str, job_id: str) -> JobRecord:
    """One job with its steps. Raises Missing."""
    await house.require_course(caller, Verb.READ, slug)
    job = await _job(house, slug, job_id)
    return _record(job, await house.store.jobs.steps(job_id))


async def recent(house: House, caller: Caller, slug: str, *, limit: int = 20) -> list[JobRecord]:
    """The last jobs of the course, newest first, without their steps."""
    await house.require_course(caller, Verb.READ, slug)
    return [_record(job, ()) for job in await house.store.jobs.of(slug, limit=limit)]


async def cancel(house: House, caller: Caller, slug: str, job_id: str) -> JobRecord:
    """Begin no further step; those under way are finished. For whoever might have begun it. Raises Missing."""
    job = await _job(house, slug, job_id)
    await house.require_course(caller, Verb(f"act:{job.verb}"), slug)
    audit = entry(house, caller, "job.cancel", course=slug, about=job_id)
    if await house.store.jobs.cancel(job_id, by=caller.name, audit=audit):
        house.runner.cancel(job_id)
        house.runner.run(await _job(house, slug, job_id))
    house.events.job_changed(slug)
    return await get(house, caller, slug, job_id)


async def _job(house: House, slug: str, job_id: str) -> Job:
    job = await house.store.jobs.get(job_id)
    if job is None or job.course != slug:
        raise Missing(words.NO_PAGE)
    return job


def _record(job: Job, steps: Sequence[Step]) -> JobRecord:
    final = (StepState.OK, StepState.FAILED, StepState.SKIPPED)
    return JobRecord(
        id=job.id,
        course=job.course,
        verb=job.verb,
        actor=job.actor,
        state=job.state.value,
        total=job.total,
        done=sum(job.counts.get(state, 0) for state in final),
        failed=job.counts.get(StepState.FAILED, 0),
        begun_at=job.created_at,
        ended_at=job.ended_at,
        cancelling=job.cancelled_by is not None and job.state is JobState.RUNNING,
        args=job.args,
        steps=tuple(steps),
    )


def _args(slug: str, verb: str, given: dict[str, Any]) -> dict[str, Json]:
    """What the hub is given with each step, and nothing else. Raises Invalid."""
    if verb == "start":
        profile, options = given.get("profile"), given.get("options") or {}
        if not isinstance(profile, str) or not profile or len(profile) > 200 or not isinstance(options, dict):
            raise Invalid(WHICH_PROFILE)
        key = profile if "/" in profile else f"{slug}/{profile}"
        if key.partition("/")[0] != slug:
            raise Invalid(WHICH_PROFILE)
        return {"profile": key, **({"options": _plain(options)} if options else {})}
    if verb == "message":
        text = given.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise Invalid(WHICH_TEXT)
        return {"text": " ".join(text.split())}
    reason = given.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > MAX_TEXT:
        raise Invalid(WHICH_TEXT)
    return {"reason": " ".join(reason.split())} if reason.strip() and verb in {"stop", "reset"} else {}


def _plain(options: dict[str, Any]) -> dict[str, Json]:
    if len(options) > 50 or not all(isinstance(value, str) and len(value) <= 200 for value in options.values()):
        raise Invalid(Sentence("Options are texts, as the profile's form would send them."))
    return {str(key)[:100]: value for key, value in options.items()}


async def _servers(house: House, caller: Caller, slug: str, verb: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Whose servers: of the course's people alone, and of people who run something of the course."""
    rows = (await house.hub.ask("state", course=slug)).get("servers", ())
    run: dict[str, list[str]] = {}
    for row in rows:
        run.setdefault(str(row.get("user")), []).append(str(row.get("server", "")))
    people = {person.name for person in (await rosters.get(house, caller, slug)).people}
    for name in names:
        if name not in people and name not in run:
            raise Invalid(Sentence(STRANGERS.template, name=name[:100]))
    if verb == "start":
        return [(name, "") for name in names]
    return [(name, server) for name in names for server in run.get(name, [""])]
