"""Giving back all that a lease holds, once, until it is true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from labspawner import metrics
from labspawner.errors import LabError, ProviderUnavailable
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.observer import Observer
from labspawner.model import Ending, Feature, Lease, LeaseId, Phase, ReleaseMode
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)


class Releaser:
    """One release at a time per lease; a second caller waits for the first.

    grace_s: what a server gets to save and exit. timeout_s: after this a release is left to the reconciler.
    """

    def __init__(
        self,
        book: LeaseBook,
        providers: Mapping[str, Provider],
        admission: Admission,
        observer: Observer,
        *,
        grace_s: float,
        timeout_s: float,
    ) -> None:
        self._book = book
        self._providers = providers
        self._admission = admission
        self._observer = observer
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._under_way: dict[LeaseId, asyncio.Task[None]] = {}

    def busy(self) -> set[LeaseId]:
        """The leases that are being released right now."""
        return set(self._under_way)

    async def end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Release all that the lease holds and write down why. Cancelling the caller does not stop the release.

        Raises what the provider raised; the lease then stays STOPPING, and the reconciler tries again.
        """
        await asyncio.shield(self.begin(lease_id, ending, mode))

    async def end_quietly(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Like `end`, but what goes wrong is logged: for callers that can do nothing about it."""
        await asyncio.wait({self.begin(lease_id, ending, mode)})

    def begin(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> asyncio.Task[None]:
        """Start the release, or join the one under way."""
        task = self._under_way.get(lease_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._end(lease_id, ending, mode))
            self._under_way[lease_id] = task
            task.add_done_callback(lambda done: self._done(lease_id, done))
        return task

    async def close(self, wait_s: float) -> None:
        """Give releases under way `wait_s` seconds; what is not done then is done by the next hub process."""
        if self._under_way:
            await asyncio.wait(set(self._under_way.values()), timeout=wait_s)
        for task in list(self._under_way.values()):
            task.cancel()

    def _done(self, lease_id: LeaseId, task: asyncio.Task[None]) -> None:
        self._under_way.pop(lease_id, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LabError):
            log.warning("release failed lease=%s, the reconciler tries again: %s", lease_id, error)
        elif error is not None:
            log.error("release failed lease=%s, the reconciler tries again", lease_id, exc_info=error)

    async def _end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        known = self._book.get(lease_id)
        if known is None:
            return
        lease = await self._book.write(
            lease_id, phase=Phase.STOPPING, ending=ending, release_mode=mode, attempts=known.attempts + 1
        )
        provider = self._providers.get(lease.provider)
        if lease.handle is not None:
            if provider is None:
                raise ProviderUnavailable(
                    Sentence("The provider of this server is not configured any more."),
                    detail=f"lease={lease_id} needs provider={lease.provider}, which is not configured",
                )
            await self._release(provider, lease, mode)
        parks = lease.ready_at is not None and _parks(provider, lease, mode)
        await self._book.write(lease_id, phase=Phase.PARKED if parks else Phase.ENDED)
        self._admission.give_back(lease_id)
        self._observer.forget(lease_id)
        if ending.by == "culler":
            metrics.CULLS.labels(lease.provider, lease.profile, mode.value).inc()
        log.info(
            "server ended lease=%s user=%s by=%s parked=%s: %s", lease_id, lease.user, ending.by, parks, ending.reason
        )

    async def _release(self, provider: Provider, lease: Lease, mode: ReleaseMode) -> None:
        assert lease.handle is not None
        if mode is ReleaseMode.HIBERNATE and Feature.HIBERNATE not in provider.features:
            mode = ReleaseMode.STOP
        try:
            await asyncio.wait_for(provider.release(lease.handle, mode, grace_s=self._grace_s), self._timeout_s)
        except asyncio.TimeoutError as exc:
            raise ProviderUnavailable(
                Sentence("Stopping the server takes longer than expected; it goes on in the background."),
                detail=f"release of lease={lease.id} took longer than {self._timeout_s:.0f} s",
            ) from exc


def _parks(provider: Provider | None, lease: Lease, mode: ReleaseMode) -> bool:
    if provider is None or lease.handle is None:
        return False
    if mode is ReleaseMode.HIBERNATE:
        return Feature.HIBERNATE in provider.features or Feature.PARK in provider.features
    return mode is ReleaseMode.STOP and Feature.PARK in provider.features
