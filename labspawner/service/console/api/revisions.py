"""What a course was: its revisions, what changed between them, and the way back."""

from __future__ import annotations

from labspawner.courses.diffing import Difference
from labspawner.service.console.api import models
from labspawner.service.console.api.courses import CourseHandler
from labspawner.service.console.api.route import Operation, Query, Route
from labspawner.service.console.doing import courses
from labspawner.service.console.rights import READ, WRITE


class RevisionsHandler(CourseHandler):
    """What a course was."""

    async def get(self, slug: str) -> None:
        before = self.number("before", 0, most=999_999_999)
        found = await courses.history(self.house, self.caller, slug, before=before or None)
        told = [models.Revision(revision=one.revision, by=one.by, at=one.at, comment=one.comment) for one in found]
        self.give(models.Revisions(revisions=told))


class RevisionHandler(CourseHandler):
    """One text that a course had."""

    async def get(self, slug: str, number: str) -> None:
        one = await courses.revision(self.house, self.caller, slug, int(number))
        self.give(models.Revision(revision=one.revision, by=one.by, at=one.at, comment=one.comment, text=one.text))


class DiffHandler(CourseHandler):
    """What changed between two revisions."""

    async def get(self, slug: str) -> None:
        old = self.number("old", 1, most=999_999_999)
        new = self.number("new", 1, most=999_999_999)
        self.give(_difference(await courses.diff(self.house, self.caller, slug, old, new)))


class RollbackHandler(CourseHandler):
    """Gives a course a text that it had."""

    async def post(self, slug: str) -> None:
        based_on, sent = self.if_match, self.body(models.Rollback)
        self.give_course(await courses.rollback(self.house, self.caller, slug, sent.revision, if_match=based_on))


def _difference(found: Difference) -> models.Difference:
    return models.Difference(
        changes=[
            models.Change(where=list(change.where), before=change.before, after=change.after)
            for change in found.changes
        ],
        lines=[models.DiffLine(kind=line.kind, text=line.text, old=line.old, new=line.new) for line in found.lines],
    )


_OLD_NEW = tuple(
    Query(name=name, about=f"The {word} revision.", schema={"type": "integer", "minimum": 1, "maximum": 999_999_999})
    for name, word in (("old", "older"), ("new", "newer"))
)

ROUTES = (
    Route(
        path="courses/{slug}/revisions",
        handler=RevisionsHandler,
        operations={
            "get": Operation(
                name="listRevisions",
                about="What the course was, newest first, 50 at a time.",
                scope=READ,
                gives=models.Revisions,
                query=(
                    Query(
                        name="before",
                        about="Only revisions with a smaller number.",
                        schema={"type": "integer", "minimum": 1, "maximum": 999_999_999},
                    ),
                ),
            )
        },
    ),
    Route(
        path="courses/{slug}/revisions/{number}",
        handler=RevisionHandler,
        operations={
            "get": Operation(
                name="readRevision", about="One text that the course had.", scope=READ, gives=models.Revision
            )
        },
    ),
    Route(
        path="courses/{slug}/diff",
        handler=DiffHandler,
        operations={
            "get": Operation(
                name="compareRevisions",
                about="What changed from one revision to another.",
                scope=READ,
                gives=models.Difference,
                query=_OLD_NEW,
            )
        },
    ),
    Route(
        path="courses/{slug}/rollback",
        handler=RollbackHandler,
        operations={
            "post": Operation(
                name="rollBackCourse",
                about="Give the course a text that it had, as a new revision.",
                scope=WRITE,
                takes=models.Rollback,
                gives=models.Course,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            )
        },
    ),
)
