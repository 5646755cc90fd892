"""What the console may have the hub do: act upon one server in the name of course staff, and read the courses again.

Who the actor is says the console; whether they may is looked up here, in the hub's own database.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from jupyterhub import orm, scopes
from tornado import web

from labspawner.courses import Course
from labspawner.courses.staff import ACTS, Actor, course_of, why_not
from labspawner.errors import BadChoice, LabError, LeaseConflict, NotAllowed, Transient, UnknownLease
from labspawner.inner.base import InnerHandler
from labspawner.lifecycle.launcher import stop_mode
from labspawner.model import Ending, Lease, Phase, ReleaseMode
from labspawner.pages.top import told_everywhere
from labspawner.sentences import Sentence, plain

log = logging.getLogger(__name__)

MAX_TEXT = 500
_CANCEL_WAIT_S = 10.0

STARTING = Sentence("It is starting.")
STARTS = Sentence("It is starting already.")
RUNS = Sentence("It runs already.")
STOPPED = Sentence("It was stopped.")
STOPPING = Sentence("It is stopping.")
NOT_RUNNING = Sentence("It was not running.")
EXTENDED = Sentence("It has more time now.")
TOLD = Sentence("The message was sent.")
NOBODY_READS = Sentence("It is not running, so nobody would read the message.")
RESET = Sentence("It was reset: the next start is a clean one. Files in the home folder are kept.")
BY_STAFF = Sentence("{who}, who teaches this course, stopped your server.")
BY_STAFF_SAYS = Sentence("{who}, who teaches this course, stopped your server: {reason}")
BY_ADMIN = Sentence("{who}, an administrator, stopped your server.")
BY_ADMIN_SAYS = Sentence("{who}, an administrator, stopped your server: {reason}")
ASKED = Sentence("{user} reads on their home page that you ask to open their server. Look again when they have agreed.")
AGREED = Sentence("{user} has agreed: you may open their server for {minutes} more minutes.")
NOT_A_MEMBER = Sentence("{user} is not in this course.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One act. lease: the server as it was when it was looked at; empty: whatever runs now. course: that the actor speaks
    for; empty: that of the lease. before: a server that was started later is not meant."""

    actor: str
    verb: str
    user: str
    server: str = ""
    lease: str = ""
    course: str = ""
    service: bool = False
    before: datetime | None = None
    args: Mapping[str, Any]

    @classmethod
    def read(cls, body: bytes) -> Wish:
        """A wish from a request. Raises BadChoice."""
        try:
            data = json.loads(body)
            texts = {key: data.get(key) or "" for key in ("actor", "verb", "user", "server", "lease", "course")}
            args = data.get("args") or {}
            before = datetime.fromisoformat(data["before"]) if data.get("before") else None
        except (ValueError, TypeError, AttributeError, RecursionError) as exc:
            raise BadChoice(Sentence("This request cannot be read.")) from exc
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(args, dict):
            raise BadChoice(Sentence("This request cannot be read."))
        if texts["verb"] not in ACTS or not texts["actor"] or not texts["user"]:
            raise BadChoice(Sentence("This request cannot be read."))
        if before is not None and before.tzinfo is None:
            raise BadChoice(Sentence("This request cannot be read."))
        return cls(**texts, args=args, before=before, service=data.get("service") is True)


class ActHandler(InnerHandler):
    """`{"actor", "verb", "user", "server", "lease", "course", "args"}` in; `{"sentence"}` out, or the sentence of a refusal.

    Safe to repeat: what is so already is said, and is no error.
    """

    async def post(self) -> None:
        self._more: dict[str, Any] = {}
        try:
            wish = Wish.read(self.request.body)
            runtime = self.runtime
            await runtime.start()
            await runtime.courses()
            lease = self._lease(wish)
            self._refuse_strangers(wish, lease)
            said = await self._act(wish, lease)
        except LabError as exc:
            self.refuse(exc)
        except web.HTTPError as exc:
            self.refuse(_of_hub(exc))
        else:
            log.info("act verb=%s user=%s server=%r by=%s: %s", wish.verb, wish.user, wish.server, wish.actor, said)
            self.answer({"sentence": said.to_json(), **self._more})

    def _lease(self, wish: Wish) -> Lease | None:
        """The lease that is meant; None where the server has none. Raises UnknownLease where it has another by now."""
        book = self.runtime.engine.book
        if not wish.lease:
            found = book.active(wish.user, wish.server)
            later = found is not None and wish.before is not None and found.created_at > wish.before
            return None if later else found
        lease = next((one for one in book.of(wish.user, wish.server) if one.id == wish.lease), None)
        if lease is None:
            raise UnknownLease(Sentence("This server has ended since, or another one was started. Look again."))
        return lease

    def _refuse_strangers(self, wish: Wish, lease: Lease | None) -> None:
        """Raise NotAllowed unless the actor is staff of the course that it is about, and the student is in it."""
        actor, slug = self._actor(wish), wish.course
        if lease is not None:
            slug = course_of(lease.profile)
            if wish.course and wish.course != slug and wish.verb != "start":
                raise NotAllowed(Sentence("This server is of another course, so it is left alone."))
        if wish.verb == "start":
            slug = course_of(_text(wish.args, "profile"))
            if wish.course and wish.course != slug:
                raise NotAllowed(Sentence("This profile is of another course."))
        if not slug and not actor.all_courses:
            raise BadChoice(Sentence("This request cannot be read."))
        course = self._course(slug)
        if (why := _why_not(actor, wish.verb, slug, course)) is not None:
            raise NotAllowed(why, detail=f"act refused verb={wish.verb} course={slug!r} actor={wish.actor!r}")
        if wish.verb == "start" and not actor.all_courses and not self._is_member(wish.user, slug, course):
            raise NotAllowed(Sentence(NOT_A_MEMBER.template, user=wish.user))

    def _course(self, slug: str) -> Course | None:
        return next((one for one in self.runtime.snapshot().courses() if one.course == slug), None)

    def _is_member(self, user_name: str, slug: str, course: Course | None) -> bool:
        """Whether somebody is in one of the course's groups: one that is open to everyone has not everyone in it."""
        user = orm.User.find(self.db, user_name)
        groups = {group.name for group in user.groups} if user is not None else set()
        own = f"course-{slug}"
        named = {*course.access.groups, *course.access.staff} if course else {own, f"{own}-instructors"}
        return user is None or not groups.isdisjoint({*named, f"{own}-assistants"})

    def _actor(self, wish: Wish) -> Actor:
        """The actor as this hub's database has them; one whom it does not know may nothing."""
        kind = orm.Service if wish.service else orm.User
        found = kind.find(self.db, wish.actor)
        if found is None:
            return Actor(name=wish.actor)
        return Actor(
            name=wish.actor,
            groups=frozenset(group.name for group in getattr(found, "groups", ())),
            scopes=frozenset(scopes.get_scopes_for(found)),
            admin=bool(found.admin) and not wish.service,
            service=wish.service,
        )

    async def _act(self, wish: Wish, lease: Lease | None) -> Sentence:
        if wish.verb == "start":
            return await self._start(wish)
        if wish.verb == "message":
            return await self._message(wish, lease)
        if wish.verb == "extend":
            if lease is None or lease.phase is not Phase.READY:
                raise UnknownLease(NOT_RUNNING)
            await self.runtime.extend(lease, datetime.now(timezone.utc))
            return EXTENDED
        if wish.verb == "visit":
            return self._visit(wish, lease)
        if wish.verb == "reset":
            return await self._reset(wish, lease)
        return STOPPED if lease is not None and await self._stop(wish, lease, None) else NOT_RUNNING

    # -- start -----------------------------------------------------------------------------------------------------

    async def _start(self, wish: Wish) -> Sentence:
        """Start the student's server with the student's own rights: what they may not, staff cannot start for them."""
        user = self._user(wish)
        make = getattr(user, "get_or_create_spawner", None)  # JupyterHub 6
        named = wish.server != "" and wish.server not in user.orm_spawners
        if named:
            raise BadChoice(Sentence("{user} has no server of this name.", user=wish.user))
        spawner = (
            make(wish.server, "", replace_failed=True) if make else user.get_spawner(wish.server, replace_failed=True)
        )
        if spawner.pending == "spawn":
            return STARTS
        if spawner.pending:
            raise LeaseConflict(Sentence("It is stopping just now. Try again in a moment."))
        if spawner.ready:
            spawner._spawn_pending = True
            try:
                state = await spawner.poll_and_notify()
            finally:
                spawner._spawn_pending = False
            if state is None:
                return RUNS
        options: dict[str, Any] = {"profile": _text(wish.args, "profile")}
        if isinstance(wish.args.get("options"), dict) and wish.args["options"]:
            options["options"] = wish.args["options"]
        await self.spawn_single_user(user, wish.server, options=options)
        return STARTING

    def _user(self, wish: Wish) -> Any:
        user = self.find_user(wish.user)
        if user is None:
            raise UnknownLease(Sentence("{user} has not logged in yet, so there is nothing to start.", user=wish.user))
        return user

    # -- stop ------------------------------------------------------------------------------------------------------

    async def _stop(self, wish: Wish, lease: Lease, mode: ReleaseMode | None) -> bool:
        """End a server so that its user reads who did it; whether there was something to end. mode: other than usual."""
        engine, usual = self.runtime.engine, stop_mode(lease)
        words = self._why_stopped(wish, lease)
        ending = Ending(by=wish.actor, reason=words)
        if lease.phase is Phase.PARKED:
            await engine.end(lease.id, ending, ReleaseMode.DESTROY)
            return True
        user = self.find_user(lease.user)
        spawner = user.spawners.get(lease.server_name) if user is not None else None
        if spawner is not None and spawner.pending == "spawn":
            await _cancel(spawner)
        if spawner is None or not spawner.active:
            await engine.end(lease.id, ending, mode or usual)
            return True
        if spawner.pending:
            return True
        if lease.phase is Phase.READY:
            await engine.intend(lease.id, ending, mode or usual)
        await self.stop_single_user(user, lease.server_name)
        return True

    def _why_stopped(self, wish: Wish, lease: Lease) -> Sentence:
        """What the student reads."""
        reason = _text(wish.args, "reason", otherwise="").strip()[:MAX_TEXT]
        slug = course_of(lease.profile)
        course, groups = self._course(slug), self._actor(wish).groups
        staff = course.access.staff if course is not None else (f"course-{slug}-instructors",)
        if groups.isdisjoint(staff):
            return (
                Sentence(BY_ADMIN_SAYS.template, who=wish.actor, reason=reason)
                if reason
                else Sentence(BY_ADMIN.template, who=wish.actor)
            )
        return (
            Sentence(BY_STAFF_SAYS.template, who=wish.actor, reason=reason)
            if reason
            else Sentence(BY_STAFF.template, who=wish.actor)
        )

    async def _reset(self, wish: Wish, lease: Lease | None) -> Sentence:
        """Take away all that a server keeps but the home: what runs, and what is parked of this course."""
        kept = [
            one
            for one in self.runtime.engine.book.of(wish.user, wish.server)
            if one.phase is Phase.PARKED
            and wish.course in {"", course_of(one.profile)}
            and (wish.before is None or one.created_at <= wish.before)
        ]
        if lease is not None and lease.phase is not Phase.PARKED:
            await self._stop(wish, lease, ReleaseMode.DESTROY)
        for one in kept:
            await self._stop(wish, one, ReleaseMode.DESTROY)
        return RESET if lease is not None or kept else NOT_RUNNING

    # -- messages --------------------------------------------------------------------------------------------------

    async def _message(self, wish: Wish, lease: Lease | None) -> Sentence:
        text = " ".join(_text(wish.args, "text").split())
        if not text or len(text) > MAX_TEXT:
            raise BadChoice(Sentence("A message has 1 to {most} letters.", most=MAX_TEXT))
        if lease is None or lease.phase not in {Phase.READY, Phase.LAUNCHING, Phase.QUEUED}:
            raise UnknownLease(NOBODY_READS)
        await self.runtime.messages.say(lease.id, text, by=wish.actor, now=datetime.now(timezone.utc))
        return TOLD

    # -- visits ----------------------------------------------------------------------------------------------------

    def _visit(self, wish: Wish, lease: Lease | None) -> Sentence:
        """Ask the student to let the actor in, or say until when they did. Only people visit."""
        if lease is None or lease.phase is not Phase.READY:
            raise UnknownLease(NOT_RUNNING)
        if wish.service:
            raise NotAllowed(Sentence("Only people open a student's server."))
        visit = self.runtime.visits.ask(lease, wish.actor, datetime.now(timezone.utc))
        if visit is None:
            self._more = {"visit": {"state": "asked", "until": None, "path": None}}
            return Sentence(ASKED.template, user=wish.user)
        user = self.find_user(wish.user)
        path = user.server_url(wish.server) if user is not None else None
        self._more = {"visit": {"state": "open", "until": visit.until.isoformat(), "path": path}}
        left = visit.until - datetime.now(timezone.utc)
        return Sentence(AGREED.template, user=wish.user, minutes=max(1, round(left.total_seconds() / 60)))


class RefreshHandler(InnerHandler):
    """The courses in the database have changed: read them now."""

    async def post(self) -> None:
        try:
            await self.runtime.courses_changed()
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({})


class AboutHandler(InnerHandler):
    """What this hub is, as far as the console must know."""

    async def get(self) -> None:
        try:
            providers = self.runtime.engine.providers
        except LabError as exc:
            self.refuse(exc)
            return
        self.answer(
            {
                "jupyterhub": metadata.version("jupyterhub"),
                "manages_groups": bool(self.authenticator.manage_groups),
                "providers": sorted(providers),
                "notes": told_everywhere(self.settings, providers.values()),
            }
        )


async def _cancel(spawner: Any) -> None:
    """Interrupt a start and wait, for a bounded time, until it has rolled back."""
    future = spawner._spawn_future
    if future and not future.done():
        future.cancel()
        await asyncio.wait([future], timeout=_CANCEL_WAIT_S)


def _why_not(actor: Actor, verb: str, slug: str, course: Course | None) -> Sentence | None:
    own = f"course-{slug}"
    staff = course.access.staff if course is not None else (f"{own}-instructors",)
    return why_not(actor, verb, own=own, staff=staff, assistants=(f"{own}-assistants",))


def _text(args: Mapping[str, Any], name: str, *, otherwise: str | None = None) -> str:
    found = args.get(name, otherwise)
    if not isinstance(found, str):
        raise BadChoice(Sentence("This request cannot be read."))
    return found


def _of_hub(exc: web.HTTPError) -> LabError:
    """A refusal of JupyterHub's own as one of ours, with the sentence that the student would read."""
    said = getattr(exc, "jupyterhub_message", None) or exc.log_message or exc.reason or ""
    message = said if isinstance(said, Sentence) else plain(str(said) % exc.args if exc.args else str(said))
    refusal: LabError
    if exc.status_code == 429:
        refusal = Transient(message, retry_after_s=_seconds(getattr(exc, "headers", None)))
    else:
        refusal = NotAllowed(message)
    refusal.status_code = exc.status_code
    return refusal


def _seconds(headers: Any) -> float:
    try:
        return float((headers or {}).get("Retry-After", 5))
    except (TypeError, ValueError):
        return 5.0


ROUTES: list[tuple[str, type]] = [(r"act", ActHandler), (r"courses/refresh", RefreshHandler), (r"about", AboutHandler)]
