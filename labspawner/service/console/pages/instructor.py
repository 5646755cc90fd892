"""The addresses of the instructor's pages: (pattern below the prefix, handler)."""

from __future__ import annotations

from tornado.web import RequestHandler

from labspawner.service.console.pages import classroom, handing, mine, past, people, shelf, writing

_SLUG = r"([a-z0-9-]{1,64})"
_COURSE = rf"courses/{_SLUG}"

ROUTES: list[tuple[str, type[RequestHandler]]] = [
    (r"", mine.MinePage),
    (r"courses/new", mine.NewPage),
    (r"courses/import", mine.ImportPage),
    (rf"{_COURSE}/", classroom.WallPage),
    (rf"{_COURSE}/live", classroom.WallAnswer),
    (rf"{_COURSE}/confirm", classroom.ConfirmPage),
    (rf"{_COURSE}/act", classroom.ActPage),
    (rf"{_COURSE}/visit", classroom.VisitPage),
    (rf"{_COURSE}/jobs/([A-Za-z0-9-]+)", classroom.JobPage),
    (rf"{_COURSE}/jobs/([A-Za-z0-9-]+)/live", classroom.JobAnswer),
    (rf"{_COURSE}/jobs/([A-Za-z0-9-]+)/cancel", classroom.CancelPage),
    (rf"{_COURSE}/profiles/", shelf.ProfilesPage),
    (rf"{_COURSE}/profiles/{_SLUG}/edit", writing.EditPage),
    (rf"{_COURSE}/profiles/{_SLUG}/change", shelf.ProfileChangePage),
    (rf"{_COURSE}/yaml", writing.YamlPage),
    (rf"{_COURSE}/lint", writing.LintAnswer),
    (rf"{_COURSE}/about", shelf.AboutPage),
    (rf"{_COURSE}/state", shelf.StatePage),
    (rf"{_COURSE}/archive", shelf.ArchivePage),
    (rf"{_COURSE}/export", shelf.ExportPage),
    (rf"{_COURSE}/duplicate", mine.DuplicatePage),
    (rf"{_COURSE}/history", past.HistoryPage),
    (rf"{_COURSE}/rollback", past.RollbackPage),
    (rf"{_COURSE}/roster", people.RosterPage),
    (rf"{_COURSE}/roster\.csv", people.RosterFile),
    (rf"{_COURSE}/links", handing.LinksPage),
    (rf"{_COURSE}/usage", handing.UsagePage),
    (rf"{_COURSE}/usage\.csv", handing.UsageFile),
]
