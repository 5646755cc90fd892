"""Hub, leases and providers brought back to one truth.

`plan` is pure: it takes what was seen and answers what to do. `Reconciler` looks, plans and acts, every
`interval_s` and at start. It never acts on a failed listing, and stops itself when it would end too much at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from labspawner import metrics
from labspawner.deadlines import within
from labspawner.errors import LabError
from labspawner.model import (
    Ending,
    Handle,
    Lease,
    LeaseId,
    OwnedResource,
    Phase,
    ReleaseMode,
    ServerState,
)
from labspawner.providers.contract import Provider
from labspawner.sentences import Sentence

log = logging.getLogger(__name__)

INTERRUPTED = Sentence("The hub was restarted while your server was starting. Start it again.")
VANISHED = Sentence("Your server is no longer there: it stopped by itself, or an administrator removed it.")
FORGOTTEN = Sentence("The hub no longer knew this server, so it was stopped.")
UNKNOWN_OWNER = Sentence("It belonged to no server that labspawner knows.")
OUTLIVED = Sentence("It was parked for longer than its profile keeps it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """orphan_grace: a resource without a lease must be seen this long, in at least `sightings` listings.

    forgotten_grace: a ready lease that the hub does not know must be so this long. brake_share, brake_min: a pass that
    would end more than this share of what exists, and at least this many, ends none of them and says so. What an
    earlier process left half done is not counted; what was parked for too long is ended little by little instead.
    """

    orphan_grace: timedelta = timedelta(minutes=10)
    forgotten_grace: timedelta = timedelta(minutes=2)
    sightings: int = 2
    brake_share: float = 0.2
    brake_min: int = 5


@dataclass(frozen=True, slots=True)
class Sighting:
    """Since when, and in how many passes in a row, something looked wrong."""

    since: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One look at everything.

    states: of the leases that have a handle. owned: per provider; None where the listing failed. servers: (user, server
    name) of all that the hub believes active; None: not known. busy: leases that this process is launching or
    releasing right now; they are left alone.
    """

    leases: Sequence[Lease]
    states: Mapping[LeaseId, ServerState]
    owned: Mapping[str, Sequence[OwnedResource] | None]
    servers: Collection[tuple[str, str]] | None
    busy: Collection[LeaseId]
    now: datetime


@dataclass(frozen=True, slots=True)
class Action:
    """End what `handle` holds. lease: None for a resource that has none. kind: the label in the metrics."""

    kind: str
    provider: str
    lease: Lease | None
    handle: Handle | None
    mode: ReleaseMode
    reason: Sentence


@dataclass(frozen=True, slots=True)
class Plan:
    """actions: what to do. suspects: to be handed to the next `plan`. braked: what was not done because it was too
    much at once."""

    actions: tuple[Action, ...]
    suspects: Mapping[tuple[str, str], Sighting]
    braked: tuple[Action, ...] = ()


def plan(world: World, suspects: Mapping[tuple[str, str], Sighting], rules: Rules) -> Plan:
    """Say what to do about every lease and resource that does not match the others."""
    seen: dict[tuple[str, str], Sighting] = {}

    def suspect(kind: str, key: str) -> Sighting:
        before = suspects.get((kind, key))
        sighting = Sighting(before.since, before.count + 1) if before else Sighting(world.now, 1)
        seen[kind, key] = sighting
        return sighting

    sure: list[Action] = []
    doubtful: list[Action] = []
    outlived: list[Action] = []
    for lease in world.leases:
        if lease.id in world.busy:
            continue
        if action := _unfinished(lease):
            sure.append(action)
        elif action := _outlived(lease, world.now):
            outlived.append(action)
        elif action := _mismatched(lease, world, rules, suspect):
            doubtful.append(action)
    doubtful += _orphans(world, rules, suspect)
    limit = int(max(rules.brake_min - 1, rules.brake_share * _existing(world)))
    sure += outlived[:limit]
    if len(doubtful) > limit:
        return Plan(tuple(sure), seen, tuple(doubtful))
    return Plan((*sure, *doubtful), seen)


def _existing(world: World) -> int:
    resources = {item.lease_id for listing in world.owned.values() for item in listing or ()}
    return len(resources | {lease.id for lease in world.leases})


def _unfinished(lease: Lease) -> Action | None:
    """What an earlier hub process left half done: needs no second look, since nobody else will finish it."""
    if lease.phase in {Phase.QUEUED, Phase.LAUNCHING}:
        # It was ready before, so this start resumed what was parked, and that is parked again.
        mode = lease.release_mode if lease.ready_at is not None else ReleaseMode.DESTROY
        return Action("interrupted", lease.provider, lease, lease.handle, mode, INTERRUPTED)
    if lease.phase is Phase.STOPPING or (lease.phase is Phase.PARKED and lease.release_mode is ReleaseMode.DESTROY):
        reason = lease.ending.reason if lease.ending else FORGOTTEN
        return Action("release-retry", lease.provider, lease, lease.handle, lease.release_mode, reason)
    return None


def _mismatched(lease: Lease, world: World, rules: Rules, suspect: Callable[[str, str], Sighting]) -> Action | None:
    if lease.phase is Phase.PARKED:
        if _listed(lease, world) is False and suspect("gone", lease.id).count >= rules.sightings:
            return Action("gone", lease.provider, lease, lease.handle, ReleaseMode.DESTROY, VANISHED)
        return None
    state = world.states.get(lease.id, ServerState.UNKNOWN)
    if state is ServerState.GONE and suspect("gone", lease.id).count >= rules.sightings:
        return Action("gone", lease.provider, lease, lease.handle, ReleaseMode.STOP, VANISHED)
    if world.servers is not None and (lease.user, lease.server_name) not in world.servers:
        sighting = suspect("forgotten", lease.id)
        if sighting.count >= rules.sightings and world.now - sighting.since >= rules.forgotten_grace:
            return Action("forgotten", lease.provider, lease, lease.handle, ReleaseMode.STOP, FORGOTTEN)
    return None


def _listed(lease: Lease, world: World) -> bool | None:
    """Whether what is parked still exists; None where nobody can tell. `observe` calls all GONE that does not run."""
    listing = world.owned.get(lease.handle.provider) if lease.handle is not None else None
    return None if listing is None else any(item.lease_id == lease.id for item in listing)


def _outlived(lease: Lease, now: datetime) -> Action | None:
    """What was parked for longer than its profile keeps it. A profile without `retain` keeps it for ever, until the
    server is deleted."""
    retain_s = _retain_s(lease)
    if lease.phase is not Phase.PARKED or retain_s is None or now - lease.phase_at < timedelta(seconds=retain_s):
        return None
    return Action("retention", lease.provider, lease, lease.handle, ReleaseMode.DESTROY, OUTLIVED)


def _retain_s(lease: Lease) -> float | None:
    cull = lease.pinned.get("cull")
    retain = cull.get("retain_s") if isinstance(cull, dict) else None
    return float(retain) if isinstance(retain, (int, float)) else None


def _orphans(world: World, rules: Rules, suspect: Callable[[str, str], Sighting]) -> list[Action]:
    live = {lease.id for lease in world.leases} | set(world.busy)
    found = []
    for provider, listing in world.owned.items():
        for item in listing or ():
            if item.lease_id in live:
                continue
            sighting = suspect("orphan", f"{provider}/{item.lease_id}")
            if sighting.count >= rules.sightings and world.now - sighting.since >= rules.orphan_grace:
                found.append(Action("orphan", provider, None, item.handle, ReleaseMode.DESTROY, UNKNOWN_OWNER))
    return found


@dataclass(kw_only=True)
class Reconciler:
    """Runs passes. `leases`, `busy`, `servers` and `end` are how it sees and ends leases; the engine provides them.

    end(lease, ending, mode): release what the lease holds and write it down, if it is still as it was; says whether it
    was. May raise LabError, which it has logged. listing_s: a provider that does not answer for so long has failed.
    """

    providers: Mapping[str, Provider]
    leases: Callable[[], Awaitable[Sequence[Lease]]]
    busy: Callable[[], Collection[LeaseId]]
    servers: Callable[[], Collection[tuple[str, str]] | None]
    end: Callable[[Lease, Ending, ReleaseMode], Awaitable[bool]]
    clock: Callable[[], datetime]
    rules: Rules = field(default_factory=Rules)
    interval_s: float = 60.0
    grace_s: float = 10.0
    release_timeout_s: float = 120.0
    listing_s: float = 60.0
    concurrency: int = 8
    suspects: Mapping[tuple[str, str], Sighting] = field(default_factory=dict)
    braked: int = 0

    async def run(self) -> None:
        """Pass after pass until cancelled. A pass that fails is logged, and the next one comes all the same."""
        while True:
            try:
                await self.pass_once()
            except Exception:
                log.exception("reconciler pass failed; trying again in %.0f s", self.interval_s)
            await asyncio.sleep(self.interval_s)

    async def pass_once(self, *, dry_run: bool = False) -> Plan:
        """Look, plan and act once; answers the plan. dry_run: look and plan only, and remember nothing."""
        todo = plan(await self.look(), self.suspects, self.rules)
        if not dry_run:
            self.suspects = todo.suspects
            await self._carry_out(todo)
        return todo

    async def look_twice(self, *, dry_run: bool) -> Plan:
        """Two looks at once, for a person who asks: the second one believes what both have seen."""
        first = plan(await self.look(), {}, self.rules)
        todo = plan(await self.look(), first.suspects, self.rules)
        if not dry_run:
            await self._carry_out(todo)
        return todo

    async def look(self) -> World:
        """Ask the store, every provider and the hub, in that order, so that a lease is known before its resource."""
        before = {lease.id: lease for lease in await self.leases()}
        seen = [self._see(name, provider, before.values()) for name, provider in self.providers.items()]
        answers = await asyncio.gather(*seen)
        after = {lease.id: lease for lease in await self.leases()}
        # What began, ended or changed while we were asking was seen as it is no longer.
        same = {id_ for id_ in after.keys() & before.keys() if _phase_of(after[id_]) == _phase_of(before[id_])}
        return World(
            leases=[lease for id_, lease in after.items() if id_ in before],
            states={id_: state for _, states, _ in answers for id_, state in states.items() if id_ in same},
            owned={name: listing for name, _, listing in answers},
            servers=self.servers(),
            busy=set(self.busy()) | (after.keys() - before.keys()),
            now=self.clock(),
        )

    async def _see(
        self, name: str, provider: Provider, leases: Collection[Lease]
    ) -> tuple[str, Mapping[LeaseId, ServerState], Sequence[OwnedResource] | None]:
        """What one provider says: the state of its servers, and its listing. Nothing and None where it does not."""
        handles = [lease.handle for lease in leases if lease.handle is not None and lease.handle.provider == name]
        try:
            listing = await within(self.listing_s, provider.owned())
            states = await within(self.listing_s, provider.observe(handles)) if handles else {}
        except (LabError, asyncio.TimeoutError) as exc:
            log.warning("cannot list provider=%s, so nothing of it is ended: %s", name, str(exc) or "no answer in time")
        except Exception:
            log.exception("provider=%s broke its contract in a listing, so nothing of it is ended", name)
        else:
            return name, states, listing
        metrics.RECONCILE_FAILURES.labels(name).inc()
        return name, {}, None

    async def _carry_out(self, todo: Plan) -> None:
        if todo.braked and len(todo.braked) != self.braked:
            log.error(
                "reconciler stopped itself: it would end %d servers or resources at once, more than %.0f %%. "
                "Look at them with `labspawner reconcile --dry-run`; nothing of that was ended.",
                len(todo.braked),
                self.rules.brake_share * 100,
            )
        if todo.braked:
            metrics.RECONCILED.labels("all", "braked").inc()
        self.braked = len(todo.braked)
        gate = asyncio.Semaphore(self.concurrency)

        async def one(action: Action) -> None:
            async with gate:
                await self._end(action)

        tasks = [asyncio.get_running_loop().create_task(one(action)) for action in todo.actions]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            # A task that is cancelled by its provider's accident must not end the loop, nor the other actions.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, action: Action) -> None:
        name = action.lease.id if action.lease else (action.handle.lease_id if action.handle else "?")
        try:
            done = await self._end_lease(action) if action.lease is not None else await self._end_orphan(action)
        except (LabError, asyncio.TimeoutError) as exc:
            if action.lease is None:  # else it is logged
                log.warning("reconciler could not end lease=%s kind=%s: %s", name, action.kind, str(exc) or "timeout")
            return
        except Exception:
            log.exception("reconciler could not end lease=%s kind=%s", name, action.kind)
            return
        if done:
            metrics.RECONCILED.labels(action.provider, action.kind).inc()
            log.info("reconciled lease=%s provider=%s action=%s", name, action.provider, action.kind)

    async def _end_lease(self, action: Action) -> bool:
        assert action.lease is not None
        return await self.end(action.lease, Ending(by="reconciler", reason=action.reason), action.mode)

    async def _end_orphan(self, action: Action) -> bool:
        assert action.handle is not None
        release = self.providers[action.provider].release(action.handle, action.mode, grace_s=self.grace_s)
        await within(self.release_timeout_s, release)
        return True


def _phase_of(lease: Lease) -> tuple[Phase, datetime]:
    return lease.phase, lease.phase_at
