"""What is to be done with a server now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from labspawner.culling.idleness import InUse, Quiet, gpu_idleness, idleness
from labspawner.culling.policy import CullPolicy
from labspawner.culling.view import ServerView
from labspawner.culling.words import limit, since, span
from labspawner.model import ReleaseMode
from labspawner.sentences import Sentence


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the server alone."""

    reason: Sentence


@dataclass(frozen=True, slots=True)
class Cull:
    """End the server. cause: `idle`, `gpu`, `max_age` or `stuck`, for counting; `reason` is what the student reads."""

    reason: Sentence
    action: ReleaseMode
    cause: str


Verdict: TypeAlias = Keep | Cull


def decide(view: ServerView, policy: CullPolicy | None, now: datetime) -> Verdict:
    """Say whether to cull the server, and why.

    What is not known never counts as idle. An instant in the future (a clock is ahead) counts as now. For one view,
    a verdict to cull stays one as time passes, until its evidence is too old to be believed.
    """
    if policy is None:
        return Keep(Sentence("no cull policy applies to this server"))
    if view.pending:
        return _decide_pending(view, view.pending, policy, now)
    if not view.ready:
        return Keep(Sentence("not running"))
    return _too_old(view, policy, now) or _decide_idle(view, policy, now)


def cause_of(reason: Sentence) -> str:
    """`idle`, `gpu`, `max_age` or `stuck`: the kind of a reason that `decide` gave, for a metric's label."""
    causes = {"idle for": "idle", "its GPU": "gpu", "running for": "max_age"}
    return next((cause for start, cause in causes.items() if reason.template.startswith(start)), "stuck")


def _too_old(view: ServerView, policy: CullPolicy, now: datetime) -> Cull | None:
    if policy.max_age_s is None or view.started is None:
        return None
    age = since(view.started, now)
    if age < timedelta(seconds=policy.max_age_s):
        return None
    reason = Sentence(
        "running for {age}; this profile's limit is {limit}", age=span(age), limit=limit(policy.max_age_s)
    )
    return Cull(reason, policy.action, "max_age")


def _decide_idle(view: ServerView, policy: CullPolicy, now: datetime) -> Verdict:
    gpu, found = gpu_idleness(view, policy, now), idleness(view, policy, now)
    for quiet in (gpu, found):
        if isinstance(quiet, Quiet) and now >= quiet.ends_at:
            return Cull(quiet.reason(now), policy.action, quiet.cause)
    return Keep(found.reason if isinstance(found, InUse) else _not_yet(found, view, now))


def _not_yet(found: Quiet, view: ServerView, now: datetime) -> Sentence:
    """Why an idle server is kept for now."""
    if (held := view.known.held_until) is not None and held > now:
        return Sentence("held for another {span}", span=span(held - now))
    if (extended := view.known.extended_until) is not None and extended > now:
        return Sentence("extended for another {span}", span=span(extended - now))
    idle = since(found.since, now)
    values = {"idle": span(idle), "limit": limit(found.limit_s)}
    if idle >= timedelta(seconds=found.limit_s):
        return Sentence("idle for {idle}, and being warned; this profile's limit is {limit}", **values)
    return Sentence("idle for only {idle}; this profile's limit is {limit}", **values)


def _decide_pending(view: ServerView, pending: str, policy: CullPolicy, now: datetime) -> Verdict:
    if view.pending_since is not None and policy.stuck_after_s is not None:
        waited = since(view.pending_since, now)
        if waited >= timedelta(seconds=policy.stuck_after_s):
            return Cull(_stuck(pending, span(waited)), policy.action, "stuck")
    if pending == "spawn":
        return Keep(Sentence("a start is in progress"))
    if pending == "stop":
        return Keep(Sentence("a stop is in progress"))
    return Keep(Sentence("the hub is busy with it: {event}", event=pending))


def _stuck(pending: str, length: str) -> Sentence:
    # One literal sentence each, so that each can be translated.
    if pending == "spawn":
        return Sentence("stuck in starting for {span}", span=length)
    if pending == "stop":
        return Sentence("stuck in stopping for {span}", span=length)
    return Sentence("stuck in {event} for {span}", event=pending, span=length)
