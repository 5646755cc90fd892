"""From an order to a ready lease, or to nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from labspawner import metrics
from labspawner.errors import (
    LabError,
    LeaseConflict,
    NeverFits,
    NoRoom,
    NotAllowed,
    ProviderUnavailable,
    StartFailed,
)
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.observer import Observer
from labspawner.lifecycle.orders import Order, Report, Variant
from labspawner.lifecycle.releaser import Releaser
from labspawner.model import (
    Checkpoint,
    Ending,
    Event,
    LaunchRequest,
    Lease,
    LeaseId,
    Phase,
    Progress,
    Ready,
    ReleaseMode,
)
from labspawner.naming import new_lease_id
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence
from labspawner.units import human_duration

log = logging.getLogger(__name__)

REPLACED = Sentence("It was replaced by a new start.")
CANCELLED = Sentence("The start was cancelled.")


class Launcher:
    """Writes the lease, gets admission, runs the provider's launch, and undoes all of it when one step fails."""

    def __init__(
        self,
        book: LeaseBook,
        providers: Mapping[str, Provider],
        admission: Admission,
        observer: Observer,
        releaser: Releaser,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._providers = providers
        self._admission = admission
        self._observer = observer
        self._releaser = releaser
        self._clock = clock
        self._under_way: set[LeaseId] = set()

    def busy(self) -> set[LeaseId]:
        """The leases that are being launched right now."""
        return set(self._under_way)

    async def launch(self, order: Order, report: Report) -> Lease:
        """Start what was ordered; answers the ready lease. On failure or cancellation all is rolled back first.

        Raises LabError only, or CancelledError.
        """
        began = self._clock()
        try:
            lease = await self._open(order)
        except Exception as exc:
            error = _translated(exc, "none", order)
            raise error from (None if error is exc else exc)
        try:
            ready = await self._admit_and_run(lease, order, report)
        except BaseException as exc:
            error = _translated(exc, lease.id, order)
            await self._roll_back(lease.id, order, error)
            raise error from (None if error is exc else exc)
        finally:
            self._under_way.discard(lease.id)
        metrics.STARTS.labels(ready.provider, order.profile, "ready", "ready").inc()
        metrics.READY_SECONDS.labels(ready.provider, order.profile).observe((self._clock() - began).total_seconds())
        log.info("server ready lease=%s user=%s provider=%s", ready.id, ready.user, ready.provider)
        return ready

    async def _open(self, order: Order) -> Lease:
        """Write the lease. An older one of the same server is ended first: its token is no longer valid."""
        self._check_limit(order)
        old = self._book.active(order.user, order.server_name)
        if old is not None:
            try:
                await self._releaser.end(old.id, Ending(by="hub", reason=REPLACED), stop_mode(old))
            except LabError as exc:
                raise LeaseConflict(
                    Sentence("Your last server is still being stopped. Try again in a minute."), detail=str(exc)
                ) from exc
        facts: dict[str, Any] = {
            "provider": order.variants[0].provider,
            "profile_rev": order.profile_rev,
            "pinned": order.pinned,
        }
        parked = self._parked(order)
        lease_id = parked.id if parked else new_lease_id()
        self._under_way.add(lease_id)
        try:
            if parked is not None:
                return await self._book.write(lease_id, phase=Phase.QUEUED, ending=None, attempts=0, **facts)
            now = self._clock()
            lease = Lease(
                id=lease_id,
                hub_id=self._book.hub_id,
                user=order.user,
                server_name=order.server_name,
                profile=order.profile,
                created_at=now,
                phase_at=now,
                **facts,
            )
            await self._book.add(lease)
        except BaseException:
            self._under_way.discard(lease_id)
            raise
        return lease

    def _check_limit(self, order: Order) -> None:
        others = [
            lease
            for lease in self._book.all()
            if (lease.user, lease.profile) == (order.user, order.profile)
            and lease.server_name != order.server_name
            and lease.phase is not Phase.PARKED
        ]
        if order.per_user is not None and len(others) >= order.per_user:
            raise NotAllowed(
                Sentence(
                    "You already run {count} of this profile, and {limit} is the limit. Stop one of them first.",
                    count=len(others),
                    limit=order.per_user,
                )
            )

    def _parked(self, order: Order) -> Lease | None:
        """What an earlier server of the same profile left; resumed rather than started anew."""
        providers = {variant.provider for variant in order.variants}
        for lease in self._book.of(order.user, order.server_name):
            if lease.phase is Phase.PARKED and lease.profile == order.profile and lease.provider in providers:
                return lease
        return None

    async def _admit_and_run(self, lease: Lease, order: Order, report: Report) -> Lease:
        variant = await self._admit(lease, order, report)
        # The provider keeps its own deadline; this one is for a provider that does not.
        deadline_s = variant.ready_timeout_s + 10.0
        try:
            return await asyncio.wait_for(self._run(lease, order, variant, report), deadline_s)
        except asyncio.TimeoutError as exc:
            raise StartFailed(
                Sentence(
                    "The server did not become ready in {waited}. Try again; "
                    "if it happens again, tell your instructor.",
                    waited=human_duration(timedelta(seconds=variant.ready_timeout_s)),
                ),
                detail=f"lease={lease.id} provider={variant.provider} overran its own deadline",
            ) from exc

    async def _admit(self, lease: Lease, order: Order, report: Report) -> Variant:
        """Promise the resources of a variant: of the first that is free, else of the first worth waiting for."""
        candidates = self._candidates(lease, order)
        errors: list[LabError] = []
        worth_waiting: list[Variant] = []
        for variant in candidates:
            try:
                await self._admission.try_now(lease.id, variant.provider, variant.resources)
            except (NoRoom, NeverFits, ProviderUnavailable) as exc:
                errors.append(exc)
                if not isinstance(exc, NeverFits):
                    worth_waiting.append(variant)
            else:
                return variant
        if not worth_waiting or order.wait_s <= 0:
            raise errors[0]
        try:
            await asyncio.wait_for(self._stand_in_line(lease.id, worth_waiting[0], report), order.wait_s)
        except asyncio.TimeoutError as exc:
            raise NoRoom(
                Sentence(
                    "Nothing became free in {waited}. Try again later, or pick another profile.",
                    waited=human_duration(timedelta(seconds=order.wait_s)),
                ),
                retry_after_s=300,
            ) from exc
        return worth_waiting[0]

    @staticmethod
    def _candidates(lease: Lease, order: Order) -> list[Variant]:
        if lease.handle is not None:  # a parked server can only be resumed where it is
            return [variant for variant in order.variants if variant.provider == lease.handle.provider][:1]
        return list(order.variants if order.fallback else order.variants[:1])

    async def _stand_in_line(self, lease_id: LeaseId, variant: Variant, report: Report) -> None:
        waiting = self._admission.wait(lease_id, variant.provider, variant.resources)
        async with contextlib.aclosing(waiting) as places:
            async for sentence in places:
                report(Progress(0, sentence))

    async def _run(self, lease: Lease, order: Order, variant: Variant, report: Report) -> Lease:
        lease = await self._book.write(
            lease.id, phase=Phase.LAUNCHING, provider=variant.provider, reserves=variant.resources
        )
        url: str | None = None
        launch = self._providers[variant.provider].launch(_request(lease, order, variant))
        async with _closing(launch) as events:
            async for event in events:
                if isinstance(event, Checkpoint):
                    await self._book.write(lease.id, handle=event.handle)
                elif isinstance(event, Progress):
                    report(event)
                elif isinstance(event, Ready):
                    url = event.url
        if url is None:
            raise StartFailed(
                Sentence("The server was started, but nobody said where it listens. Tell your administrator."),
                detail=f"provider={variant.provider} ended its launch of lease={lease.id} without Ready",
            )
        ready = await self._book.write(lease.id, phase=Phase.READY, url=url, ready_at=self._clock())
        self._observer.saw(lease.id)
        return ready

    async def _roll_back(self, lease_id: LeaseId, order: Order, error: BaseException) -> None:
        """Free what the start left. A second cancellation does not stop it: the release goes on by itself."""
        current = self._book.get(lease_id)
        stage = current.phase.value if current else "lost"
        provider = current.provider if current else order.variants[0].provider
        outcome = error.reason if isinstance(error, LabError) else "cancelled"
        metrics.STARTS.labels(provider, order.profile, outcome, stage).inc()
        if isinstance(error, LabError):
            ending = Ending(by="failure", reason=error.message)
            log.warning("start failed lease=%s user=%s stage=%s: %s", lease_id, order.user, stage, error)
        else:
            ending = Ending(by="user", reason=CANCELLED)
        # What was parked before stays parked: a failed resume must not cost the student the disk.
        was_parked = current is not None and current.ready_at is not None
        mode = ReleaseMode.STOP if was_parked else ReleaseMode.DESTROY
        await self._releaser.end_quietly(lease_id, ending, mode)


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


def _translated(exc: BaseException, lease_id: str, order: Order) -> BaseException:
    """Our own errors and cancellation as they are; a bug, ours or a provider's, as a sentence that hides it."""
    if isinstance(exc, LabError) or not isinstance(exc, Exception):
        return exc
    log.error("unexpected error in a start lease=%s user=%s", lease_id, order.user, exc_info=exc)
    return StartFailed(
        Sentence(
            "Something went wrong that is not your fault. Tell your administrator this number: {lease}.", lease=lease_id
        ),
        detail=f"{type(exc).__name__} in the start of lease={lease_id}",
    )


@contextlib.asynccontextmanager
async def _closing(events: AsyncIterator[Event]) -> AsyncIterator[AsyncIterator[Event]]:
    """Close the provider's generator on the way out, so that it rolls back now and not at garbage collection."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
