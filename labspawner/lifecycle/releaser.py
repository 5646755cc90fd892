"""Giving back all that a lease holds, once, until it is true."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from labspawner import metrics
from labspawner.culling import cause_of
from labspawner.deadlines import LET_GO_S, within
from labspawner.errors import LabError, LeaseConflict, ProviderUnavailable, UnknownLease
from labspawner.lifecycle.admission import Admission
from labspawner.lifecycle.book import LeaseBook
from labspawner.lifecycle.observer import Observer
from labspawner.model import LIVE_PHASES, Ending, Feature, Lease, LeaseId, Phase, ReleaseMode
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

HARSHER = (ReleaseMode.HIBERNATE, ReleaseMode.STOP, ReleaseMode.DESTROY)


@dataclass(frozen=True, slots=True)
class _Release:
    task: asyncio.Task[None]
    mode: ReleaseMode


class Releaser:
    """One release at a time per lease; a second caller waits for the first, and then destroys what that one parked,
    where it asked for that.

    grace_s: what a server gets to save and exit. timeout_s: after this a release is left to the reconciler. A release
    that fails is logged here, once, whoever waits for it.
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
        let_go_s: float = LET_GO_S,
    ) -> None:
        self._book = book
        self._providers = providers
        self._admission = admission
        self._observer = observer
        self._grace_s = grace_s
        self._timeout_s = timeout_s
        self._let_go_s = let_go_s
        self._under_way: dict[LeaseId, _Release] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def busy(self) -> set[LeaseId]:
        """The leases that are being released right now."""
        return set(self._under_way)

    async def end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Release all that the lease holds and write down why. Cancelling the caller does not stop the release.

        Raises LabError when that failed; the reconciler tries again.
        """
        task = self.begin(lease_id, ending, mode)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def end_quietly(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> None:
        """Like `end`, for callers that can do nothing about it when it fails."""
        await asyncio.wait({self.begin(lease_id, ending, mode)})

    def begin(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> asyncio.Task[None]:
        """Start the release, or join the one under way."""
        before = self._under_way.get(lease_id)
        if before is not None and (before.mode is ReleaseMode.DESTROY or mode is not ReleaseMode.DESTROY):
            return before.task
        task = asyncio.get_running_loop().create_task(self._end(lease_id, ending, mode, before))
        self._under_way[lease_id] = _Release(task, mode)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(lease_id, done))
        return task

    async def close(self, wait_s: float) -> None:
        """Give releases under way `wait_s` seconds; what is not done then is done by the next hub process."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=wait_s)

    def _done(self, lease_id: LeaseId, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._under_way[lease_id].task is task:
            del self._under_way[lease_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        expected = isinstance(error, LabError) and isinstance(
            error.__cause__, (LabError, asyncio.TimeoutError, type(None))
        )
        level = logging.WARNING if expected else logging.ERROR
        log.log(
            level,
            "release failed lease=%s, the reconciler tries again: %s",
            lease_id,
            error,
            exc_info=None if expected else error,
        )

    async def _end(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode, before: _Release | None) -> None:
        if before is not None:
            await asyncio.wait({before.task})
        lease = await self._announce(lease_id, ending, mode)
        if lease is None or lease.ending is None:
            self._let_go(lease_id)
            return
        if lease.handle is not None:
            await self._release(lease, lease.handle.provider)
        parks = lease.phase is Phase.STOPPING and self._parks(lease)
        await self._book.write(lease_id, phase=Phase.PARKED if parks else Phase.ENDED)
        self._let_go(lease_id)
        if lease.ending.by == "culler":
            metrics.CULLS.labels(lease.provider, lease.profile, cause_of(lease.ending.reason)).inc()
        log.info(
            "server ended lease=%s user=%s by=%s parked=%s: %s",
            lease_id,
            lease.user,
            lease.ending.by,
            parks,
            lease.ending.reason,
        )

    async def _announce(self, lease_id: LeaseId, ending: Ending, mode: ReleaseMode) -> Lease | None:
        """Write that the release begins; None where nothing is to be done: it has ended, or is parked and may stay so.

        What is parked stays PARKED until it is destroyed, for its server may run another profile meanwhile.
        """
        known = self._book.get(lease_id)
        if known is None or (known.phase is Phase.PARKED and mode is not ReleaseMode.DESTROY):
            return None
        parked = known.phase is Phase.PARKED
        if known.phase is Phase.STOPPING or (parked and known.release_mode is ReleaseMode.DESTROY):
            # An earlier try failed: its reason stands, and what it meant to destroy is not kept.
            ending, mode = known.ending or ending, max(known.release_mode, mode, key=HARSHER.index)
        try:
            return await self._book.write(
                lease_id,
                expected={Phase.PARKED} if parked else LIVE_PHASES - {Phase.PARKED},
                phase=Phase.PARKED if parked else Phase.STOPPING,
                ending=ending,
                release_mode=mode,
                attempts=known.attempts + 1,
            )
        except (LeaseConflict, UnknownLease):
            if await self._book.refresh(lease_id) is not None:
                raise
            return None  # an administrator's command ended it, beside this process

    def _let_go(self, lease_id: LeaseId) -> None:
        self._admission.give_back(lease_id)
        self._observer.forget(lease_id)

    async def _release(self, lease: Lease, name: str) -> None:
        assert lease.handle is not None
        provider, mode = self._providers.get(name), lease.release_mode
        if provider is None:
            raise ProviderUnavailable(
                Sentence("The provider of this server is not configured any more."),
                detail=f"lease={lease.id} needs provider={name}, which is not configured",
            )
        if mode is ReleaseMode.HIBERNATE and Feature.HIBERNATE not in provider.features:
            mode = ReleaseMode.STOP
        try:
            release = provider.release(lease.handle, mode, grace_s=self._grace_s)
            await within(self._timeout_s, release, let_go_s=self._let_go_s)
        except LabError:
            raise
        except asyncio.TimeoutError as exc:
            raise ProviderUnavailable(
                Sentence("Stopping the server takes longer than expected; it goes on in the background."),
                detail=f"release of lease={lease.id} took longer than {self._timeout_s:.0f} s",
            ) from exc
        except Exception as exc:
            raise ProviderUnavailable(
                Sentence("Stopping the server failed; it is tried again in the background."),
                detail=f"provider={name} raised {type(exc).__name__} in the release of lease={lease.id}",
            ) from exc

    def _parks(self, lease: Lease) -> bool:
        """Whether the release that was just done left something to resume."""
        if lease.handle is None or lease.ready_at is None or lease.release_mode is ReleaseMode.DESTROY:
            return False
        features = self._providers[lease.handle.provider].features
        return Feature.PARK in features or (
            lease.release_mode is ReleaseMode.HIBERNATE and Feature.HIBERNATE in features
        )
