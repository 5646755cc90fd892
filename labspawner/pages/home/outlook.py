"""What the culler's rules mean for one running server, and what was heard from inside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from labspawner.culling import CullPolicy, ServerView
from labspawner.culling.idleness import Quiet, gpu_idleness, idleness
from labspawner.model import Evidence, Json, ReleaseMode, WorkKind
from labspawner.pages.home.facts import Inside, Outlook
from labspawner.sentences import Sentence


def outlook_of(view: ServerView, pinned: Mapping[str, Json], now: datetime) -> Outlook:
    """When the rules pinned on the lease end the server, as `culling.forecast` sees it, rule by rule.

    A server whose rules cannot be read is not culled either: it has no end.
    """
    try:
        policy = CullPolicy.from_pinned(pinned) or CullPolicy()
    except ValueError:
        policy = CullPolicy()
    held = view.known.held_until
    age_s = policy.max_age_s
    quiet, kept = _idleness(view, policy, now)
    return Outlook(
        idle_since=quiet.since if quiet else None,
        idle_limit_s=quiet.limit_s if quiet else policy.after_s,
        idle_ends_at=quiet.ends_at if quiet else None,
        idle_cause=quiet.cause if quiet else "idle",
        age_ends_at=view.started + timedelta(seconds=age_s) if view.started and age_s is not None else None,
        age_limit_s=age_s,
        kept=kept if policy.after_s is not None else None,
        held_until=held if held is not None and held > now else None,
        hibernates=policy.action is ReleaseMode.HIBERNATE,
    )


def _idleness(view: ServerView, policy: CullPolicy, now: datetime) -> tuple[Quiet | None, Sentence | None]:
    """The nearest end for want of use; else why nothing of it ends the server now."""
    found = idleness(view, policy, now, warned_in_time=True)
    gpu = gpu_idleness(view, policy, now, warned_in_time=True)
    if isinstance(found, Quiet):
        return (min(found, gpu, key=lambda quiet: quiet.ends_at) if gpu else found), None
    return gpu, None if gpu else found.reason


def inside_of(known: Evidence) -> Inside | None:
    """What a server said of itself; None where none of this kind reports."""
    report = known.report
    if report is None:
        return Inside() if known.expected else None
    kernels = [work for work in report.work if work.kind is WorkKind.KERNEL]
    since = [work.since for work in kernels if work.since is not None]
    terminals = tuple(work.what for work in report.work if work.kind is WorkKind.TERMINAL)
    return Inside(
        reported_at=report.taken_at,
        busy_kernels=max(len(kernels), report.work_count - len(terminals)),
        busy_since=min(since) if since else None,
        waiting_kernels=report.waiting,
        terminals=terminals,
        unsaved=report.unsaved,
        watching=report.clients > 0 if report.clients is not None else None,
    )
