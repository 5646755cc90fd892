"""The first part of JupyterHub's start as one database transaction instead of seven.

`User.spawn` runs without waiting from its first line to `Spawner.start`, and commits after each thing it makes. Nobody
else can look in between, so one commit at the end of that stretch is the same to everybody, at less than half the cost;
on a disk that syncs slowly, or with PostgreSQL, at a seventh.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from jupyterhub import utils
from jupyterhub.oauth import provider

log = logging.getLogger(__name__)


class OneCommit:
    """Awaits `work` with the commits of its first stretch, up to where it first waits, made one.

    A commit that fails is raised in `work`, where it waits. Everything after the first stretch is as ever.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], db: Any) -> None:
        self._work = work
        self._db = db

    def __await__(self) -> Generator[Any, Any, Any]:
        over, value, waits_for, failed = False, None, None, None
        try:
            with _one_commit(self._db), _quick_hash():
                waits_for = self._work.send(None)
        except StopIteration as done:
            over, value = True, done.value
        finally:
            failed = _commit(self._db)
        if not over:
            return (yield from _rest(self._work, waits_for, failed))
        if failed is not None:
            raise failed
        return value


def _rest(work: Coroutine[Any, Any, Any], waits_for: Any, failed: BaseException | None) -> Generator[Any, Any, Any]:
    """What `await` does, from the first wait on. failed: what that wait ends with, if anything."""
    try:
        while True:
            if failed is None:
                try:
                    heard = yield waits_for
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as exc:
                    failed = exc
                else:
                    waits_for = work.send(heard)
                    continue
            error, failed = failed, None
            waits_for = work.throw(error)
    except StopIteration as done:
        return done.value


@contextmanager
def _one_commit(db: Any) -> Iterator[None]:
    """Commits of this session only send what is new, because the work goes on with its ids and defaults."""
    db.commit = lambda: db.flush() if db.new else None
    try:
        yield
    finally:
        del db.commit


def _commit(db: Any) -> Exception | None:
    """Commit; what went wrong, after rolling back as JupyterHub does."""
    try:
        db.commit()
    except Exception as exc:
        log.warning("the database refused what a start made: %s", type(exc).__name__)
        db.rollback()
        return exc
    return None


_HASH = getattr(provider, "hash_token", None)
_QUICK = (
    partial(utils.hash_token, rounds=1)
    if _HASH is not None and "rounds" in inspect.signature(utils.hash_token).parameters
    else _HASH
)


@contextmanager
def _quick_hash() -> Iterator[None]:
    """Hash the secret of a server's OAuth client once, not 16384 times.

    The rounds are against guessing. This secret is the API token that the hub has just made at random, and its own
    table of tokens holds it in one round, for the reason that nobody guesses 128 random bits.
    """
    if _HASH is None:
        yield
        return
    provider.hash_token = _QUICK
    try:
        yield
    finally:
        provider.hash_token = _HASH
