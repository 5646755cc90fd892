"""Writing a course: its profiles, the editor of one, the whole text, and what is said while somebody types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from labspawner.courses import editing
from labspawner.courses.diffing import compare
from labspawner.courses.editing import NotEditable
from labspawner.model import CourseState
from labspawner.sentences import Sentence
from labspawner.service.console import views, words
from labspawner.service.console.doing import courses, links
from labspawner.service.console.doing.courses import CourseRecord, Lint
from labspawner.service.console.pages import fields, mine
from labspawner.service.console.pages.kept import InstructorPage, LiveAnswer
from labspawner.service.console.pages.naming import slug_of
from labspawner.service.console.pages.shown import problem_views, profile_row, seat_lines
from labspawner.service.console.problems import Exists, Invalid, Missing, Stale
from labspawner.service.console.rights import Verb

STUDENTS = 30
MOST_STUDENTS = 2000
BROKEN = Sentence("It is not saved yet: something has to be mended first. What you typed is kept.")
CHECKED = Sentence("All good. It is not saved yet.")
NO_PROFILE = Sentence("This course has no profile {slug}.")
LAST = Sentence("A course has at least one profile.")
_STATES = {"publish": ("published", "published"), "unpublish": ("draft", "draft"), "archive": ("archived", "archived")}
DAYS = (
    ("mon", Sentence("Mon")),
    ("tue", Sentence("Tue")),
    ("wed", Sentence("Wed")),
    ("thu", Sentence("Thu")),
    ("fri", Sentence("Fri")),
    ("sat", Sentence("Sat")),
    ("sun", Sentence("Sun")),
)


class StatePage(InstructorPage):
    """Publish, back to draft, archive."""

    async def post(self, slug: str) -> None:
        await self.record(slug, Verb.WRITE)
        wish = _STATES.get(self.line("to"))
        if wish is None:
            raise Missing(words.NO_PAGE)
        state, done = wish
        await courses.set_state(self.house, self.caller, slug, CourseState(state).value, if_match=self.line("if_match"))
        self.to(slug, done=done)


class ArchivePage(InstructorPage):
    """Asks before a course is put away."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug, Verb.WRITE)
        await self.show_course("archive.html", record, "")


class ExportPage(InstructorPage):
    """The course as a file, as it was written."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        self.set_header("Content-Type", "application/yaml; charset=UTF-8")
        self.set_header("Content-Disposition", f'attachment; filename="{record.slug}.yaml"')
        self.finish(record.text)


class ProfilesPage(InstructorPage):
    """What students pick from, in their order; and another one from the gallery."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        await self.page(record)

    async def page(self, record: CourseRecord, **changes: Any) -> None:
        students = await students_of(self, record)
        lint = await courses.lint(self.house, self.caller, record.slug, record.text, students=students)
        seats = dict(lint.seats)
        rows = [
            profile_row(
                profile, seats=seats.get(profile.slug, ()),
                permalink=await links.permalink(self.house, self.caller, record.slug, profile.slug),
            )
            for profile in (record.course.profiles if record.course else ())
        ]  # fmt: skip
        values = {"rows": rows, "students": students, "problems": problem_views(record.flaws), "wrong": {}}
        values["about"] = about_values(record)
        points = await mine.starting_points(self.house)
        first = next((point.key for point in points if not point.missing), "")
        await self.show_course(
            "profiles.html", record, "profiles", **{**values, "gallery": points, "form": {"start": first}, **changes}
        )

    async def post(self, slug: str) -> None:
        """Add one from the gallery."""
        record = await self.record(slug, Verb.WRITE)
        form = self.sent()
        points = await mine.starting_points(self.house)
        point = next((one for one in points if one.key == form.get("start") and not one.missing), None)
        wrong = {}
        if point is None:
            wrong["start"] = mine.PICK
        elif point.asks and not form.get("template", "").strip():
            wrong["template"] = mine.NAME_TEMPLATE
        if point is None or wrong:
            self.set_status(422)
            await self.page(record, form=form, wrong=wrong)
            return
        taken = tuple(profile.slug for profile in record.course.profiles) if record.course else ()
        profile = mine.profile_of(point, form, taken=taken or ("",))
        try:
            text = editing.add_profile(record.text, profile)
        except NotEditable as exc:
            raise Exists(exc.message) from exc
        comment = self.say(Sentence("profile {slug} added", slug=profile["slug"]))
        await save_or_show(
            self, record, text, comment, lambda _: self.to(slug, "profiles", str(profile["slug"]), "edit")
        )


class AboutPage(InstructorPage):
    """The course's own words: its name, what it is about, and its time zone."""

    async def post(self, slug: str) -> None:
        record = await self.record(slug, Verb.WRITE)
        changes: dict[str, Any] = {"timezone": self.line("timezone")}
        for name in ("title", "summary"):
            changes[name] = {language: self.line(f"{name}.{language}") for language in fields.LANGUAGES}
        if not any(changes["title"].values()):
            raise Exists(mine.NO_TITLE)
        try:
            old = editing.course_as_form(record.text)
            changes["title"] = {**old.get("title", {}), **changes["title"]}
            changes["summary"] = {**old.get("summary", {}), **changes["summary"]}
            text = editing.with_course(record.text, changes)
        except NotEditable as exc:
            raise Exists(exc.message) from exc
        comment = self.say(Sentence("name, description or time zone changed"))
        await save_or_show(self, record, text, comment, lambda done: self.to(slug, "profiles", "", done=done))


class ProfileChangePage(InstructorPage):
    """Duplicate, move or remove one profile."""

    async def post(self, slug: str, name: str) -> None:
        record = await self.record(slug, Verb.WRITE)
        names = [profile.slug for profile in record.course.profiles] if record.course else []
        if name not in names:
            raise Missing(Sentence(NO_PROFILE.template, slug=name))
        try:
            text, said = _moved(record.text, name, names, self.line("do"))
        except NotEditable as exc:
            raise Exists(exc.message) from exc
        await save_or_show(self, record, text, self.say(said), lambda done: self.to(slug, "profiles", "", done=done))


def _moved(text: str, name: str, names: list[str], wish: str) -> tuple[str, Sentence]:
    """The text after a profile was copied, moved or taken out, and what that is called. Raises NotEditable."""
    if wish == "duplicate":
        new = slug_of({"en": f"{name} copy"}, names)
        return editing.duplicate_profile(text, name, new), Sentence("profile {slug} copied", slug=name)
    if wish == "remove":
        if len(names) == 1:
            raise Exists(LAST)
        return editing.remove_profile(text, name), Sentence("profile {slug} removed", slug=name)
    if wish in {"up", "down"}:
        step = -1 if wish == "up" else 1
        return editing.move_profile(text, name, step), Sentence("profile {slug} moved", slug=name)
    raise Missing(words.NO_PAGE)


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

        await save_or_show(
            self, record, text, self.line("comment"),
            lambda done: self.to(slug, "profiles", name, "edit", done=done), again=again,
        )  # fmt: skip


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


def about_values(record: CourseRecord) -> dict[str, str]:
    """The fields of the form about the course itself; empty where its text cannot be read."""
    try:
        data = editing.course_as_form(record.text)
    except NotEditable:
        return {}
    found = {"timezone": str(data.get("timezone") or "")}
    for name in ("title", "summary"):
        words = data.get(name) or {}
        found |= {f"{name}.{language}": str(words.get(language, "")) for language in fields.LANGUAGES}
    return found


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
