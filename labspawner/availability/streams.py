"""The pages that watch: one loop tells all of them what changed, and nobody's slowness is anybody else's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from labspawner.availability.desk import GAP_S, TICK_S, Availability, Picture, Viewer
from labspawner.availability.offers import last_choice
from labspawner.availability.wording import card_state, start_on
from labspawner.lifecycle.bells import Bell
from labspawner.lifecycle.book import LeaseBook
from labspawner.model import Json, Phase
from labspawner.pages import i18n

log = logging.getLogger(__name__)

PER_USER = 4
"""Pages of one user that may watch at the same time; more of them look again by themselves every few seconds."""
IN_ALL = 3_000
HEARTBEAT_S = 15.0
UNREAD_S = 20.0
"""A page that has not taken what was sent to it for so long is hung up on."""
LONGEST_S = 600.0
"""After that the page has to connect anew, and to show its cookie."""
PEOPLE_S = 5.0
"""How long it may take until somebody who joined or left a course sees that here."""
_STATES = {
    Phase.QUEUED: "starting",
    Phase.LAUNCHING: "starting",
    Phase.READY: "running",
    Phase.STOPPING: "stopping",
    Phase.PARKED: "parked",
}

People = Mapping[str, tuple[frozenset[str], bool]]
"""The groups, and whether they are an administrator, of users by name."""


class Sink(Protocol):
    """Where a stream goes."""

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Done when it was taken; fails where nobody is there any more."""
        ...

    def hang_up(self) -> None:
        """Let go of the connection, whatever it has not taken."""
        ...


@dataclass(eq=False, slots=True)
class Stream:
    """One page that watches. told: what it knows already. sending: what it has not taken yet, and since when."""

    viewer: Viewer
    language: str
    sink: Sink
    over: asyncio.Future[None]
    until: float
    sent_at: float
    told: dict[str, bytes] = field(default_factory=dict)
    sending: asyncio.Future[None] | None = None
    sending_since: float = 0.0


class Streams:
    """All pages of this hub that watch. people: asked for all who watch at once; who is gone is left out."""

    def __init__(
        self,
        desk: Availability,
        book: LeaseBook,
        *,
        room_changed: Bell,
        people: Callable[[Collection[str]], People],
        clock: Callable[[], datetime],
        per_user: int = PER_USER,
        heartbeat_s: float = HEARTBEAT_S,
        unread_s: float = UNREAD_S,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._desk = desk
        self._book = book
        self._room_changed = room_changed
        self._people = people
        self._clock = clock
        self._per_user = per_user
        self._heartbeat_s = heartbeat_s
        self._unread_s = unread_s
        self._longest_s = longest_s
        self._streams: dict[str, list[Stream]] = {}
        self._task: asyncio.Task[None] | None = None
        self._people_at = float("-inf")

    def count(self, user: str | None = None) -> int:
        """How many pages watch."""
        if user is not None:
            return len(self._streams.get(user, ()))
        return sum(len(streams) for streams in self._streams.values())

    def add(self, viewer: Viewer, language: str, sink: Sink) -> Stream | None:
        """Tell this page of each change; None where its user has too many already. `tell` says what there is now."""
        if self.count(viewer.user) >= self._per_user or self.count() >= IN_ALL:
            return None
        loop = asyncio.get_running_loop()
        now = loop.time()
        stream = Stream(viewer, language, sink, loop.create_future(), now + self._longest_s, now)
        self._streams.setdefault(viewer.user, []).append(stream)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return stream

    def drop(self, stream: Stream) -> None:
        """This page watches no more. Safe to repeat."""
        mine = self._streams.get(stream.viewer.user, [])
        if stream in mine:
            mine.remove(stream)
        if not mine:
            self._streams.pop(stream.viewer.user, None)
        if not stream.over.done():
            stream.over.set_result(None)

    async def close(self) -> None:
        """Let go of all of them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for stream in self._all():
            self.drop(stream)

    async def facts(self, picture: Picture, viewer: Viewer, language: str) -> bytes:
        """What a viewer is told of the profiles, as JSON; made once for all who are told the same."""
        key = self._key(viewer, language)
        found = picture.said.get(key)
        if found is None:
            answers = await self._desk.answers(picture, viewer)
            now = self._clock()
            profiles: dict[str, Json] = {
                name: card_state(answer, now).to_json(language) for name, answer in answers.items()
            }
            found = picture.said[key] = json.dumps({"v": 1, "profiles": profiles}, ensure_ascii=False).encode()
        return found

    async def servers(self, picture: Picture, user: str, language: str) -> bytes:
        """What a user's servers are doing, as JSON; what is parked beside another one is left out.

        instead: of one that waits in line, what it could be at once.
        """
        states: dict[str, dict[str, Json]] = {}
        for lease in self._book.of_user(user):
            name = lease.server_name
            if lease.phase is Phase.PARKED and name in states:
                continue
            states[name] = {"name": name, "state": _STATES.get(lease.phase, "off")}
            if lease.phase is Phase.QUEUED:
                others = await self._desk.instead(picture, user, name)
                states[name]["instead"] = [
                    {"variant": one.variant, "text": i18n.translate(start_on(one), language)} for one in others
                ]
        found: Json = [states[name] for name in sorted(states)]
        return json.dumps({"v": 1, "servers": found}, ensure_ascii=False).encode()

    async def tell(self, stream: Stream, *, knows: str = "", picture: Picture | None = None) -> None:
        """Send a page what it does not know yet. knows: the id of the last event that it heard before it connected."""
        picture = picture or await self._desk.look()
        viewer = stream.viewer
        parts = []
        for event, body in (
            ("servers", await self.servers(picture, viewer.user, stream.language)),
            ("availability", await self.facts(picture, viewer, stream.language)),
        ):
            if stream.told.get(event) == body:
                continue
            stream.told[event] = body
            id_ = hashlib.sha256(body).hexdigest()[:16]
            if event == "servers":
                parts.append(b"event: servers\ndata: %s\n\n" % body)
            elif id_ != knows:
                parts.append(b"id: %s\nevent: availability\ndata: %s\n\n" % (id_.encode(), body))
        now = asyncio.get_running_loop().time()
        if not parts and now - stream.sent_at >= self._heartbeat_s:
            parts.append(b":\n\n")
        if parts:
            stream.sent_at = stream.sending_since = now
            stream.sending = stream.sink.send(b"".join(parts))
            stream.sending.add_done_callback(lambda done: self._sent(stream, done))

    def _sent(self, stream: Stream, done: asyncio.Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            self.drop(stream)

    def _key(self, viewer: Viewer, language: str) -> object:
        """What decides what a viewer is told, beside the picture."""
        picked, answers = last_choice(viewer.last)
        own = tuple(sorted((lease.profile, lease.server_name) for lease in self._book.of_user(viewer.user)))
        mine = repr((picked, sorted(answers.items(), key=repr))) if answers else None
        return (
            viewer.groups,
            viewer.admin,
            language,
            mine,
            self._desk.hold_of(viewer.user),
            own and (own, viewer.server),
        )

    def _all(self) -> list[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]

    async def _run(self) -> None:
        """Tell everybody what is new, until nobody watches."""
        bells = (self._room_changed, self._book.changed)
        loop = asyncio.get_running_loop()
        while self._streams:
            heard = [bell.rang for bell in bells]
            try:
                await self._tell_all()
            except Exception:
                log.exception("cannot tell the pages what is free; trying again")
            await asyncio.sleep(GAP_S)
            news = [loop.create_task(bell.since(rang)) for bell, rang in zip(bells, heard, strict=True)]
            try:
                await asyncio.wait(news, timeout=TICK_S - GAP_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in news:
                    task.cancel()

    async def _tell_all(self) -> None:
        picture = await self._desk.look()
        now = asyncio.get_running_loop().time()
        if now - self._people_at >= PEOPLE_S:
            self._people_at = now
            self._recognise(self._people(list(self._streams)))
        for stream in self._all():
            if stream.over.done():
                continue
            if now >= stream.until:
                self.drop(stream)
            elif stream.sending is not None and not stream.sending.done():
                if now - stream.sending_since >= self._unread_s:
                    log.info("a page of user=%s does not read; hung up", stream.viewer.user)
                    stream.sink.hang_up()
                    self.drop(stream)
            else:
                await self._tell_one(stream, picture)

    async def _tell_one(self, stream: Stream, picture: Picture) -> None:
        """What breaks for one page breaks for nobody else."""
        try:
            await self.tell(stream, picture=picture)
        except Exception:
            log.exception("cannot tell a page of user=%s; it connects anew", stream.viewer.user)
            stream.sink.hang_up()
            self.drop(stream)

    def _recognise(self, people: People) -> None:
        """Everybody's groups as they are now."""
        for stream in self._all():
            found = people.get(stream.viewer.user)
            if found is None:
                self.drop(stream)
            elif found != (stream.viewer.groups, stream.viewer.admin):
                stream.viewer = replace(stream.viewer, groups=found[0], admin=found[1])
