"""When a server would be culled if nothing happened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from labspawner.culling.deciding import decide
from labspawner.culling.idleness import HOST_STALE_AFTER, Quiet, fresh_report, gpu_idleness, idleness
from labspawner.culling.policy import CullPolicy
from labspawner.culling.view import ServerView
from labspawner.sentences import Sentence


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the server ends if nothing happens, and why; what is said of it now is `reason`.

    ends_at: None: not by us, as things are; now or earlier: it is due. cause: `idle`, `gpu` or `max_age`.
    warn_at: the marks of the profile before that end, in order; some may be over.
    """

    ends_at: datetime | None
    cause: str | None
    warn_at: tuple[datetime, ...]
    reason: Sentence


def forecast(view: ServerView, policy: CullPolicy | None, now: datetime) -> Forecast:
    """Say when `decide` would cull the server if nothing happened but reports, looks and warnings coming in time."""
    reason = decide(view, policy, now).reason
    if policy is None or view.pending or not view.ready:
        return Forecast(None, None, (), reason)
    ends: list[tuple[datetime, str]] = []
    if policy.max_age_s is not None and view.started is not None:
        ends.append((view.started + timedelta(seconds=policy.max_age_s), "max_age"))
    for quiet in (
        gpu_idleness(view, policy, now, warned_in_time=True),
        idleness(view, policy, now, warned_in_time=True),
    ):
        if isinstance(quiet, Quiet):
            ends.append((quiet.ends_at, quiet.cause))
    if not ends:
        return Forecast(None, None, (), reason)
    ends_at, cause = min(ends)
    marks = tuple(ends_at - timedelta(seconds=before) for before in sorted(policy.warn_s, reverse=True))
    return Forecast(ends_at, cause, marks, reason)


def if_nothing_happens(view: ServerView, policy: CullPolicy, now: datetime, then: datetime) -> ServerView:
    """The view as it would be at `then`: what is fresh now is still, and the last warning was given in time."""
    known = view.known
    if (report := fresh_report(view, now)) is not None:
        assert report.valid_until is not None  # it is fresh
        known = replace(known, report=replace(report, valid_until=max(then, report.valid_until)))
        expected = forecast(view, policy, now)
        if expected.cause in {"idle", "gpu"} and expected.ends_at and policy.last_warning_s is not None:
            warned_at = expected.ends_at - timedelta(seconds=policy.last_warning_s)
            known = replace(known, warned_at=warned_at) if then >= warned_at else known
    if (host := known.host) is not None and now - host.looked_at <= HOST_STALE_AFTER:
        known = replace(known, host=replace(host, looked_at=max(then, host.looked_at)))
    return replace(view, known=known)
