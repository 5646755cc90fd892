"""From an order to a ready server, or to nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from labspawner import metrics
from labspawner.deadlines import LET_GO_S, let_go, result_of, within
from labspawner.errors import LabError, LeaseConflict, StartFailed
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.choosing import choose
from labspawner.lifecycle.holds import Holds
from labspawner.lifecycle.observer import Observer
from labspawner.lifecycle.orders import Order, Report, Variant
from labspawner.lifecycle.pace import Pace
from labspawner.lifecycle.releaser import Releaser
from labspawner.lifecycle.starts import Start, Starts
from labspawner.model import (
    Checkpoint,
    Ending,
    Event,
    LaunchRequest,
    Lease,
    LeaseId,
    Phase,
    Progress,
    ReleaseMode,
)
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence
from labspawner.units import human_duration

log = logging.getLogger(__name__)

REPLACED = Sentence("It was replaced by a new start.")
CANCELLED = Sentence("The start was cancelled.")
STOPPED_MEANWHILE = Sentence("Your server was stopped while it was starting.")
OVERRUN_S = 10.0
"""How much later than its own deadline a provider may be before the start is ended for it."""


class Launcher:
    """Writes the lease, gets admission, runs the provider's launch, and undoes all of it when one step fails.

    let_go_s: how long a provider's launch may go on after it was cancelled.
    """

    def __init__(
        self,
        book: LeaseBook,
        providers: Mapping[str, Provider],
        admission: Admission,
        holds: Holds,
        observer: Observer,
        releaser: Releaser,
        clock: Callable[[], datetime],
        *,
        let_go_s: float = LET_GO_S,
    ) -> None:
        self._book = book
        self._providers = providers
        self._admission = admission
        self._holds = holds
        self._observer = observer
        self._releaser = releaser
        self._clock = clock
        self._let_go_s = let_go_s
        self.starts = Starts(book, admission)
        self._roll_backs: set[asyncio.Task[None]] = set()
        self.pace = Pace()

    async def launch(self, order: Order, report: Report) -> Lease:
        """Start what was ordered; answers the ready lease. On failure or cancellation all is rolled back first.

        Raises LabError only, or CancelledError. A second cancellation does not wait for the roll-back, nor stop it.
        """
        began = self._clock()
        start = self.starts.begin(order)
        try:
            ready = await self._result(start, report)
        except BaseException as exc:
            error = _translated(exc, start)
            undoing = asyncio.get_running_loop().create_task(self._roll_back(start, error))
            self._roll_backs.add(undoing)
            undoing.add_done_callback(self._roll_backs.discard)
            await asyncio.wait({undoing})
            raise error from (None if error is exc else exc)
        self.starts.end(start)
        metrics.STARTS.labels(ready.provider, order.profile, "ready", "ready").inc()
        metrics.READY_SECONDS.labels(ready.provider, order.profile).observe((self._clock() - began).total_seconds())
        log.info("server ready lease=%s user=%s provider=%s", ready.id, ready.user, ready.provider)
        return ready

    async def abort(self, user: str, server_name: str) -> None:
        """End the start of this server that is under way, if there is one; returns when it is over and rolled back."""
        if (start := self.starts.of(user, server_name)) is not None:
            start.stopped = start.given_up = True
            if start.task is not None:
                start.task.cancel()
            await start.over.wait()

    async def close(self, wait_s: float) -> None:
        """Roll back what is starting; what is not done in `wait_s` seconds is done by the next hub process."""
        ends = [asyncio.ensure_future(self.abort(*start.server)) for start in self.starts.all()]
        if ends:
            _, late = await asyncio.wait(ends, timeout=wait_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _result(self, start: Start, report: Report) -> Lease:
        """Run the steps in a task of their own, so that `abort` can end them without the caller's being cancelled."""
        start.task = asyncio.get_running_loop().create_task(self._steps(start, report))
        try:
            await asyncio.wait({start.task})
        except asyncio.CancelledError:
            start.given_up = True
            await let_go(start.task, 1.5 * self._let_go_s)
            raise
        return result_of(start.task)

    async def _steps(self, start: Start, report: Report) -> Lease:
        lease = await self._open(start)
        variant = await choose(self._admission, self._holds, lease, start.order, report, start.switch)
        began = self._clock()
        try:
            # The provider keeps its own deadline; this one is for a provider that does not.
            ready = await within(
                variant.ready_timeout_s + OVERRUN_S,
                self._run(lease, start, variant, report),
                let_go_s=self._let_go_s,
            )
        except asyncio.TimeoutError as exc:
            raise StartFailed(
                Sentence(
                    "The server did not become ready in {waited}. Try again; "
                    "if it happens again, tell your instructor.",
                    waited=human_duration(timedelta(seconds=variant.ready_timeout_s)),
                ),
                detail=f"lease={lease.id} provider={variant.provider} overran its own deadline",
            ) from exc
        self.pace.note(start.order.profile, variant.provider, (self._clock() - began).total_seconds())
        return ready

    async def _open(self, start: Start) -> Lease:
        """Write the lease. An older one of the same server is ended first: its token is no longer valid."""
        order = start.order
        old = self._book.active(*start.server)
        if old is not None:
            try:
                await self._releaser.end(old.id, Ending(by="hub", reason=REPLACED), stop_mode(old))
            except LabError as exc:
                raise LeaseConflict(
                    Sentence("Your last server is still being stopped. Try again in a minute."), detail=str(exc)
                ) from exc
        facts: dict[str, Any] = {"profile_rev": order.profile_rev, "pinned": order.pinned}
        start.parked = parked = self._parked(order)
        if parked is not None:
            start.lease_id = parked.id
            # Why it was parked is over: left there, it would be read as why the next stop comes.
            return await self._book.write(
                parked.id, expected={Phase.PARKED}, phase=Phase.QUEUED, ending=None, attempts=0, **facts
            )
        now = self._clock()
        lease = Lease(
            id=new_lease_id(),
            hub_id=self._book.hub_id,
            user=order.user,
            server_name=order.server_name,
            provider=order.variants[0].provider,
            profile=order.profile,
            created_at=now,
            phase_at=now,
            **facts,
        )
        start.lease_id = lease.id
        await self._book.add(lease)
        return lease

    def _parked(self, order: Order) -> Lease | None:
        """What the last server of the same profile left; resumed rather than started anew."""
        providers = {variant.provider for variant in order.variants}
        found = [
            lease
            for lease in self._book.of(order.user, order.server_name)
            if lease.phase is Phase.PARKED
            and lease.profile == order.profile
            and lease.handle is not None
            and lease.handle.provider in providers
            and lease.release_mode is not ReleaseMode.DESTROY
            and lease.id not in self._releaser.busy()
        ]
        return max(found, key=lambda lease: lease.phase_at, default=None)

    async def _run(self, lease: Lease, start: Start, variant: Variant, report: Report) -> Lease:
        lease = await self._book.write(
            lease.id,
            expected={Phase.QUEUED},
            phase=Phase.LAUNCHING,
            provider=variant.provider,
            reserves=variant.resources,
            pinned={**start.order.pinned, **variant.pinned},
        )
        events = self._providers[variant.provider].launch(_request(lease, start.order, variant))
        try:
            url = await self._follow(events, lease.id, start, report)
        finally:
            await _close(events, variant.provider)
        current = self._book.get(lease.id)
        if url is None or current is None or current.handle is None:
            raise StartFailed(
                Sentence("The server was started, but nobody said where it listens. Tell your administrator."),
                detail=f"provider={variant.provider} launched lease={lease.id} without Ready, or without a Checkpoint",
            )
        # A reason that the culler wrote against a start that hangs is not why this server will end one day.
        ready = await self._book.write(
            lease.id, expected={Phase.LAUNCHING}, phase=Phase.READY, url=url, ready_at=self._clock(), ending=None
        )
        self._observer.ready(lease.id)
        return ready

    async def _follow(
        self, events: AsyncIterator[Event], lease_id: LeaseId, start: Start, report: Report
    ) -> str | None:
        """Store each checkpoint, report all progress; the URL of the first `Ready`, after which nothing is asked."""
        async for event in events:
            if start.given_up:
                return None
            if isinstance(event, Checkpoint):
                await self._book.write(lease_id, expected={Phase.LAUNCHING}, handle=event.handle)
            elif isinstance(event, Progress):
                report(event)
            else:
                return event.url
        return None

    async def _roll_back(self, start: Start, error: BaseException) -> None:
        """Free what the start left, and count it."""
        try:
            lease = self._book.get(start.lease_id) if start.lease_id is not None else None
            stage = lease.phase.value if lease is not None else "none"
            provider = lease.provider if lease is not None else start.order.variants[0].provider
            outcome = error.reason if isinstance(error, LabError) and not start.stopped else "cancelled"
            metrics.STARTS.labels(provider, start.order.profile, outcome, stage).inc()
            if lease is None or lease.phase is Phase.PARKED:  # it was not even written
                return
            # What was parked before stays parked: a failed resume must not cost the student the disk.
            mode = start.parked.release_mode if start.parked is not None else ReleaseMode.DESTROY
            await self._releaser.end_quietly(lease.id, await self._why(lease.id, start, error), mode)
        finally:
            if start.lease_id is not None and self._book.get(start.lease_id) is None:
                self._admission.give_back(start.lease_id)
            self.starts.end(start)

    async def _why(self, lease_id: LeaseId, start: Start, error: BaseException) -> Ending:
        """What the student reads next time: the failure, or what the culler wrote before it had the start cancelled."""
        if isinstance(error, LabError) and not start.stopped:
            return Ending(by="failure", reason=error.message)
        with contextlib.suppress(LabError):
            written = await self._book.refresh(lease_id)
            if written is not None and written.ending is not None:
                return written.ending
        return Ending(by="user", reason=CANCELLED)


def stop_mode(lease: Lease) -> ReleaseMode:
    """What an ordinary stop of this lease does: its profile's idle action, and never less than keeping the home."""
    cull = lease.pinned.get("cull")
    action = cull.get("action") if isinstance(cull, dict) else None
    return ReleaseMode(action) if action in set(ReleaseMode) and lease.ready_at else ReleaseMode.STOP


def _request(lease: Lease, order: Order, variant: Variant) -> LaunchRequest:
    return LaunchRequest(
        lease_id=lease.id,
        hub_id=lease.hub_id,
        user=order.user,
        server_name=order.server_name,
        profile=order.profile,
        base_url=order.base_url,
        command=order.command,
        environment=order.environment,
        resources=variant.resources,
        settings=variant.settings,
        ready_timeout_s=variant.ready_timeout_s,
        parked=lease.handle,
    )


def _translated(exc: BaseException, start: Start) -> BaseException:
    """Our own errors and cancellation as they are; a bug, ours or a provider's, as a sentence that hides it."""
    if isinstance(exc, LabError) or not isinstance(exc, Exception):
        return exc
    lease_id, user = start.lease_id or "none", start.order.user
    if start.stopped:
        return StartFailed(STOPPED_MEANWHILE, detail=f"stopped while starting lease={lease_id} user={user}")
    log.error("unexpected error in a start lease=%s user=%s", lease_id, user, exc_info=exc)
    return StartFailed(
        Sentence(
            "Something went wrong that is not your fault. Tell your administrator this number: {lease}.", lease=lease_id
        ),
        detail=f"{type(exc).__name__} in the start of lease={lease_id}",
    )


async def _close(events: AsyncIterator[Event], provider: str) -> None:
    """Close the provider's generator, so that it rolls back now and not at garbage collection."""
    close = getattr(events, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception:
        log.exception("provider=%s broke its contract: its launch could not be closed", provider)
