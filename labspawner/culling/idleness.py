"""Since when a server is idle, by the best evidence there is, and when its idleness ends it.

A fresh report from inside the server beats the hub's `last_activity`, which an open page bumps for ever and a silent
cell never does. Without one, where reports are expected, nothing is concluded from its absence: only the hub's traffic
and the host's own measurement together can call such a server idle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.culling.policy import CullPolicy
from labspawner.culling.view import ServerView
from labspawner.culling.words import limit, quiet_words, since, span, work_words
from labspawner.model import Activity
from labspawner.sentences import Sentence

HOST_STALE_AFTER = timedelta(minutes=10)
"""A host that was not looked at for longer says nothing of a server."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Idle since `since`; ends at `ends_at`, which wishes and warnings have moved already. cause: `idle` or `gpu`."""

    since: datetime
    ends_at: datetime
    limit_s: float
    cause: str
    words: Sentence | None = None

    def reason(self, now: datetime) -> Sentence:
        """What the student reads when this ends the server."""
        values: dict[str, object] = {"idle": span(since(self.since, now)), "limit": limit(self.limit_s)}
        if self.cause == "gpu":
            return Sentence("its GPU did nothing for {idle}; this profile's limit is {limit}", **values)
        if self.words is None:
            return Sentence("idle for {idle}; this profile's limit is {limit}", **values)
        return Sentence("idle for {idle}; this profile's limit is {limit} ({evidence})", **values, evidence=self.words)


@dataclass(frozen=True, slots=True)
class InUse:
    """Idleness does not end this server as long as what is known stays as it is, and why."""

    reason: Sentence


def fresh_report(view: ServerView, now: datetime) -> Activity | None:
    """The server's own report, if it may still be believed."""
    report = view.known.report
    return report if report and report.valid_until is not None and now <= report.valid_until else None


def idleness(view: ServerView, policy: CullPolicy, now: datetime, *, warned_in_time: bool = False) -> Quiet | InUse:
    """How idle the server is. warned_in_time: answer as if each warning were given at its mark, or now if that is over.

    That is for a forecast; in truth a warning is given when the server asks.
    """
    if policy.after_s is None:
        return InUse(Sentence("this profile has no idle limit"))
    if view.activity is not None and view.activity.busy:
        return InUse(Sentence("in use: {evidence}", evidence=view.activity.evidence or "busy"))
    if (report := fresh_report(view, now)) is not None:
        if report.busy or report.work_count:
            return InUse(Sentence("in use: {evidence}", evidence=work_words(report, now)))
        quiet = _quiet([*_beside(view), report.last_activity], policy.after_s, "idle", quiet_words(report))
        return _warned(_wished(quiet, view), view, policy, now if warned_in_time else None)
    if view.known.expected or view.known.report is not None:
        return _wished(_without_report(view, policy.after_s, now), view)
    host = view.known.host
    seen = [*_beside(view), view.last_activity, host.last_busy if host else None]
    return _wished(_quiet(seen, policy.after_s, "idle", None), view)


def gpu_idleness(view: ServerView, policy: CullPolicy, now: datetime, *, warned_in_time: bool = False) -> Quiet | None:
    """How idle the server's GPU is, its kernels busy or not; None where there is no limit, or nobody can tell."""
    report = fresh_report(view, now)
    if policy.gpu_after_s is None or report is None or report.gpu_last_busy is None:
        return None
    quiet = _quiet([view.started, report.gpu_last_busy], policy.gpu_after_s, "gpu", None)
    found = _warned(_wished(quiet, view), view, policy, now if warned_in_time else None)
    return found if isinstance(found, Quiet) else None


def _beside(view: ServerView) -> list[datetime | None]:
    """What counts as use whoever else knows something. A start does: a server that was resumed a minute ago may carry
    the activity of last week."""
    return [view.started, view.activity.last_activity if view.activity else None]


def _quiet(seen: Iterable[datetime | None], after_s: float, cause: str, words: Sentence | None) -> Quiet | InUse:
    known = [instant for instant in seen if instant is not None]
    if not known:
        return InUse(Sentence("nothing is known of its activity"))
    last = max(known)
    return Quiet(last, last + timedelta(seconds=after_s), after_s, cause, words)


def _without_report(view: ServerView, after_s: float, now: datetime) -> Quiet | InUse:
    """The server should report and does not. That says nothing of it; traffic and processor time together do."""
    host, report = view.known.host, view.known.report
    if host is None or now - host.looked_at > HOST_STALE_AFTER:
        return InUse(Sentence("unknown: it sends no reports, and its host does not say whether it works"))
    last_report = (
        [report.last_activity, report.taken_at if report.work_count or report.busy else None] if report else []
    )
    words = Sentence("it sends no reports; no traffic came and its host saw no work")
    seen = [*_beside(view), view.last_activity, *last_report, host.since, host.last_busy]
    return _quiet(seen, after_s, "idle", words)


def _wished(found: Quiet | InUse, view: ServerView) -> Quiet | InUse:
    """The end as the student's clicks and holds move it."""
    wishes = [wish for wish in (view.known.extended_until, view.known.held_until) if wish is not None]
    if isinstance(found, InUse) or not wishes:
        return found
    ends_at = max(found.ends_at, *wishes)
    return Quiet(found.since, ends_at, found.limit_s, found.cause, found.words)


def _warned(found: Quiet | InUse, view: ServerView, policy: CullPolicy, warn_from: datetime | None) -> Quiet | InUse:
    """The end as it waits for the last warning: that was given in full, but at most one mark later than due.

    warn_from: see `warned_in_time`; None: only what was said counts.
    """
    if isinstance(found, InUse) or policy.last_warning_s is None:
        return found
    mark = timedelta(seconds=policy.last_warning_s)
    said = view.known.warned_at
    if said is not None and said < found.ends_at - mark:
        said = None  # that was for an earlier end; the server was used, or extended, since
    if said is None and warn_from is not None:
        said = max(warn_from, found.ends_at - mark)
    latest = found.ends_at + mark
    ends_at = latest if said is None else min(said + mark, latest)
    return Quiet(found.since, ends_at, found.limit_s, found.cause, found.words)
