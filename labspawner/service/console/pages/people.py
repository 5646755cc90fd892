"""Who is in a course: the list, what a new list would change, and the list as a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labspawner.sentences import Sentence
from labspawner.service.console import views
from labspawner.service.console.doing import rosters
from labspawner.service.console.doing.records import CourseRecord
from labspawner.service.console.pages.kept import InstructorPage
from labspawner.service.console.pages.render import part_for_many
from labspawner.service.console.pages.tables import as_csv
from labspawner.service.console.pages.wall import natural
from labspawner.service.console.problems import Problem
from labspawner.service.console.rights import Verb

MANAGED = Sentence(
    "The groups of the log-in decide who is in this course, so it is not changed here. Ask whoever keeps those groups, "
    "or your administrator."
)
_ROLES = ("instructor", "assistant", "member")


class RosterPage(InstructorPage):
    """The people of a course. A list that is pasted is shown as what it would change, and only then taken."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        await self.page(record, {"role": "member", "mode": "add"})

    async def page(self, record: CourseRecord, form: Mapping[str, str], trouble: Sentence | None = None) -> None:
        look = await rosters.shown(self.house, self.caller, record.slug)
        roster, people = look.value, look.memo.make("people", lambda: _people(look.value))
        may_remove = self.view(record).can.roster and not roster.managed

        def listed(staff: bool) -> dict[str, Any]:
            found = [one for one in people if (one.role != "member") is staff]
            key = (staff, may_remove)
            rows = part_for_many(
                self.frame(), "roster_rows.html", look.memo, key, lambda: {"people": found, "may_remove": may_remove}
            )
            return {"count": len(found), "rows": rows}

        await self.show_course(
            "roster.html", record, "roster", staff=listed(True), members=listed(False), may_remove=may_remove,
            managed=MANAGED if roster.managed else None, form=form, wrong={}, trouble=trouble,
        )  # fmt: skip

    async def post(self, slug: str) -> None:
        record = await self.record(slug, Verb.ROSTER)
        form = {
            "roster": self.text("roster"),
            "role": self._role(),
            "mode": self.line("mode"),
            "etag": self.line("etag"),
        }
        wish = self.line("do")
        try:
            if wish == "preview":
                await show_preview(self, record, form)
            elif wish == "apply":
                await self._apply(slug, form)
                self.to(slug, "roster", done="people")
            elif wish == "remove":
                who = self.text("who")
                role = await self._role_of(slug, who)
                await rosters.remove(self.house, self.caller, slug, [who], role=role)
                self.to(slug, "roster", done="removed")
            else:
                await self.page(record, form)
        except Problem as problem:
            if problem.status >= 500 or problem.status in {401, 403, 404}:
                raise
            self.set_status(problem.status)
            await self.page(record, form, trouble=problem.message)

    def _role(self) -> str:
        role = self.line("role")
        return role if role in _ROLES else "member"

    async def _apply(self, slug: str, form: Mapping[str, str]) -> None:
        if form["mode"] == "replace":
            await rosters.replace(self.house, self.caller, slug, form["roster"], role=form["role"], etag=form["etag"])
            return
        preview = await rosters.preview(self.house, self.caller, slug, form["roster"], role=form["role"])
        await rosters.add(self.house, self.caller, slug, list(preview.added), role=form["role"])

    async def _role_of(self, slug: str, who: str) -> str:
        roster = await rosters.get(self.house, self.caller, slug)
        return next((person.role.value for person in roster.people if person.name == who), "member")


class RosterFile(InstructorPage):
    """The people of a course as CSV, for a spreadsheet."""

    async def get(self, slug: str) -> None:
        await self.record(slug)
        roster = await rosters.get(self.house, self.caller, slug)
        rows = [[person.name, person.role.value, person.source.value] for person in roster.people]
        self.set_header("Content-Type", "text/csv; charset=UTF-8")
        self.set_header("Content-Disposition", f'attachment; filename="{slug}-people.csv"')
        self.finish(as_csv(["user", "role", "from"], rows))


async def show_preview(page: InstructorPage, record: CourseRecord, form: Mapping[str, str]) -> None:
    """What a list would change. Nothing is changed by it."""
    found = await rosters.preview(page.house, page.caller, record.slug, form["roster"], role=form["role"])
    notes = []
    if found.encoding and not found.encoding.lower().startswith("utf"):
        notes.append(Sentence("The file was not written in UTF-8 but in {encoding}: look whether the names are right.",
                              encoding=found.encoding.upper()))  # fmt: skip
    preview = views.RosterPreview(
        added=tuple(found.added),
        kept=tuple(found.kept),
        removed=tuple(found.removed) if form["mode"] == "replace" else (),
        refused=tuple(
            views.RefusedLine(line=one.number, text=one.text, reason=one.reason) for one in found.refused
        ),
        notes=tuple(notes),
    )  # fmt: skip
    await page.show_course("roster_preview.html", record, "roster", preview=preview, form={**form, "etag": found.etag})


def _people(roster: rosters.Roster) -> tuple[views.Member, ...]:
    """Staff first, then as people order names."""
    found = (_member(person) for person in roster.people)
    return tuple(sorted(found, key=lambda one: (_ROLES.index(one.role), natural(one.user))))


def _member(person: rosters.Person) -> views.Member:
    return views.Member(
        user=person.name,
        role=person.role.value,
        source=person.source.value,
        added_by=person.added_by or "",
        added_at=person.added_at,
        known=person.known,
    )
