"""A course's profiles as a list, its own words, and how it stands: draft, published, archived."""

from __future__ import annotations

from typing import Any

from labspawner.courses import editing
from labspawner.courses.editing import NotEditable
from labspawner.model import CourseState
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.doing import courses, links
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.pages import fields, mine
from labspawner.service.console.pages.kept import InstructorPage
from labspawner.service.console.pages.naming import slug_of
from labspawner.service.console.pages.shown import problem_views, profile_row
from labspawner.service.console.pages.writing import NO_PROFILE, save_or_show, students_of
from labspawner.service.console.problems import Exists, Missing
from labspawner.service.console.rights import Verb

LAST = Sentence("A course has at least one profile.")
_STATES = {"publish": ("published", "published"), "unpublish": ("draft", "draft"), "archive": ("archived", "archived")}


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
