"""Who is in a course."""

from __future__ import annotations

from labspawner.service.console.api import models
from labspawner.service.console.api.base import ApiHandler
from labspawner.service.console.api.route import Operation, Route
from labspawner.service.console.doing import rosters
from labspawner.service.console.doing.rosters import Person, Roster
from labspawner.service.console.rights import READ, ROSTER


class PeopleHandler(ApiHandler):
    """What the handlers below share."""

    def give_roster(self, roster: Roster) -> None:
        told = models.Roster(
            people=[_person(person) for person in roster.people],
            managed=roster.managed,
            groups={role.value: group for role, group in roster.groups.items()},
            etag=roster.etag,
        )
        self.give(told, etag=roster.etag)


class RosterHandler(PeopleHandler):
    """The people of a course."""

    async def get(self, slug: str) -> None:
        self.give_roster(await rosters.get(self.house, self.caller, slug))

    async def put(self, slug: str) -> None:
        based_on, sent = self.if_match, self.body(models.RosterText)
        self.give_roster(await rosters.replace(self.house, self.caller, slug, sent.text, role=sent.role, etag=based_on))


class PreviewHandler(ApiHandler):
    """What a new roster would change."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.RosterText)
        found = await rosters.preview(self.house, self.caller, slug, sent.text, role=sent.role)
        refused = [
            models.RefusedLine(number=line.number, text=line.text, reason=self.say(line.reason))
            for line in found.refused
        ]
        told = models.RosterPreview(
            added=list(found.added),
            kept=list(found.kept),
            removed=list(found.removed),
            refused=refused,
            encoding=found.encoding,
            etag=found.etag,
        )
        self.give(told)


class AddHandler(PeopleHandler):
    """Puts people into a course."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.People)
        self.give_roster(await rosters.add(self.house, self.caller, slug, sent.names, role=sent.role))


class RemoveHandler(PeopleHandler):
    """Takes people out of a course."""

    async def post(self, slug: str) -> None:
        sent = self.body(models.People)
        self.give_roster(await rosters.remove(self.house, self.caller, slug, sent.names, role=sent.role))


def _person(person: Person) -> models.Person:
    return models.Person(
        name=person.name,
        role=person.role.value,
        source=person.source.value,
        known=person.known,
        added_by=person.added_by,
        added_at=person.added_at,
    )


ROUTES = (
    Route(
        path="courses/{slug}/roster",
        handler=RosterHandler,
        operations={
            "get": Operation(
                name="readRoster", about="Everybody in the course.", scope=READ, gives=models.Roster, etag=True
            ),
            "put": Operation(
                name="replaceRoster",
                about="Make those of one role exactly the people of a list or table.",
                scope=ROSTER,
                takes=models.RosterText,
                gives=models.Roster,
                guarded=True,
                etag=True,
                refuses=(409, 422),
            ),
        },
    ),
    Route(
        path="courses/{slug}/roster/preview",
        handler=PreviewHandler,
        operations={
            "post": Operation(
                name="previewRoster",
                about="What replacing the people of one role would change. Changes nothing.",
                scope=ROSTER,
                takes=models.RosterText,
                gives=models.RosterPreview,
                refuses=(422,),
            )
        },
    ),
    Route(
        path="courses/{slug}/roster/add",
        handler=AddHandler,
        operations={
            "post": Operation(
                name="addPeople",
                about="Put people into the course; who has another role there gets this one.",
                scope=ROSTER,
                takes=models.People,
                gives=models.Roster,
                etag=True,
                refuses=(409, 422),
            )
        },
    ),
    Route(
        path="courses/{slug}/roster/remove",
        handler=RemoveHandler,
        operations={
            "post": Operation(
                name="removePeople",
                about="Take people out of the course; servers that run go on.",
                scope=ROSTER,
                takes=models.People,
                gives=models.Roster,
                etag=True,
                refuses=(409, 422),
            )
        },
    ),
)
