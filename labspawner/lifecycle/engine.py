"""The one object that a hub talks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook, Notice
from labspawner.lifecycle.launcher import Launcher, stop_mode
from labspawner.lifecycle.observer import Observer
from labspawner.lifecycle.orders import Order, Report
from labspawner.lifecycle.releaser import Releaser
from labspawner.model import Ending, Lease, LeaseId, Phase, ReleaseMode, Resources, ServerState
from labspawner.providers.contract import Provider
from labspawner.reconciler import Reconciler, Rules
from labspawner.sentences import Sentence
from labspawner.store import Store

log = logging.getLogger(__name__)

STOPPED = Sentence("It was stopped by hand.")
DELETED = Sentence("It was deleted.")
DIED = Sentence("Your server stopped by itself. Your files are still there.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Times in seconds; `labspawner.config` says what each means to an administrator."""

    hub_id: str
    observe_interval_s: float = 5.0
    unknown_grace_s: float = 900.0
    release_grace_s: float = 10.0
    release_timeout_s: float = 120.0
    reconcile_interval_s: float = 60.0
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
        self.providers = providers
        self.book = LeaseBook(store, settings.hub_id, clock)
        self._typical: dict[str, timedelta] = {}
        self._admission = Admission(providers, clock, typical=self._typical.get)
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
        )
        self._launcher = Launcher(self.book, providers, self._admission, self._observer, self._releaser, clock)
        self.reconciler = Reconciler(
            providers=providers,
            leases=lambda: store.live(settings.hub_id),
            busy=self._busy,
            servers=servers,
            end=self._end_for_reconciler,
            clock=clock,
            rules=settings.rules,
            interval_s=settings.reconcile_interval_s,
            grace_s=settings.release_grace_s,
        )
        self._left_alone: set[LeaseId] = set()
        self._starting: asyncio.Task[None] | None = None
        self._reconciling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the leases that an earlier process left, and start the reconciler. Safe to repeat; a start that failed
        (the database does not answer) is tried again by the next caller."""
        task = self._starting
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
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
            if lease.phase is not Phase.PARKED:
                self._admission.remember(lease.id, lease.provider, lease.reserves)

    def _busy(self) -> set[LeaseId]:
        return self._launcher.busy() | self._releaser.busy() | self._left_alone

    async def close(self) -> None:
        """Give back tasks, threads and connections. Servers keep running; the next process finds them."""
        for task in (self._starting, self._reconciling):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        await self._releaser.close(wait_s=5.0)
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
        await self.start()
        await self._learn_typical(order)
        return await self._launcher.launch(order, report)

    async def free_places(self, provider: str, resources: Resources, *, most: int = 20) -> int | None:
        """How many servers like this could start now, counted up to `most`; None where nobody can tell."""
        return await self._admission.free_places(provider, resources, most=most)

    async def is_running(self, user: str, server_name: str) -> bool:
        """Say whether the hub should call this server running. Never raises for a host's sake.

        A launch or release in progress counts as running, so that nobody interferes with it. A server that is gone is
        cleaned up in the background.
        """
        await self.start()
        lease = self.book.active(user, server_name)
        if lease is None:
            return False
        if lease.id in self._busy():
            return True
        if lease.phase is not Phase.READY:
            return False
        state = await self._observer.state(lease)
        if state is ServerState.GONE:
            self._releaser.begin(lease.id, Ending(by="failure", reason=DIED), stop_mode(lease))
        return state is ServerState.RUNNING

    async def stop(self, user: str, server_name: str) -> None:
        """End the server because the hub says so; returns when that is done, or when the reconciler took over.

        The reason is the culler's, where it wrote one; else somebody's click.
        """
        await self.start()
        lease = self.book.active(user, server_name)
        if lease is None:
            return
        ending, mode = Ending(by="user", reason=STOPPED), stop_mode(lease)
        written = await self.book.fresh(lease.id)
        if written is not None and written.phase is Phase.READY and written.ending is not None:
            ending, mode = written.ending, written.release_mode
        await self._releaser.end_quietly(lease.id, ending, mode)

    async def forget(self, user: str, server_name: str) -> None:
        """Destroy whatever is left of a server that was deleted for good, parked or not."""
        await self.start()
        for lease in self.book.of(user, server_name):
            await self._releaser.end_quietly(lease.id, Ending(by="user", reason=DELETED), ReleaseMode.DESTROY)

    async def end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Release all that a lease holds. Raises what the provider raised."""
        await self._releaser.end(lease_id, ending, mode)

    async def _end_for_reconciler(self, lease: Lease, ending: Ending, mode: ReleaseMode) -> None:
        written = await self.book.fresh(lease.id)
        if written is not None and written.ending is not None:
            ending = written.ending
        await self._releaser.end(lease.id, ending, mode)

    async def _learn_typical(self, order: Order) -> None:
        """Refresh how long servers of this profile usually run; only used for the guess of a wait."""
        seconds = await self._store.median_session_s(self._settings.hub_id, order.profile)
        if seconds is not None:
            self._typical[order.variants[0].provider] = timedelta(seconds=seconds)
