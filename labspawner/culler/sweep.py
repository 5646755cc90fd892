"""One pass over all servers: list, join with leases, decide, write down why, stop concurrently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Protocol

from labspawner.culler.hub import Hub, HubServer, Outcome, Stop
from labspawner.culling import Cull, CullPolicy, Keep, ServerView, Verdict, decide, evidence
from labspawner.errors import LabError
from labspawner.model import Decision, Ending, Evidence, Json, Lease, LeaseId, Phase, ReleaseMode
from labspawner.sentences import Sentence
from labspawner.store import Standing

BY = "culler"


class Leases(Protocol):
    """The part of `labspawner.store.Store` that the culler uses."""

    async def live_with_standings(self, hub_id: str) -> list[tuple[Lease, Standing | None]]: ...

    async def standings(self, lease_ids: Collection[LeaseId]) -> dict[LeaseId, Standing]: ...

    async def intend(self, lease_id: LeaseId, ending: Ending, release_mode: ReleaseMode) -> object: ...

    async def withdraw(self, lease_id: LeaseId, ending: Ending) -> object: ...

    async def add_decisions(self, decisions: Sequence[Decision]) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the site sets for all servers.

    stuck_after_s: see CullPolicy. default: for servers without a lease, or whose profile has no policy; None keeps them.
    """

    hub_id: str
    concurrency: int = 10
    dry_run: bool = False
    stuck_after_s: float | None = 1800.0
    default: CullPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a pass did: servers seen, culled, and those whose cull did not happen (or only dry)."""

    seen: int = 0
    culled: int = 0
    not_applied: int = 0


@dataclass(frozen=True, slots=True)
class _Case:
    """One server, what was decided about it, and the start it had then."""

    server: HubServer
    lease: Lease | None
    policy: CullPolicy | None
    view: ServerView
    verdict: Verdict

    @property
    def key(self) -> tuple[str, str, datetime | None]:
        return self.server.user, self.server.name, self.server.started


def evidence_in(standing: Standing | None) -> Evidence:
    """What is known of a server's use; nothing where it has no standing yet."""
    return standing.evidence if standing else Evidence()


def utcnow() -> datetime:
    return datetime.now(timezone.utc)


def policy_of(lease: Lease | None, default: CullPolicy | None) -> CullPolicy | None:
    """The policy that the lease pins, else the default. Raises ValueError where what is pinned cannot be read."""
    return (CullPolicy.from_pinned(lease.pinned) if lease else None) or default


class Sweep:
    """Applies cull policies, one `run` at a time. Remembers verdicts between runs, so that only changes are recorded.

    clock: now, with a timezone.
    """

    def __init__(
        self,
        hub: Hub,
        store: Leases,
        rules: Rules,
        *,
        log: logging.Logger,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._hub = hub
        self._store = store
        self._rules = rules
        self._log = log
        self._clock = clock
        self._closing = False
        self._last: dict[tuple[str, str, datetime | None], tuple[object, ...]] = {}
        self._stopping_since: dict[tuple[str, str, datetime | None], datetime] = {}
        self._policies: dict[LeaseId, tuple[Mapping[str, Json], CullPolicy | None]] = {}

    def close(self) -> None:
        """Begin no further stop. A `run` that is under way ends soon, with what it had begun."""
        self._closing = True

    async def run(self) -> Summary:
        """One pass. Raises HubUnavailable, with nothing culled, if the hub's list is not whole; likewise the store's
        errors. One server's trouble never keeps another from being culled."""
        servers = await self._hub.active_servers()
        live = await self._store.live_with_standings(self._rules.hub_id)
        leases = {(lease.user, lease.server_name): lease for lease, _ in live if lease.phase is not Phase.PARKED}
        standings = {lease.id: standing for lease, standing in live}
        now = self._clock()
        cases = []
        for server in servers:
            lease = leases.get((server.user, server.name))
            cases.append(self._consider(server, lease, standings[lease.id] if lease else None, now))
        self._forget_all_but(cases)
        if not self._rules.dry_run:
            await self._clear_stale_intents(cases)
        records = [record for case in cases if (record := self._changed_keep(case, now))]
        culls = [case for case in cases if isinstance(case.verdict, Cull)]
        try:
            applied = await self._cull_all(culls, records)
        finally:
            await self._record(records)
        return Summary(seen=len(cases), culled=applied, not_applied=len(culls) - applied)

    def _consider(self, server: HubServer, lease: Lease | None, standing: Standing | None, now: datetime) -> _Case:
        view = self._view(server, lease, evidence_in(standing), now)
        policy = self._policy(lease)
        return _Case(server, lease, policy, view, decide(view, policy, now))

    def _policy(self, lease: Lease | None) -> CullPolicy | None:
        """What the lease pins, else the default, with the site's own limit; read once for each lease."""
        pinned, known = self._policies.get(lease.id, (None, None)) if lease else (None, None)
        if lease and pinned == lease.pinned:
            return known
        try:
            policy = policy_of(lease, self._rules.default)
        except ValueError as exc:
            policy = None
            self._log.warning(
                "server kept, its lease pins an unreadable policy lease=%s: %s", lease.id if lease else "-", exc
            )
        if policy is not None:
            policy = replace(policy, stuck_after_s=self._rules.stuck_after_s)
        if lease:
            self._policies[lease.id] = (lease.pinned, policy)
        return policy

    def _view(self, server: HubServer, lease: Lease | None, known: Evidence, now: datetime) -> ServerView:
        return ServerView(
            user=server.user,
            server_name=server.name,
            ready=server.ready,
            pending=server.pending,
            pending_since=self._pending_since(server, lease, now),
            started=server.started,
            last_activity=server.last_activity,
            lease_id=lease.id if lease else None,
            known=known,
        )

    def _pending_since(self, server: HubServer, lease: Lease | None, now: datetime) -> datetime | None:
        """When the hub began what it has pending: it does not say, so the lease, the start or our own eyes do."""
        if server.pending is None:
            return None
        if server.pending == "spawn":
            if lease and lease.phase is Phase.QUEUED:
                return None  # in line for a free place: that may take as long as it takes
            known = [server.started, lease.phase_at if lease else None]
            return max((instant for instant in known if instant), default=None)
        if server.pending == "stop" and lease and lease.phase is Phase.STOPPING:
            return lease.phase_at
        return self._stopping_since.setdefault((server.user, server.name, server.started), now)

    def _forget_all_but(self, cases: Iterable[_Case]) -> None:
        """Memory is as large as the list of servers, not as history."""
        cases = list(cases)
        keys = {case.key for case in cases}
        pending = {case.key for case in cases if case.server.pending}
        lease_ids = {case.lease.id for case in cases if case.lease}
        self._last = {key: value for key, value in self._last.items() if key in keys}
        self._stopping_since = {key: since for key, since in self._stopping_since.items() if key in pending}
        self._policies = {id_: policy for id_, policy in self._policies.items() if id_ in lease_ids}

    async def _clear_stale_intents(self, cases: Iterable[_Case]) -> None:
        """Take back "culled" from the lease of a server that runs on and is to be kept: that stop did not happen."""
        for case in cases:
            lease = case.lease
            if lease is None or lease.ending is None or lease.ending.by != BY or lease.phase is not Phase.READY:
                continue
            if case.server.ready and isinstance(case.verdict, Keep):
                self._log.info("withdrawing the intent to cull a server that is in use again %s", _name(case))
                await self._store.withdraw(lease.id, lease.ending)

    async def _cull_all(self, cases: Sequence[_Case], records: list[Decision]) -> int:
        """Stop all of them, `concurrency` at a time across all users, adding to `records`; how many it stopped."""
        gate = asyncio.Semaphore(self._rules.concurrency)

        async def one(case: _Case) -> bool:
            async with gate:
                failure = await self._try_cull(case)
            if record := self._cull_record(case, failure):
                records.append(record)
            return failure is None

        tasks = [asyncio.create_task(one(case)) for case in cases]
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            # Cancelled: an intent that was written stays, for the hub may have begun the stop. If it had not,
            # `_clear_stale_intents` of a later run sees that.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return sum(task.result() for task in tasks)

    async def _try_cull(self, case: _Case) -> Sentence | None:
        """`_cull`, with every trouble turned into the sentence that says why it did not happen."""
        if self._rules.dry_run:
            return Sentence("dry run")
        if self._closing:
            return Sentence("the culler is shutting down")
        try:
            return await self._cull(case)
        except LabError as exc:
            self._log.warning("not culled, trying again next pass %s: %s", _name(case), exc)
            return exc.message
        except Exception:
            # One server's trouble must not keep the others from being culled.
            self._log.exception("not culled, trying again next pass %s", _name(case))
            return Sentence("an error in the culler; its log has the rest")

    async def _cull(self, case: _Case) -> Sentence | None:
        """Stop one server; None, or why not. Looks again first: stops ahead of this one may have taken minutes."""
        server, lease = await self._hub.server(case.server.user, case.server.name), case.lease
        if server is None:
            return Sentence("already gone")
        standing = (await self._store.standings([lease.id])).get(lease.id) if lease else None
        view = self._view(server, lease, evidence_in(standing), self._clock())
        verdict = decide(view, case.policy, self._clock())
        if not isinstance(verdict, Cull) or server.started != case.server.started:
            return Sentence("in use again")
        # A stop that is stuck has its reason already, and whoever began it wrote it.
        intent = Ending(by=BY, reason=verdict.reason) if lease and server.pending != "stop" else None
        if lease and intent:
            await self._store.intend(lease.id, intent, verdict.action)
        stop = await self._hub.stop(server.user, server.name)
        failure = _failure(stop, stopping_before=server.pending == "stop")
        if failure is None:
            self._log.info("culled %s action=%s reason=%s", _name(case), verdict.action.value, verdict.reason)
            return None
        self._log.warning("not culled, trying again next pass %s: %s %s", _name(case), failure, stop.detail)
        if lease and intent and stop.outcome is not Outcome.UNSURE:
            await self._store.withdraw(lease.id, intent)
        return failure

    def _changed_keep(self, case: _Case, now: datetime) -> Decision | None:
        """A record if the server is kept for another reason than before; none for the first look at it."""
        if isinstance(case.verdict, Cull):
            return None
        said = ("keep", case.verdict.reason.template)
        before = self._last.get(case.key)
        self._last[case.key] = said
        if before is None or before == said or case.lease is None:
            return None
        return self._decision(case, case.verdict.reason, "keep", applied=True, at=now)

    def _cull_record(self, case: _Case, failure: Sentence | None) -> Decision | None:
        """A record of a cull; of one that does not happen only once for the same reason, however many passes try."""
        said = ("cull", case.verdict.reason.template, failure.template if failure else None)
        before = self._last.get(case.key)
        self._last[case.key] = said
        if failure is None:
            return self._decision(case, case.verdict.reason, "cull", applied=True, at=self._clock())
        if before == said:
            return None
        if self._rules.dry_run:
            self._log.info("would cull %s reason=%s", _name(case), case.verdict.reason)
        reason = Sentence("{reason} (not done: {failure})", reason=case.verdict.reason, failure=failure)
        return self._decision(case, reason, "cull", applied=False, at=self._clock())

    def _decision(self, case: _Case, reason: Sentence, verdict: str, *, applied: bool, at: datetime) -> Decision | None:
        if case.lease is None:
            return None  # the decision log hangs on leases; the log line is what there is
        facts: dict[str, Json] = evidence(case.view)
        if isinstance(case.verdict, Cull):
            facts |= {"cause": case.verdict.cause, "action": case.verdict.action.value}
        return Decision(
            lease_id=case.lease.id,
            user=case.server.user,
            server_name=case.server.name,
            verdict=verdict,
            reason=reason,
            evidence=facts,
            at=at,
            applied=applied,
        )

    async def _record(self, records: Sequence[Decision]) -> None:
        if not records:
            return
        try:
            await self._store.add_decisions(records)
        except Exception:
            # The servers are stopped already, and the log lines say so; the next pass must still come.
            self._log.exception("could not write %s decisions to the store", len(records))


def _name(case: _Case) -> str:
    lease = case.lease.id if case.lease else "-"
    return f"user={case.server.user!r} server={case.server.name!r} lease={lease}"


def _failure(stop: Stop, *, stopping_before: bool) -> Sentence | None:
    """None if the server is stopped or now stopping, else why not."""
    if stop.outcome is Outcome.STOPPED or (stop.outcome is Outcome.STOPPING and not stopping_before):
        return None
    if stop.outcome is Outcome.STOPPING:
        return Sentence("the hub is still waiting for the stop to end")
    if stop.outcome is Outcome.GONE:
        return Sentence("already gone")
    if stop.outcome is Outcome.UNSURE:
        return Sentence("the hub did not answer in time")
    return Sentence("the hub refused: {detail}", detail=stop.detail)
