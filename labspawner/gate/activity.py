"""When users and tokens were last seen, written a second later and for all at once.

JupyterHub notes that in nearly every first request of a student, and commits it: a millisecond each, for news that
nobody waits for. Here the hub knows it at once, as ever, and its database soon after. A hub that is killed forgets one
second of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from jupyterhub.handlers import base
from sqlalchemy.orm.attributes import set_committed_value

log = logging.getLogger(__name__)

LATER_S = 1.0
AT_A_TIME = 50
_MARK = "_labspawner_original"
_FIELD = "last_activity"


def install() -> bool:
    """Let `BaseHandler._record_activity` remember instead of commit; says whether that was possible. Safe to repeat."""
    original = getattr(base.BaseHandler, "_record_activity", None)
    if not callable(original):
        log.warning("activity is committed one by one: this JupyterHub has no BaseHandler._record_activity")
        return False
    if not hasattr(original, _MARK):
        base.BaseHandler._record_activity = _remembering(original)
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    original = getattr(getattr(base.BaseHandler, "_record_activity", None), _MARK, None)
    if original is not None:
        base.BaseHandler._record_activity = original


class _Seen:
    """Stands for a user or token where JupyterHub decides whether there is something to note."""

    def __init__(self, of: Any) -> None:
        self._of = of
        self.last_activity: datetime | None = of.last_activity

    def __repr__(self) -> str:
        return repr(self._of)


class Notes:
    """What one database session has still to be told."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self._seen: dict[Any, datetime] = {}
        self._going = False

    def take(self, one: Any, seen: datetime) -> None:
        """Let the object have it now, and the database soon."""
        set_committed_value(one, _FIELD, seen)
        self._seen[one] = seen
        if not self._going:
            self._going = True
            asyncio.get_running_loop().call_later(LATER_S, self._write_some)

    def _write_some(self) -> None:
        """Write a few; the others when the hub has answered those who wait."""
        some = [self._seen.popitem() for _ in range(min(AT_A_TIME, len(self._seen)))]
        try:
            self._write(some)
        except Exception:
            log.warning("the activity of %d was not written; it will be noted again", len(some), exc_info=True)
            self.db.rollback()
        self._going = bool(self._seen)
        if self._going:
            asyncio.get_running_loop().call_soon(self._write_some)

    def _write(self, some: list[tuple[Any, datetime]]) -> None:
        rows: dict[Any, list[dict[str, Any]]] = {}
        for one, seen in some:
            state = sa.inspect(one)
            # What was deleted has none, and what somebody else has noted meanwhile is newer.
            if state.persistent and state.session is self.db and state.dict.get(_FIELD, seen) == seen:
                rows.setdefault(type(one), []).append({"that": state.identity[0], "seen": seen})
        for model, news in rows.items():
            table = model.__table__
            statement = sa.update(table).where(table.c.id == sa.bindparam("that"))
            self.db.connection().execute(statement.values({_FIELD: sa.bindparam("seen")}), news)
        if rows:
            self.db.commit()


def _remembering(original: Any) -> Any:
    @functools.wraps(original)
    def record_activity(handler: Any, obj: Any, timestamp: datetime | None = None) -> bool:
        one = getattr(obj, "orm_user", obj)
        state = sa.inspect(one, raiseerr=False)
        if state is None or not state.persistent or state.session is not handler.db:
            return bool(original(handler, obj, timestamp))
        seen = _Seen(one)
        if original(handler, seen, timestamp) and seen.last_activity is not None:
            notes_of(handler.settings, handler.db).take(one, seen.last_activity)
        return False  # there is nothing that has to be committed

    setattr(record_activity, _MARK, original)
    return record_activity


_KEY = "labspawner_activity"


def notes_of(settings: Any, db: Any) -> Notes:
    """The notes of the hub whose settings these are; made on the first call."""
    found = settings.get(_KEY)
    if not isinstance(found, Notes) or found.db is not db:
        found = settings[_KEY] = Notes(db)
    return found
