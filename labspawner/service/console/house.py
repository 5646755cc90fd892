"""What the handlers share: the hub, the records, the courses in force, and who is who in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone

from labspawner.config import Settings
from labspawner.courses import Catalog, Course
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.hub import Hub
from labspawner.service.console.problems import Missing, Refused
from labspawner.service.console.rights import Caller, CourseGroups, Rules, Verb, may, refusal, usual_groups
from labspawner.store import Store


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


class House:
    """Everything of one process of this service.

    base_url: of the whole hub (`/`); prefix: of this service; both begin and end with a slash. public_host: how browsers know
    the hub (`host` or `host:port`), where a proxy in front of it sends another Host. catalog: file courses and written ones,
    as the hub reads them; the hub alone decides by them.
    """

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        settings: Settings,
        catalog: Catalog,
        base_url: str = "/",
        prefix: str = "/services/labspawner/",
        rules: Rules | None = None,
        creates_users: bool = False,
        public_host: str = "",
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.store = store
        self.hub = hub
        self.settings = settings
        self.catalog = catalog
        self.base_url = base_url
        self.prefix = prefix
        self.rules = rules or Rules()
        self.creates_users = creates_users
        self.now = now
        self._public_host = public_host.lower()

    def hosts(self, asked: str) -> frozenset[str]:
        """The hosts whose pages may ask. asked: the request's own."""
        return frozenset({asked.lower(), self._public_host} - {""})

    def file_course(self, slug: str) -> Course | None:
        """The course of this name that stands in a file; it wins over a written one."""
        return next((course for course in self.catalog.courses() if course.course == slug), None)

    def groups(self, slug: str) -> CourseGroups:
        """Whose a course is. One that is not there has the usual groups, and nobody in them."""
        course = self.file_course(slug)
        usual = usual_groups(slug)
        if course is None:
            return usual
        return CourseGroups(
            slug=slug, members=course.access.groups, staff=course.access.staff, assistants=usual.assistants
        )

    def require(self, caller: Caller, verb: Verb, course: str = "") -> None:
        """Go on only if `caller` may. course: left out only for CREATE and ADMIN. Raises Missing for somebody who may not
        even know of the course, Refused for others."""
        if not course:
            if (why := refusal(caller, verb, rules=self.rules)) is not None:
                raise Refused(why)
            return
        groups = self.groups(course)
        why = refusal(caller, verb, groups, rules=self.rules)
        if why is None:
            return
        if verb is not Verb.READ and may(caller, Verb.READ, groups):
            raise Refused(why)
        raise Missing(Sentence(words.NO_COURSE.template, course=course))

    async def open(self) -> None:
        """Make the tables, where the hub has not yet, and begin what runs beside requests."""
        await self.store.migrate()
        await asyncio.to_thread(self.catalog.refresh)

    async def leave(self) -> None:
        """End what runs beside requests; nothing is told to browsers any more."""

    async def close(self) -> None:
        """Give everything back."""
        await self.hub.close()
        await self.store.close()
