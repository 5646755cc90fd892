"""Writing a course: the editor of one profile, the whole text, and what is said while somebody types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from labspawner.courses import editing
from labspawner.courses.diffing import compare
from labspawner.courses.editing import NotEditable
from labspawner.sentences import Sentence
from labspawner.service.console import views
from labspawner.service.console.doing import courses, links
from labspawner.service.console.doing.courses import Lint
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.pages import fields
from labspawner.service.console.pages.kept import InstructorPage, LiveAnswer
from labspawner.service.console.pages.shown import problem_views, profile_row, seat_lines
from labspawner.service.console.problems import Invalid, Missing, Stale
from labspawner.service.console.rights import Verb

STUDENTS = 30
MOST_STUDENTS = 2000
BROKEN = Sentence("It is not saved yet: something has to be mended first. What you typed is kept.")
CHECKED = Sentence("All good. It is not saved yet.")
NO_PROFILE = Sentence("This course has no profile {slug}.")
DAYS = (
    ("mon", Sentence("Mon")),
    ("tue", Sentence("Tue")),
    ("wed", Sentence("Wed")),
    ("thu", Sentence("Thu")),
    ("fri", Sentence("Fri")),
    ("sat", Sentence("Sat")),
    ("sun", Sentence("Sun")),
)


class EditPage(InstructorPage):
    """One profile, as a form and as text side by side."""

    async def get(self, slug: str, name: str) -> None:
        record = await self.record(slug)
        await self.page(record, name, record.text)

    async def page(self, record: CourseRecord, name: str, text: str, **changes: Any) -> None:
        students = self.number("students", least=1, most=MOST_STUDENTS, otherwise=0) or await students_of(self, record)
        lint = await courses.lint(self.house, self.caller, record.slug, text, students=students)
        shown = await self._head(record, name, lint)
        values = {
            **form_values(self, text, name),
            **lint_values(self, record.slug, lint, students, only=name),
            "profile": shown,
            "text": text,
            "comment": "",
            "trouble": None,
            "unsaved": False,
        }
        await self.show_course("edit.html", record, "profiles", **{**values, **changes})

    async def _head(self, record: CourseRecord, name: str, lint: Lint) -> views.ProfileRow:
        link = await links.permalink(self.house, self.caller, record.slug, name)
        for course in (lint.course, record.course):
            found = next((one for one in course.profiles if one.slug == name), None) if course else None
            if course and found:
                return profile_row(found, permalink=link)
        if record.course:
            raise Missing(Sentence(NO_PROFILE.template, slug=name))
        return views.ProfileRow(slug=name, title={"en": name}, permalink=link)

    async def post(self, slug: str, name: str) -> None:
        record = await self.record(slug, Verb.WRITE)
        posted, text = self.sent(), self.text("text")
        wish, trouble = self.line("save"), BROKEN
        if wish != "yaml" and self.line("side") != "yaml":
            try:
                text = with_form(text, name, posted)
            except NotEditable as exc:
                self.set_status(422)
                await self.page(record, name, text, trouble=exc.message, unsaved=True, comment=self.line("comment"))
                return
        if wish == "check":
            lint = await courses.lint(self.house, self.caller, slug, text, students=1)
            await self.page(
                record,
                name,
                text,
                trouble=BROKEN if lint.flaws else CHECKED,
                unsaved=True,
                comment=self.line("comment"),
            )
            return

        async def again() -> None:
            self.set_status(422)
            await self.page(record, name, text, trouble=trouble, unsaved=True, comment=self.line("comment"))

        def on(done: str) -> None:
            place = (
                (name, "edit") if form_values(self, text, name)["readable"] else ("",)
            )  # it may have another name now
            self.to(slug, "profiles", *place, done=done)

        await save_or_show(self, record, text, self.line("comment"), on, again=again)


class YamlPage(InstructorPage):
    """The whole course as text."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        await self.page(record, record.text)

    async def page(self, record: CourseRecord, text: str, **changes: Any) -> None:
        students = self.number("students", least=1, most=MOST_STUDENTS, otherwise=0) or await students_of(self, record)
        lint = await courses.lint(self.house, self.caller, record.slug, text, students=students)
        values = {"text": text, "comment": "", "trouble": None, "unsaved": False}
        values |= lint_values(self, record.slug, lint, students)
        await self.show_course("yaml.html", record, "yaml", **{**values, **changes})

    async def post(self, slug: str) -> None:
        record = await self.record(slug, Verb.WRITE)
        text, comment = self.text("text"), self.line("comment")
        if self.line("save") == "check":
            lint = await courses.lint(self.house, self.caller, slug, text, students=1)
            await self.page(record, text, trouble=BROKEN if lint.flaws else CHECKED, unsaved=True, comment=comment)
            return

        async def again() -> None:
            self.set_status(422)
            await self.page(record, text, trouble=BROKEN, unsaved=True, comment=comment)

        await save_or_show(self, record, text, comment, lambda done: self.to(slug, "yaml", done=done), again=again)


class LintAnswer(LiveAnswer):
    """What is said while somebody types: problems, places, and the other side of the editor."""

    async def post(self, slug: str) -> None:
        await self.record(slug)
        name, text, posted = self.line("profile"), self.text("text"), self.sent()
        side = self.line("side")
        students = self.number("students", least=1, most=MOST_STUDENTS, otherwise=STUDENTS)
        trouble = None
        if name and side == "form":
            try:
                text = with_form(text, name, posted)
            except NotEditable as exc:
                trouble = exc.message
        lint = await courses.lint(self.house, self.caller, slug, text, students=students)
        values = lint_values(self, slug, lint, students, only=name)
        answer: dict[str, Any] = {
            "text": text,
            "problems": self.html("problems.html", **values),
            "seats": self.html("seats.html", **values),
            "lines": [problem.line for problem in values["problems"] if problem.line],
            "trouble": self.say(trouble) if trouble else "",
        }
        if name and side == "yaml":
            record = await courses.get(self.house, self.caller, slug)
            shown = {"course": self.view(record), **form_values(self, text, name)}
            answer["form"] = self.html("edit_form.html", **shown)
        self.tell(**answer)


async def save_or_show(
    page: InstructorPage, record: CourseRecord, text: str, comment: str, on: Callable[[str], None],
    *, again: Callable[[], Awaitable[None]] | None = None,
) -> None:  # fmt: skip
    """Save the text and go on, with the word for what was done. Where it has errors `again` shows it; where somebody else
    saved meanwhile, both are shown."""
    if text == record.text and page.line("if_match") == record.etag:
        on("same")
        return
    try:
        await courses.save(
            page.house, page.caller, record.slug, text, if_match=page.line("if_match"), comment=comment[:200]
        )
    except Stale as stale:
        await show_conflict(page, record.slug, text, comment, stale)
    except Invalid:
        if again is None:
            raise
        await again()
    else:
        on("saved")


async def show_conflict(page: InstructorPage, slug: str, text: str, comment: str, stale: Stale) -> None:
    """Both texts, and the one that both began with. The next save is against what is in force now."""
    record = await courses.get(page.house, page.caller, slug)
    base = ""
    number = page.number("base", least=0, most=10**9, otherwise=0)
    if number:
        try:
            base = (await courses.revision(page.house, page.caller, slug, number)).text
        except Missing:
            base = ""
    lint = await courses.lint(page.house, page.caller, slug, text, students=1)
    page.set_status(412)
    await page.show_course(
        "conflict.html", record, "yaml",
        mine=text, theirs=side_lines(base, record.text), base=side_lines(text, base), by=stale.by, at=stale.at,
        comment=comment, **lint_values(page, slug, lint, STUDENTS),
    )  # fmt: skip


def side_lines(before: str, after: str) -> list[views.DiffLine]:
    """The whole of `after`, with the lines marked that are not in `before`."""
    added = {line.new for line in compare(before, after).lines if line.kind == "+"} if before else set()
    return [
        views.DiffLine(kind="added" if number in added else "same", text=text, new=number)
        for number, text in enumerate(after.splitlines(), 1)
    ]


def with_form(text: str, name: str, posted: dict[str, str]) -> str:
    """The text with what the form says. Raises NotEditable where that has to be written in the text."""
    profile = editing.profile_as_form(text, name)
    changed = editing.with_profile(text, name, editing.form_as_profile(fields.merged(profile, posted)))
    course = editing.course_as_form(text)
    zone = posted.get("timezone", "").strip()
    if "timezone" in posted and zone != str(course.get("timezone") or ""):
        changed = editing.with_course(changed, {**course, "timezone": zone})
    return changed


def form_values(page: InstructorPage, text: str, name: str) -> dict[str, Any]:
    """The form of one profile, out of the text; empty and switched off where the text cannot be read."""
    providers = [(provider, provider) for provider in page.house.settings.providers]
    days = [(key, page.say(words)) for key, words in DAYS]
    try:
        form = fields.to_fields(editing.profile_as_form(text, name), editing.course_as_form(text))
    except NotEditable:
        return {
            "form": {},
            "wrong": {},
            "readable": False,
            "variants": 1,
            "hours": 1,
            "questions": [],
            "days": days,
            "providers": providers,
        }
    chosen = {value for key, value in form.items() if key.endswith(".provider") and value}
    providers += [(one, one) for one in sorted(chosen - dict(providers).keys())]
    return {"form": form, "wrong": {}, "readable": True, "days": days, "providers": providers, **fields.counts(form)}


def lint_values(page: InstructorPage, slug: str, lint: Lint, students: int, *, only: str = "") -> dict[str, Any]:
    """What is wrong, and what so many students need. only: of this profile."""
    seats = [(name, found) for name, found in lint.seats if not only or name == only]
    return {
        "problems": problem_views(lint.flaws),
        "seats": seat_lines(seats, named=not only),
        "students": students,
        "lint_url": page.frame().url("courses", slug, "lint"),
    }


async def students_of(page: InstructorPage, record: CourseRecord) -> int:
    """How many are in the course; a usual class while nobody is."""
    seats = await page.house.store.rosters.of(record.slug)
    count = sum(seat.role.value == "member" for seat in seats)
    return min(MOST_STUDENTS, count) or STUDENTS
