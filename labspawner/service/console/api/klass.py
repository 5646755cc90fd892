"""A running class: who does what, actions upon many at once, what was used, and links to hand out."""

from __future__ import annotations

import asyncio
import csv
import io
import json

from tornado import iostream

from labspawner.service.console import names, words
from labspawner.service.console.api import models
from labspawner.service.console.api.base import ApiHandler
from labspawner.service.console.api.route import Operation, Query, Route
from labspawner.service.console.doing import jobs, links, usage, visits, wall
from labspawner.service.console.doing.jobs import JobRecord
from labspawner.service.console.problems import Problem, TooMany
from labspawner.service.console.rights import ACT, READ, SELF, Verb

_UNREAD_S = 20.0


class WallHandler(ApiHandler):
    """Everybody of a course, and what each of them runs."""

    async def get(self, slug: str) -> None:
        found = await wall.of(self.house, self.caller, slug)
        places = [
            models.Place(
                user=place.user,
                role=place.role,
                known=place.known,
                server=dict(place.row) if place.row else None,
                notice=dict(place.notice) if place.notice else None,
            )
            for place in found.places
        ]
        lines = [dict(line) for line in found.lines]
        self.give(models.Wall(version=found.version, taken_at=found.taken_at, places=places, lines=lines))


class JobsHandler(ApiHandler):
    """The class actions of a course."""

    async def get(self, slug: str) -> None:
        found = await jobs.recent(self.house, self.caller, slug)
        self.give(models.Jobs(jobs=[_job(self, job) for job in found]))

    async def post(self, slug: str) -> None:
        sent = self.body(models.NewJob)
        args = sent.args.model_dump(exclude_none=True)
        begun = await jobs.begin(self.house, self.caller, slug, sent.verb, sent.users, args)
        self.set_header("Location", f"{self.house.prefix}api/v1/courses/{slug}/jobs/{begun.id}")
        self.give(_job(self, begun), status=202)


class JobHandler(ApiHandler):
    """One class action."""

    async def get(self, slug: str, job: str) -> None:
        self.give(_job(self, await jobs.get(self.house, self.caller, slug, job)))

    async def delete(self, slug: str, job: str) -> None:
        self.give(_job(self, await jobs.cancel(self.house, self.caller, slug, job)))


class VisitsHandler(ApiHandler):
    """Opens a student's server, once they agree."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.ToVisit)
        found = await visits.ask(self.house, self.caller, slug, sent.user, server=sent.server)
        told = {"state": found.state, "sentence": self.say(found.sentence), "until": found.until, "path": found.path}
        self.give(models.Visit.model_validate(told))


class UsageHandler(ApiHandler):
    """What a course used, by week."""

    async def get(self, slug: str) -> None:
        weeks = self.number("weeks", 8, most=usage.MOST_WEEKS)
        found = await usage.by_week(self.house, self.caller, slug, weeks=weeks)
        told = [
            models.Week(
                begins=week.begins,
                hours=week.hours,
                gpu_hours=week.gpu_hours,
                people=week.people,
                users=[models.UserHours(user=one.user, hours=one.hours, gpu_hours=one.gpu_hours) for one in week.users],
            )
            for week in found
        ]
        self.give(models.Usage(weeks=told))


class UsageCsvHandler(ApiHandler):
    """The same as a table for a spreadsheet."""

    async def get(self, slug: str) -> None:
        weeks = self.number("weeks", 8, most=usage.MOST_WEEKS)
        found = await usage.by_week(self.house, self.caller, slug, weeks=weeks)
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["week", "user", "hours", "gpu_hours"])
        for week in found:
            for one in week.users:
                writer.writerow([week.begins.isoformat(), names.as_csv_cell(one.user), one.hours, one.gpu_hours])
        self.set_header("Content-Type", "text/csv; charset=UTF-8")
        self.set_header("Content-Disposition", f'attachment; filename="{slug}-usage.csv"')
        self.finish("\ufeff" + table.getvalue())


class LinkHandler(ApiHandler):
    """A link to hand out."""

    async def get(self, slug: str) -> None:
        given = {name: self.get_query_argument(name, "") for name in ("profile", "repo", "branch", "path")}
        if not given["profile"]:
            raise Problem(words.UNREADABLE)
        if given["repo"]:
            path = await links.nbgitpuller(
                self.house,
                self.caller,
                slug,
                given["profile"],
                repo=given["repo"],
                branch=given["branch"],
                path=given["path"],
            )
        else:
            path = await links.permalink(self.house, self.caller, slug, given["profile"])
        self.give(models.Link(path=path))


class EventsHandler(ApiHandler):
    """That something of a course changed, as server-sent events; `changed` names versions, and the rest is fetched."""

    async def get(self, slug: str) -> None:
        self.require(Verb.READ, slug)
        streams, limits = self.house.streams, self.house.watching
        if len(streams) >= limits.most or streams.count(self.caller.name) >= limits.most_of_one:
            raise TooMany(words.TOO_MANY_STREAMS, retry_after_s=30.0)
        streams.append(self.caller.name)
        try:
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("X-Accel-Buffering", "no")
            await self._stream(slug)
        except (iostream.StreamClosedError, asyncio.TimeoutError):
            return
        finally:
            streams.remove(self.caller.name)

    async def _stream(self, slug: str) -> None:
        token = self.house.hub.auth.get_token(self)
        session = self.house.hub.auth.get_session_id(self)
        loop, limits = asyncio.get_running_loop(), self.house.watching
        looked = loop.time()
        async for versions in self.house.events.watch(slug, heartbeat_s=limits.heartbeat_s):
            if loop.time() - looked >= limits.look_again_s:
                if not await self._still_may(slug, token, session):
                    await self._send("event: over\ndata: {}\n\n")
                    return
                looked = loop.time()
            if versions is None:
                await self._send(": still here\n\n")
            else:
                await self._send(f"event: changed\ndata: {json.dumps(versions)}\n\n")

    async def _still_may(self, slug: str, token: str | None, session: str) -> bool:
        """Whether the hub still says so; a hub that is away ends nothing."""
        try:
            caller = await self.house.hub.still(token or "", session)
            if caller is None:
                return False
            self.house.require(caller, Verb.READ, slug)
        except Problem as exc:
            return exc.status == 503
        return True

    async def _send(self, text: str) -> None:
        """Write, and wait until it is gone: for somebody who does not read, nothing is kept."""
        self.write(text)
        await asyncio.wait_for(self.flush(), _UNREAD_S)


class AvailabilityHandler(ApiHandler):
    """What the caller could start now."""

    async def get(self) -> None:
        query = {} if self.caller.service else {"user": self.caller.name}
        if self.caller.service:
            self.require(Verb.ADMIN)
        found = await self.house.hub.ask("availability", **query)
        self.give(
            models.Availability(
                version=str(found.get("version", "")),
                taken_at=str(found.get("taken_at", "")),
                profiles=found.get("profiles", {}),
            )
        )


def _job(handler: ApiHandler, job: JobRecord) -> models.Job:
    steps = [
        models.Step(
            user=step.user,
            server=step.server,
            state=step.state.value,
            sentence=handler.say(step.sentence) if step.sentence is not None else None,
            changed_at=step.changed_at,
        )
        for step in job.steps
    ]
    return models.Job.model_validate(
        {
            "id": job.id,
            "course": job.course,
            "verb": job.verb,
            "actor": job.actor,
            "state": job.state,
            "cancelling": job.cancelling,
            "total": job.total,
            "done": job.done,
            "failed": job.failed,
            "begun_at": job.begun_at,
            "ended_at": job.ended_at,
            "args": dict(job.args),
            "steps": steps,
        }
    )


_WEEKS = (
    Query(
        name="weeks",
        about="How many weeks, the running one last.",
        schema={"type": "integer", "minimum": 1, "maximum": usage.MOST_WEEKS, "default": 8},
    ),
)

ROUTES = (
    Route(
        path="courses/{slug}/wall",
        handler=WallHandler,
        operations={
            "get": Operation(
                name="readWall", about="Everybody in the course and what they run.", scope=READ, gives=models.Wall
            )
        },
    ),
    Route(
        path="courses/{slug}/jobs",
        handler=JobsHandler,
        operations={
            "get": Operation(
                name="listJobs", about="The last class actions, newest first.", scope=READ, gives=models.Jobs
            ),
            "post": Operation(
                name="beginJob",
                about="Begin to start, stop, extend, message or reset many servers; answers at once.",
                scope=ACT,
                takes=models.NewJob,
                gives=models.Job,
                status=202,
                refuses=(422, 429),
            ),
        },
    ),
    Route(
        path="courses/{slug}/jobs/{job}",
        handler=JobHandler,
        operations={
            "get": Operation(
                name="readJob", about="One class action with each person's result.", scope=READ, gives=models.Job
            ),
            "delete": Operation(
                name="cancelJob",
                about="Begin no further step; those under way are finished.",
                scope=ACT,
                gives=models.Job,
            ),
        },
    ),
    Route(
        path="courses/{slug}/visits",
        handler=VisitsHandler,
        operations={
            "post": Operation(
                name="visit",
                about="Ask a student to let the caller open their server, or say until when they did.",
                scope=ACT,
                takes=models.ToVisit,
                gives=models.Visit,
                refuses=(409, 422),
            )
        },
    ),
    Route(
        path="courses/{slug}/events",
        handler=EventsHandler,
        operations={
            "get": Operation(
                name="watchCourse",
                about="Server-sent events: `changed` with versions of state, availability, courses and jobs.",
                scope=READ,
                gives_type="text/event-stream",
                refuses=(429,),
            )
        },
    ),
    Route(
        path="courses/{slug}/usage",
        handler=UsageHandler,
        operations={
            "get": Operation(
                name="readUsage", about="What the course used, by week.", scope=READ, gives=models.Usage, query=_WEEKS
            )
        },
    ),
    Route(
        path="courses/{slug}/usage.csv",
        handler=UsageCsvHandler,
        operations={
            "get": Operation(
                name="exportUsage", about="The same as a table.", scope=READ, gives_type="text/csv", query=_WEEKS
            )
        },
    ),
    Route(
        path="courses/{slug}/links",
        handler=LinkHandler,
        operations={
            "get": Operation(
                name="makeLink",
                about="A link that opens a profile and, with `repo`, brings a repository by nbgitpuller. Fetches nothing.",
                scope=READ,
                gives=models.Link,
                query=(
                    Query(name="profile", about="The profile's short name.", required=True),
                    Query(name="repo", about="The address of a git repository."),
                    Query(name="branch", about="Its branch."),
                    Query(name="path", about="What is opened, as a path in the repository."),
                ),
                refuses=(422,),
            )
        },
    ),
    Route(
        path="availability",
        handler=AvailabilityHandler,
        operations={
            "get": Operation(
                name="readAvailability", about="What the caller could start now.", scope=SELF, gives=models.Availability
            )
        },
    ),
)
