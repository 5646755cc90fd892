"""One server as everybody who knows something of it describes it now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from labspawner.model import Activity, Evidence, Json, LeaseId, Work

NOTHING = Evidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server as the hub, its lease, its provider and the server itself describe it now. Instants carry a timezone.

    pending: the hub's word for what is under way: `spawn`, `stop`, `check`, `rename`.
    pending_since: None where that is not known, or where waiting is as it should be (in line for a free place).
    last_activity: the hub's, that is the proxy's traffic: an open page bumps it for ever.
    activity: a provider's own evidence, where it has some; it counts beside the hub's.
    known: reports from inside, what the host measured, and what the student asked for.
    """

    user: str
    server_name: str
    ready: bool = True
    pending: str | None = None
    pending_since: datetime | None = None
    started: datetime | None = None
    last_activity: datetime | None = None
    lease_id: LeaseId | None = None
    activity: Activity | None = None
    known: Evidence = NOTHING

    def __post_init__(self) -> None:
        for instant in self._instants():
            if instant is not None and instant.tzinfo is None:
                raise ValueError(f"an instant without a timezone: {instant}")

    def _instants(self) -> list[datetime | None]:
        known = self.known
        found = [self.pending_since, self.started, self.last_activity]
        if self.activity is not None:
            found.append(self.activity.last_activity)
        if known is not NOTHING:
            found += [known.extended_until, known.held_until, known.warned_at]
            if (report := known.report) is not None:
                found += [report.last_activity, report.taken_at, report.valid_until, report.gpu_last_busy]
            if (host := known.host) is not None:
                found += [host.since, host.looked_at, host.last_busy]
        return found


def evidence(view: ServerView) -> dict[str, Json]:
    """What a decision rested on, as JSON for the decision log; only what is known."""
    activity, known = view.activity or Activity(), view.known
    report = known.report or Activity()
    facts: dict[str, Json] = {
        "last_activity": _iso(view.last_activity),
        "started": _iso(view.started),
        "pending": view.pending,
        "pending_since": _iso(view.pending_since),
        "busy": activity.busy,
        "provider_last_activity": _iso(activity.last_activity),
        "provider_evidence": activity.evidence or None,
        "reports_expected": known.expected or None,
        "reported_at": _iso(report.taken_at),
        "report_valid_until": _iso(report.valid_until),
        "last_use": _iso(report.last_activity),
        "work": [_work(work) for work in report.work] or None,
        "waiting_for_input": report.waiting or None,
        "open_pages": report.clients,
        "unsaved": report.unsaved or None,
        "gpu_last_busy": _iso(report.gpu_last_busy),
        "host_since": _iso(known.host.since) if known.host else None,
        "host_looked_at": _iso(known.host.looked_at) if known.host else None,
        "host_last_busy": _iso(known.host.last_busy) if known.host else None,
        "extended_until": _iso(known.extended_until),
        "held_until": _iso(known.held_until),
        "warned_at": _iso(known.warned_at),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _work(work: Work) -> Json:
    return {"kind": work.kind.value, "what": work.what, "since": _iso(work.since)}


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
