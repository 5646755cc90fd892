"""The async door to the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from labspawner.deadlines import finished
from labspawner.errors import StoreUnavailable
from labspawner.model import Decision, Ending, Lease, LeaseId, Phase, ReleaseMode
from labspawner.store import evidence, leases, messages, reports
from labspawner.store.audit import AuditLog
from labspawner.store.coursebook import Coursebook
from labspawner.store.engine import POSTGRESQL_THREADS, cannot_use, make_engine, make_private_file, transaction
from labspawner.store.evidence import Allowance, Grant, Standing
from labspawner.store.jobs import Jobs
from labspawner.store.messages import SaidMessage
from labspawner.store.migrate import upgrade
from labspawner.store.reports import Usage
from labspawner.store.rosters import Rosters
from labspawner.store.schema import leases as leases_table

log = logging.getLogger(__name__)
T = TypeVar("T")

PRUNE_BATCH = 5000  # rows in one transaction: a long one would make the hub wait


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


class Store:
    """Leases and decisions, in a SQLite file or a PostgreSQL database that several processes may share.

    Every method runs one transaction in a thread of this object, so the event loop is never blocked, and all or
    nothing is written. Cancelling a method that writes takes effect when its transaction is over: it was committed
    or it was not, but nothing comes later. All raise `StoreUnavailable` while the database does not answer; instants
    without a timezone are a ValueError.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime], hub_id: str = "") -> None:
        self._engine = engine
        self._clock = clock
        self._hub_id = hub_id
        threads = 1 if engine.dialect.name == "sqlite" else POSTGRESQL_THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="labspawner-store")

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], datetime] = utcnow, hub_id: str = "") -> Store:
        """A store at a database URL; nothing is read or written yet, so call `migrate` next.

        hub_id: whose courses, rosters, jobs and audit log these are; leases are asked for with it.
        Raises BadConfig for a URL that cannot be read, another database, or a driver that is not installed.
        """
        return cls(make_engine(url), clock=clock, hub_id=hub_id)

    @property
    def coursebook(self) -> Coursebook:
        """The courses that are written in the console. As the doors below it: ValueError without a `hub_id`."""
        return Coursebook(self._read, self._write, hub_id=self._mine())

    @property
    def rosters(self) -> Rosters:
        """Who was put into which course."""
        return Rosters(self._read, self._write, hub_id=self._mine())

    @property
    def audit(self) -> AuditLog:
        """Who did what."""
        return AuditLog(self._read, self._write, hub_id=self._mine())

    @property
    def jobs(self) -> Jobs:
        """Actions on a whole course."""
        return Jobs(self._read, self._write, hub_id=self._mine())

    async def migrate(self) -> None:
        """Make the tables, or bring older ones to the form that this code knows; processes may race for it.

        Raises BadConfig, which says what to do, for a database that cannot be reached or written, is not ours, or was
        written by a newer labspawner.
        """
        await self._settled(self._migrate)

    async def close(self) -> None:
        """Finish what is being written, then give back threads and connections; may be repeated."""
        await self._settled_in(None, self._shut_down)

    async def db_ok(self) -> bool:
        """Say whether the database answers and has our tables; the log has the cause when not."""
        try:
            await self._read(lambda c: c.execute(sa.select(leases_table.c.id).limit(1)).all())
        except (StoreUnavailable, sa.exc.ProgrammingError) as exc:
            log.warning("database check failed cause=%s", exc)
            return False
        return True

    async def add(self, lease: Lease) -> None:
        """Store a new lease. Raises LeaseConflict while the same server of that hub has an active one, that is, one that
        is neither parked nor ended."""
        await self._write(lambda c: leases.insert(c, lease))

    async def get(self, lease_id: LeaseId) -> Lease | None:
        """The lease with this id, live or ended."""
        return await self._read(lambda c: leases.fetch(c, lease_id))

    async def update(self, lease_id: LeaseId, *, expected: Collection[Phase] | None = None, **changes: object) -> Lease:
        """Change fields of a lease if its phase is one of `expected` (None: any live phase); the lease as it is now.

        A new phase sets `phase_at`, READY also `ready_at` and ENDED `ended_at`, unless given. Ending an ended lease
        again changes nothing: the first ending stands. Raises LeaseConflict if the phase is another one, and for any
        other change of an ended lease that does not expect ENDED, or for a rename to a server that has an active one;
        UnknownLease; TypeError for a field that does not exist or never changes (id, hub_id, created_at).
        """
        return await self._write(lambda c: leases.update(c, lease_id, changes, expected=expected, now=self._clock()))

    async def live(self, hub_id: str, *, user: str | None = None, server_name: str | None = None) -> list[Lease]:
        """The leases of a hub, a user or a server that have not ended, oldest first."""
        return await self._read(lambda c: leases.live(c, hub_id, user=user, server_name=server_name))

    async def latest_endings(self, hub_id: str, *, since: datetime) -> list[Lease]:
        """For each server its last lease that ended with an ending, at `since` or later; newest first."""
        return await self._read(lambda c: leases.latest_endings(c, hub_id, since=since))

    async def intend(self, lease_id: LeaseId, ending: Ending, release_mode: ReleaseMode) -> Lease:
        """Note in a live lease why, and how, its server is about to be stopped, before the hub is asked to do so.

        The stop finds both in `ending` and `release_mode`. A later intention replaces an earlier one. Raises
        LeaseConflict if the server is stopping already or has ended; UnknownLease.
        """
        return await self._write(lambda c: leases.intend(c, lease_id, ending, release_mode))

    async def withdraw(self, lease_id: LeaseId, ending: Ending) -> bool:
        """Take back an intention, if it is still the same and no stop has begun; `release_mode` is as before it.

        Says whether that was so; False also for an unknown lease.
        """
        return await self._write(lambda c: leases.withdraw(c, lease_id, ending))

    async def add_decisions(self, decisions: Iterable[Decision]) -> int:
        """Store decisions and say how many; one about a lease that is not on record is dropped."""
        new = tuple(decisions)
        return await self._write(lambda c: reports.insert_decisions(c, new)) if new else 0

    async def decisions(
        self, *, hub_id: str, user: str | None = None, lease_id: LeaseId | None = None, limit: int = 100
    ) -> list[Decision]:
        """The last decisions about a hub's servers, newest first."""
        return await self._read(
            lambda c: reports.fetch_decisions(c, hub_id=hub_id, user=user, lease_id=lease_id, limit=limit)
        )

    async def put_standings(self, standings: Mapping[LeaseId, Standing]) -> int:
        """Store what is known of the use of some servers, in one transaction, and say of how many.

        What was granted (`extended_until`, `held_until`) is left as it is; a lease that is not on record is left out.
        """
        return await self._write(lambda c: evidence.put(c, standings)) if standings else 0

    async def standings(self, lease_ids: Collection[LeaseId]) -> dict[LeaseId, Standing]:
        """How some leases stand; one of which nothing is known is left out."""
        return await self._read(lambda c: evidence.fetch(c, lease_ids)) if lease_ids else {}

    async def live_with_standings(self, hub_id: str) -> list[tuple[Lease, Standing | None]]:
        """The leases of a hub that have not ended, oldest first, each with how it stands; one query."""
        return await self._read(lambda c: evidence.live(c, hub_id))

    async def granted(self, hub_id: str, day: str) -> dict[LeaseId, Allowance]:
        """What was granted on a day (`YYYY-MM-DD`) for the live leases of a hub; one of which nothing was is left out."""
        return await self._read(lambda c: evidence.granted(c, hub_id, day))

    async def extend(
        self, lease_id: LeaseId, *, day: str, per_day: int, step: timedelta, base: datetime
    ) -> Grant | None:
        """Push the end of idleness from `base`, or from where it was pushed already, by `step`; at most `per_day` times
        on that day, however many ask at once: `until` is None then. None for a lease that is not on record."""
        return await self._write(lambda c: evidence.extend(c, lease_id, day=day, per_day=per_day, step=step, base=base))

    async def hold(
        self, lease_id: LeaseId, *, day: str, budget_s: float, seconds: float, now: datetime
    ) -> Grant | None:
        """Keep an idle server for `seconds` from now, 0 to give that up; at most `budget_s` on that day, and an earlier
        hold counts only as far as it was used: `until` is None otherwise. None for a lease that is not on record."""
        return await self._write(
            lambda c: evidence.hold(c, lease_id, day=day, budget_s=budget_s, seconds=seconds, now=now)
        )

    async def median_session_s(self, hub_id: str, profile: str) -> float | None:
        """The median of the last 200 sessions of a profile, from ready to end, in seconds; None before there is one."""
        return await self._read(lambda c: reports.median_session_s(c, hub_id, profile))

    async def usage(self, hub_id: str, since: datetime, until: datetime) -> list[Usage]:
        """Seconds that each user held servers of a profile on a provider between two instants, up to now.

        A lease that was parked and resumed counts from its last ready only.
        """
        return (await self._read(lambda c: reports.usage(c, hub_id, (since, until), now=self._clock())))[0]

    async def usage_between(self, hub_id: str, edges: Sequence[datetime], *, course: str) -> list[list[Usage]]:
        """The same for the profiles of one course and each stretch between one of `edges` and the next; one read for all."""
        return await self._read(lambda c: reports.usage(c, hub_id, edges, now=self._clock(), course=course))

    async def keep_message(self, said: SaidMessage, *, most: int, before: datetime) -> bool:
        """Keep what was said to a server; see `messages.insert`."""
        return await self._write(lambda c: messages.insert(c, said, most=most, before=before))

    async def messages(self, hub_id: str, *, since: datetime) -> list[SaidMessage]:
        """What was said since then to the live servers of a hub, oldest first."""
        return await self._read(lambda c: messages.live(c, hub_id, since=since))

    async def prune(self, before: datetime) -> int:
        """Drop decisions made, and leases ended, before an instant; how many. Live leases stay, however old."""
        dropped = 0
        while True:
            batch = await self._write(lambda c: reports.prune_some(c, before, batch=PRUNE_BATCH))
            dropped += batch
            if batch < PRUNE_BATCH:
                return dropped

    def _mine(self) -> str:
        if not self._hub_id:
            raise ValueError("this store was opened for no hub: write Store.open(url, hub_id=...)")
        return self._hub_id

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work, False)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._settled(lambda: self._transact(work, True))

    def _transact(self, work: Callable[[Connection], T], writes: bool) -> T:
        with transaction(self._engine, writes=writes) as connection:
            return work(connection)

    async def _settled(self, work: Callable[[], T]) -> T:
        return await self._settled_in(self._threads, work)

    async def _settled_in(self, threads: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
        """Run `work` in a thread; on cancellation wait until it is over, then pass the cancellation on."""

        async def in_thread() -> T:
            return await asyncio.get_running_loop().run_in_executor(threads, work)

        return await finished(in_thread())

    def _migrate(self) -> None:
        url = self._engine.url
        try:
            make_private_file(url)
            with transaction(self._engine, writes=True) as connection:
                upgrade(connection)
        except StoreUnavailable as exc:
            cause = getattr(exc.__cause__, "orig", None) or exc
            raise cannot_use(url, cause) from exc
        except (OSError, sa.exc.DBAPIError) as exc:
            raise cannot_use(url, getattr(exc, "orig", None) or exc) from exc

    def _shut_down(self) -> None:
        self._threads.shutdown(wait=True)
        self._engine.dispose()
