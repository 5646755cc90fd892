"""Numbers, addresses and other things of which there is a list and each may be held by one only.

A row is held (it has an owner) or set aside (it has none, until an instant): after it was freed, so that it cools down, or
because somebody else uses it. Whatever runs on a host is the truth; this table keeps two starts from taking the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine

from labspawner.deadlines import finished
from labspawner.model import Reservation
from labspawner.store.engine import make_engine, make_private_file, transaction
from labspawner.store.migrate import upgrade
from labspawner.store.schema import reservations as table

T = TypeVar("T")


class Reservations:
    """The reservations of one provider of one hub, in a database that it may share with other hubs and processes.

    Each call is one transaction in a thread of this object: the event loop is never blocked, and of several that want the
    same at once one gets it. The table is made when it is missing. All raise `StoreUnavailable` while the database does not
    answer; an instant without a timezone is a ValueError. Whoever uses an object of this class closes it.
    """

    def __init__(self, engine: Engine, *, hub_id: str, scope: str) -> None:
        self._engine = engine
        self._key = {"hub_id": hub_id, "scope": scope}
        self._mine = sa.and_(table.c.hub_id == hub_id, table.c.scope == scope)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="labspawner-reservations")
        self._prepared = False
        self._preparing = threading.Lock()

    @classmethod
    def open(cls, url: str, *, hub_id: str, scope: str) -> Reservations:
        """Those of the hub `hub_id`; scope: the provider's name, since another cluster has numbers of its own. Nothing is
        read or written yet. Raises BadConfig for a URL that cannot be read."""
        return cls(make_engine(url), hub_id=hub_id, scope=scope)

    async def take(self, pool: str, candidates: Iterable[str], owner: str, now: datetime) -> str | None:
        """Take the first of `candidates` that nobody holds and that is not set aside; None when there is none.

        An owner has one thing of a pool: asked again, it gets the same, whatever the candidates are. candidates: looked at
        one by one, in another thread.
        """
        return await self._run(lambda conn: self._take(conn, pool, candidates, owner, now))

    async def free(
        self, owner: str, now: datetime, *, cool_down: timedelta = timedelta(0), pool: str | None = None
    ) -> int:
        """Give back all that `owner` holds, or what it holds of one pool, and say how much that was. Nobody gets it before
        `cool_down` is over. May be repeated."""
        return await self._run(lambda conn: self._free(conn, owner, now, cool_down, pool))

    async def held(self, now: datetime, pool: str | None = None) -> list[Reservation]:
        """All that is held or set aside, of one pool or of all, in the order in which it was taken."""
        return await self._run(lambda conn: self._held(conn, now, pool))

    async def adopt(self, pool: str, value: str, owner: str, now: datetime) -> bool:
        """Record that `owner` has `value`, as its host says; what else it held of the pool is free. False, and nothing is
        changed, where another owner holds it."""
        return await self._run(lambda conn: self._adopt(conn, pool, value, owner, now))

    async def set_aside(self, pool: str, value: str, until: datetime, why: str = "") -> None:
        """Let nobody have `value` until then, and take it from whoever holds it."""
        await self._run(lambda conn: self._put(conn, pool, value, owner=None, until=until, why=why, taken_at=until))

    async def close(self) -> None:
        """Finish what is being written, then give back thread and connections; may be repeated."""

        async def shut() -> None:
            await asyncio.get_running_loop().run_in_executor(None, self._shut_down)

        await finished(shut())

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in the thread; a cancelled caller hears of it when the transaction is over."""

        async def in_thread() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)

        return await finished(in_thread())

    def _transact(self, work: Callable[[Connection], T]) -> T:
        self._prepare()
        with transaction(self._engine, writes=True) as conn:
            return work(conn)

    def _prepare(self) -> None:
        with self._preparing:
            if self._prepared:
                return
            make_private_file(self._engine.url)
            with transaction(self._engine, writes=True) as conn:
                if not sa.inspect(conn).has_table(table.name):
                    upgrade(conn)
            self._prepared = True

    def _shut_down(self) -> None:
        self._threads.shutdown(wait=True)
        self._engine.dispose()

    def _take(self, conn: Connection, pool: str, candidates: Iterable[str], owner: str, now: datetime) -> str | None:
        self._expire(conn, now)
        if (mine := self._of(conn, pool, owner)) is not None:
            return mine
        taken = set(conn.scalars(sa.select(table.c.value).where(self._mine, table.c.pool == pool)))
        for value in candidates:
            if value in taken:
                continue
            row = {**self._key, "pool": pool, "value": value, "owner": owner, "taken_at": now, "why": ""}
            if self._insert(conn, row):
                return value
            if (mine := self._of(conn, pool, owner)) is not None:  # another process asked for the same owner
                return mine
        return None

    def _insert(self, conn: Connection, row: dict[str, object]) -> bool:
        """Whether the row was written. Another transaction that is writing the same value, or for the same owner, is
        waited for."""
        insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
        statement = insert(table).values(**row).on_conflict_do_nothing()
        return conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1

    def _of(self, conn: Connection, pool: str, owner: str) -> str | None:
        query = sa.select(table.c.value).where(self._mine, table.c.pool == pool, table.c.owner == owner)
        value: str | None = conn.scalar(query)
        return value

    def _free(self, conn: Connection, owner: str, now: datetime, cool_down: timedelta, pool: str | None) -> int:
        which = sa.and_(self._mine, table.c.owner == owner)
        if pool is not None:
            which = sa.and_(which, table.c.pool == pool)
        if cool_down <= timedelta(0):
            return conn.execute(sa.delete(table).where(which)).rowcount
        changes = {"owner": None, "until": now + cool_down, "why": ""}
        return conn.execute(sa.update(table).where(which).values(**changes)).rowcount

    def _held(self, conn: Connection, now: datetime, pool: str | None) -> list[Reservation]:
        self._expire(conn, now)
        query = sa.select(table).where(self._mine).order_by(table.c.taken_at, table.c.pool, table.c.value)
        if pool is not None:
            query = query.where(table.c.pool == pool)
        return [
            Reservation(
                pool=row["pool"],
                value=row["value"],
                owner=row["owner"],
                taken_at=row["taken_at"],
                until=row["until"],
                why=row["why"],
            )
            for row in conn.execute(query).mappings()
        ]

    def _adopt(self, conn: Connection, pool: str, value: str, owner: str, now: datetime) -> bool:
        this = sa.and_(self._mine, table.c.pool == pool, table.c.value == value)
        found = conn.execute(sa.select(table.c.owner).where(this).with_for_update()).one_or_none()
        if found is not None and found.owner is not None:
            return bool(found.owner == owner)
        conn.execute(sa.delete(table).where(self._mine, table.c.pool == pool, table.c.owner == owner))
        if found is not None:
            changes = {"owner": owner, "taken_at": now, "until": None, "why": ""}
            conn.execute(sa.update(table).where(this).values(**changes))
            return True
        row = {**self._key, "pool": pool, "value": value, "owner": owner, "taken_at": now, "why": ""}
        return self._insert(conn, row)

    def _put(self, conn: Connection, pool: str, value: str, **columns: object) -> None:
        this = sa.and_(self._mine, table.c.pool == pool, table.c.value == value)
        while not conn.execute(sa.update(table).where(this).values(**columns)).rowcount:
            if self._insert(conn, {**self._key, "pool": pool, "value": value, **columns}):
                return

    def _expire(self, conn: Connection, now: datetime) -> None:
        """Forget what was set aside until now."""
        over = sa.and_(self._mine, table.c.owner.is_(None), table.c.until <= now)
        conn.execute(sa.delete(table).where(over))
