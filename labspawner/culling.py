"""Whether to cull a server, and why. Pure: time and the world are arguments, the answer carries its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from labspawner.model import Activity, Json, LeaseId, ReleaseMode
from labspawner.sentences import Sentence
from labspawner.units import MAX_DURATION, human_duration

_DURATIONS = ("after_s", "gpu_after_s", "max_age_s", "retain_s")
_MAX_S = MAX_DURATION.total_seconds()
_ACTIONS = ", ".join(mode.value for mode in ReleaseMode)


@dataclass(frozen=True, slots=True, kw_only=True)
class CullPolicy:
    """When a profile's servers are culled, and what is then done with them.

    after_s: seconds without activity; None: idleness alone never culls.
    max_age_s: seconds since the start, busy or not; None: no limit.
    stuck_after_s: seconds that the hub may call one start or stop "pending"; None: no limit. The site's
      setting, not the profile's.
    gpu_after_s, warn_s, retain_s: carried for the rooms that act on them; `decide` does not read them.
    Raises ValueError unless every time is above 0 and at most ten years.
    """

    after_s: float | None = None
    gpu_after_s: float | None = None
    max_age_s: float | None = None
    stuck_after_s: float | None = None
    action: ReleaseMode = ReleaseMode.STOP
    retain_s: float | None = None
    warn_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in (*_DURATIONS, "stuck_after_s"):
            if (value := getattr(self, name)) is not None:
                _seconds(name, value)
        for value in self.warn_s:
            _seconds("warn_s", value)

    @classmethod
    def from_pinned(cls, pinned: Mapping[str, Json]) -> CullPolicy | None:
        """The policy in a lease's `pinned["cull"]`; None where the profile has none.

        A missing key has its default. Raises ValueError for a value of the wrong type, which names the key.
        """
        cull = pinned.get("cull")
        if cull is None:
            return None
        if not isinstance(cull, Mapping):
            raise ValueError(f"cull must be an object, not {cull!r}")
        action = cull.get("action", ReleaseMode.STOP.value)
        if not isinstance(action, str) or action not in {mode.value for mode in ReleaseMode}:
            raise ValueError(f"cull.action must be one of {_ACTIONS}, not {action!r}")
        warn = cull.get("warn_s") or []
        if not isinstance(warn, list):
            raise ValueError(f"cull.warn_s must be a list of seconds, not {warn!r}")
        times = {name: _optional_seconds(name, cull.get(name)) for name in _DURATIONS}
        return cls(**times, action=ReleaseMode(action), warn_s=tuple(_seconds("warn_s", value) for value in warn))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server as the hub, its lease and its provider describe it now. All instants carry a timezone.

    pending: the hub's word for what is under way: `spawn`, `stop`, `check`, `rename`.
    pending_since: None where that is not known, or where waiting is as it should be (in line for a free place).
    activity: a provider's own evidence, where it has some.
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

    def __post_init__(self) -> None:
        theirs = self.activity.last_activity if self.activity else None
        for instant in (self.pending_since, self.started, self.last_activity, theirs):
            if instant is not None and instant.tzinfo is None:
                raise ValueError(f"an instant without a timezone: {instant}")


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the server alone."""

    reason: Sentence


@dataclass(frozen=True, slots=True)
class Cull:
    """End the server. cause: `idle`, `max_age` or `stuck`, for counting; `reason` is what the student reads."""

    reason: Sentence
    action: ReleaseMode
    cause: str


Verdict: TypeAlias = Keep | Cull


def decide(view: ServerView, policy: CullPolicy | None, now: datetime) -> Verdict:
    """Say whether to cull the server, and why.

    What is not known never counts as idle. An instant in the future (a clock is ahead) counts as now. For one view,
    a verdict to cull stays one as time passes.
    """
    if policy is None:
        return Keep(Sentence("no cull policy applies to this server"))
    if view.pending:
        return _decide_pending(view, view.pending, policy, now)
    if not view.ready:
        return Keep(Sentence("not running"))
    if policy.max_age_s is not None and view.started is not None:
        age = _since(view.started, now)
        if age >= timedelta(seconds=policy.max_age_s):
            limit = _limit(policy.max_age_s)
            reason = Sentence("running for {age}; this profile's limit is {limit}", age=_span(age), limit=limit)
            return Cull(reason, policy.action, "max_age")
    if view.activity is not None and view.activity.busy:
        return Keep(Sentence("in use: {evidence}", evidence=view.activity.evidence or "busy"))
    return _decide_idle(view, policy, now)


def evidence(view: ServerView) -> dict[str, Json]:
    """What a decision rested on, as JSON for the decision log; only what is known."""
    activity = view.activity or Activity()
    facts: dict[str, Json] = {
        "last_activity": _iso(view.last_activity),
        "started": _iso(view.started),
        "pending": view.pending,
        "pending_since": _iso(view.pending_since),
        "busy": activity.busy,
        "provider_last_activity": _iso(activity.last_activity),
        "provider_evidence": activity.evidence or None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _decide_pending(view: ServerView, pending: str, policy: CullPolicy, now: datetime) -> Verdict:
    if view.pending_since is not None and policy.stuck_after_s is not None:
        waited = _since(view.pending_since, now)
        if waited >= timedelta(seconds=policy.stuck_after_s):
            return Cull(_stuck(pending, _span(waited)), policy.action, "stuck")
    if pending == "spawn":
        return Keep(Sentence("a start is in progress"))
    if pending == "stop":
        return Keep(Sentence("a stop is in progress"))
    return Keep(Sentence("the hub is busy with it: {event}", event=pending))


def _stuck(pending: str, span: str) -> Sentence:
    # One literal sentence each, so that each can be translated.
    if pending == "spawn":
        return Sentence("stuck in starting for {span}", span=span)
    if pending == "stop":
        return Sentence("stuck in stopping for {span}", span=span)
    return Sentence("stuck in {event} for {span}", event=pending, span=span)


def _decide_idle(view: ServerView, policy: CullPolicy, now: datetime) -> Verdict:
    if policy.after_s is None:
        return Keep(Sentence("this profile has no idle limit"))
    # A start counts as activity: a server resumed a minute ago may carry the activity of last week.
    seen = [view.last_activity, view.started, view.activity.last_activity if view.activity else None]
    known = [instant for instant in seen if instant is not None]
    if not known:
        return Keep(Sentence("nothing is known of its activity"))
    idle = _since(max(known), now)
    limit = _limit(policy.after_s)
    if idle >= timedelta(seconds=policy.after_s):
        reason = Sentence("idle for {idle}; this profile's limit is {limit}", idle=_span(idle), limit=limit)
        return Cull(reason, policy.action, "idle")
    return Keep(Sentence("idle for only {idle}; this profile's limit is {limit}", idle=_span(idle), limit=limit))


def _since(instant: datetime, now: datetime) -> timedelta:
    return max(now - instant, timedelta(0))


def _span(span: timedelta) -> str:
    """Whole minutes from one minute on, rounded down: "idle for 20 min" at a limit of 20 min, not "20 min 7 s"."""
    seconds = int(span.total_seconds())
    return human_duration(timedelta(seconds=seconds - seconds % 60 if seconds >= 60 else seconds))


def _limit(seconds: float) -> str:
    return human_duration(timedelta(seconds=seconds))


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _seconds(name: str, value: object) -> float:
    # The comparison is False for NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_S:
        raise ValueError(f"{name} must be a number of seconds above 0, at most ten years, not {value!r}")
    return value


def _optional_seconds(name: str, value: object) -> float | None:
    return None if value is None else _seconds(f"cull.{name}", value)


def cause_of(reason: Sentence) -> str:
    """`idle`, `max_age` or `stuck`: the kind of a reason that `decide` gave, for a metric's label."""
    if reason.template.startswith("idle for"):
        return "idle"
    return "max_age" if reason.template.startswith("running for") else "stuck"
