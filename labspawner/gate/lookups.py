"""Users and roles found by name without asking the database again for what the hub holds in memory anyway.

JupyterHub looks up the user in nearly every request, and a role in every start. Each look costs six queries, because
SQLAlchemy loads the user's roles, groups and shares anew. The hub is the only writer of its database and never expires
what it has loaded, so the answer is always the object that is in memory already.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

from jupyterhub import orm
from sqlalchemy import inspect

log = logging.getLogger(__name__)
_MARK = "_labspawner_original"
_MODELS: tuple[Any, ...] = (orm.User, orm.Role)


def install() -> bool:
    """Let `orm.User.find` and `orm.Role.find` remember; says whether that was possible. Safe to repeat."""
    for model in _MODELS:
        if not isinstance(model.__dict__.get("find"), classmethod):
            log.warning("no memory for lookups: this JupyterHub has no classmethod %s.find", model.__name__)
            return False
    for model in _MODELS:
        original = model.__dict__["find"].__func__
        if not hasattr(original, _MARK):
            model.find = classmethod(_remembering(original))
    return True


def uninstall() -> None:
    """Take away what `install` put there."""
    for model in _MODELS:
        original = getattr(getattr(model.__dict__.get("find"), "__func__", None), _MARK, None)
        if original is not None:
            model.find = classmethod(original)


def _remembering(original: Any) -> Any:
    known: weakref.WeakKeyDictionary[Any, weakref.WeakValueDictionary[str, Any]] = weakref.WeakKeyDictionary()

    def find(cls: Any, db: Any, name: str) -> Any:
        ours = known.setdefault(db, weakref.WeakValueDictionary())
        found = ours.get(name)
        if found is not None and _stands(found, db, name):
            return found
        found = original(cls, db, name)
        if found is not None:
            ours[name] = found
        return found

    setattr(find, _MARK, original)
    return find


def _stands(found: Any, db: Any, name: str) -> bool:
    """Whether a query would find this object: in this session, not deleted, nothing expired, and of that name still."""
    state = inspect(found)
    whole = state.persistent and state.session is db and not state.expired_attributes
    return bool(whole and found not in db.deleted and found.name == name)
