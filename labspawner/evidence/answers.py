"""What a server is told when it reports, or asks for time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from labspawner.culling import Cull, CullPolicy, Forecast, ServerView, decide, forecast
from labspawner.model import GpuRefusal, GpuUsage, Json
from labspawner.pages import i18n
from labspawner.providers.contract import Departure
from labspawner.providers.departures import told
from labspawner.sentences import Sentence
from labspawner.store import Allowance

VERSION = 1
SHORTEST_S = 1.0
NEAR_END_S = 15.0
_NEAR_END = timedelta(minutes=5)
_SOONEST_S = 5.0
_SPARE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is said of a server now. verdict: `keep`, `warn` or `cull`. warned: the last mark is reached with it."""

    verdict: str
    forecast: Forecast
    warned: bool


def every_s(configured_s: float, after_s: float | None) -> float:
    """Seconds between two reports: as configured, but four at least within the idle limit of the profile."""
    return max(SHORTEST_S, min(configured_s, after_s / 4 if after_s else configured_s))


def valid_for(report_every_s: float) -> timedelta:
    """How long a report may be believed: two may be lost."""
    return timedelta(seconds=3 * report_every_s) + _SPARE


def outlook(view: ServerView, policy: CullPolicy | None, now: datetime) -> Outlook:
    """When the server ends as things are, and whether that is worth a warning now."""
    found = forecast(view, policy, now)
    if isinstance(decide(view, policy, now), Cull):
        return Outlook(verdict="cull", forecast=found, warned=False)
    reached = [mark for mark in found.warn_at if mark <= now]
    last = bool(reached) and len(reached) == len(found.warn_at) and found.cause in {"idle", "gpu"}
    return Outlook(verdict="warn" if reached else "keep", forecast=found, warned=last)


def answer(
    said: Outlook,
    policy: CullPolicy | None,
    *,
    now: datetime,
    used: Allowance,
    held_until: datetime | None,
    report_every_s: float,
    gpu: GpuUsage | None = None,
    message: Json = None,
) -> dict[str, Json]:
    """The JSON that the extension reads. report_every_s: what is usual for this server. gpu: of its slice.
    message: what course staff said last."""
    found, policy = said.forecast, policy or CullPolicy(hold_s=0)
    return {
        "v": VERSION,
        "now": now.isoformat(),
        "verdict": said.verdict,
        "reason": in_all_languages(_as_warning(found.reason) if said.verdict == "warn" else found.reason),
        "ends_at": _iso(found.ends_at),
        "cause": "max_age" if found.cause == "max_age" else ("idle" if found.cause else None),
        "warn_at": [mark.isoformat() for mark in found.warn_at],
        "extend": _extend(policy, used),
        "hold": {
            "until": _iso(held_until if held_until and held_until > now else None),
            "left_s": max(0.0, policy.hold_s - used.held_s) if policy.after_s is not None else 0.0,
        },
        "report_every_s": _next_report_s(said, now, report_every_s),
        "notice": _notice(gpu.refused) if gpu is not None and gpu.refused is not None else None,
        "message": message,
    }


def _notice(refused: GpuRefusal) -> dict[str, Json]:
    """What the student should read at once, once for each `id`."""
    return {
        "id": refused.count,
        "at": refused.at.isoformat(),
        "text": in_all_languages(refused.words),
        "hints": [in_all_languages(hint) for hint in refused.hints],
    }


def leaving(departure: Departure | None) -> Json:
    """What the student should read once for each `id`, and no longer when it is gone. `{at}` in the text is for the
    browser to fill in by its own clock."""
    if departure is None:
        return None
    return {
        "id": departure.said_at.isoformat(),
        "at": departure.at.isoformat(),
        "text": in_all_languages(told("{at}")),
    }


def _as_warning(reason: Sentence) -> Sentence:
    """Why the server is about to stop, where the verdict says why it does not yet."""
    if not reason.template.startswith("idle for only"):
        return reason
    return Sentence("idle for {idle}; this profile's limit is {limit}", **reason.params)


def in_all_languages(sentence: str) -> dict[str, Json]:
    """A sentence in each language that we speak."""
    return {language: i18n.translate(sentence, language) for language in i18n.LANGUAGES}


def refusal(sentence: str) -> Mapping[str, Json]:
    """The JSON of a request that was not granted."""
    return {"message": in_all_languages(sentence)}


def _extend(policy: CullPolicy, used: Allowance) -> Json:
    if policy.extend_step_s is None or policy.after_s is None:
        return None
    return {"step_s": policy.extend_step_s, "left_today": max(0, policy.extend_per_day - used.extensions)}


def _next_report_s(said: Outlook, now: datetime, usual_s: float) -> float:
    """Right at the next mark, and often near the end."""
    found, wait_s = said.forecast, usual_s
    if found.ends_at is None:
        return wait_s
    if said.verdict == "warn" and found.ends_at - now <= _NEAR_END:
        wait_s = min(wait_s, NEAR_END_S)
    coming = [(mark - now).total_seconds() for mark in (*found.warn_at, found.ends_at) if mark > now]
    return min(wait_s, max(min(coming), min(_SOONEST_S, usual_s))) if coming else wait_s


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
