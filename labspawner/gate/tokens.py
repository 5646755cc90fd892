"""API tokens found again without asking the database.

A student who starts a server shows the same token at least twice within a second, and a service shows its own at every
request. Each look is a query, and for a token that somebody chose by hand 16384 rounds of hashing. The hub is the only
writer of its database, so a token that it has found stays what it was, until the hub changes or deletes it.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from typing import Any

import sqlalchemy as sa
from jupyterhub import orm
from sqlalchemy import event

log = logging.getLogger(__name__)

MOST = 4000
"""Tokens remembered; then it begins anew."""
_MARK = "_labspawner_original"


def install() -> bool:
    """Let `orm.APIToken.find` remember; says whether that was possible. Safe to repeat."""
    found = orm.APIToken.__dict__.get("find")
    if not isinstance(found, classmethod) or not hasattr(orm.APIToken, "hashed"):
        log.warning("no memory for tokens: this JupyterHub has no classmethod APIToken.find")
        return False
    if not hasattr(found.__func__, _MARK):
        orm.APIToken.find = classmethod(_remembering(found.__func__))
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    original = getattr(getattr(orm.APIToken.__dict__.get("find"), "__func__", None), _MARK, None)
    if original is not None:
        orm.APIToken.find = classmethod(original)


class _Known:
    """The tokens of one session, by a hash of their text, so that no secret is kept. Those that can expire are not
    remembered, and a statement that changes or deletes many rows without their objects makes all forgotten."""

    def __init__(self, db: Any) -> None:
        self._tokens: dict[bytes, tuple[Any, str]] = {}
        event.listen(db, "do_orm_execute", self._look_at)

    def _look_at(self, execution: Any) -> None:
        if not execution.is_select and not execution.is_insert:
            self._tokens.clear()

    def get(self, db: Any, key: bytes) -> Any:
        """The token, where a query would find it: in this session, not deleted, nothing expired, and still the same."""
        found, hashed = self._tokens.get(key, (None, ""))
        if found is None:
            return None
        state = sa.inspect(found)
        whole = state.persistent and state.session is db and not state.expired_attributes and found not in db.deleted
        if whole and found.hashed == hashed and found.expires_at is None and found.client_id:
            return found
        del self._tokens[key]
        return None

    def put(self, key: bytes, found: Any) -> None:
        """Remember it."""
        if found.expires_at is None:
            if len(self._tokens) >= MOST:
                self._tokens.clear()
            self._tokens[key] = (found, found.hashed)


_OF_PREFIX = sa.select(orm.APIToken).where(orm.APIToken.prefix == sa.bindparam("prefix"))


def _plain(db: Any, token: str) -> Any:
    """What `APIToken.find` answers, by a statement that is not built anew each time; None where it is not so plain: no
    such token, one that can expire, or one that JupyterHub would delete."""
    for found in db.scalars(_OF_PREFIX, {"prefix": token[: orm.APIToken.prefix_length]}):
        if found.expires_at is None and found.client_id and found.match(token):
            return found
    return None


def _remembering(original: Any) -> Any:
    sessions: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()

    def find(cls: Any, db: Any, token: str, *, kind: str | None = None) -> Any:
        if kind is not None or not isinstance(token, str):
            return original(cls, db, token, kind=kind)
        known = sessions.get(db)
        if known is None:
            known = sessions[db] = _Known(db)
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = known.get(db, key)
        if found is None:
            found = _plain(db, token) or original(cls, db, token)
            if found is not None:
                known.put(key, found)
        return found

    setattr(find, _MARK, original)
    return find
