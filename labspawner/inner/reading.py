"""What our services may read of the hub: availability, servers, lines, holds, capacity, decisions, and that it changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from tornado import web
from tornado.iostream import StreamClosedError

from labspawner.availability import Viewer
from labspawner.availability.desk import GAP_S, TICK_S
from labspawner.availability.streams import HEARTBEAT_S, LONGEST_S, UNREAD_S
from labspawner.courses.porting import as_text
from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.inner.base import InnerHandler
from labspawner.inner.facts import (
    answer_json,
    decision_json,
    holds_json,
    lines_json,
    notices_json,
    provider_json,
    server_json,
)
from labspawner.model import Json, Lease, LeaseId, Phase
from labspawner.sentences import Sentence

MOST_DECISIONS = 1000
MOST_STREAMS = 8
_STREAMS = "labspawner_inner_streams"

SILENT = Sentence("It does not answer.")


class ReadingHandler(InnerHandler):
    """A question, answered as JSON; a LabError as its sentence."""

    async def get(self) -> None:
        try:
            self.answer(await self.read())
        except LabError as exc:
            self.refuse(exc)

    async def read(self) -> dict[str, Json]:
        """What this address tells. Raises LabError."""
        raise NotImplementedError


class AvailabilityHandler(ReadingHandler):
    """`GET availability[?user=NAME][&profile=KEY]`: what this user is told of each profile, or of one, even where they may
    not see it; without a user, what an administrator is told."""

    async def read(self) -> dict[str, Json]:
        desk, key = self.runtime.availability, self.get_argument("profile", "")
        viewer, picture, now = self._viewer(), await desk.look(), _now()
        answers = {key: await desk.why(viewer, key)} if key else await desk.answers(picture, viewer)
        return {
            "version": picture.version,
            "taken_at": picture.taken_at.isoformat(),
            "profiles": {key: answer_json(answer, now) for key, answer in answers.items()},
        }

    def _viewer(self) -> Viewer:
        name = self.get_argument("user", "")
        if not name:
            return Viewer(user="", groups=frozenset(), admin=True)
        user = self.find_user(name)
        if user is None:
            raise web.HTTPError(404, "there is no such user")
        return Viewer(user=user.name, groups=frozenset(group.name for group in user.groups), admin=bool(user.admin))


class StateHandler(ReadingHandler):
    """`GET state[?course=SLUG]`: the servers of a course's profiles, or all; who waits, what is held; and of a course why
    servers of it ended."""

    async def read(self) -> dict[str, Json]:
        runtime, course, now = self.runtime, self.get_argument("course", ""), _now()
        await runtime.engine.start()
        book = runtime.engine.book
        version = runtime.availability.versions(state=book.changed.rang)["state"]
        leases = [lease for lease in book.all() if not course or lease.profile.startswith(f"{course}/")]
        by_id = {lease.id: lease for lease in leases}
        holds = [hold for hold in runtime.engine.holds.all() if not course or hold.profile.startswith(f"{course}/")]
        return {
            "version": version,
            "taken_at": now.isoformat(),
            "servers": await self._servers(leases, now),
            "notices": notices_json(
                {
                    key: notice
                    for key, notice in book.notices().items()
                    if course and notice.profile.startswith(f"{course}/")
                }
            ),
            "lines": lines_json(runtime.engine.lines(), by_id),
            "holds": holds_json(holds),
        }

    async def _servers(self, leases: Sequence[Lease], now: datetime) -> list[Json]:
        runtime = self.runtime
        ready = [lease for lease in leases if lease.phase is Phase.READY]
        uses, known = await runtime.uses(ready), await runtime.known(ready)
        places = {place.lease_id: place for places in runtime.engine.lines().values() for place in places}
        found: list[Json] = []
        for lease in leases:
            evidence = known.get(lease.id)
            extension = await runtime.extension(lease, now) if lease.phase is Phase.READY else None
            found.append(
                server_json(
                    lease,
                    outlook=runtime.evidence.outlook(lease, now) if lease.phase is Phase.READY else None,
                    use=uses.get(lease.id),
                    report=evidence.report if evidence is not None else None,
                    last_activity=runtime.evidence.last_activity(lease),
                    place=places.get(lease.id),
                    extend={"step_s": extension.step_s, "left_today": extension.left_today} if extension else None,
                )
            )
        return found


class CapacityHandler(ReadingHandler):
    """`GET capacity`: hosts and cards of each provider, as it says itself, and which leases are where."""

    async def read(self) -> dict[str, Json]:
        await self.runtime.engine.start()
        names = sorted(self.runtime.engine.providers)
        # Python 3.10 has no TaskGroup; `_provider` raises nothing, so none is left behind.
        return {
            "taken_at": _now().isoformat(),
            "providers": list(await asyncio.gather(*(self._provider(name) for name in names))),
        }

    async def _provider(self, name: str) -> Json:
        engine = self.runtime.engine
        error: str = SILENT
        try:
            capacity = await engine.capacity(name)
        except LabError as exc:
            capacity, error = None, exc.message
        except Exception:
            self.log.exception("cannot tell what provider=%s has", name)
            capacity = None
        leases = [lease for lease in engine.book.all() if lease.provider == name and lease.phase not in _NOTHING_HELD]
        pretended = getattr(engine.providers[name], "pretends_gpus", False) is True
        return provider_json(name, capacity, error, leases, pretended=pretended)


_NOTHING_HELD = frozenset({Phase.QUEUED, Phase.PARKED})


class GivenHandler(ReadingHandler):
    """`GET courses/given`: the courses that stand in the hub's configuration and in no file, as texts."""

    async def read(self) -> dict[str, Json]:
        given = self.runtime.catalog.given
        texts = await asyncio.to_thread(lambda: [as_text(one.course) for one in given])
        return {"courses": [{"file": one.file, "text": text} for one, text in zip(given, texts, strict=True)]}


class DecisionsHandler(ReadingHandler):
    """`GET decisions[?user=&lease=&limit=]`: what the culler decided, newest first."""

    async def read(self) -> dict[str, Json]:
        await self.runtime.engine.start()
        limit = self.get_argument("limit", "200")
        count = min(MOST_DECISIONS, int(limit)) if limit.isascii() and limit.isdigit() and len(limit) < 9 else 200
        lease = self.get_argument("lease", "")
        found = await self.runtime.store.decisions(
            hub_id=self.runtime.settings.hub_id,
            user=self.get_argument("user", "") or None,
            lease_id=LeaseId(lease) if lease else None,
            limit=max(1, count),
        )
        return {"decisions": [decision_json(one) for one in found]}


class EventsHandler(InnerHandler):
    """`GET events`: server-sent events that say what to read again: `{"state": n, "availability": n, "courses": n}`, at
    once and after each change, at most about one in a second."""

    async def get(self) -> None:
        streams = self.users.settings.setdefault(_STREAMS, set())
        if len(streams) >= MOST_STREAMS:
            raise web.HTTPError(429, "too many streams")
        self._closed = False
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("Cache-Control", "no-cache, no-transform")
        streams.add(self)
        try:
            await self._tell()
        except (StreamClosedError, asyncio.TimeoutError):
            self.on_connection_close()
            if (stream := getattr(self.request.connection, "stream", None)) is not None:
                stream.close()
        finally:
            streams.discard(self)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._closed = True

    async def _tell(self) -> None:
        runtime, loop = self.runtime, asyncio.get_running_loop()
        bells = (runtime.engine.book.changed, runtime.engine.room_changed)
        until, sent_at = loop.time() + LONGEST_S, float("-inf")
        told = self.request.headers.get("Last-Event-ID", "")
        while not self._closed and loop.time() < until:
            heard = [bell.rang for bell in bells]
            await runtime.availability.look()
            versions = runtime.availability.versions(state=heard[0])
            id_ = "-".join(versions.values())
            if id_ != told:
                told, sent_at = id_, loop.time()
                await self._send(f"id: {id_}\nevent: changed\ndata: {json.dumps(versions)}\n\n")
            elif loop.time() - sent_at >= HEARTBEAT_S:
                sent_at = loop.time()
                await self._send(":\n\n")
            await asyncio.sleep(GAP_S)
            rings = [loop.create_task(bell.since(rang)) for bell, rang in zip(bells, heard, strict=True)]
            try:
                await asyncio.wait(rings, timeout=TICK_S - GAP_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for ring in rings:
                    ring.cancel()

    async def _send(self, text: str) -> None:
        self.write(text)
        await within(UNREAD_S, _taken(self.flush()))


async def _taken(sent: Any) -> None:
    await sent


def _now() -> datetime:
    return datetime.now(timezone.utc)


ROUTES: list[tuple[str, type]] = [
    (r"availability", AvailabilityHandler),
    (r"state", StateHandler),
    (r"capacity", CapacityHandler),
    (r"courses/given", GivenHandler),
    (r"decisions", DecisionsHandler),
    (r"events", EventsHandler),
]
