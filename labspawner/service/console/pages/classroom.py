"""The class: who is where, class actions and their progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labspawner.model import CourseRole
from labspawner.pages.i18n import pick
from labspawner.sentences import Sentence
from labspawner.service.console.doing import jobs, visits
from labspawner.service.console.doing import wall as walls
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.pages import wall
from labspawner.service.console.pages.kept import InstructorPage, LiveAnswer
from labspawner.service.console.pages.render import part_for_many
from labspawner.service.console.pages.rows import job_view, wall_rows
from labspawner.service.console.pages.shown import can_of, texts
from labspawner.service.console.problems import Away, Missing
from labspawner.service.console.rights import Verb
from labspawner.service.console.sharing import Memo
from labspawner.service.console.views import Activity, Can, CourseView, Published, WallRow

MOST_TEXT = 500
_VERBS = {"start": Verb.START, "stop": Verb.STOP, "extend": Verb.EXTEND, "message": Verb.MESSAGE, "reset": Verb.RESET}
AWAY = Sentence(
    "The hub does not answer just now, so you see who is in the course, but not what runs. This page looks again by itself."
)
NO_TEXT = Sentence("Write what the students should read.")
NO_VERB = Sentence("There is no such class action.")


class WallPage(InstructorPage):
    """Every student of the course, and what their servers do."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        values = await wall_values(self, slug, self.view(record).can)
        await self.show_course("wall.html", record, "wall", **values, scripted=False)


class WallAnswer(LiveAnswer):
    """The same, for the page's script; of the course itself nothing is read."""

    async def get(self, slug: str) -> None:
        self.require(Verb.READ, slug)
        can = can_of(self.caller, self.house.groups(slug))
        course = CourseView(slug=slug, title={}, published=Published.PUBLISHED, can=can)
        values = await wall_values(self, slug, can)
        self.tell(html=self.html("wall_live.html", course=course, scripted=True, **values))


class ConfirmPage(InstructorPage):
    """What a class action would do, to whom, and what is lost by it. Nothing is done yet."""

    async def post(self, slug: str) -> None:
        verb, right = verb_of(self.line("verb"))
        record = await self.record(slug, right)
        rows, _, _ = await rows_of(self, slug)
        chosen = set(self.get_body_arguments("who", strip=False))
        await show_confirmation(self, record, verb, [row for row in rows if row.key in chosen], {})


class ActPage(InstructorPage):
    """Begin a class action; it goes on without this page."""

    async def post(self, slug: str) -> None:
        verb, right = verb_of(self.line("verb"))
        record = await self.record(slug, right)
        chosen = list(dict.fromkeys(self.get_body_arguments("who", strip=False)))
        form = self.sent()
        args: dict[str, Any] = {}
        if verb.key == "start":
            args["profile"] = form.get("profile", "")
        elif verb.key == "message":
            args["text"] = form.get("text", "").strip()[:MOST_TEXT]
        if not chosen or (verb.key == "message" and not args["text"]):
            rows, _, _ = await rows_of(self, slug)
            picked = [row for row in rows if row.key in set(chosen)]
            wrong = {"text": NO_TEXT} if chosen else {}
            self.set_status(422)
            await show_confirmation(self, record, verb, picked, form, wrong)
            return
        users = list(dict.fromkeys(one.partition("/")[0] for one in chosen))
        job = await jobs.begin(self.house, self.caller, slug, verb.key, users, args)
        self.to(slug, "jobs", job.id)


class VisitPage(InstructorPage):
    """Ask a student to let one in, and then the way in. Sending it again looks whether they agreed."""

    async def post(self, slug: str) -> None:
        record = await self.record(slug, Verb.VISIT)
        user, _, server = self.text("visit").partition("/")
        visit = await visits.ask(self.house, self.caller, slug, user, server=server)
        await self.show_course("visit.html", record, "wall", visit=visit, user=user, key=self.text("visit"))


class JobPage(InstructorPage):
    """How far a class action is, student by student."""

    async def get(self, slug: str, job_id: str) -> None:
        record = await self.record(slug)
        job = job_view(await jobs.get(self.house, self.caller, slug, job_id))
        place = self.frame().url
        await self.show_course(
            "job.html", record, "wall",
            job=job, fresh_url=place("courses", slug, "jobs", job_id, "live"), events_url=events_url(self, slug),
        )  # fmt: skip


class JobAnswer(LiveAnswer):
    """The same, for the page's script."""

    async def get(self, slug: str, job_id: str) -> None:
        record = await self.record(slug)
        job = job_view(await jobs.get(self.house, self.caller, slug, job_id))
        self.tell(html=self.html("job_live.html", course=self.view(record), job=job), over=job.over)


class CancelPage(InstructorPage):
    """End a class action; what has begun for a student is finished."""

    async def post(self, slug: str, job_id: str) -> None:
        self.require(Verb.READ, slug)
        await jobs.cancel(self.house, self.caller, slug, job_id)
        self.to(slug, "jobs", job_id, done="cancelled")


def verb_of(key: str) -> tuple[wall.VerbView, Verb]:
    """A class action, and the right that it needs. Raises Missing."""
    found = wall.verb(key)
    if found is None:
        raise Missing(NO_VERB)
    return found, _VERBS[key]


def events_url(page: InstructorPage, slug: str) -> str:
    """Where the course's changes are told."""
    return page.frame().url("api", "v1", "courses", slug, "events")


async def rows_of(page: InstructorPage, slug: str) -> tuple[Sequence[WallRow], Memo, Sentence | None]:
    """Everybody's row, what was made of these rows already, and what is in the way of knowing more."""
    try:
        found = await walls.of(page.house, page.caller, slug)
    except Away:
        people = await page.house.store.rosters.of(slug)
        return [WallRow(user=person.user) for person in people if person.role is CourseRole.MEMBER], Memo(), AWAY
    language = page.language
    rows = found.memo.make(("rows", language), lambda: tuple(wall_rows(found.places, language)))
    return rows, found.memo, None


async def wall_values(page: InstructorPage, slug: str, can: Can) -> dict[str, Any]:
    """Everything on the class wall."""
    rows, memo, trouble = await rows_of(page, slug)
    ask = page.get_query_argument
    shown = wall.Shown.of(ask("q", ""), ask("state", ""), ask("sort", ""))
    frame = page.frame()

    def values() -> dict[str, Any]:
        states = {activity: page.say(activity.words) for activity in Activity}
        visit_url = frame.url("courses", slug, "visit")
        return {"seats": wall.arranged(rows, shown), "can": can, "states": states, "visit_url": visit_url}

    recent = [job_view(job) for job in await jobs.recent(page.house, page.caller, slug)]
    running = sum(row.activity.value == "running" for row in rows)
    return {
        "rows": part_for_many(frame, "wall_rows.html", memo, (slug, can, shown), values),
        "counts": wall.counts(rows),
        "total": len(rows),
        "running": running,
        "waiting": sum(row.activity.value == "waiting" for row in rows),
        "shown": shown,
        "jobs": [job for job in recent if not job.over][:3],
        "verbs": wall.verbs(can),
        "trouble": trouble,
        "fresh_url": frame.url("courses", slug, "live"),
        "events_url": events_url(page, slug),
    }


async def show_confirmation(
    page: InstructorPage, record: CourseRecord, verb: wall.VerbView, chosen: list[WallRow], form: Mapping[str, str],
    wrong: Mapping[str, Sentence] | None = None,
) -> None:  # fmt: skip
    """The page between the click and the deed; for a script that asks, the inside of it alone."""
    profiles = [
        (f"{record.slug}/{profile.slug}", pick(texts(profile.title), page.language) or profile.slug)
        for profile in (record.course.profiles if record.course else ())
    ]
    values = {
        **wall.confirmation(verb, chosen), "form": form, "wrong": wrong or {}, "profiles": profiles,
    }  # fmt: skip
    await page.show_course("confirm.html", record, "wall", **values)
