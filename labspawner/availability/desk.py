"""The one place where it is counted what is free: once for all who look, and again when something changed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from labspawner.availability.answer import Answer, Elsewhere
from labspawner.availability.judging import Standing, judge
from labspawner.availability.offers import Offer, Question, an_offer, last_choice, offered, questions_of, without_cards
from labspawner.availability.spots import ends_of
from labspawner.availability.words import Blocked
from labspawner.courses import Catalog, Course, Profile, Snapshot, helps, may_see
from labspawner.lifecycle.admission import Room
from labspawner.lifecycle.bells import Bell
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.holds import Holds
from labspawner.lifecycle.orders import Variant
from labspawner.model import CourseState, Lease, LeaseId, Resources
from labspawner.placement import End

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""How old what is known may be for one who asks without watching."""
TICK_S = 2.0
"""While somebody watches, what providers and clocks change is looked at so often; what happens in this hub is heard."""
GAP_S = 0.6
"""Changes that come faster are told together."""
EXTRA_S = 30.0
MOST_EXTRA = 200
"""Questions that follow from somebody's own options are asked again for so long, and no more than so many."""
ENDS_S = 10.0
"""How long the ends of servers, which nobody knows exactly, are not worked out anew."""


class Rooms(Protocol):
    """What is asked of the engine."""

    book: LeaseBook
    holds: Holds

    @property
    def providers(self) -> Mapping[str, object]: ...
    @property
    def room_changed(self) -> Bell: ...
    async def rooms(
        self, provider: str, needs: Collection[Resources], ends: Sequence[End] = ()
    ) -> Mapping[Resources, Room] | None: ...
    def typical_start_s(self, profile: str, provider: str | None = None) -> float | None: ...
    def servers_of(self, user: str, profile: str) -> set[str]: ...
    def others(self, user: str, server_name: str) -> tuple[Variant, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who looks. last: the user options of their last start, of any shape. server: the one that they choose for."""

    user: str
    groups: frozenset[str]
    admin: bool = False
    last: object = None
    server: str = ""


@dataclass(slots=True, kw_only=True)
class Picture:
    """What is free at one moment. version: opaque; another one means that something of it changed."""

    version: str
    taken_at: datetime
    snapshot: Snapshot
    rooms: dict[Question, Room | None]
    opened: frozenset[str] = frozenset()
    drafts: frozenset[str] = frozenset()
    holds: Mapping[str, object] = field(default_factory=dict)
    said: dict[object, bytes] = field(default_factory=dict)
    """What was made of this picture, so that it is made once for all who see the same."""

    def like(self, other: Picture) -> bool:
        """Whether nothing that anybody sees is different."""
        return (
            self.snapshot.loaded == other.snapshot.loaded
            and self.snapshot.problems == other.snapshot.problems
            and self.rooms == other.rooms
            and self.opened == other.opened
            and self.drafts == other.drafts
            and self.holds == other.holds
        )


class Availability:
    """What is free, for whom, and when next. One object per hub; everything happens on its event loop.

    courses: the catalog, looked at again where that is due. ends: when servers end, as far as that is known.
    """

    def __init__(
        self,
        engine: Rooms,
        courses: Callable[[], Awaitable[Catalog]],
        clock: Callable[[], datetime],
        *,
        ends: Callable[[Sequence[Lease], datetime], Mapping[LeaseId, datetime]] = lambda _leases, _now: {},
        fresh_s: float = FRESH_S,
        tick_s: float = TICK_S,
        gap_s: float = GAP_S,
    ) -> None:
        self._engine = engine
        self._courses = courses
        self._clock = clock
        self._ends = ends
        self._fresh_s = fresh_s
        self._tick_s = tick_s
        self._gap_s = gap_s
        self._born = secrets.token_hex(4)
        self._number = 0
        self._courses_number = 0
        self._picture: Picture | None = None
        self._looked_at = float("-inf")
        self._rang = -1
        self._looking: asyncio.Task[Picture] | None = None
        self._looking_rang = -1
        self._extra: dict[Question, float] = {}
        self._known_ends: tuple[float, dict[str, list[End]]] = (float("-inf"), {})
        self._watchers = 0
        self._watching: asyncio.Task[None] | None = None
        self.changed = Bell()

    def versions(self, *, state: int) -> dict[str, str]:
        """What to read again when it is another one; state: how often servers changed. Opaque, of this process alone."""
        return {
            "state": f"{self._born}.{state}",
            "availability": f"{self._born}.{self._number}",
            "courses": f"{self._born}.{self._courses_number}",
        }

    async def look(self) -> Picture:
        """What is free now: as it was at most a second ago, unless something happened in this hub since."""
        now = asyncio.get_running_loop().time()
        rang = self._engine.room_changed.rang
        picture = self._picture
        if picture is not None and now - self._looked_at < self._fresh_s and self._rang == rang:
            return picture
        if self._looking is not None and not self._looking.done() and self._looking_rang != rang:
            await asyncio.wait({self._looking})  # it began before what has been heard of since
        if self._looking is None or self._looking.done():
            self._looking_rang = self._engine.room_changed.rang
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._looking)

    async def of(self, viewer: Viewer) -> dict[str, Answer]:
        """What one viewer is told of each profile that they may see."""
        return await self.answers(await self.look(), viewer)

    async def answers(self, picture: Picture, viewer: Viewer) -> dict[str, Answer]:
        """The same, of a picture that is there already."""
        now = self._clock()
        offers = self.offers(picture.snapshot, viewer, now)
        rooms = await self.rooms_for(picture, questions_of(offers))
        return {offer.key: self.judge(offer, rooms, viewer, now) for offer in offers}

    async def why(self, viewer: Viewer, key: str) -> Answer:
        """What one viewer is told of one profile; where they may not see it, why not. For staff who ask about somebody:
        the viewer is not told what there is beyond the own courses."""
        picture = await self.look()
        answer = (await self.answers(picture, viewer)).get(key)
        if answer is not None:
            return answer
        found = picture.snapshot.profile(key)
        member = found is not None and may_see(found[0], viewer.groups, viewer.admin)
        return Answer(
            profile=key,
            free_now=None,
            total=None,
            free_for_you=0,
            blocked_by=(Blocked.DRAFT if member else Blocked.NOT_YOURS,),
            taken_at=picture.taken_at,
        )

    def hold_of(self, user: str) -> str | None:
        """The id of what is held for a user now."""
        hold = self._engine.holds.of(user)
        return hold.id if hold is not None else None

    def offers(self, snapshot: Snapshot, viewer: Viewer, now: datetime) -> list[Offer]:
        """What a viewer may see, with their last answers."""
        return [offer for _, offers in self.offers_by_course(snapshot, viewer, now) for offer in offers]

    def offers_by_course(self, snapshot: Snapshot, viewer: Viewer, now: datetime) -> list[tuple[Course, list[Offer]]]:
        """The same, by course."""
        picked, answers = last_choice(viewer.last)

        def answers_to(course: Course, profile: Profile) -> Mapping[str, object]:
            return answers if picked in {course.key(profile), profile.slug} else {}

        return offered(
            snapshot.visible_to(viewer.groups, viewer.admin),
            self._engine.providers,
            cardless=without_cards(self._engine.providers),
            staff_of=lambda course: helps(course, viewer.groups, viewer.admin),
            answers_to=answers_to,
            now=now,
        )

    def judge(self, offer: Offer, rooms: Mapping[Question, Room | None], viewer: Viewer, now: datetime) -> Answer:
        """What is said of one offer to its viewer."""
        limited = offer.profile.limits.per_user is not None
        servers = {offer.key: frozenset(self._engine.servers_of(viewer.user, offer.key))} if limited else {}
        return judge(
            offer,
            rooms,
            now=now,
            standing=Standing(hold=self._engine.holds.of(viewer.user), servers=servers, server=viewer.server),
            typical_s=self._engine.typical_start_s(offer.key),
        )

    async def rooms_for(self, picture: Picture, questions: Sequence[Question]) -> Mapping[Question, Room | None]:
        """The rooms of a picture; with answers to questions that were not asked for it, because they follow from
        somebody's own options."""
        missing = [question for question in questions if question not in picture.rooms]
        now = asyncio.get_running_loop().time()
        self._extra.update((question, now) for question in questions if question in self._extra)
        if missing:
            self._extra.update((question, now) for question in missing[: max(0, MOST_EXTRA - len(self._extra))])
            picture.rooms.update(await self._ask(missing))
        return picture.rooms

    def _extras(self) -> list[Question]:
        """What was asked for beside the usual options, by somebody who looked not long ago."""
        now = asyncio.get_running_loop().time()
        self._extra = {question: at for question, at in self._extra.items() if now - at < EXTRA_S}
        return list(self._extra)

    async def instead(self, picture: Picture, user: str, server: str) -> tuple[Elsewhere, ...]:
        """What a start that stands in line could be at once, where its profile lets students pick."""
        others = self._engine.others(user, server)
        rooms = await self.rooms_for(picture, [(variant.provider, variant.resources) for variant in others])
        return tuple(
            Elsewhere(
                variant=(variant.index or 0) + 1,
                title=_title(variant),
                provider=variant.provider,
                resources=variant.resources,
                free=room.free,
            )
            for variant in others
            if (room := rooms.get((variant.provider, variant.resources))) is not None and room.open
        )

    async def changes(self) -> AsyncIterator[Picture]:
        """What is free now, and again after each change, for as long as the caller goes on. Close it in the end."""
        self._watchers += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            heard = self.changed.rang
            told = await self.look()
            yield told
            while True:
                heard = await self.changed.since(heard)
                if self._picture is not None and self._picture is not told:
                    told = self._picture
                    yield told
        finally:
            self._watchers -= 1
            if not self._watchers and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    async def close(self) -> None:
        """End the tasks."""
        for task in (self._watching, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})

    async def _watch(self) -> None:
        """Look again after each change in this hub, and every few seconds for all that it cannot hear of."""
        bell = self._engine.room_changed
        while True:
            heard = bell.rang
            try:
                await self.look()
            except Exception:
                log.exception("cannot tell what is free; trying again")
            await asyncio.sleep(self._gap_s)
            ringing = asyncio.get_running_loop().create_task(bell.since(heard))
            try:
                await asyncio.wait({ringing}, timeout=max(0.0, self._tick_s - self._gap_s))
            finally:
                ringing.cancel()

    async def _look(self) -> Picture:
        began = asyncio.get_running_loop().time()
        rang = self._engine.room_changed.rang
        snapshot = (await self._courses()).snapshot
        now = self._clock()
        offers = [self._anybodys(course, profile, now) for course in snapshot.courses() for profile in course.profiles]
        picture = Picture(
            version=f"{self._born}.{self._number}",
            taken_at=now,
            snapshot=snapshot,
            rooms=await self._ask(list(dict.fromkeys([*questions_of(offers), *self._extras()]))),
            opened=frozenset(offer.key for offer in offers if offer.opens is None),
            drafts=frozenset(
                one.course for one in snapshot.courses() if snapshot.state(one.course) is CourseState.DRAFT
            ),
            holds={hold.user: hold.id for hold in self._engine.holds.all()},
        )
        known = self._picture
        if known is not None and picture.like(known):
            known.taken_at = now
            self._looked_at, self._rang = began, rang
            return known
        self._number += 1
        if known is None or (known.snapshot.loaded, known.drafts) != (picture.snapshot.loaded, picture.drafts):
            self._courses_number += 1
        picture.version = f"{self._born}.{self._number}"
        self._picture, self._looked_at, self._rang = picture, began, rang
        self.changed.ring()
        return picture

    def _anybodys(self, course: Course, profile: Profile, now: datetime) -> Offer:
        """A profile with its usual options, asked for whether it is open or not."""
        providers = self._engine.providers
        return an_offer(
            course,
            profile,
            staff=True,
            now=now,
            answers={},
            providers=providers,
            cardless=without_cards(providers),
        )

    async def _ask(self, questions: Sequence[Question]) -> dict[Question, Room | None]:
        """What each provider answers: all are asked at once, each for everything."""
        needs: dict[str, list[Resources]] = {}
        for provider, resources in questions:
            needs.setdefault(provider, []).append(resources)
        ends = self._ends_now()
        # Python 3.10 has no TaskGroup; `_rooms_of` raises nothing, so none is left behind.
        found = await asyncio.gather(
            *(self._rooms_of(name, asked, ends.get(name, ())) for name, asked in needs.items())
        )
        answers = dict(zip(needs, found, strict=True))
        return {(name, need): answers[name].get(need) for name, need in questions}

    async def _rooms_of(
        self, provider: str, needs: Sequence[Resources], ends: Sequence[End]
    ) -> Mapping[Resources, Room]:
        """One provider's defect must not take the page of every course away."""
        try:
            return await self._engine.rooms(provider, needs, ends) or {}
        except Exception:
            log.exception("cannot tell what is free provider=%s; the page says so", provider)
            return {}

    def _ends_now(self) -> Mapping[str, Sequence[End]]:
        """The known ends of servers, worked out every few seconds."""
        now = asyncio.get_running_loop().time()
        at, found = self._known_ends
        known = self._picture.rooms.values() if self._picture is not None else ()
        if not any(room is not None and room.free == 0 for room in known):
            return {}  # nobody will ask when the next place is free
        if now - at >= ENDS_S:
            leases = self._engine.book.all()
            found = ends_of(leases, self._ends(leases, self._clock()))
            self._known_ends = (now, found)
        return found


def _title(variant: Variant) -> dict[str, str]:
    """What the course calls a variant, by language."""
    pinned = variant.pinned.get("variant")
    title = pinned.get("title") if isinstance(pinned, dict) else None
    return {str(key): str(text) for key, text in title.items()} if isinstance(title, dict) else {}
