"""Course staff open a student's server, for a while, when the student says so on their home page.

JupyterHub's shares carry it: until the end of the visit the visitor's log-in may access the server of that name. So a visit
ends before the next server of the name begins. All of it is kept in memory; a hub that starts ends what an earlier one left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from jupyterhub import orm
from jupyterhub.handlers import BaseHandler
from tornado import web

from labspawner.model import Lease, LeaseId, Phase
from labspawner.pages.handlers import wants_json

log = logging.getLogger(__name__)

VISIT_FOR = timedelta(minutes=15)
ASKED_FOR = timedelta(minutes=10)
_LOOK_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Somebody of the course's staff would like to open a server."""

    visitor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a server's owner agreed to."""

    visitor: str
    until: datetime


@dataclass(frozen=True, slots=True)
class _Open:
    """A visit, the server that it is to, and the share that was made for it: None where the owner had shared it already."""

    visit: Visit
    lease: Lease
    share_id: int | None


class Visits:
    """Who asked to open which server, and who may. db: the hub's session; None before there is one. live: the lease of an
    id, None once it has ended. note: writes `agree`, `refuse` and `end` into the audit log."""

    def __init__(
        self,
        db: Callable[[], Any],
        *,
        live: Callable[[LeaseId], Lease | None],
        note: Callable[[Lease, str, str], Awaitable[None]],
    ) -> None:
        self._db = db
        self._live = live
        self._note = note
        self._asked: dict[LeaseId, Asked] = {}
        self._open: dict[LeaseId, _Open] = {}
        self._begun = False

    async def run(self) -> None:
        """End visits in time, and first those that an earlier process of this hub left. Never ends by itself."""
        while True:
            try:
                self.sweep(_utcnow())
            except Exception:
                log.exception("visits could not be looked at; trying again")
            await asyncio.sleep(_LOOK_S)

    def sweep(self, now: datetime) -> None:
        """Take away what has ended by now: its time, or its server."""
        db = self._db()
        if db is None:
            return
        if not self._begun:
            _end_left_over(db, {opened.share_id for opened in self._open.values()})
            self._begun = True
        for lease_id, opened in list(self._open.items()):
            lease = self._live(lease_id)
            if opened.visit.until <= now or lease is None or lease.phase is not Phase.READY:
                self._close(lease_id)
        self._asked = {lease: asked for lease, asked in self._asked.items() if now - asked.at < ASKED_FOR}

    def server_begins(self, user: str, server_name: str) -> None:
        """Another server of this name is about to start: nobody was let into that one."""
        for lease_id, opened in list(self._open.items()):
            if (opened.lease.user, opened.lease.server_name) == (user, server_name):
                self._close(lease_id)

    def ask(self, lease: Lease, visitor: str, now: datetime) -> Visit | None:
        """Show the owner that `visitor` would like to open their server; the visit, where they agreed already."""
        if (visit := self.visit(lease, now)) is not None and visit.visitor == visitor:
            return visit
        self._asked[lease.id] = Asked(visitor=visitor, at=now)
        return None

    def asked(self, lease: Lease, now: datetime) -> Asked | None:
        """Who asked last, and waits for an answer."""
        asked = self._asked.get(lease.id)
        return asked if asked is not None and now - asked.at < ASKED_FOR else None

    def visit(self, lease: Lease, now: datetime) -> Visit | None:
        """Who may open this server now."""
        opened = self._open.get(lease.id)
        return opened.visit if opened is not None and opened.visit.until > now else None

    async def agree(self, lease: Lease, visitor: str, now: datetime) -> Visit | None:
        """The owner lets in who asked; None where nobody of this name waits any more. Of two visitors the later one stays."""
        asked = self.asked(lease, now)
        db = self._db()
        if asked is None or asked.visitor != visitor or db is None:
            return None
        guest, spawner = orm.User.find(db, visitor), _spawner(db, lease)
        if guest is None or spawner is None:
            return None
        await self.end(lease)
        visit = Visit(visitor=visitor, until=now + VISIT_FOR)
        share_id = None
        if orm.Share.find(db, spawner, guest) is None:  # a share of the owner's own making is left as it is
            share = orm.Share.grant(db, spawner, guest)
            share.expires_at = share.created_at + VISIT_FOR
            db.commit()
            share_id = share.id
        self._open[lease.id] = _Open(visit, lease, share_id)
        self._asked.pop(lease.id, None)
        await self._note(lease, "visit.agree", visitor)
        return visit

    async def refuse(self, lease: Lease) -> None:
        """The owner does not want that."""
        if (asked := self._asked.pop(lease.id, None)) is not None:
            await self._note(lease, "visit.refuse", asked.visitor)

    async def end(self, lease: Lease) -> None:
        """The owner takes it back."""
        if (opened := self._close(lease.id)) is not None:
            await self._note(lease, "visit.end", opened.visit.visitor)

    def _close(self, lease_id: LeaseId) -> _Open | None:
        """From now on nobody may enter."""
        opened, db = self._open.pop(lease_id, None), self._db()
        if opened is None or db is None or opened.share_id is None:
            return opened
        db.query(orm.Share).filter(orm.Share.id == opened.share_id).delete()
        db.commit()
        lease = opened.lease
        log.info("visit over user=%s server=%r visitor=%s", lease.user, lease.server_name, opened.visit.visitor)
        return opened


class VisitHandler(BaseHandler):  # type: ignore[misc]
    """The owner's answer, from the home page: `do` is `agree`, `refuse` or `end`. Nobody else's, administrators' neither."""

    @web.authenticated
    async def post(self, user_name: str, server_name: str | None = None) -> None:
        user = self.current_user
        if getattr(user, "name", None) != user_name:
            raise web.HTTPError(403)
        runtime = self.users.settings.get("labspawner")
        lease = runtime.engine.book.active(user_name, server_name or "") if runtime is not None else None
        if lease is not None:
            await self._do(runtime.visits, lease)
        if wants_json(self):
            self.finish({"v": 1})
        else:
            self.redirect(f"{self.hub.base_url}home")

    async def _do(self, visits: Visits, lease: Lease) -> None:
        done = self.get_body_argument("do", "")
        if done == "agree":
            await visits.agree(lease, self.get_body_argument("visitor", ""), _utcnow())
        elif done == "refuse":
            await visits.refuse(lease)
        elif done == "end":
            await visits.end(lease)
        else:
            raise web.HTTPError(400)


def _end_left_over(db: Any, ours: Collection[int | None]) -> None:
    """End the visits of an earlier process: what was shared for exactly as long as a visit. Nobody watches over them."""
    ending = db.query(orm.Share).filter(orm.Share.expires_at.isnot(None))
    left = [share for share in ending if share.id not in ours and _is_visit(share)]
    for share in left:
        db.delete(share)
    if left:
        db.commit()
        log.info("visits of an earlier hub ended: %d", len(left))


def _is_visit(share: Any) -> bool:
    return bool(share.created_at is not None and share.expires_at - share.created_at == VISIT_FOR)


def _spawner(db: Any, lease: Lease) -> Any:
    """The hub's row of the server of a lease."""
    owner = orm.User.find(db, lease.user)
    return None if owner is None else owner.orm_spawners.get(lease.server_name)


def _utcnow() -> datetime:
    return datetime.now(timezone.utc)
