"""What a course was before: its revisions, what changed, and the way back."""

from __future__ import annotations

from labspawner.courses.diffing import compare
from labspawner.service.console import views
from labspawner.service.console.doing import courses
from labspawner.service.console.doing.records import WRITTEN
from labspawner.service.console.pages.kept import InstructorPage
from labspawner.service.console.pages.shown import change_lines, diff_lines
from labspawner.service.console.pages.writing import show_conflict
from labspawner.service.console.problems import Stale
from labspawner.service.console.rights import Verb


class HistoryPage(InstructorPage):
    """Every revision of a course; one of them compared with another."""

    async def get(self, slug: str) -> None:
        record = await self.record(slug)
        before = self.number("before", least=2, most=10**9, otherwise=0) or None
        kept = record.origin == WRITTEN
        found = await courses.history(self.house, self.caller, slug, before=before) if kept else []
        rows = [
            views.RevisionRow(
                revision=one.revision,
                by=one.by,
                at=one.at,
                comment=one.comment,
                current=one.revision == record.revision,
            )
            for one in found
        ]
        newest = rows[0].revision if rows else 0
        wanted = self.number("revision", least=1, most=max(1, newest), otherwise=newest)
        older = rows[-1].revision if rows and rows[-1].revision > 1 else None
        shown = next((row for row in rows if row.revision == wanted), rows[0] if rows else None)
        values: dict[str, object] = {
            "revisions": rows,
            "shown": shown,
            "against": 0,
            "diff": [],
            "summary": [],
            "before": before,
            "older": older,
        }
        if shown is not None:
            against = self.number("against", least=0, most=record.revision, otherwise=shown.revision - 1)
            old, new = sorted((against, shown.revision))
            if old:
                difference = await courses.diff(self.house, self.caller, slug, old, new)
            else:
                difference = compare("", (await courses.revision(self.house, self.caller, slug, new)).text)
            values |= {
                "against": against,
                "diff": diff_lines(difference.lines),
                "summary": change_lines(difference.changes) if old else [],
            }
        await self.show_course("history.html", record, "history", **values)


class RollbackPage(InstructorPage):
    """An older text is put in force again, as a new revision."""

    async def post(self, slug: str) -> None:
        await self.record(slug, Verb.WRITE)
        number = self.number("revision", least=1, most=10**9, otherwise=0)
        try:
            await courses.rollback(self.house, self.caller, slug, number, if_match=self.line("if_match"))
        except Stale as stale:
            old = await courses.revision(self.house, self.caller, slug, number)
            await show_conflict(self, slug, old.text, "", stale)
        else:
            self.to(slug, "history", done="rolled-back")
