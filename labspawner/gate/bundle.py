"""JupyterHub's start as two database transactions instead of nine, and the first of them shared by several starts.

`User.spawn` runs without waiting from its first line to `Spawner.start`, and again from there until it asks whether the
server answers, and commits after each thing it makes. Nobody else can look in between, so one commit at the end of such
a stretch is the same to everybody. Most of what a commit costs is finding out what to write and in which order, so one
for four new servers costs little more than for one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from jupyterhub import orm, utils
from jupyterhub.oauth import provider

log = logging.getLogger(__name__)

_NEEDS_NO_ID = tuple(getattr(orm, name) for name in ("Server", "APIToken", "OAuthClient") if hasattr(orm, name))
"""What a start makes and refers to as an object: nobody reads its id before the stretch is over."""


class RolledBack(Exception):
    """What a start wrote was undone, because another one that shared its transaction failed. Nothing was created."""


class SharedCommit:
    """One commit for all who run in one turn of the gate.

    after: calls back when these have run, and before anybody else does.
    """

    def __init__(self, db: Any, after: Callable[[Callable[[], None]], None]) -> None:
        self.db = db
        self._after = after
        self._members: list[OneCommit] = []
        self._lost = False
        sa.event.listen(db, "after_rollback", self._on_rollback)

    def join(self, member: OneCommit) -> None:
        """Commit what this one has made with the others of this turn; where that fails, each of them hears it."""
        if not self._members:
            self._after(self.settle)
        self._members.append(member)

    def settle(self) -> None:
        """Commit now, for all who have joined. Does nothing where that has been done."""
        members, self._members = self._members, []
        lost, self._lost = self._lost, False
        if members:
            failed = _commit(self.db)
            if lost and failed is None:
                failed = RolledBack("another start of the same turn failed in the database")
            for member in members:
                member.fail(failed)

    def _on_rollback(self, _db: Any) -> None:
        self._lost = bool(self._members)


class OneCommit:
    """Awaits `work`, with the commits of each stretch between two waits made one.

    shared: where the commit of the first stretch is made with others; None: it is made at once.
    enough: says that the rest goes on as ever. A commit that fails is raised in `work`, where it waits.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        db: Any,
        *,
        shared: SharedCommit | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self._work = work
        self._db = db
        self._shared = shared
        self._enough = enough
        self._failed: Exception | None = None
        self._waits_for: Any = None

    def fail(self, failed: Exception | None) -> None:
        """Hear how a shared commit ended. What the work waits for is cancelled where it failed."""
        if failed is not None:
            self._failed = failed
            if self._waits_for is not None:
                self._waits_for.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        making = _Making(self._db)
        try:
            with making:
                self._waits_for = self._stretch(partial(self._work.send, None), self._shared)
            step = yield from self._wait()
            while not self._enough():
                with making:
                    self._waits_for = self._stretch(step, None)
                step = yield from self._wait()
            while True:
                self._waits_for = step()
                step = yield from self._wait()
        except StopIteration as done:
            return done.value

    def _stretch(self, step: Callable[[], Any], shared: SharedCommit | None) -> Any:
        """Let the work run until it waits, and commit; what it waits for. Raises StopIteration where it is done."""
        try:
            with _one_commit(self._db):
                waits_for = step()
        except BaseException as exc:
            failed = _commit(self._db)
            if failed is not None and isinstance(exc, StopIteration):
                raise failed from None
            raise
        if shared is None:
            self._failed = _commit(self._db)
        else:
            shared.join(self)
        return waits_for

    def _wait(self) -> Generator[Any, Any, Callable[[], Any]]:
        """Wait for what the work waits for; how it goes on then."""
        error: BaseException | None = self._take_failure()
        heard: Any = None
        if error is None:
            try:
                heard = yield self._waits_for
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as exc:
                error = exc
            error = self._take_failure() or error
        return partial(self._work.send, heard) if error is None else partial(self._work.throw, error)

    def _take_failure(self) -> Exception | None:
        failed, self._failed = self._failed, None
        return failed


@contextmanager
def _one_commit(db: Any) -> Iterator[None]:
    """Commits of this session write nothing, as far as the work can go on with what it has in memory."""
    db.commit = partial(_as_if_committed, db)
    try:
        yield
    finally:
        del db.commit


def _as_if_committed(db: Any) -> None:
    """Give new objects what they would have after a commit: their defaults, or where that is not enough, their rows."""
    new = list(db.new)
    if not all(isinstance(one, _NEEDS_NO_ID) for one in new):
        db.flush()
        return
    for one in new:
        _fill(one)


def _fill(one: Any) -> None:
    """Set the defaults of columns that have no value yet, as SQLAlchemy does when it writes a row."""
    state = sa.inspect(one)
    for attribute in state.mapper.column_attrs:
        made = attribute.columns[0].default
        if made is None or attribute.key in state.dict:
            continue
        if made.is_callable:
            setattr(one, attribute.key, made.arg(None))
        elif made.is_scalar:
            setattr(one, attribute.key, made.arg.copy() if isinstance(made.arg, (list, dict)) else made.arg)


def _commit(db: Any) -> Exception | None:
    """Commit; what went wrong, after rolling back as JupyterHub does."""
    try:
        db.commit()
    except Exception as exc:
        log.warning("the database refused what a start made: %s", type(exc).__name__)
        db.rollback()
        return exc
    return None


_HASH: Any = getattr(provider, "hash_token", None)
_QUICK: Any = (
    partial(utils.hash_token, rounds=1)
    if _HASH is not None and "rounds" in inspect.signature(utils.hash_token).parameters
    else _HASH
)


class _Making:
    """How a start makes its server, token and OAuth client: looks for older ones write nothing, and the client's secret
    is hashed once, not 16384 times. Over as soon as there is a client.

    The rounds are against guessing. This secret is the API token that the hub has just made at random, and its own
    table of tokens holds it in one round, for the reason that nobody guesses 128 random bits.
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._autoflush = db.autoflush
        self._over = _HASH is None

    def __enter__(self) -> None:
        if not self._over:
            self._db.autoflush, provider.hash_token = False, self._hash

    def __exit__(self, *_exc: object) -> None:
        self._db.autoflush = self._autoflush
        if _HASH is not None:
            provider.hash_token = _HASH

    def _hash(self, *args: Any, **kwargs: Any) -> Any:
        self._over = True
        self._db.autoflush = self._autoflush  # what comes now may be an administrator's hook
        provider.hash_token = _HASH
        return _QUICK(*args, **kwargs)
