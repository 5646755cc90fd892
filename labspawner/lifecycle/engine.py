"""The one object that a hub talks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from labspawner.deadlines import LET_GO_S, within
from labspawner.errors import LabError, StoreUnavailable, UnknownLease
from labspawner.lifecycle.admission import Admission, Place, Pool, Room
from labspawner.lifecycle.bells import Bell
from labspawner.lifecycle.book import LeaseBook, Notice
from labspawner.lifecycle.holds import Hold, Holds
from labspawner.lifecycle.launcher import Launcher, stop_mode
from labspawner.lifecycle.looks import PATIENCE_S
from labspawner.lifecycle.observer import Observer
from labspawner.lifecycle.orders import Order, Report, Variant
from labspawner.lifecycle.releaser import Releaser
from labspawner.model import Capacity, Ending, Lease, LeaseId, Phase, ReleaseMode, Resources, ServerState
from labspawner.placement import End
from labspawner.providers.contract import Announcing, Forgetting, Provider
from labspawner.reconciler import Reconciler, Rules
from labspawner.sentences import Sentence
from labspawner.store import Store

log = logging.getLogger(__name__)

STOPPED = Sentence("It was stopped by hand.")
DELETED = Sentence("It was deleted.")
DIED = Sentence("Your server stopped by itself. Your files are still there.")
LEARN_EVERY = timedelta(minutes=5)
CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Times in seconds; `labspawner.config` says what most of them mean to an administrator.

    recheck_s: how often the head of a line asks the provider again. let_go_s: how long a provider may go on with what
    was cancelled.
    """

    hub_id: str
    observe_interval_s: float = 5.0
    unknown_grace_s: float = 900.0
    release_grace_s: float = 10.0
    release_timeout_s: float = 120.0
    reconcile_interval_s: float = 60.0
    recheck_s: float = 2.0
    let_go_s: float = LET_GO_S
    rules: Rules = Rules()


class Engine:
    """Owns the leases of one hub.

    servers: what the hub believes active, as (user, server name); None while it cannot tell. All methods run on one
    event loop and start the engine first where that was not done.
    """

    def __init__(
        self,
        *,
        store: Store,
        providers: Mapping[str, Provider],
        settings: EngineSettings,
        servers: Callable[[], Collection[tuple[str, str]] | None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self.providers = providers
        self.book = LeaseBook(store, settings.hub_id, clock)
        self._typical: dict[str, timedelta] = {}
        self._learned_at: dict[str, datetime] = {}
        self._admission = Admission(providers, clock, recheck_s=settings.recheck_s, typical=self._typical.get)
        self.holds = Holds(self._admission, clock)
        self._observer = Observer(
            providers,
            self.book,
            clock,
            interval_s=settings.observe_interval_s,
            unknown_grace_s=settings.unknown_grace_s,
        )
        self._releaser = Releaser(
            self.book,
            providers,
            self._admission,
            self._observer,
            grace_s=settings.release_grace_s,
            timeout_s=settings.release_timeout_s,
            let_go_s=settings.let_go_s,
        )
        self._launcher = Launcher(
            self.book,
            providers,
            self._admission,
            self.holds,
            self._observer,
            self._releaser,
            clock,
            let_go_s=settings.let_go_s,
        )
        self.reconciler = Reconciler(
            providers=providers,
            leases=self._reload,
            busy=self._busy,
            servers=servers,
            end=self._end_for_reconciler,
            clock=clock,
            rules=settings.rules,
            interval_s=settings.reconcile_interval_s,
            grace_s=settings.release_grace_s,
            release_timeout_s=settings.release_timeout_s,
        )
        for name, provider in providers.items():
            if isinstance(provider, Announcing):
                provider.announce_to(_Ear(self, name))
        self._left_alone: set[LeaseId] = set()
        self._starting: asyncio.Task[None] | None = None
        self._reconciling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the leases that an earlier process left, and start the reconciler. Safe to repeat; a start that failed
        (the database does not answer) is tried again by the next caller."""
        task = self._starting
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            return
        if task is None or task.done():
            task = self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(task)

    async def _start(self) -> None:
        await self.open()
        self._reconciling = asyncio.get_running_loop().create_task(self.reconciler.run())
        log.info("labspawner ready hub=%s leases=%d", self._settings.hub_id, len(self.book.all()))

    async def open(self, *, left_alone: Callable[[Lease], bool] = lambda _lease: False) -> None:
        """Read the leases without starting the reconciler, for a command beside the hub.

        left_alone: leases that another process may be working on; no pass touches them.
        """
        await self._store.migrate()
        await self.book.load()
        self._left_alone = {lease.id for lease in self.book.all() if left_alone(lease)}
        for lease in self.book.all():
            if lease.phase not in {Phase.QUEUED, Phase.PARKED}:  # those two hold nothing
                self._admission.remember(lease.id, lease.provider, lease.reserves, lease.ready_at or lease.phase_at)

    def _busy(self) -> set[LeaseId]:
        return self._launcher.starts.busy() | self._releaser.busy() | self._left_alone

    async def close(self) -> None:
        """Give back tasks, threads and connections. Servers keep running, and the next process finds them; starts that
        are under way are rolled back, by us or by it."""
        for task in (self._starting, self._reconciling):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        self.holds.close()
        await self._launcher.close(CLOSE_S)
        await self._releaser.close(CLOSE_S)
        await self._admission.close()
        await self._observer.close()
        for provider in self.providers.values():
            await provider.close()
        await self._store.close()

    def notice(self, user: str, server_name: str) -> Notice | None:
        """Why the last server of this name ended, unless the student ended it."""
        return self.book.notice(user, server_name)

    async def launch(self, order: Order, report: Report) -> Lease:
        """Start what was ordered; answers the ready lease. On failure or cancellation all is rolled back first.

        Raises LabError only, or CancelledError.
        """
        try:
            await self.start()
        except LabError:
            raise
        except Exception as exc:
            raise StoreUnavailable(
                Sentence("The records of running servers cannot be read. Tell your administrator."),
                detail=f"the engine cannot start: {type(exc).__name__}",
            ) from exc
        await self._learn_typical(order)
        return await self._launcher.launch(order, report)

    async def free_places(self, provider: str, resources: Resources, *, most: int = 20) -> int | None:
        """How many servers like this could start now, counted up to `most`; None where nobody can tell."""
        return await self._admission.free_places(provider, resources, most=most)

    async def rooms(
        self, provider: str, needs: Collection[Resources], ends: Sequence[End] = ()
    ) -> Mapping[Resources, Room] | None:
        """What a provider has for servers of these kinds, of one moment; None where it does not answer at once.

        ends: of its servers, as far as they are known, the next one first."""
        return await self._admission.rooms(provider, needs, ends)

    async def capacity(self, provider: str) -> Capacity:
        """What a provider has, per host and card, as it says itself. Raises LabError where it does not answer at once."""
        return await self._admission.capacities().capacity(provider, PATIENCE_S)

    @property
    def room_changed(self) -> Bell:
        """Rings when somebody gets a place, gives one back, or joins or leaves a line."""
        return self._admission.changed

    def lines(self) -> Mapping[Pool, Sequence[Place]]:
        """Who stands in which line, the first first."""
        return self._admission.places()

    def typical_start_s(self, profile: str, provider: str | None = None) -> float | None:
        """How long a start of this profile takes once it has its place, in seconds; None where nobody knows yet."""
        return self._launcher.pace.typical_s(profile, provider)

    def servers_of(self, user: str, profile: str) -> set[str]:
        """The names of the servers of this profile that a user has, those that are starting among them."""
        return self._launcher.starts.servers_of(user, profile)

    async def hold(self, order: Order) -> Hold:
        """Keep a place for this order for a moment; see `Holds.take`. Raises LabError."""
        await self.start()
        self._launcher.starts.check(order)
        await self._learn_typical(order)
        return await self.holds.take(order.user, order.profile, order.variants, fallback=order.fallback)

    def others(self, user: str, server_name: str) -> tuple[Variant, ...]:
        """What a start that stands in line could take instead; see `switch`."""
        return self._launcher.starts.others(user, server_name)

    async def switch(self, user: str, server_name: str, index: int) -> None:
        """Start what stands in line as another variant of its profile, now; see `Starts.switch`. Raises LabError."""
        await self._launcher.starts.switch(user, server_name, index)

    async def is_running(self, user: str, server_name: str) -> bool:
        """Say whether the hub should call this server running. Never raises for a host's sake.

        A launch or release in progress counts as running, so that nobody interferes with it. A server that is gone is
        cleaned up in the background.
        """
        await self.start()
        if self._launcher.starts.of(user, server_name) is not None:
            return True
        lease = self.book.active(user, server_name)
        if lease is None:
            return False
        if lease.id in self._busy():
            return True
        if lease.phase is not Phase.READY:
            return False
        state = await self._observer.state(lease)
        if self.book.active(user, server_name) != lease or lease.id in self._busy():
            return await self.is_running(user, server_name)  # what we asked about is not what is there now
        if state is ServerState.GONE:
            self._releaser.begin(lease.id, Ending(by="failure", reason=DIED), stop_mode(lease))
        return state is ServerState.RUNNING

    async def look(self) -> None:
        """Take listings of the hosts that have servers, where the last ones are too old; for `sees_running`."""
        await self.start()
        hosts = {lease.provider for lease in self.book.all() if lease.phase is Phase.READY}
        await asyncio.gather(*(self._observer.look(host) for host in hosts))

    def sees_running(self, user: str, server_name: str) -> bool:
        """Whether the last listing, without another question, shows that this server runs; `is_running` asks."""
        lease = self.book.active(user, server_name)
        return lease is not None and lease.phase is Phase.READY and self._observer.sees(lease)

    async def stop(self, user: str, server_name: str) -> None:
        """End the server because the hub says so; returns when that is done, or when the reconciler took over. A start
        that is under way is rolled back.

        The reason is the culler's, where it wrote one; else somebody's click.
        """
        await self.start()
        await self._launcher.abort(user, server_name)
        lease = self.book.active(user, server_name)
        if lease is None:
            return
        ending, mode = Ending(by="user", reason=STOPPED), stop_mode(lease)
        if lease.id not in self._busy():
            written = await self.book.refresh(lease.id)
            if written is not None and written.phase is Phase.READY and written.ending is not None:
                ending, mode = written.ending, written.release_mode
        await self._releaser.end_quietly(lease.id, ending, mode)

    async def forget(self, user: str, server_name: str) -> None:
        """Destroy whatever is left of a server that was deleted for good, parked or not."""
        await self.start()
        await self._launcher.abort(user, server_name)
        for lease in self.book.of(user, server_name):
            await self._releaser.end_quietly(lease.id, Ending(by="user", reason=DELETED), ReleaseMode.DESTROY)
        for name, provider in self.providers.items():
            if isinstance(provider, Forgetting):
                try:
                    await within(self._settings.release_timeout_s, provider.forget(user, server_name))
                except (LabError, asyncio.TimeoutError) as exc:
                    log.error("provider=%s keeps what it had for user=%s server=%r: %s", name, user, server_name, exc)

    async def discard(self, lease_id: LeaseId) -> None:
        """Destroy what is parked under this lease, since its owner wants it gone. Raises UnknownLease for one that is not
        parked (any more), and LabError when that failed; it is then tried again."""
        lease = self.book.get(lease_id)
        if lease is None or lease.phase is not Phase.PARKED:
            raise UnknownLease(Sentence("This server is not parked any more. Load the page again."))
        await self.end(lease_id, Ending(by="user", reason=DELETED), ReleaseMode.DESTROY)

    def heard_of_end(self, lease_id: LeaseId, reason: Sentence | None) -> None:
        """A provider says that this server ended by itself: free it now, and not at the next look."""
        lease = self.book.get(lease_id)
        if lease is not None and lease.phase is Phase.READY and lease_id not in self._busy():
            self._releaser.begin(lease_id, Ending(by="failure", reason=reason or DIED), stop_mode(lease))

    def heard_of_room(self, provider: str) -> None:
        """A provider says that it may have more room: whoever is next in line need not wait for the next question."""
        self._admission.wake(provider)

    async def intend(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Write down why, and how, a server is about to be stopped; the next `stop` does it so. Raises LabError."""
        await self._store.intend(lease_id, ending, mode)

    async def end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Release all that a lease holds. Raises LabError when that failed; it is then tried again."""
        lease = self.book.get(lease_id)
        if lease is not None and lease_id in self._launcher.starts.busy():
            await self._launcher.abort(lease.user, lease.server_name)
        await self._releaser.end(lease_id, ending, mode)

    async def _reload(self) -> list[Lease]:
        """What the store has now, for the reconciler. What was ended beside us is promised nothing any more."""
        before = self.book.all()
        after = await self.book.reload()
        for lease in before:
            if self.book.get(lease.id) is None and lease.id not in self._busy():
                self._admission.give_back(lease.id)
                self._observer.forget(lease.id)
        return after

    async def _end_for_reconciler(self, lease: Lease, ending: Ending, mode: ReleaseMode) -> bool:
        """Release a lease that is still as it was when the reconciler looked; says whether that was so."""
        if lease.id in self._busy():
            return False
        now = await self.book.refresh(lease.id)
        if now is None or lease.id in self._busy() or (now.phase, now.phase_at) != (lease.phase, lease.phase_at):
            return False
        if now.ending is not None and now.phase is not Phase.PARKED:
            ending = now.ending
        await self._releaser.end(lease.id, ending, mode)
        return True

    async def _learn_typical(self, order: Order) -> None:
        """Refresh how long servers of this profile usually run; only for the guess of a wait, so it may fail."""
        now, never = self._clock(), datetime.min.replace(tzinfo=timezone.utc)
        if now - self._learned_at.get(order.profile, never) < LEARN_EVERY:
            return
        self._learned_at[order.profile] = now
        try:
            seconds = await self._store.median_session_s(self._settings.hub_id, order.profile)
        except Exception as exc:
            log.warning("cannot tell how long servers of profile=%s run: %s", order.profile, exc)
            return
        if seconds is not None:
            self._typical[order.variants[0].provider] = timedelta(seconds=seconds)


class _Ear:
    """What one provider tells the engine."""

    def __init__(self, engine: Engine, provider: str) -> None:
        self._engine = engine
        self._provider = provider

    def ended(self, lease_id: LeaseId, reason: Sentence | None) -> None:
        self._engine.heard_of_end(lease_id, reason)

    def freed(self) -> None:
        self._engine.heard_of_room(self._provider)
