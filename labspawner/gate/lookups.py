"""Users and roles found by name without asking the database again for what the hub holds in memory anyway.

JupyterHub looks up the user in nearly every request, and a role in every start. Each look costs up to six queries,
because SQLAlchemy loads the user's roles, groups and shares anew. The hub is the only writer of its database and never
expires what it has loaded, so the answer is always the object that is in memory already.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import MutableMapping
from typing import Any

from jupyterhub import orm
from sqlalchemy import event, inspect

log = logging.getLogger(__name__)
_MARK = "_labspawner_original"
_MODELS: tuple[Any, ...] = (orm.User, orm.Role)
WARM_USERS, _WARM_BATCH = 2000, 50
_Known = MutableMapping[str, Any]


def install() -> bool:
    """Let `orm.User.find` and `orm.Role.find` remember, and SQLite be opened without a question to test it before
    every transaction; says whether that was possible. Safe to repeat."""
    for model in _MODELS:
        if not isinstance(model.__dict__.get("find"), classmethod):
            log.warning("no memory for lookups: this JupyterHub has no classmethod %s.find", model.__name__)
            return False
    for model in _MODELS:
        original = model.__dict__["find"].__func__
        if not hasattr(original, _MARK):
            model.find = classmethod(_remembering(original))
    ping = getattr(orm, "register_ping_connection", None)
    if ping is not None and not hasattr(ping, _MARK):
        orm.register_ping_connection = _but_for_sqlite(ping)
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    for model in _MODELS:
        original = getattr(getattr(model.__dict__.get("find"), "__func__", None), _MARK, None)
        if original is not None:
            model.find = classmethod(original)
    ping = getattr(getattr(orm, "register_ping_connection", None), _MARK, None)
    if ping is not None:
        orm.register_ping_connection = ping


async def warm_up(users: Any, *, most: int = WARM_USERS) -> int:
    """Load those users who came last, with all that a request asks of them, before they come again; how many.

    users: the hub's, which keep what was loaded. Half a millisecond each, in batches between which the hub answers.
    """
    newest = users.db.query(orm.User.id).order_by(orm.User.last_activity.desc().nulls_last()).limit(most)
    ids = [user_id for (user_id,) in newest]
    for start in range(0, len(ids), _WARM_BATCH):
        batch = ids[start : start + _WARM_BATCH]
        for found in users.db.query(orm.User).filter(orm.User.id.in_(batch)):
            users[found]
            orm.User.find(users.db, found.name)
        await asyncio.sleep(0)
    return len(ids)


def _remembering(original: Any) -> Any:
    known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()

    def find(cls: Any, db: Any, name: str) -> Any:
        ours = known.get(db)
        if ours is None:
            ours = known[db] = _names(cls, db)
        found = ours.get(name)
        if found is not None and _stands(found, db, name):
            return found
        found = original(cls, db, name)
        if found is not None:
            ours[name] = found
        return found

    setattr(find, _MARK, original)
    return find


def _names(cls: Any, db: Any) -> _Known:
    """Where the objects of one session are remembered. There are few roles, and nobody else keeps them; the hub keeps
    its users, so they are remembered as soon as anything loads them, and no longer than that."""
    if cls is not orm.User:
        return {}
    names: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
    names.update({found.name: found for found in db.identity_map.values() if isinstance(found, cls)})

    def loaded(_session: Any, found: Any) -> None:
        if isinstance(found, cls):
            names[found.name] = found

    event.listen(db, "loaded_as_persistent", loaded)
    event.listen(db, "pending_to_persistent", loaded)
    return names


def _stands(found: Any, db: Any, name: str) -> bool:
    """Whether a query would find this object: in this session, not deleted, nothing expired, and of that name still."""
    state = inspect(found)
    whole = state.persistent and state.session is db and not state.expired_attributes
    return bool(whole and found not in db.deleted and found.name == name)


def _but_for_sqlite(original: Any) -> Any:
    def register(engine: Any) -> None:
        if engine.dialect.name != "sqlite":  # a file in this process does not drop the connection
            original(engine)

    setattr(register, _MARK, original)
    return register
