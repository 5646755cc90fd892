"""What the handlers share: the hub, the records, the courses in force, and who is who in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from labspawner.config import Settings
from labspawner.courses import Catalog, Course, Loaded, parse_course
from labspawner.courses import Problem as Flaw
from labspawner.courses.origin import Origins
from labspawner.courses.written import name_of
from labspawner.model import Capacity
from labspawner.sentences import Sentence
from labspawner.service.console import words
from labspawner.service.console.capacity import capacities_of
from labspawner.service.console.events import Events
from labspawner.service.console.hub import About, Hub
from labspawner.service.console.problems import Missing, Problem, Refused
from labspawner.service.console.rights import Caller, CourseGroups, Rules, Verb, may, refusal, usual_groups
from labspawner.service.console.sharing import Look, Shared
from labspawner.store import Store, Written

if TYPE_CHECKING:
    from labspawner.service.console.runner import Runner

T = TypeVar("T")
log = logging.getLogger(__name__)

_READING: ContextVar[dict[str, Written | None] | None] = ContextVar("labspawner-reading", default=None)
CAPACITY_S = 5.0
ABOUT_S = 60.0


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """Limits of pages that watch. look_again_s: how often it is asked whether somebody who watches still may."""

    heartbeat_s: float = 15.0
    look_again_s: float = 30.0
    most: int = 500
    most_of_one: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How old may be what is only shown; who may what is asked anew all the same. facts_s: what the hub said of servers and
    room, while it tells of its changes (else everybody asks). people_s: who is in a course; what was changed from here shows
    at once."""

    facts_s: float = 1.0
    people_s: float = 5.0


class House:
    """Everything of one process of this service.

    base_url: of the whole hub (`/`); prefix: of this service; both begin and end with a slash. public_host: how browsers know
    the hub (`host` or `host:port`), where a proxy in front of it sends another Host. catalog: file courses and written ones,
    as the hub reads them; the hub alone decides by them. runner: of class actions, set by `beside`.
    """

    runner: Runner

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
        watching: Watching | None = None,
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
        self.events = Events(hub)
        self.origins = Origins()
        self.streams: list[str] = []
        self.watching = watching or Watching()
        self.fresh = Freshness()
        self._public_host = public_host.lower()
        self._read_at = float("-inf")
        self._given_at = float("-inf")
        self._reading = asyncio.Lock()
        self._parsed: dict[str, tuple[str, Loaded | tuple[Flaw, ...]]] = {}
        self._about: tuple[float, About | None] = (float("-inf"), None)
        self._changing: dict[str, asyncio.Lock] = {}
        self._capacities: tuple[float, dict[str, Capacity]] = (float("-inf"), {})
        self._shared: dict[str, Shared[Any]] = {}
        self._enrolled = 0

    def hosts(self, asked: str) -> frozenset[str]:
        """The hosts whose pages may ask. asked: the request's own."""
        return frozenset({asked.lower(), self._public_host} - {""})

    @property
    def provider_names(self) -> frozenset[str]:
        """The providers that the hub has."""
        return frozenset(self.settings.providers)

    async def read_files(self) -> None:
        """Look at the course files again, where the last look is older than the hub's own interval."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now - self._read_at >= self.settings.courses_refresh_s:
                await asyncio.to_thread(self.catalog.refresh)
                await self._read_given(now)
                self._read_at = now

    async def _read_given(self, now: float) -> None:
        """Ask for the courses of the hub's configuration; they stay as they were known while it does not answer."""
        if now - self._given_at < ABOUT_S:
            return
        try:
            self.catalog.set_given(await self.hub.given_courses())
        except Problem as exc:
            log.warning("the hub does not say which courses its configuration has: %s", exc)
        else:
            self._given_at = now

    async def course(self, slug: str) -> Course | None:
        """The course of this name as the hub would read it, wherever it stands; None where there is none that can be read."""
        if (course := self.file_course(slug)) is not None:
            return course
        written = await self.written(slug)
        found = await self.parsed(written) if written is not None else ()
        return found.course if isinstance(found, Loaded) else None

    async def written(self, slug: str) -> Written | None:
        """The course of this name that is written here; read once for a page that is being made (see `reading`)."""
        known = _READING.get()
        if known is None:
            return await self.store.coursebook.get(slug)
        if slug not in known:
            known[slug] = await self.store.coursebook.get(slug)
        return known[slug]

    def reading(self) -> None:
        """From now on, this task makes one page and changes nothing: what it has read counts until the page is made."""
        _READING.set({})

    async def parsed(self, written: Written) -> Loaded | tuple[Flaw, ...]:
        """What the loader makes of a written course; each text is read once."""
        etag, found = self._parsed.get(written.slug, ("", ()))
        if etag != written.etag:
            found = await asyncio.to_thread(parse_course, written.text, name_of(written.slug))
            self._parsed[written.slug] = written.etag, found
        return found

    def shared(
        self, name: str, look: Callable[[str], Awaitable[T]], *, at_most_s: float, rests_on: Callable[[], Hashable]
    ) -> Shared[T]:
        """The answers of this name, which all handlers share; made at the first call."""
        if name not in self._shared:
            self._shared[name] = Shared(look, at_most_s=at_most_s, rests_on=rests_on)
        return self._shared[name]

    async def facts(self, what: str, course: str = "") -> Look[Mapping[str, Any]]:
        """What the hub's inner API answers to `what` (see `Hub.ask`), for all who look at it within a second; newer where
        the hub has told of a change meanwhile, or has done something for us. Whoever asks has shown that they may know."""
        if what not in self._shared:

            async def ask(slug: str) -> Mapping[str, Any]:
                found: Mapping[str, Any] = await self.hub.ask(what, **({"course": slug} if slug else {}))
                return found

            self._shared[what] = Shared(
                ask,
                at_most_s=self.fresh.facts_s,
                rests_on=lambda: (self.events.of_hub, self.hub.done),
                watched=lambda: self.events.listens,
                same=_say_the_same,
            )
        return await self._shared[what].get(course)

    async def capacities(self) -> dict[str, Capacity]:
        """What each provider has and what is free of it, at most some seconds old; empty while the hub cannot tell."""
        now = asyncio.get_running_loop().time()
        at, found = self._capacities
        if now - at > CAPACITY_S:
            try:
                found = capacities_of(await self.hub.ask("capacity"))
            except Problem as exc:
                log.warning("the hub does not say what is free: %s", exc)
            self._capacities = now, found
        return found

    async def about(self) -> About:
        """What the hub is; asked once in a while, since only a restart changes it."""
        now = asyncio.get_running_loop().time()
        at, found = self._about
        if found is None or now - at > ABOUT_S:
            found = await self.hub.about()
            self._about = now, found
        return found

    @property
    def last_about(self) -> About:
        """What the hub said of itself last, however long ago; nothing before it has answered."""
        return self._about[1] or About()

    def forget_about(self) -> None:
        """Ask the hub again what it is."""
        self._about = (float("-inf"), None)

    @property
    def read_at(self) -> float:
        """When the course files were looked at, by the loop's clock: what is shown of one is not older than that."""
        return self._read_at

    def enrolled(self) -> None:
        """A roster was changed from here: what is known of who is in which course counts no more."""
        self._enrolled += 1

    @property
    def of_people(self) -> Hashable:
        """Another value whenever rosters or groups were changed from here."""
        return self._enrolled, self.hub.regrouped

    def changing(self, slug: str) -> asyncio.Lock:
        """Held by whoever changes a course's people: of two at once, the second sees what the first did."""
        return self._changing.setdefault(slug, asyncio.Lock())

    async def changed(self) -> None:
        """Courses have changed: have the hub read them now. A hub that is away reads them when it is back."""
        try:
            await self.hub.tell("courses/refresh", {})
        except Problem as exc:
            log.warning("the hub was not told that courses changed: %s", exc)

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
        """Make the tables, where the hub has not yet, and read the courses."""
        await self.store.migrate()
        await asyncio.to_thread(self.catalog.refresh)

    async def require_course(self, caller: Caller, verb: Verb, slug: str) -> None:
        """The same for a course that is there, wherever it is written. Raises Missing for one that is not, to anybody."""
        await self.read_files()
        self.require(caller, verb, slug)
        if self.file_course(slug) is None and await self.written(slug) is None:
            raise Missing(Sentence(words.NO_COURSE.template, course=slug))

    async def close(self) -> None:
        """Give everything back."""
        for shared in self._shared.values():
            await shared.close()
        await self.hub.close()
        await self.store.close()


def _say_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers of the hub differ in nothing but when they were given."""
    stamps = ("taken_at", "version")
    return {**one, **dict.fromkeys(stamps)} == {**other, **dict.fromkeys(stamps)}
