"""What is known of the use of each server: in memory for answers at once, written behind for the culler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from labspawner.culling import CullPolicy, ServerView
from labspawner.culling.idleness import Quiet, idleness
from labspawner.culling.words import span
from labspawner.errors import Permanent, UnknownLease
from labspawner.evidence.answers import Outlook, answer, every_s, outlook, valid_for
from labspawner.evidence.messages import Messages
from labspawner.evidence.report import parse_report
from labspawner.model import Activity, Evidence, GpuUsage, HostLook, Json, Lease, LeaseId, Phase
from labspawner.sentences import Sentence
from labspawner.store import Allowance, Standing, Store

log = logging.getLogger(__name__)

FLUSH_S = 5.0
HURRY_S = 0.2
_DUE = timedelta(minutes=2)


class Refused(Permanent):
    """A wish that the profile, or what is left of the day, does not allow."""

    reason = "refused"
    status_code = 409


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the hub itself knows of a server: since when it runs, and when the proxy last saw traffic."""

    started: datetime | None = None
    last_activity: datetime | None = None


async def _no_gpu(_lease: Lease, _refusals: int) -> GpuUsage | None:
    return None


class EvidenceBook:
    """Takes reports and wishes, and answers when a server ends as things are. One object per hub process.

    ready: awaited before the first look into the store. live: the lease of an id, None once it has ended. facts: what
    the hub knows of a lease's server. gpu: what its slice is used for, where it has one, not older than the server's
    count of refusals. today: the day that allowances are counted by. Reports are written together every
    few seconds, whoever many come; a wish is granted in the store before it is answered.
    """

    def __init__(
        self,
        store: Store,
        hub_id: str,
        *,
        ready: Callable[[], Awaitable[None]],
        live: Callable[[LeaseId], Lease | None],
        facts: Callable[[Lease], HubFacts] = lambda _lease: HubFacts(),
        gpu: Callable[[Lease, int], Awaitable[GpuUsage | None]] = _no_gpu,
        today: Callable[[datetime], str] = lambda now: now.astimezone().date().isoformat(),
        report_every_s: float = 60.0,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._store = store
        self._hub_id = hub_id
        self._ready = ready
        self._live = live
        self._facts = facts
        self._gpu = gpu
        self._today = today
        self._report_every_s = report_every_s
        self._flush_s = flush_s
        self.messages = Messages(store, hub_id)
        self._standings: dict[LeaseId, Standing] = {}
        self._used: dict[LeaseId, tuple[str, Allowance]] = {}
        self._started: dict[LeaseId, tuple[datetime | None, datetime | None]] = {}
        self._policies: dict[LeaseId, CullPolicy | None] = {}
        self._wishing: dict[LeaseId, asyncio.Lock] = {}
        self._dirty: set[LeaseId] = set()
        self._opening: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    async def open(self) -> None:
        """Read what an earlier process knew, and begin to write behind. Safe to repeat; tried again after a failure."""
        task = self._opening
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(task)

    async def close(self) -> None:
        """Write what is not written yet, and stop."""
        for task in (self._opening, self._flushing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        await self.flush()

    async def known(self, lease_id: LeaseId) -> Evidence:
        """All that is known of the use of one server."""
        await self.open()
        return self._standing(lease_id).evidence

    async def report(self, lease: Lease, body: bytes, now: datetime) -> dict[str, Json]:
        """Take a report, and answer it. Raises BadReport."""
        await self.open()
        policy = self._policy(lease)
        usual_s = self._every_s(policy)
        report = parse_report(body, now=now, valid_for=valid_for(usual_s))
        gpu = await self._gpu(lease, report.gpu_refusals)
        if gpu is not None:  # the host's own knowledge: what runs inside could say anything
            report = replace(report, gpu_last_busy=gpu.last_busy)
        before = self._standing(lease.id).evidence
        said = self._say(lease, replace(before, report=_continued(before.report, report)), policy, now)
        return self._answer(lease, said, policy, now, gpu)

    async def extend(self, lease: Lease, now: datetime) -> dict[str, Json]:
        """Put off the end of idleness by one step of the profile, and answer as to a report.

        Raises Refused where the profile has no such step, where it is used up for today, and where the server ends by
        its age before; UnknownLease where it has ended.
        """
        await self.open()
        async with self._lock(lease.id):
            view, policy = self._view(lease, self._standing(lease.id).evidence), self._policy(lease)
            if (refused := self._why_not_extend(lease, view, policy, now)) is not None:
                raise Refused(refused)
            assert policy is not None  # else it was refused
            assert policy.extend_step_s is not None
            grant = await self._store.extend(
                lease.id,
                day=self._today(now),
                per_day=policy.extend_per_day,
                step=timedelta(seconds=policy.extend_step_s),
                base=_end_of_idleness(view, policy, now),
            )
            if grant is None:
                raise _ended(lease)
            self._used[lease.id] = (self._today(now), grant.used)
            if grant.until is None:
                raise Refused(_used_up(policy))
            known = replace(self._standing(lease.id).evidence, extended_until=grant.until)
        return self._answer(lease, self._say(lease, known, policy, now), policy, now)

    async def hold(self, lease: Lease, seconds: float, now: datetime) -> dict[str, Json]:
        """Keep an idle server for `seconds` from now; 0 gives that up. Answers as to a report.

        seconds: as `report.parse_hold` reads them. Raises Refused where the profile, or what is left of the day, does not
        allow it; UnknownLease where the server has ended.
        """
        await self.open()
        async with self._lock(lease.id):
            policy = self._policy(lease)
            if policy is None or policy.after_s is None:
                raise Refused(Sentence("This server has no idle limit, so there is nothing to hold it against."))
            if policy.hold_s == 0 and seconds:
                raise Refused(Sentence("The profile of this server does not allow to hold it."))
            grant = await self._store.hold(
                lease.id, day=self._today(now), budget_s=policy.hold_s, seconds=seconds, now=now
            )
            if grant is None:
                raise _ended(lease)
            self._used[lease.id] = (self._today(now), grant.used)
            if grant.until is None and seconds:
                raise Refused(_too_long(self._standing(lease.id).evidence, policy, grant.used, now))
            known = replace(self._standing(lease.id).evidence, held_until=grant.until)
        return self._answer(lease, self._say(lease, known, policy, now), policy, now)

    async def extension(self, lease: Lease, now: datetime) -> tuple[float, int, Sentence | None] | None:
        """One click on Extend: the seconds that it adds, how many are left today, and why it would be refused now.

        None where the profile offers none.
        """
        await self.open()
        policy = self._policy(lease)
        if policy is None or policy.extend_step_s is None or policy.after_s is None:
            return None
        view = self._view(lease, self._standing(lease.id).evidence)
        left = max(0, policy.extend_per_day - self._used_today(lease.id, now).extensions)
        return policy.extend_step_s, left, self._why_not_extend(lease, view, policy, now)

    def ends(self, leases: Sequence[Lease], now: datetime) -> dict[LeaseId, datetime]:
        """When these servers end as things are, those of which that is known. Without I/O of our own."""
        found: dict[LeaseId, datetime] = {}
        for lease in leases:
            at = self.outlook(lease, now).forecast.ends_at if lease.phase is Phase.READY else None
            if at is not None:
                found[lease.id] = max(at, now)
        return found

    def outlook(self, lease: Lease, now: datetime) -> Outlook:
        """What would be said of a server now; nothing is noted down."""
        return outlook(self._view(lease, self._standing(lease.id).evidence), self._policy(lease), now)

    def last_activity(self, lease: Lease) -> datetime | None:
        """When a server was last used: as it reported itself, else the last traffic that the hub saw."""
        report = self._standing(lease.id).evidence.report
        seen = report.last_activity if report is not None else None
        return seen or self._facts(lease).last_activity

    async def looked(self, lease_id: LeaseId, host: HostLook | None, *, expected: bool) -> None:
        """Take what the host measured, and whether reports are expected of this server."""
        await self.open()
        before = self._standing(lease_id)
        known = replace(before.evidence, host=host, expected=expected)
        if known != before.evidence:
            self._standings[lease_id] = replace(before, evidence=known)
            self._dirty.add(lease_id)

    async def flush(self) -> None:
        """Write what changed, in one transaction, and forget servers that have ended."""
        for lease_id in [id_ for id_ in self._standings if self._live(id_) is None]:
            self._forget(lease_id)
        dirty, self._dirty = self._dirty, set()
        try:
            await self._store.put_standings({id_: self._standings[id_] for id_ in dirty if id_ in self._standings})
        except BaseException:
            self._dirty |= dirty
            raise

    async def _open(self) -> None:
        await self._ready()
        for lease, standing in await self._store.live_with_standings(self._hub_id):
            if standing is not None:
                self._standings.setdefault(lease.id, standing)
        day = self._today(datetime.now().astimezone())
        for lease_id, used in (await self._store.granted(self._hub_id, day)).items():
            self._used.setdefault(lease_id, (day, used))
        await self.messages.open(datetime.now().astimezone())
        self._flushing = asyncio.get_running_loop().create_task(self._write_behind())

    async def _write_behind(self) -> None:
        failing = False
        while True:
            await self._pause()
            try:
                await self.flush()
            except Exception:
                if not failing:
                    log.exception("cannot write what is known of the use of servers; kept, and tried again")
                failing = True
            else:
                failing = False

    async def _pause(self) -> None:
        """Until it is time to write. No `wait_for`: it may lose a cancellation that comes with the event."""
        hurried = asyncio.get_running_loop().create_task(self._hurry.wait())
        try:
            done, _ = await asyncio.wait({hurried}, timeout=self._flush_s)
        finally:
            hurried.cancel()
        if done:
            await asyncio.sleep(HURRY_S)  # others may hurry too
        self._hurry.clear()

    def _say(self, lease: Lease, known: Evidence, policy: CullPolicy | None, now: datetime) -> Outlook:
        """What is to be said of the server now; remembered, with the warning that it may be."""
        said = outlook(self._view(lease, known), policy, now)
        if said.warned and not _was_warned(known, said, policy):
            known = replace(known, warned_at=now)
        found = said.forecast
        before = self._standing(lease.id)
        due = before.ends_at is not None and before.ends_at - now < _DUE and before.ends_at != found.ends_at
        if due or before.verdict != said.verdict:
            self._hurry.set()  # the culler may be about to act on what was said before
        self._standings[lease.id] = Standing(
            evidence=known, verdict=said.verdict, reason=found.reason, ends_at=found.ends_at, cause=found.cause
        )
        self._dirty.add(lease.id)
        return said

    def _answer(
        self, lease: Lease, said: Outlook, policy: CullPolicy | None, now: datetime, gpu: GpuUsage | None = None
    ) -> dict[str, Json]:
        return answer(
            said,
            policy,
            now=now,
            used=self._used_today(lease.id, now),
            held_until=self._standing(lease.id).evidence.held_until,
            report_every_s=self._every_s(policy),
            gpu=gpu,
            message=self.messages.newest(lease.id, now),
        )

    def _why_not_extend(
        self, lease: Lease, view: ServerView, policy: CullPolicy | None, now: datetime
    ) -> Sentence | None:
        if policy is None or policy.extend_step_s is None:
            return Sentence("The profile of this server offers no extension.")
        if policy.after_s is None:
            return Sentence("This server has no idle limit, so there is nothing to put off.")
        if policy.max_age_s is not None and view.started is not None:
            ends_at = view.started + timedelta(seconds=policy.max_age_s)
            if _end_of_idleness(view, policy, now) >= ends_at:
                left = span(max(ends_at - now, timedelta(0)))
                return Sentence("This server ends in {span} because of its age, and that cannot be put off.", span=left)
        if self._used_today(lease.id, now).extensions >= policy.extend_per_day:
            return _used_up(policy)
        return None

    def _view(self, lease: Lease, known: Evidence) -> ServerView:
        reporting = known.report is not None and known.report.valid_until is not None
        facts = self._facts_of(lease, whole=not reporting)
        pending = {Phase.QUEUED: "spawn", Phase.LAUNCHING: "spawn", Phase.STOPPING: "stop"}.get(lease.phase)
        return ServerView(
            user=lease.user,
            server_name=lease.server_name,
            ready=lease.phase is Phase.READY,
            pending=pending,
            started=facts.started,
            last_activity=facts.last_activity,
            lease_id=lease.id,
            known=known,
        )

    def _facts_of(self, lease: Lease, *, whole: bool) -> HubFacts:
        """A server that reports is judged by its start alone, which does not change while it is ready."""
        ready_at, started = self._started.get(lease.id, (None, None))
        if not whole and started is not None and ready_at == lease.ready_at:
            return HubFacts(started)
        facts = self._facts(lease)
        facts = HubFacts(facts.started or lease.ready_at or lease.created_at, facts.last_activity)
        self._started[lease.id] = (lease.ready_at, facts.started)
        return facts

    def _policy(self, lease: Lease) -> CullPolicy | None:
        if lease.id not in self._policies:
            try:
                self._policies[lease.id] = CullPolicy.from_pinned(lease.pinned)
            except ValueError as exc:
                log.warning("lease=%s pins an unreadable policy, so nothing ends its server: %s", lease.id, exc)
                self._policies[lease.id] = None
        return self._policies[lease.id]

    def _every_s(self, policy: CullPolicy | None) -> float:
        return every_s(self._report_every_s, policy.after_s if policy else None)

    def _standing(self, lease_id: LeaseId) -> Standing:
        return self._standings.get(lease_id) or Standing(evidence=Evidence())

    def _used_today(self, lease_id: LeaseId, now: datetime) -> Allowance:
        day, used = self._used.get(lease_id, ("", Allowance()))
        return used if day == self._today(now) else Allowance()

    def _lock(self, lease_id: LeaseId) -> asyncio.Lock:
        return self._wishing.setdefault(lease_id, asyncio.Lock())

    def _forget(self, lease_id: LeaseId) -> None:
        for memory in (self._standings, self._used, self._started, self._policies, self._wishing):
            memory.pop(lease_id, None)
        self._dirty.discard(lease_id)


def _continued(before: Activity | None, report: Activity) -> Activity:
    """The report, with what an earlier one saw and this one cannot: work that ended in between was use until then."""
    if before is None or not before.work_count or before.taken_at is None:
        return report
    seen = [before.taken_at, *([report.last_activity] if report.last_activity else [])]
    return replace(report, last_activity=max(seen))


def _end_of_idleness(view: ServerView, policy: CullPolicy, now: datetime) -> datetime:
    """When idleness would end the server; while it is in use, as if it were left alone from now on."""
    assert policy.after_s is not None
    found = idleness(view, policy, now, warned_in_time=True)
    return max(found.ends_at, now) if isinstance(found, Quiet) else now + timedelta(seconds=policy.after_s)


def _was_warned(known: Evidence, said: Outlook, policy: CullPolicy | None) -> bool:
    """Whether the last mark before this end was announced already."""
    assert policy is not None
    assert policy.last_warning_s is not None
    assert said.forecast.ends_at is not None
    mark = said.forecast.ends_at - timedelta(seconds=policy.last_warning_s)
    return known.warned_at is not None and known.warned_at >= mark


def _used_up(policy: CullPolicy) -> Sentence:
    return Sentence(
        "The stop was put off {count} times today, and the profile allows no more.", count=policy.extend_per_day
    )


def _too_long(known: Evidence, policy: CullPolicy, used: Allowance, now: datetime) -> Sentence:
    unused_s = max(0.0, (known.held_until - now).total_seconds()) if known.held_until else 0.0
    left_s = min(policy.hold_s, policy.hold_s - used.held_s + unused_s)
    if left_s < 60:
        return Sentence("This server was held for as long as its profile allows in a day.")
    return Sentence(
        "This server can be held for {left} more today, and not longer.", left=span(timedelta(seconds=left_s))
    )


def _ended(lease: Lease) -> UnknownLease:
    return UnknownLease(Sentence("This server does not run any more."), detail=f"lease={lease.id} is not on record")
